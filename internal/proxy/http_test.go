package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

func TestHTTP(t *testing.T) {
	h2test.CheckLeaks(t)
	p := proxytest.ListenHTTP(t, map[string]string{
		"a.example:443":             serve(t, greet),
		"[2001:db8::1]:443":         serve(t, greet),
		"xn--bcher-kva.example:443": serve(t, greet),
		"[2001:db8::2]:443":         serve(t, greet),
		"192.0.2.1:443":             serve(t, greet),
	}, "", nil)
	for _, target := range []string{"a.example:443", "a.example:https", "[2001:db8::1]:443", "bücher.example:443", "[2001:db8::2%lo]:443", "192.0.2.1:443"} {
		t.Run(target, func(t *testing.T) {
			nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "http", Host: p.Addr}, target, Options{})
			require.NoError(t, err)
			defer nc.Close()
			assert.IsType(t, (*net.TCPConn)(nil), nc, "writes without blocking are made on this very type only")
			exchange(t, nc)
		})
	}
}

// What goes to the proxy, byte by byte.
func TestHTTPRequest(t *testing.T) {
	h2test.CheckLeaks(t)
	tests := []struct {
		name   string
		user   *url.Userinfo
		target string
		agent  string
		want   string
	}{
		{name: "plain", target: "a.example:443",
			want: "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"},
		{name: "user agent", target: "[2001:db8::1]:1", agent: "me/1 grpc-go",
			want: "CONNECT [2001:db8::1]:1 HTTP/1.1\r\nHost: [2001:db8::1]:1\r\nUser-Agent: me/1 grpc-go\r\n\r\n"},
		{name: "user and password", user: url.UserPassword("user", "p:ä ss"), target: "a.example:443",
			want: "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic dXNlcjpwOsOkIHNz\r\n\r\n"},
		{name: "user alone", user: url.User("user"), target: "a.example:443",
			want: "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic dXNlcjo=\r\n\r\n"},
		{name: "line break", target: "a.example:443", agent: "me\r\nX-Evil: 1",
			want: "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nUser-Agent: me  X-Evil: 1\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := make(chan string, 1)
			addr := serve(t, func(nc net.Conn) {
				b := make([]byte, len(tt.want))
				_, _ = io.ReadFull(nc, b)
				_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r\n")
				rest, _ := io.ReadAll(nc)
				got <- string(b) + string(rest)
			})
			nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "http", User: tt.user, Host: addr}, tt.target, Options{UserAgent: tt.agent})
			require.NoError(t, err)
			require.NoError(t, nc.Close())
			assert.Equal(t, tt.want, <-got)
		})
	}
}

// The target's first bytes may come in the same segment as the proxy's answer.
func TestHTTPTargetSpeaksFirst(t *testing.T) {
	h2test.CheckLeaks(t)
	for name, answer := range map[string]string{
		"plain":       "HTTP/1.1 200 Connection established\r\n\r\n",
		"no reason":   "HTTP/1.1 200\r\n\r\n",
		"HTTP/1.0":    "HTTP/1.0 200 OK\r\n\r\n",
		"HTTP/0.0":    "HTTP/0.0 200 OK\r\n\r\n", // as some proxies answer
		"HTTP/2.0":    "HTTP/2.0 200 ok\r\n\r\n",
		"HTTP/9.9":    "HTTP/9.9 200 connection established\r\n\r\n",
		"lower case":  "HTTP/1.1 200 ok\r\nvia: p\r\n\r\n",
		"spaces":      "HTTP/1.1   200   OK\r\n\r\n",
		"bare status": "HTTP/1.1 200\n\n",
		"space after": "HTTP/1.1 200 \r\n\r\n",
		"header":      "HTTP/1.1 200 OK\r\nVia: 1.1 p\r\nX-Fold: a\r\n b\r\n\r\n",
		"length":      "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", // means nothing here, RFC 9110 §9.3.6
		"chunked":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"bare LF":     "HTTP/1.1 200 OK\nVia: p\n\n",
		"mixed ends":  "HTTP/1.1 200 OK\r\nVia: p\n\r\n",
		"interim":     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"long header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 60<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			const first = "\r\n\n\x00\x00\x12\x04HTTP/1.1 407 No\r\n\r\n"
			addr := serve(t, answering(answer+first))
			nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "http", Host: addr}, "a.example:1", Options{})
			require.NoError(t, err)
			defer nc.Close()
			assert.IsType(t, (*net.TCPConn)(nil), nc)
			b := make([]byte, len(first))
			_, err = io.ReadFull(nc, b)
			require.NoError(t, err)
			assert.Equal(t, first, string(b))
		})
	}
}

