package text

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "",
		"no secret":                         "no secret",
		"http://host:80/":                   "http://host:80/",
		"http://user:pw@host:80/x":          "http://xxxxx@host:80/x",
		"https://token@host":                "https://xxxxx@host",
		"via socks5://u:p@[::1]:80":         "via socks5://xxxxx@[::1]:80",
		"two http://a:b@c and http://d:e@f": "two http://xxxxx@c and http://xxxxx@f",

		// Passwords that are not encoded as a URL wants it.
		"http://user:p@ss@host":                   "http://xxxxx@host",
		"http://user:p/w@host":                    "http://xxxxx@host",
		"http://user:1/2@host":                    "http://xxxxx@host",
		"http://user:pa?s#s@host":                 "http://xxxxx@host",
		"http://user:pa ss@host is bad":           "http://xxxxx@host is bad",
		`http://user:pa"ss@host`:                  "http://xxxxx@host",
		`parse "http://user:pa ss@host": bad`:     `parse "http://xxxxx@host": bad`,
		`parse "http://u:a\"b@host": bad`:         `parse "http://xxxxx@host": bad`,
		`"parse \"http://user:pa ss@host\": bad"`: `"parse \"http://xxxxx@host\": bad"`,

		// Pieces of them.
		`parse "http://user:p%zz@host:80": invalid URL escape "%zz"`:  `parse "http://xxxxx@host:80": invalid URL escape "xxxxx"`,
		`parse "http://user:abc/3@h": invalid port ":abc" after host`: `parse "http://xxxxx@h": invalid port "xxxxx" after host`,
		`parse "http://user:abc": invalid port ":abc" after host`:     `parse "http://user:xxxxx": invalid port ":xxxxx" after host`,
		`parse "http://h:99999": invalid port ":99999" after host`:    `parse "http://h:99999": invalid port ":99999" after host`,
		`http://user:s3cret@h sent s3cret to "user"`:                  `http://xxxxx@h sent xxxxx to "xxxxx"`,

		// Targets.
		"user:pw@host:443":                                   "xxxxx@host:443",
		`target "user:pw@host:443"`:                          `target "xxxxx@host:443"`,
		"passthrough:///user:pw@host:443":                    "passthrough:///xxxxx@host:443",
		"passthrough:///http://user:pw@host:443":             "passthrough:///http://xxxxx@host:443",
		"dns://user:pw@server:53/name:443":                   "dns://xxxxx@server:53/name:443",
		"dns:user:pw@host:443":                               "xxxxx@host:443",
		"address user:pw@host:1: too many colons in address": "address xxxxx@host:1: too many colons in address",

		// What has an "@" and no password.
		"unix:@name":                     "unix:@name",
		"unix-abstract:na@me":            "unix-abstract:na@me",
		"unix:///run/user@1000/x":        "unix:///run/user@1000/x",
		"unix:/run/user@1000/x":          "unix:/run/user@1000/x",
		"passthrough:///unix:@name":      "passthrough:///unix:@name",
		"passthrough:///unix:///run/x@y": "passthrough:///unix:///run/x@y",
		"read unix @->/run/x: reset":     "read unix @->/run/x: reset",
		"mail a@example.com":             "mail a@example.com",
		"https://example.com/@a/b@c":     "https://example.com/@a/b@c",
		"http://[::1]/a@b":               "http://[::1]/a@b",
		`is it "http://host:port", with "user:password@" before the host?`: `is it "http://host:port", with "user:password@" before the host?`,
		"error: a@b": "error: a@b",
		"@":          "@",
		"://@":       "://@",
		"a:@b":       "a:@b",
	} {
		assert.Equal(t, want, Redact(in), "%q", in)
		assert.Equal(t, Redact(in), Redact(Redact(in)), "%q twice", in)
	}
}

// TestRedactErrors: the texts that package net/url and net make of what holds a
// password, wrapped and quoted again.
func TestRedactErrors(t *testing.T) {
	const user, host = "alice", "proxy.test"
	for _, password := range []string{"s3cret", "s3/cret", "s3cret%zz", "s3 cret", "s3cret#x", "s3?cret", "s3@cret", `s3"cret`, "s3:cret", "s3\ncret", "s3\\cret", "s3cret[", "7/s3cret", "gehäim"} {
		whole := "http://" + user + ":" + password + "@" + host + ":3128"
		_, err := url.Parse(whole)
		if err == nil {
			err = &url.Error{Op: "Get", URL: whole, Err: errors.New("refused")}
		}
		all := []error{err, fmt.Errorf("vault: %w", err), fmt.Errorf("vault: %q", err.Error()), errors.New("no proxy at " + whole)}
		if !strings.ContainsAny(password, " \n\"") {
			_, _, err := net.SplitHostPort(strings.TrimPrefix(whole, "http://"))
			all = append(all, err)
		}
		for _, err := range all {
			out := Of(err)
			for _, piece := range pieces(password) {
				assert.NotContains(t, out, piece, "%q in %q", password, err)
			}
			if strings.Contains(err.Error(), host) { // package url cuts a "#" off, and what follows
				assert.Contains(t, out, host)
				assert.NotContains(t, out, user)
			}
		}
		assert.Equal(t, "xxxxx@h:1", Target(user+":"+password+"@h:1"))
	}
	assert.Equal(t, "passthrough:///xxxxx@h:1", Target("passthrough:///u:p@h:1"))
	assert.Equal(t, "unix:/run/a@b", Target("unix:/run/a@b"))
	assert.Equal(t, "h:1", Target("h:1"))
}

