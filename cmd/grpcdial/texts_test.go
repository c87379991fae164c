package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// What a terminal obeys, around the word EVIL: of a server's own making, and as it may
// stand in a certificate.
const (
	evil    = "EVIL\x1b[31m\u009b2J\u202e\u2066\u2028\r\x00\xff"
	evilIA5 = "EVIL\x1b[31m\r\a.test"
)

// TestHostileTexts: nothing that a peer, a proxy or the command line says makes a terminal
// or a reader of the JSON do anything.
func TestHostileTexts(t *testing.T) {
	ca := h2test.NewCA(t)
	roots := file(t, "ca.pem", ca.PEM())
	named := serve(t, "", secured(ca.Server("127.0.0.1", evilIA5)))
	wrong := serve(t, "", secured(ca.Server(evilIA5)))
	unknown := serve(t, "", secured(h2test.NewCA(t).Server(evilIA5)))
	sick := serve(t, "", grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		return nil, status.Error(codes.PermissionDenied, strings.ToValidUTF8(evil, ""))
	}))
	for name, args := range map[string][]string{
		"accepted certificate": {named.addr, "--cacert", roots},
		"wrong name":           {wrong.addr, "--cacert", roots},
		"unknown authority":    {unknown.addr, "--cacert", roots},
		"unverified":           {unknown.addr, "--insecure"},
		"health":               {sick.addr, "--plaintext", "--service", "s"},
		"other bytes":          {says(t, "SSH-2.0 "+evil+"\r\n"), "--plaintext"},
		"HTTP/1":               {says(t, "HTTP/1.1 400 "+evil+"\r\n\r\n"), "--plaintext"},
		"other bytes in TLS":   {says(t, "SSH-2.0 "+evil+"\r\n"), "--cacert", roots},
		"target":               {"EVIL\x1b\u202e\u009b:1", "--plaintext"},
		"target of one line":   {"EVIL\u202e\u009b:1", "--plaintext"},
		"authority":            {named.addr, "--cacert", roots, "--authority", "EVIL\u202e\u009b"},
		"flag":                 {"--EVIL\x1b\u202e"},
		"file":                 {named.addr, "--cacert", "EVIL\x1b\u202e"},
		"two targets":          {"a", "EVIL\x1b\u202e"},
	} {
		for _, command := range [][]string{{"check"}, {"check", "-v"}, {"check", "--json"}, {"watch", "--timeout", "0.1"}, {"watch", "--timeout", "0.1", "--json"}} {
			t.Run(name+"/"+strings.Join(command, " "), func(t *testing.T) {
				assertHarmless(t, append(command, args...), command[0] == "check")
			})
		}
	}
	t.Run("proxy", func(t *testing.T) {
		answer := "HTTP/1.1 407 No EVIL\x1b[31m alice hunter2 YWxpY2U6aHVudGVyMg==\r\nProxy-Authenticate: YWxpY2U6aHVudGVyMg==\r\nContent-Length: 20\r\n\r\nhunter2 \u202e alice 12"
		t.Setenv("HTTPS_PROXY", "http://alice:hunter2@"+says(t, answer))
		for _, args := range [][]string{{"check"}, {"check", "-v"}, {"check", "--json"}, {"watch", "--timeout", "0.1"}} {
			out := assertHarmless(t, append(args, "a.test:443", "--plaintext"), args[0] == "check")
			for _, secret := range []string{"alice", "hunter2", "YWxpY2U6aHVudGVyMg"} {
				assert.NotContains(t, out, secret)
			}
		}
	})
	t.Run("password in a target", func(t *testing.T) {
		for _, target := range []string{"http://alice:hunter2@a.test", "alice:hunter2@a.test:1", "dns:///alice:hunter2@a.test:1"} {
			out := assertHarmless(t, []string{"check", "-v", "--plaintext", target}, false)
			assert.NotContains(t, out, "hunter2")
		}
	})
	t.Run("proxies of no use", func(t *testing.T) {
		p := proxytest.ListenHTTP(t, nil, "", nil)
		for _, proxy := range []string{"http://alice:hun/ter2@" + p.Addr, "ftp://alice:hunter2@" + p.Addr, "http://alice:hun ter2@" + p.Addr} {
			t.Setenv("HTTPS_PROXY", proxy)
			out := assertHarmless(t, []string{"check", "-v", "--plaintext", "a.test:1"}, false)
			assert.NotContains(t, out, "ter2")
		}
	})
}

// assertHarmless runs the command and returns all that it wrote, in which it finds no
// character that a terminal obeys but the ends of lines and the tabs before an error's
// lines. said: it must have said EVIL.
func assertHarmless(t *testing.T, args []string, said bool) string {
	t.Helper()
	o := command(t, args...)
	texts := []string{o.stdout, o.stderr}
	if slices.Contains(args, "--json") && strings.HasPrefix(o.stdout, "{") {
		texts = append(texts, jsonTexts(t, o.stdout)...)
	}
	for _, text := range texts {
		assert.True(t, utf8.ValidString(text), "%q", text)
		assert.NotRegexp(t, `[^\n\t\P{Cc}]|[\x{61c}\x{200e}\x{200f}\x{2028}-\x{202e}\x{2066}-\x{2069}]`, text)
	}
	all := strings.Join(texts, "\n")
	if said {
		assert.Contains(t, all, "EVIL")
	}
	return all
}

// jsonTexts returns the strings in what --json wrote.
func jsonTexts(t *testing.T, out string) (texts []string) {
	t.Helper()
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			texts = append(texts, v)
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for key, e := range v {
				texts = append(texts, key)
				walk(e)
			}
		}
	}
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var v any
		require.NoError(t, d.Decode(&v))
		walk(v)
	}
	return texts
}