func TestHTTPAuthentication(t *testing.T) {
	h2test.CheckLeaks(t)
	p := proxytest.ListenHTTP(t, map[string]string{"a.example:443": serve(t, greet)}, "Basic dXNlcjpzZWNyZXQ=", nil)

	nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "http", User: url.UserPassword("user", "secret"), Host: p.Addr}, "a.example:443", Options{})
	require.NoError(t, err)
	exchange(t, nc)
	require.NoError(t, nc.Close())

	for name, tt := range map[string]struct {
		user *url.Userinfo
		hint string
	}{
		"none":  {nil, "wants a user name and a password"},
		"wrong": {url.UserPassword("user", "sekrit"), "refused the user name or the password"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Connect(t.Context(), dialer, &url.URL{Scheme: "http", User: tt.user, Host: p.Addr}, "a.example:443", Options{})
			e := failure(t, err)
			assert.Equal(t, &Error{
				Proxy: "http://" + p.Addr, Target: "a.example:443", Step: StepHandshake,
				StatusCode: 407, Status: "407 Proxy Authentication Required",
				Challenges: []string{"Basic"}, Authenticated: tt.user != nil, Body: "who goes?",
			}, e)
			assert.Contains(t, e.Hint(), tt.hint)
			assert.True(t, e.Permanent())
			assert.Equal(t, fmt.Sprintf(`proxy "http://%s" for "a.example:443": it answered "407 Proxy Authentication Required" and "who goes?"`, p.Addr), e.Error())
		})
	}
}

func TestHTTPRefusals(t *testing.T) {
	h2test.CheckLeaks(t)
	long := strings.Repeat("x", 3000)
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(long), long)
	tests := []struct {
		answer    string
		ends      bool // the connection ends after it
		code      int
		status    string
		body      string
		text      string // in the line
		whole     bool   // the line ends with it
		hint      string
		permanent bool
	}{
		{answer: "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nport 1and more",
			code: 403, status: "403 Forbidden", body: "port 1", text: `"403 Forbidden" and "port 1"`, hint: "NO_PROXY", permanent: true},
		{answer: "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM abc=, Digest realm=\"Basic, x\", nonce=\"y\\\"z\"\r\nContent-Length: 0\r\n\r\n",
			code: 407, status: "407 No", hint: "Negotiate or NTLM or Digest", permanent: true},
		{answer: "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate, basic realm=x\r\nContent-Length: 0\r\n\r\n",
			code: 407, status: "407 No", hint: "refused the user name", permanent: true},
		{answer: "HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + "0\r\n\r\n",
			code: 502, status: "502 Bad Gateway", body: long[:1021] + "...", text: long[:100], hint: "did not reach the target"},
		{answer: "HTTP/1.1 503 Service Unavailable\r\n\r\n<html>" + long, ends: true,
			code: 503, status: "503 Service Unavailable", body: "<html>" + long[:1015] + "...", text: `it answered "503 Service Unavailable"`, hint: "did not reach the target, or"},
		{answer: "HTTP/1.0 504 Gateway Timeout\n\nslow\n\n  target\x00", ends: true,
			code: 504, status: "504 Gateway Timeout", body: "slow    target", text: `"slow target"`, hint: "in time"},
		{answer: "HTTP/1.1 403 Forbidden\r\n\r\n" + strings.Repeat("\x00", 3000), ends: true,
			code: 403, status: "403 Forbidden", text: `it answered "403 Forbidden"`, hint: "NO_PROXY", permanent: true, whole: true},
		{answer: "HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nrefus\xe9 \x1b[31m",
			code: 403, status: "403 Forbidden", body: "refus [31m", text: `"403 Forbidden" and "refus [31m"`, hint: "NO_PROXY", permanent: true, whole: true},
		{answer: "HTTP/1.1 403 For\x00" + strings.Repeat("\x00", 50) + "\r\nContent-Length: 0\r\n\r\n",
			code: 403, status: "403 For", text: `it answered "403 For"`, hint: "NO_PROXY", permanent: true, whole: true},
		{answer: "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 100\r\n\r\ncut", ends: true,
			code: 504, status: "504 Gateway Timeout", body: "cut", hint: "in time"},
		{answer: "HTTP/1.1 400\r\nContent-Length: 0\r\n\r\n",
			code: 400, status: "400", text: `it answered "400"`, hint: "did not understand"},
		{answer: "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n",
			code: 405, status: "405 Method Not Allowed", hint: "web server", permanent: true},
		{answer: "HTTP/1.1 302 Found\r\nLocation: http://login\r\nContent-Length: 0\r\n\r\n",
			code: 302, status: "302 Found", hint: "login"},
		{answer: "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
			code: 429, status: "429 Too Many Requests", hint: "limits"},
		{answer: "HTTP/1.1 204 No Content\r\n\r\n",
			code: 204, status: "204 No Content"},
		{answer: "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n",
			code: 101, status: "101 Switching Protocols"},
		{answer: "HTTP/1.1 500 " + long + "\r\nnot a header\r\n\r\nbody", ends: true,
			code: 500, status: "500 " + long[:93] + "...", text: "500 xxx"},
	}
	for _, tt := range tests {
		t.Run(tt.answer[:min(len(tt.answer), 20)], func(t *testing.T) {
			peer := answering
			if tt.ends {
				peer = answeringAndEnding
			}
			addr := serve(t, peer(tt.answer))
			nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "http", User: url.UserPassword("u", "secret"), Host: addr}, "a.example:1", Options{})
			assert.Nil(t, nc)
			e := failure(t, err)
			assert.Equal(t, StepHandshake, e.Step)
			assert.Equal(t, tt.code, e.StatusCode)
			assert.Equal(t, tt.status, e.Status)
			assert.Equal(t, tt.body, e.Body)
			assert.NoError(t, e.Unwrap())
			assert.Contains(t, e.Error(), tt.text)
			if tt.whole {
				assert.True(t, strings.HasSuffix(e.Error(), tt.text), e.Error())
			}
			assert.NotContains(t, e.Error(), "<html>")
			assert.NotContains(t, e.Error(), "\n")
			assert.NotContains(t, e.Error(), "secret")
			assert.Less(t, len(e.Error()), 600)
			assert.Contains(t, e.Hint(), tt.hint)
			assert.Equal(t, tt.permanent, e.Permanent())
		})
	}
}