// pieces are the parts of a password that are long enough to be of use.
func pieces(password string) (all []string) {
	for _, p := range strings.FieldsFunc(password, func(r rune) bool { return strings.ContainsRune("/%# ?@\":\n\\[7", r) }) {
		if len(p) > 2 {
			all = append(all, p)
		}
	}
	return all
}

func TestSecrets(t *testing.T) {
	s := NewSecrets("alice", "hunter2 & <co>")
	encoded := base64.StdEncoding.EncodeToString([]byte("alice:hunter2 & <co>"))
	for in, want := range map[string]string{
		"nothing here":                          "nothing here",
		"":                                      "",
		"Proxy-Authorization: Basic " + encoded: "Proxy-Authorization: Basic xxxxx",
		encoded[:10] + " was cut":               "xxxxx was cut",
		"user alice, password hunter2 & <co>":   "user xxxxx, password xxxxx",
		"alice:hunter2 & <co>":                  "xxxxx",
		"hunter2+%26+%3Cco%3E":                  "xxxxx",
		"hunter2%20&%20%3Cco%3E":                "xxxxx",
		"hunter2 &amp; &lt;co&gt;":              "xxxxx",
		"hunter2 & <c":                          "xxxxx",
	} {
		assert.Equal(t, want, strings.ReplaceAll(s.Mask(in), "xxxxx=", "xxxxx"), "%q", in)
	}
	assert.Equal(t, len(encoded)-strings.Count(encoded, "="), s.Longest())

	short := NewSecrets("a", "no")
	assert.Equal(t, "xxxxx proxy: xxxxx, none, another", short.Mask("a proxy: no, none, another"))
	assert.Equal(t, `the proxy said "xxxxx" to a user`, NewSecrets("user", "s3cret").MaskQuoted(`the proxy said "s3cret" to a user`))

	// A character that a secret has a part of is masked whole.
	assert.Equal(t, "xxxxx!", NewSecrets("", "passwordé").Mask("passwordè!"))
	assert.Equal(t, "?xxxxx!", NewSecrets("", "\xa9abcd").Mask("?éabcd!"))

	var none *Secrets
	assert.Equal(t, "text", none.Mask("text"))
	assert.Equal(t, "text", none.MaskQuoted("text"))
	assert.Zero(t, none.Longest())
	assert.Nil(t, NewSecrets("", ""))
	assert.NotContains(t, NewSecrets("", "pass").Mask("pass "+base64.StdEncoding.EncodeToString([]byte(":pass"))), "cGFzc")
}

// FuzzSecrets: no form of a secret that is long enough to be one is left.
func FuzzSecrets(f *testing.F) {
	f.Add("alice", "s3cret", "<html>", "</html>")
	f.Add("a", "b", "a b", "")
	f.Fuzz(func(t *testing.T, user, password, before, after string) {
		s := NewSecrets(user, password)
		encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		for _, secret := range []string{user, password, encoded} {
			if len(secret) < 6 || strings.Contains(secret, "x") || strings.Contains(before+after, secret) {
				continue // the mask itself may complete one
			}
			if out := s.Mask(before + secret + after); strings.Contains(out, secret) {
				t.Fatalf("%q has %q", out, secret)
			}
		}
		whole := Clean(before + "://" + user + ":" + password + "@" + after)
		for _, out := range []string{Redact(whole), s.Mask(whole), s.MaskQuoted(whole)} {
			if !utf8.ValidString(out) {
				t.Fatalf("%q is not UTF-8", out)
			}
		}
	})
}

// TestHostileTextsAreCheap: what makes each search as long as it can be.
func TestHostileTextsAreCheap(t *testing.T) {
	s := NewSecrets("aaaaaaaab", "aaaaaaaaaaaaaaab")
	for _, piece := range []string{"@", "://", "://@", "a:b@c ", "\"", "\\\"", `"://a:b `, "x://a:b ", ": invalid port ", "a", "\xff", "\x80", "[:"} {
		long := strings.Repeat(piece, 1<<20/len(piece))
		begun := time.Now()
		Line(long)
		s.Mask(long[:1<<14])
		assert.Less(t, time.Since(begun), 10*time.Second, "%q", piece) // some milliseconds, or minutes
	}
}
