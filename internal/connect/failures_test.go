package connect

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// serve calls f for each connection to a loopback address until the test ends.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serveOn(t, ln, f)
	return ln.Addr().String()
}

func serveOn(t *testing.T, ln net.Listener, f func(net.Conn)) {
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				f(nc)
			})
		}
	})
}

// says answers what the client sends with fixed bytes and waits for its end.
func says(answer string) func(net.Conn) {
	return func(nc net.Conn) {
		if _, err := nc.Read(make([]byte, 4096)); err == nil {
			_, _ = io.WriteString(nc, answer)
			_, _ = io.Copy(io.Discard, nc)
		}
	}
}

// saysAndEnds is says by a server that ends the connection then.
func saysAndEnds(answer string) func(net.Conn) {
	return func(nc net.Conn) {
		_, _ = nc.Read(make([]byte, 4096))
		_, _ = io.WriteString(nc, answer)
		_ = nc.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, nc)
	}
}

// hangUp ends the connection when the client has sent something, without a
// reset: everything is read.
func hangUp(nc net.Conn) {
	_, _ = nc.Read(make([]byte, 4096))
	_ = nc.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, nc)
}

func reset(nc net.Conn) {
	_, _ = nc.Read(make([]byte, 1))
	_ = nc.(*net.TCPConn).SetLinger(0)
}

// speaks runs a TLS server's handshake, and what a plain HTTP/2 server says
// after it.
func speaks(cfg *tls.Config) func(net.Conn) {
	return func(nc net.Conn) {
		tc := tls.Server(nc, cfg)
		if tc.Handshake() == nil {
			_, _ = tc.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
			_, _ = io.Copy(io.Discard, tc)
		}
	}
}

const settings = "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"