// A refusal whose header does not come to its end is one all the same: its status
// says it, and so do the challenges that came.
func TestHTTPRefusalCut(t *testing.T) {
	h2test.CheckLeaks(t)
	const head = "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n"
	negotiate := []string{"Negotiate"}
	for _, tt := range []struct {
		name       string
		peer       func(net.Conn)
		cause      error
		challenges []string
	}{
		{"endless header", endless(head, "X: y\r\n"), errTooLong, negotiate},
		{"endless field", endless(head+"X: ", "y"), errTooLong, negotiate},
		{"endless reason", endless("HTTP/1.1 407 No", " "), errTooLong, nil},
		{"endless header after interim answers", endless("HTTP/1.1 100 Continue\r\n\r\n"+head, "X: y\r\n"), errTooLong, negotiate},
		{"end in the header", answeringAndEnding(head + "Proxy-Authenticate: Ba"), io.ErrUnexpectedEOF, negotiate},
		{"end in the status line", answeringAndEnding("HTTP/1.1 407 No"), io.ErrUnexpectedEOF, nil},
		{"no header", answeringAndEnding("HTTP/1.1 407 No\r\n"), io.ErrUnexpectedEOF, nil},
		{"a header that is none", answeringAndEnding("HTTP/1.1 407 No\r\nno header\r\n"), io.ErrUnexpectedEOF, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := serve(t, tt.peer)
			nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "http", Host: addr}, "a.example:1", Options{})
			assert.Nil(t, nc)
			e := failure(t, err)
			assert.Equal(t, StepHandshake, e.Step)
			assert.Equal(t, 407, e.StatusCode)
			assert.Equal(t, "407 No", e.Status)
			assert.Equal(t, tt.challenges, e.Challenges)
			assert.Empty(t, e.Body)
			assert.Equal(t, tt.cause, e.Err)
			assert.True(t, e.Permanent())
			assert.Contains(t, e.Error(), `it answered "407 No"`)
			assert.Contains(t, e.Hint(), "the proxy wants")
		})
	}
}

