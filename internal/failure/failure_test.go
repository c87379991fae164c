package failure

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

func selfSigned(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "self"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return c
}

func TestAttemptLine(t *testing.T) { synctest.Test(t, testAttemptLine) }

func testAttemptLine(t *testing.T) {
	addr := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: addr, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	tests := []struct {
		name string
		a    Attempt
		want string
	}{
		{"the address is not repeated",
			Attempt{Addr: "192.0.2.1:443", Phase: Dial, Elapsed: 1234567 * time.Nanosecond, Err: refused, Hint: "do this"},
			"192.0.2.1:443: dial failed after 1.23ms: connect: connection refused; do this"},
		{"another address is",
			Attempt{Addr: "proxied", Phase: Dial, Elapsed: 0, Err: refused},
			"proxied: dial failed after 0s: dial tcp 192.0.2.1:443: connect: connection refused"},
		{"the server name in TLS",
			Attempt{Addr: "192.0.2.1:443", ServerName: "a.test", Phase: TLS, Elapsed: 12345678 * time.Nanosecond, Err: io.EOF},
			`192.0.2.1:443 as "a.test": tls failed after 12.3ms: EOF`},
		{"the server name without the port",
			Attempt{Addr: "192.0.2.1:443", ServerName: "a.test:443", Phase: TLS, Elapsed: time.Second, Err: io.EOF},
			`192.0.2.1:443 as "a.test": tls failed after 1s: EOF`},
		{"its time was over",
			Attempt{Addr: "a", Phase: Dial, Elapsed: 20 * time.Second, Err: context.DeadlineExceeded, Hint: "nothing answered"},
			`a: dial failed after 20s: nothing answered`},
		{"its time was over and nobody knows more",
			Attempt{Addr: "a", Phase: Dial, Elapsed: 20 * time.Second, Err: context.DeadlineExceeded},
			`a: dial failed after 20s: context deadline exceeded`},
		{"its time was over, in the words of a dialer",
			Attempt{Addr: "a", Phase: Dial, Elapsed: 20 * time.Second, Err: fmt.Errorf("no free tunnel: %w", context.DeadlineExceeded), Hint: "nothing answered"},
			`a: dial failed after 20s: no free tunnel: context deadline exceeded; nothing answered`},
		{"no SETTINGS in its time",
			*New("a", "", time.Now(), HTTP2, &preface{"", context.DeadlineExceeded}),
			`a: http2 failed after 0s: the server took the connection and sent no SETTINGS: it may require TLS, not speak HTTP/2, or be overloaded`},
		{"no server name elsewhere",
			Attempt{Addr: "192.0.2.1:443", ServerName: "a.test", Phase: HTTP2, Elapsed: 20123 * time.Millisecond, Err: io.EOF},
			`192.0.2.1:443: http2 failed after 20.1s: EOF`},
		{"the proxy",
			Attempt{Addr: "a.test:443", Proxy: "http://p:3128", Phase: Proxy, Err: io.EOF},
			`a.test:443 via http://p:3128: proxy failed after 0s: EOF`},
		{"the proxy's own reason",
			Attempt{Addr: "a.test:443", Proxy: "http://p:3128", Phase: Proxy, Err: &selfExplained{}, Hint: "log in"},
			`a.test:443 via http://p:3128: proxy failed after 0s: it answered 407; log in`},
		{"one line",
			Attempt{Addr: "a", Phase: Dial, Err: errors.New("first\n\tsecond")},
			`a: dial failed after 0s: first | second`},
		{"the hint quotes what came",
			*New("a", "", time.Now(), HTTP2, bytesCame("SSH-2.0\r\n")),
			`a: http2 failed after 0s: the server sent "SSH-2.0\r\n", which is not HTTP/2: is this the gRPC port?`},
		{"the hint begins with the cause",
			Attempt{Addr: "a", Phase: HTTP2, Err: errors.New("it closed"), Hint: "it closed: it may require TLS"},
			`a: http2 failed after 0s: it closed: it may require TLS`},
		{"the hint says less than the cause",
			Attempt{Addr: "a", Phase: HTTP2, Err: &preface{"\x00\x00", io.EOF}, Hint: "it may require TLS"},
			`a: http2 failed after 0s: server preface: "\x00\x00": EOF; it may require TLS`},
		{"no cause",
			Attempt{Addr: "a", Phase: Dial},
			`a: dial failed after 0s`},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, tt.a.Error(), tt.name)
	}

	long := Attempt{Addr: "a", Phase: Dial, Err: errors.New(strings.Repeat("é", 10000))}
	assert.Less(t, len(long.Error()), 600)
	assert.True(t, strings.HasSuffix(long.Error(), "é..."))
}

func TestUnfinishedLine(t *testing.T) {
	for want, a := range map[string]Attempt{
		"a:1 not finished after 1s":                               {Addr: "a:1"},
		"a:1: dial not finished after 1s: wait":                   {Addr: "a:1", Phase: Dial, Hint: "wait"},
		`a:1 as "b": tls not finished after 1s`:                   {Addr: "a:1", ServerName: "b:443", Phase: TLS},
		"a:1 via http://p: proxy not finished after 1s: be quick": {Addr: "a:1", Proxy: "http://p", Phase: Proxy, Hint: "be quick"},
	} {
		a.Elapsed = time.Second
		assert.Equal(t, want, a.Unfinished())
	}
}