func TestFailures(t *testing.T) {
	h2test.CheckLeaks(t)
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	server := func(change func(*tls.Config)) *tls.Config {
		cfg := ca.ServerConfig("a.test")
		change(cfg)
		return cfg
	}
	secure := func(change func(*tls.Config)) credentials.TransportCredentials {
		cfg := ca.ClientConfig("")
		if change != nil {
			change(cfg)
		}
		return credentials.NewTLS(cfg)
	}
	with := func(c tls.Certificate) func(*tls.Config) {
		return func(cfg *tls.Config) { cfg.Certificates = []tls.Certificate{c} }
	}
	requireClient := func(cfg *tls.Config) { cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool() }
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	socket := filepath.Join(t.TempDir(), "s")

	tests := []struct {
		name      string
		addr      string // or
		peer      func(net.Conn)
		creds     credentials.TransportCredentials
		phase     failure.Phase
		cause     func(error) bool
		permanent bool
		hint      string
	}{
		{name: "refused", addr: h2test.RefusedAddr(t), creds: plaintext,
			phase: failure.Dial, cause: is(syscall.ECONNREFUSED), hint: "nothing listens"},
		{name: "no such socket", addr: "unix://" + socket, creds: plaintext,
			phase: failure.Dial, cause: is(syscall.ENOENT), hint: "no such socket"},
		{name: "no such host", addr: "absent.test:80", creds: plaintext,
			phase: failure.Resolve, cause: as[*net.DNSError], hint: `"absent.test"`},
		{name: "no port", addr: "a.test", creds: plaintext,
			phase: failure.Resolve, cause: as[*net.AddrError], permanent: true, hint: "host:port"},

		{name: "unknown authority", peer: speaks(server(with(other.Server("a.test")))), creds: secure(nil),
			phase: failure.TLS, cause: as[x509.UnknownAuthorityError], permanent: true, hint: "RootCAs"},
		{name: "other name", peer: speaks(server(with(ca.Server("b.test")))), creds: secure(nil),
			phase: failure.TLS, cause: as[x509.HostnameError], permanent: true, hint: `for "b.test", we asked for "a.test"`},
		{name: "expired", peer: speaks(server(with(ca.Expired("a.test")))), creds: secure(nil),
			phase: failure.TLS, cause: as[x509.CertificateInvalidError], permanent: true, hint: "ended on 1995"},
		{name: "not yet valid", peer: speaks(server(with(ca.NotYetValid("a.test")))), creds: secure(nil),
			phase: failure.TLS, cause: as[x509.CertificateInvalidError], permanent: true, hint: "begins on 2110"},
		{name: "client certificate required, TLS 1.3", peer: speaks(server(requireClient)), creds: secure(nil),
			phase: failure.TLS, cause: alert(116), permanent: true, hint: "requires a client certificate"},
		{name: "client certificate required, TLS 1.2", peer: speaks(server(requireClient)),
			creds: secure(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
			phase: failure.TLS, cause: as[tls.AlertError], permanent: true, hint: "client certificate"},
		{name: "client certificate of another authority", peer: speaks(server(requireClient)),
			creds: secure(func(c *tls.Config) {
				mine := other.Client("me") // sent whatever the server asks for
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &mine, nil }
			}),
			phase: failure.TLS, cause: alert(48), permanent: true, hint: "does not trust the authority"},
		{name: "no version in common", peer: speaks(server(func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 })),
			creds: secure(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
			phase: failure.TLS, cause: alert(70), permanent: true, hint: "1.2 or later"},
		{name: "no ALPN", peer: speaks(server(func(c *tls.Config) { c.NextProtos = nil })), creds: secure(nil),
			phase: failure.TLS, permanent: true, hint: "needs h2"},
		{name: "other ALPN", peer: speaks(server(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })), creds: secure(nil),
			phase: failure.TLS, cause: alert(120), permanent: true, hint: "h2 by ALPN"},
		{name: "plaintext HTTP/2 server", peer: says(settings), creds: secure(nil),
			phase: failure.TLS, cause: as[tls.RecordHeaderError], permanent: true, hint: "HTTP/2 without TLS"},
		{name: "plaintext HTTP/1 server", peer: says("HTTP/1.1 400 Bad Request\r\n\r\n"), creds: secure(nil),
			phase: failure.TLS, cause: as[tls.RecordHeaderError], permanent: true, hint: `"HTTP/1.1 400 Bad Request", it speaks HTTP/1 without TLS`},
		{name: "SSH server asked for TLS", peer: says("SSH-2.0-OpenSSH_9.6\r\n"), creds: secure(nil),
			phase: failure.TLS, cause: as[tls.RecordHeaderError], permanent: true, hint: `"SSH-2.0-OpenSSH_9.6\r\n"`},
		{name: "a word, and no TLS", peer: saysAndEnds("no\n"), creds: secure(nil),
			phase: failure.TLS, cause: is(io.ErrUnexpectedEOF), permanent: true, hint: `"no\n"`},
		{name: "end in TLS", peer: hangUp, creds: secure(nil),
			phase: failure.TLS, cause: is(io.EOF), hint: "may not speak TLS"},
		{name: "reset in TLS", peer: reset, creds: secure(nil),
			phase: failure.TLS, cause: is(syscall.ECONNRESET), hint: "may not speak TLS"},

		{name: "TLS server", peer: saysAndEnds("\x15\x03\x01\x00\x02\x02\x46"), creds: plaintext,
			phase: failure.HTTP2, permanent: true, hint: `the server speaks TLS, it sent the alert "protocol version not supported"`},
		{name: "TLS server in pieces", peer: func(nc net.Conn) {
			for _, piece := range []string{"\x15", "\x03\x01\x00", "\x02\x02", "\x28"} {
				_, _ = io.WriteString(nc, piece)
				time.Sleep(time.Millisecond)
			}
			_, _ = io.Copy(io.Discard, nc)
		}, creds: plaintext, phase: failure.HTTP2, permanent: true, hint: `alert "handshake failure"`},
		{name: "HTTP/1 server in pieces", peer: func(nc net.Conn) {
			for _, piece := range []string{"HTT", "P/1.1 4", "26 Upgrade Required\r\n"} {
				_, _ = io.WriteString(nc, piece)
				time.Sleep(time.Millisecond)
			}
			_, _ = io.Copy(io.Discard, nc)
		}, creds: plaintext, phase: failure.HTTP2, permanent: true, hint: `"HTTP/1.1 426 Upgrade Required"`},
		{name: "a word, and no more", peer: says("hello"), creds: plaintext,
			phase: failure.HTTP2, permanent: true, hint: `"hello", which is not HTTP/2`},
		{name: "TLS server that asks for HTTPS", peer: says("HTTP/1.1 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"), creds: plaintext,
			phase: failure.HTTP2, permanent: true, hint: "speaks TLS"},
		{name: "HTTP/1 server", peer: says("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), creds: plaintext,
			phase: failure.HTTP2, permanent: true, hint: `"HTTP/1.1 400 Bad Request"`},
		{name: "SSH server", peer: says("SSH-2.0-OpenSSH_9.6\r\n"), creds: plaintext,
			phase: failure.HTTP2, permanent: true, hint: `"SSH-2.0-OpenSSH_9.6\r\n"`},
		{name: "GOAWAY", peer: says("\x00\x00\x0c\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00full"), creds: plaintext,
			phase: failure.HTTP2, hint: `GOAWAY NO_ERROR "full"`},
		{name: "SETTINGS of seven bytes", peer: says("\x00\x00\x07\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), creds: plaintext,
			phase: failure.HTTP2, cause: is(http2.ConnectionError(http2.ErrCodeFrameSize)), permanent: true, hint: "breaks the rules"},
		{name: "SETTINGS too long", peer: says("\x00\xff\xff\x04\x00\x00\x00\x00\x00"), creds: plaintext,
			phase: failure.HTTP2, cause: is(http2.ConnectionError(http2.ErrCodeFrameSize)), permanent: true, hint: "breaks the rules"},
		{name: "SETTINGS ACK with values", peer: says("\x00\x00\x06\x04\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), creds: plaintext,
			phase: failure.HTTP2, cause: is(http2.ConnectionError(http2.ErrCodeFrameSize)), permanent: true, hint: "breaks the rules"},
		{name: "end without a word", peer: hangUp, creds: plaintext,
			phase: failure.HTTP2, cause: is(io.EOF), hint: "without a word"},
		{name: "end within SETTINGS", peer: saysAndEnds(settings[:11]), creds: plaintext,
			phase: failure.HTTP2, cause: is(io.EOF), hint: "before its SETTINGS were complete"},
		{name: "reset", peer: reset, creds: plaintext,
			phase: failure.HTTP2, cause: is(syscall.ECONNRESET), hint: "without a word"},
		{name: "TLS server of Go", peer: speaks(server(func(*tls.Config) {})), creds: plaintext,
			phase: failure.HTTP2},
		{name: "HTTP/1 inside TLS", creds: secure(nil), peer: func(nc net.Conn) {
			tc := tls.Server(nc, ca.ServerConfig("a.test"))
			if tc.Handshake() == nil {
				_, _ = io.WriteString(tc, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
				_, _ = io.Copy(io.Discard, tc)
			}
		}, phase: failure.HTTP2, permanent: true, hint: `"HTTP/1.1 502 Bad Gateway"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			addr := tt.addr
			if tt.peer != nil {
				addr = serve(t, tt.peer)
			}
			cfg := &Config{Creds: tt.creds, Resolver: zone{}.resolver(t)}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			_, err := Connect(ctx, cfg, resolver.Address{Addr: addr}, "a.test")
			a := attempt(t, err)
			// The rest of what comes in pieces is awaited for 50 ms, in which a busy machine may send none.
			for strings.HasSuffix(tt.name, "in pieces") && !strings.Contains(a.Hint, tt.hint) && time.Since(start) < 50*time.Second {
				_, err = Connect(ctx, cfg, resolver.Address{Addr: addr}, "a.test")
				a = attempt(t, err)
			}
			t.Log(a)
			assert.Equal(t, addr, a.Addr)
			assert.Equal(t, "a.test", a.ServerName)
			assert.Equal(t, tt.phase, a.Phase)
			assert.Equal(t, tt.permanent, a.Permanent)
			assert.Contains(t, a.Hint, tt.hint)
			if tt.cause != nil {
				assert.True(t, tt.cause(a), "%v", a.Err)
			}
			assert.NotErrorIs(t, err, context.DeadlineExceeded)
			assert.NotErrorIs(t, err, context.Canceled)
			assert.False(t, a.Start.Before(start))
			assert.Positive(t, a.Elapsed)
			assert.Contains(t, a.Error(), addr)
		})
	}
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func alert(want tls.AlertError) func(error) bool {
	return func(err error) bool {
		var got tls.AlertError
		return errors.As(err, &got) && got == want
	}
}

// TestTimeOuts lets the context end in each phase after dialing.
func TestTimeOuts(t *testing.T) {
	ca := h2test.NewCA(t)
	silentAfterTLS := func(nc net.Conn) { _, _ = io.Copy(io.Discard, tls.Server(nc, ca.ServerConfig("a.test"))) }
	secure := credentials.NewTLS(ca.ClientConfig(""))
	tests := []struct {
		name  string
		peer  func(net.Conn)
		creds credentials.TransportCredentials
		phase failure.Phase
		hint  string
	}{
		{"tls", silent, secure, failure.TLS, "TLS handshake"},
		{"http2", silent, plaintext, failure.HTTP2, "sent no SETTINGS"},
		{"http2 within TLS", silentAfterTLS, secure, failure.HTTP2, "sent no SETTINGS"},
		{"half of SETTINGS", says(settings[:11]), plaintext, failure.HTTP2, "did not finish its SETTINGS"},
		{"half of an acknowledgement", says("\x00\x00\x00\x04\x01"), plaintext, failure.HTTP2, "did not finish its SETTINGS"},
	}
	for _, tt := range tests {
		for _, cancelled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s cancelled=%v", tt.name, cancelled), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client, server := h2test.Pipe(t)
					ended := make(chan struct{})
					go func() {
						defer close(ended)
						tt.peer(server.NetConn())
					}()
					cfg := dials(client)
					cfg.Creds = tt.creds
					ctx, cancel := context.WithCancel(t.Context())
					want := context.Canceled
					if cancelled {
						time.AfterFunc(time.Second, cancel)
					} else {
						want = context.DeadlineExceeded
						ctx, cancel = context.WithTimeout(ctx, time.Second)
					}
					defer cancel()
					_, err := Connect(ctx, cfg, resolver.Address{Addr: "a"}, "a.test")
					a := attempt(t, err)
					assert.Equal(t, tt.phase, a.Phase)
					assert.ErrorIs(t, a, want)
					assert.False(t, a.Permanent)
					assert.Equal(t, time.Second, a.Elapsed)
					if !cancelled {
						assert.Contains(t, a.Hint, tt.hint)
					}
					assert.Empty(t, left())
					<-ended
				})
			})
		}
	}
}

func TestNameServersThatAreSilent(t *testing.T) {
	h2test.CheckLeaks(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	cfg := &Config{Creds: plaintext, Resolver: zone{"silent.test": {"silence"}}.resolver(t)}
	_, err := Connect(ctx, cfg, resolver.Address{Addr: "silent.test:80"}, "a.test")
	a := attempt(t, err)
	assert.Equal(t, "silent.test:80", a.Addr)
	assert.Equal(t, failure.Resolve, a.Phase)
	assert.ErrorIs(t, a, context.DeadlineExceeded)
	assert.False(t, a.Permanent)
	assert.Contains(t, a.Hint, "DNS")
}

func TestContextThatHasEnded(t *testing.T) {
	h2test.CheckLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	srv := h2test.Listen(t)
	srv.Serve(nil)
	for _, addr := range []string{srv.Addr(), srv.Target(), "a.test:80"} {
		_, err := Connect(ctx, &Config{Creds: plaintext, Resolver: zone{"a.test": {"127.0.0.1"}}.resolver(t)}, resolver.Address{Addr: addr}, "a.test")
		assert.ErrorIs(t, attempt(t, err), context.Canceled)
	}
}

// TestSeveralAddresses connects to a name with several addresses of which some
// do not do.
func TestSeveralAddresses(t *testing.T) {
	h2test.CheckLeaks(t)
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	listen := func(addr string) net.Listener {
		ln, err := net.Listen("tcp", addr)
		require.NoError(t, err)
		return ln
	}
	first := listen("127.0.0.1:0")
	_, port, err := net.SplitHostPort(first.Addr().String())
	require.NoError(t, err)
	second := listen("127.0.0.2:" + port)
	serveOn(t, first, speaks(other.ServerConfig("a.test")))
	serveOn(t, second, speaks(ca.ServerConfig("a.test")))
	z := zone{
		"good.test":    {"127.0.0.3", "127.0.0.1", "127.0.0.2"},
		"bad.test":     {"127.0.0.1", "127.0.0.3"},
		"refused.test": {"127.0.0.3", "127.0.0.4"},
	}
	cfg := &Config{Creds: credentials.NewTLS(ca.ClientConfig("")), Secure: true, Resolver: z.resolver(t)}

	t.Run("one is right", func(t *testing.T) {
		c, err := Connect(t.Context(), cfg, resolver.Address{Addr: "good.test:" + port}, "a.test")
		require.NoError(t, err)
		assert.Equal(t, second.Addr().String(), c.Peer().Addr.String())
		finish(t, c)
	})
	t.Run("none is right", func(t *testing.T) {
		_, err := Connect(t.Context(), cfg, resolver.Address{Addr: "bad.test:" + port}, "a.test")
		require.IsType(t, failure.List(nil), err, "%v", err)
		l := err.(failure.List)
		require.Len(t, l, 2)
		assert.Equal(t, "127.0.0.1:"+port, l[0].Addr)
		assert.Equal(t, failure.TLS, l[0].Phase)
		assert.True(t, l[0].Permanent)
		assert.Equal(t, "127.0.0.3:"+port, l[1].Addr)
		assert.Equal(t, failure.Dial, l[1].Phase)
		assert.False(t, l[1].Permanent)
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		assert.ErrorAs(t, err, new(x509.UnknownAuthorityError))
		assert.NotErrorIs(t, err, context.Canceled)
	})
	t.Run("none listens", func(t *testing.T) {
		_, err := Connect(t.Context(), cfg, resolver.Address{Addr: "refused.test:" + port}, "a.test")
		require.IsType(t, failure.List(nil), err, "%v", err)
		require.Len(t, err.(failure.List), 2)
		for i, a := range err.(failure.List) {
			assert.Equal(t, fmt.Sprintf("127.0.0.%d:%s", 3+i, port), a.Addr)
			assert.ErrorIs(t, a, syscall.ECONNREFUSED)
		}
	})
}

func TestServerThatTalksWithoutEnd(t *testing.T) {
	h2test.CheckLeaks(t)
	flood := bytes.Repeat([]byte("noise "), 10000)
	addr := serve(t, func(nc net.Conn) {
		for {
			if _, err := nc.Write(flood); err != nil {
				return
			}
		}
	})
	_, err := Connect(t.Context(), &Config{Creds: plaintext}, resolver.Address{Addr: addr}, "a.test")
	a := attempt(t, err)
	assert.True(t, a.Permanent)
	assert.Contains(t, a.Hint, `"noise noise`)
	assert.Less(t, len(a.Error()), 700)
}
