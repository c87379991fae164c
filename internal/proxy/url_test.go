package proxy

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func parsed(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	require.NoError(t, err)
	return u
}

func TestAddress(t *testing.T) {
	for s, want := range map[string]string{
		"http://p":                      "p:80",
		"HTTP://p":                      "p:80",
		"http://p:":                     "p:80",
		"http://p/":                     "p:80",
		"https://p":                     "p:443",
		"socks5://p":                    "p:1080",
		"socks5h://p":                   "p:1080",
		"http://p:3128":                 "p:3128",
		"https://u:w@p:3128/?q#f":       "p:3128",
		"socks5://u@10.0.0.1:9":         "10.0.0.1:9",
		"http://[2001:db8::1]":          "[2001:db8::1]:80",
		"https://[2001:db8::1]:8443":    "[2001:db8::1]:8443",
		"https://[fe80::1%25eth0]:8443": "[fe80::1%eth0]:8443",
	} {
		addr, err := Address(parsed(t, s))
		assert.NoError(t, err, s)
		assert.Equal(t, want, addr, s)
	}
}

func TestAddressOfNoUse(t *testing.T) {
	for s, want := range map[string]string{
		"ftp://u:secret@p":        `scheme "ftp" is not supported`,
		"socks4://p":              `scheme "socks4" is not supported`,
		"socks5+tls://p":          `scheme "socks5+tls" is not supported`,
		"p:3128":                  `scheme "p" is not supported`,
		"//p:3128":                "no scheme",
		"":                        "no scheme",
		"http:///x":               "no host",
		"http://:3128":            "no host",
		"http://p:0":              `port "0"`,
		"http://p:65536":          `port "65536"`,
		"http://[::1%25]]:1":      `host "::1%]"`,
		"http://u:1/secret@p:80":  "percent-encode",
		"http://u:1?secret@p:80":  "percent-encode",
		"https://u:1#secret@p:80": "percent-encode",
	} {
		addr, err := Address(parsed(t, s))
		assert.Empty(t, addr, s)
		require.ErrorContains(t, err, want, s)
		assert.NotContains(t, err.Error(), "secret", s)
		var e *Error
		require.ErrorAs(t, err, &e, s)
		assert.Equal(t, StepURL, e.Step, s)
		assert.True(t, e.Permanent(), s)
	}
	for _, u := range []*url.URL{nil, {Scheme: "http", Host: "u:secret@p:80"}} {
		_, err := Address(u)
		require.Error(t, err)
		assert.NotContains(t, err.Error(), "secret")
	}
}

func TestRedact(t *testing.T) {
	for s, want := range map[string]string{
		"http://p":                            "http://p",
		"https://user:secret@p:1/secret":      "https://p:1",
		"https://secret@p:1?secret#secret":    "https://p:1",
		"socks5://user:sec%2fret@[::1]":       "socks5://[::1]",
		"http://user:1/secret@p:80":           "http:",
		"user:secret@p:80":                    "user:", // a scheme and what follows it
		"http://u:p@[fe80::1%25eth0]:1/%zz":   "",
		"https://[fe80::1%25eth0]:1":          "https://[fe80::1%25eth0]:1",
		"http://xn--bcher-kva.example:1/%73/": "http://xn--bcher-kva.example:1",
	} {
		u, err := url.Parse(s)
		if want == "" {
			assert.Error(t, err, s)
			continue
		}
		require.NoError(t, err, s)
		assert.Equal(t, want, Redact(u))
	}
	assert.Empty(t, Redact(nil))
	assert.Equal(t, "http://p:80", Redact(&url.URL{Scheme: "http", Host: "user:secret@p:80"}))
}

func TestTakesNames(t *testing.T) {
	for s, want := range map[string]bool{
		"http://p": true, "https://p": true, "socks5h://p": true, "socks5://p": false, "SOCKS5://p": false,
	} {
		assert.Equal(t, want, TakesNames(parsed(t, s)), s)
	}
	assert.False(t, TakesNames(nil))
}

func TestParseTarget(t *testing.T) {
	for target, want := range map[string]string{
		"a.example:443":        "a.example:443",
		"a.example:https":      "a.example:443",
		":50051":               "localhost:50051",
		"192.0.2.1:1":          "192.0.2.1:1",
		"[2001:DB8::1]:1":      "[2001:db8::1]:1",
		"[fe80::1%eth0]:1":     "[fe80::1]:1",
		"[fe80::1%25eth0]:1":   "[fe80::1]:1",
		"[::ffff:192.0.2.1]:1": "192.0.2.1:1",
		"bücher.example:1":     "xn--bcher-kva.example:1",
		"under_score:1":        "under_score:1",
	} {
		d, err := parseTarget(t.Context(), target)
		assert.NoError(t, err, target)
		assert.Equal(t, want, d.String(), target)
	}
	for _, target := range []string{
		"", "a", "a:", "a:0", "a:65536", "a:-1", "a:absent", "a:b:1", "[::1:1",
		"a b:1", "a\r\nX-Evil: b:1", "a\x00:1", "a/b:1", "a?b:1", "u@a:1", "[a]b:1", "[a:1]:1",
	} {
		_, err := parseTarget(t.Context(), target)
		assert.Error(t, err, "%q", target)
	}
}