// Each phase has something to say while it goes on.
func TestPending(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range []Phase{Resolve, Dial, Proxy, TLS, HTTP2, Health} {
		hint := Pending(p, false, false)
		assert.NotEmpty(t, hint, p)
		assert.False(t, seen[hint], p)
		seen[hint] = true
	}
	assert.Contains(t, Pending(Dial, true, false), "the proxy")
	assert.NotContains(t, Pending(HTTP2, false, true), "require TLS")
	assert.Empty(t, Pending("", false, false))
}

func TestNewAsksTheTableAndTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		time.Sleep(3 * time.Second)
		err := &preface{first: "\x15\x03\x01"}
		a := New("a:1", "a", start, HTTP2, err)
		assert.Equal(t, start, a.Start)
		assert.Equal(t, 3*time.Second, a.Elapsed)
		assert.True(t, a.Permanent)
		assert.Contains(t, a.Hint, "speaks TLS")
		assert.ErrorIs(t, a, err)
	})
}

func TestListIsAllItsAttempts(t *testing.T) {
	l := List{
		{Addr: "a:1", Phase: Dial, Err: syscall.ECONNREFUSED},
		{Addr: "b:1", Phase: TLS, Err: x509.UnknownAuthorityError{}},
	}
	var err error = l
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.ErrorAs(t, err, new(x509.UnknownAuthorityError))
	var a *Attempt
	require.ErrorAs(t, err, &a)
	assert.Same(t, l[0], a)
	assert.NotErrorIs(t, err, context.DeadlineExceeded)
	assert.True(t, strings.HasPrefix(err.Error(), "2 addresses failed: a:1: dial failed"), err.Error())
	assert.Contains(t, err.Error(), " | b:1: tls failed")

	assert.Equal(t, l[0].Error(), l[:1].Error())

	var many List
	for i := range 20 {
		many = append(many, &Attempt{Addr: fmt.Sprintf("host%d:1", i), Phase: Dial})
	}
	assert.Contains(t, many.Error(), "20 addresses failed")
	assert.Contains(t, many.Error(), "host7:1")
	assert.NotContains(t, many.Error(), "host8:1")
	assert.True(t, strings.HasSuffix(many.Error(), "and 12 more"))
}

// TestAlertsOfCryptoTLS takes alerts as crypto/tls reports them: from a server
// that refuses, on the first read after the handshake, and from our own side.
func TestAlertsOfCryptoTLS(t *testing.T) {
	ca := h2test.NewCA(t)
	tests := []struct {
		name   string
		server func(*tls.Config)
		client func(*tls.Config)
		alert  tls.AlertError
		remote bool
	}{
		{"certificate required after the handshake", func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, nil, alertCertificateRequired, true},
		{"no version in common", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, alertProtocolVersion, true},
		{"no protocol in common", nil, func(c *tls.Config) { c.NextProtos = []string{"other"} }, alertNoApplicationProtocol, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server, client := ca.ServerConfig("a.test"), ca.ClientConfig("a.test")
			if tt.server != nil {
				tt.server(server)
			}
			if tt.client != nil {
				tt.client(client)
			}
			err := tlsError(t, client, server)

			assert.False(t, errors.As(err, new(tls.AlertError)), "crypto/tls exports the type itself now: WithAlert is not needed")
			alert, remote, ok := Alert(fmt.Errorf("handshake: %w", err))
			require.True(t, ok, "%v", err)
			assert.Equal(t, tt.alert, alert)
			assert.Equal(t, tt.remote, remote)

			with, found := WithAlert(fmt.Errorf("handshake: %w", err))
			require.True(t, found)
			require.ErrorAs(t, with, &alert)
			assert.Equal(t, tt.alert, alert)
			assert.ErrorAs(t, with, new(*net.OpError))
			assert.Equal(t, "handshake: "+err.Error(), with.Error())

			again, found := WithAlert(with)
			assert.True(t, found)
			assert.Equal(t, with, again)
		})
	}

	_, found := WithAlert(io.EOF)
	assert.False(t, found)
	_, found = WithAlert(&net.OpError{Op: "read"})
	assert.False(t, found)
	_, remote, ok := Alert(fmt.Errorf("quic: %w", tls.AlertError(48)))
	assert.True(t, ok)
	assert.True(t, remote)
}

// tlsError runs a handshake over loopback and returns what the client sees.
func tlsError(t *testing.T, client, server *tls.Config) error {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		tls.Server(nc, server).Handshake()
		io.Copy(io.Discard, nc) // what is unread at a close would reset the connection
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	c := tls.Client(nc, client)
	if err = c.Handshake(); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	c.Close()
	<-served
	return err
}

func TestWithoutALPNAdvice(t *testing.T) {
	err := errors.New("credentials: cannot check peer: missing selected ALPN property. If you upgraded from a grpc-go version earlier than 1, read this")
	short := WithoutALPNAdvice(err)
	assert.EqualError(t, short, "credentials: cannot check peer: missing selected ALPN property")
	assert.ErrorIs(t, short, err)
	permanent, hint := classify(TLS, short)
	assert.True(t, permanent)
	assert.Contains(t, hint, "ALPN")
	for _, other := range []error{io.EOF, errors.New("x. If you upgraded from a grpc-go version"), short} {
		assert.Equal(t, other, WithoutALPNAdvice(other))
	}
}