// The error names the end of the context beside a status that came before it.
func TestHTTPRefusalInterrupted(t *testing.T) {
	h2test.CheckLeaks(t)
	addr := serve(t, answering("HTTP/1.1 407 No\r\n"))
	var e *Error
	for limit := 50 * time.Millisecond; limit < time.Minute && (e == nil || e.StatusCode == 0); limit *= 4 { // a busy machine may need longer for the status
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		_, err := Connect(ctx, dialer, &url.URL{Scheme: "http", Host: addr}, "a.example:1", Options{})
		cancel()
		e = failure(t, err)
	}
	assert.ErrorIs(t, e, context.DeadlineExceeded)
	assert.Equal(t, 407, e.StatusCode)
	assert.True(t, e.Permanent())
}

func TestHTTPNoAnswer(t *testing.T) {
	h2test.CheckLeaks(t)
	unexpected := func(err error) bool { _, ok := err.(*unexpectedError); return ok }
	is := func(want error) func(error) bool {
		return func(err error) bool { return assert.ErrorIs(t, err, want) }
	}
	tests := []struct {
		name      string
		peer      func(net.Conn)
		cause     func(error) bool
		text      string
		hint      string
		permanent bool
	}{
		{name: "ends", peer: answeringAndEnding(""), cause: is(io.EOF), text: "EOF", hint: "without an answer"},
		{name: "ends in between", peer: answeringAndEnding("HTTP/1.1 200 OK\r\nVia:"), cause: is(io.ErrUnexpectedEOF), hint: "without an answer"},
		{name: "reset", peer: resetting, cause: is(syscall.ECONNRESET), hint: "without an answer"},
		{name: "TLS", peer: answering("\x15\x03\x01\x00\x02\x02\x46"), cause: unexpected, text: `"\x15\x03\x01\x00\x02\x02F", which is no HTTP answer`, hint: "https://", permanent: true},
		{name: "SOCKS", peer: answering("\x05\xff"), cause: unexpected, hint: "socks5://", permanent: true},
		{name: "SSH", peer: answering("SSH-2.0-OpenSSH_9.9\r\n"), cause: unexpected, text: "SSH-2.0-", hint: "the proxy's port", permanent: true},
		{name: "HTTP/2", peer: answering("\x00\x00\x00\x04\x00\x00\x00\x00\x00"), cause: unexpected, permanent: true, hint: "port"},
		{name: "almost HTTP", peer: answering("HTTP/1.1 2OO OK\r\n\r\n"), cause: unexpected, permanent: true, hint: "port"},
		{name: "four digits", peer: answering("HTTP/1.1 2000 OK\r\n\r\n"), cause: unexpected, permanent: true, hint: "port"},
		{name: "below 100", peer: answering("HTTP/1.1 020 OK\r\n\r\n"), cause: unexpected, permanent: true, hint: "port"},
		{name: "no code", peer: answering("HTTP/1.1\n\n"), cause: unexpected, permanent: true, hint: "port"},
		{name: "empty line", peer: answering("\r\nHTTP/1.1 200 OK\r\n\r\n"), cause: unexpected, permanent: true, hint: "port"},
		{name: "endless header", peer: endless("HTTP/1.1 200 OK\r\n", "X: y\r\n"), cause: is(errTooLong), text: "64 KiB"},
		{name: "endless line", peer: endless("HTTP/1.1 200 ", "OK "), cause: is(errTooLong), text: "64 KiB"},
		{name: "endless interim", peer: endless("", "HTTP/1.1 100 Continue\r\n\r\n"), cause: is(errTooLong), text: "64 KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := serve(t, tt.peer)
			nc, err := Connect(t.Context(), dialer, &url.URL{Scheme: "http", Host: addr}, "a.example:1", Options{})
			assert.Nil(t, nc)
			e := failure(t, err)
			assert.Equal(t, StepHandshake, e.Step)
			assert.Zero(t, e.StatusCode)
			assert.True(t, tt.cause(e.Err), "%v", e.Err)
			assert.Contains(t, e.Error(), tt.text)
			assert.Contains(t, e.Hint(), tt.hint)
			assert.Equal(t, tt.permanent, e.Permanent())
		})
	}
}

// endless answers and does not stop until the client does.
func endless(start, more string) func(net.Conn) {
	return func(nc net.Conn) {
		_, _ = nc.Read(make([]byte, 4096))
		_, err := io.WriteString(nc, start)
		for more := strings.Repeat(more, 1000); err == nil; {
			_, err = io.WriteString(nc, more)
		}
	}
}
