package connect

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxy"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// through is a Func of one proxy for all.
func through(scheme, host string) proxy.Func {
	u := &url.URL{Scheme: scheme, User: url.UserPassword("user", "secret"), Host: host}
	return func(string) (*url.URL, error) { return u, nil }
}

const authorization = "Basic dXNlcjpzZWNyZXQ=" // user:secret

func TestThroughProxies(t *testing.T) {
	h2test.CheckLeaks(t)
	ca := h2test.NewCA(t)
	srv := h2test.Listen(t, h2test.WithTLSConfig(ca.ServerConfig("a.test")))
	srv.Serve(nil)
	hosts := map[string]string{
		"a.test:443": srv.Addr(), "192.0.2.1:443": srv.Addr(), "192.0.2.2:443": "5", "[2001:db8::1]:443": srv.Addr(),
	}
	plain := proxytest.ListenHTTP(t, hosts, authorization, nil)
	secure := proxytest.ListenHTTP(t, hosts, authorization, ca.ServerConfig("p.test"))
	socks := proxytest.ListenSOCKS(t, hosts, "user:secret")
	asked := map[string]func() string{
		"http":  func() string { r := plain.Requests(); return r[len(r)-1].Host },
		"https": func() string { r := secure.Requests(); return r[len(r)-1].Host },
		"socks": func() string { r := socks.Requests(); return r[len(r)-1].Target() },
	}
	port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
	for _, tt := range []struct {
		proxy  proxy.Func
		target string
		kind   string
		want   string // what the proxy was asked for last
	}{
		{through("http", plain.Addr), "a.test:443", "http", "a.test:443"},
		{through("http", "p.test:"+port(plain.Addr)), "192.0.2.1:443", "http", "192.0.2.1:443"},
		{through("https", "p.test:"+port(secure.Addr)), "a.test:443", "https", "a.test:443"},
		{through("socks5h", socks.Addr), "a.test:443", "socks", "a.test:443"},
		{through("socks5", socks.Addr), "a.test:443", "socks", "192.0.2.1:443"},
		{through("socks5", socks.Addr), "both.test:443", "socks", "[2001:db8::1]:443"},
		{through("socks5", socks.Addr), "[2001:db8::1]:443", "socks", "[2001:db8::1]:443"},
	} {
		t.Run(tt.kind+" "+tt.target, func(t *testing.T) {
			cfg := &Config{
				Creds: credentials.NewTLS(ca.ClientConfig("")), Secure: true, H2: h2.Config{UserAgent: "me/1"},
				Proxy: tt.proxy, ProxyTLS: ca.ClientConfig(""),
				Resolver: zone{"a.test": {"192.0.2.1"}, "both.test": {"2001:db8::1", "192.0.2.2"}, "p.test": {"127.0.0.1"}}.resolver(t),
			}
			c, err := Connect(t.Context(), cfg, resolver.Address{Addr: tt.target}, "a.test")
			require.NoError(t, err)
			finish(t, c)
			if tt.target == "both.test:443" { // which address comes first is RFC 6724's matter
				return
			}
			assert.Equal(t, tt.want, asked[tt.kind]())
		})
	}
	for _, r := range append(plain.Requests(), secure.Requests()...) {
		assert.Equal(t, "me/1", r.Header.Get("User-Agent"))
	}
}

func TestProxyFailures(t *testing.T) {
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	srv := h2test.Listen(t, h2test.WithTLSConfig(other.ServerConfig("a.test")))
	srv.Serve(nil)
	demanding := proxytest.ListenHTTP(t, nil, "Basic xyz", nil)
	open := proxytest.ListenHTTP(t, map[string]string{"a.test:443": srv.Addr()}, authorization, nil)
	secure := proxytest.ListenHTTP(t, nil, "", other.ServerConfig("p.test"))
	socks := proxytest.ListenSOCKS(t, nil, "user:secret")
	silent := proxytest.Serve(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := ln.Addr().String()
	require.NoError(t, ln.Close())
	_, gonePort, _ := net.SplitHostPort(gone)
	_, securePort, _ := net.SplitHostPort(secure.Addr)
	bad := errors.New("no idea")

	for _, tt := range []struct {
		name      string
		proxy     proxy.Func
		phase     failure.Phase
		via       string // Attempt.Proxy
		permanent bool
		as        func(*testing.T, *failure.Attempt)
		line      string // what the line says
		hint      string
	}{
		{name: "407", proxy: through("http", demanding.Addr), phase: failure.Proxy, via: "http://" + demanding.Addr, permanent: true,
			line: `it answered "407 Proxy Authentication Required"`, hint: "refused the user name",
			as: func(t *testing.T, a *failure.Attempt) {
				var e *proxy.Error
				require.ErrorAs(t, a, &e)
				assert.Equal(t, http.StatusProxyAuthRequired, e.StatusCode)
			}},
		{name: "unknown target", proxy: through("socks5h", socks.Addr), phase: failure.Proxy, via: "socks5h://" + socks.Addr,
			line: `it answered "host unreachable"`, hint: "know its name"},
		{name: "refused", proxy: through("http", gone), phase: failure.Dial, via: "http://" + gone,
			line: "the proxy was not reached: dial tcp " + gone, hint: "about the proxy",
			as: func(t *testing.T, a *failure.Attempt) { assert.ErrorIs(t, a, syscall.ECONNREFUSED) }},
		{name: "refused at each address", proxy: through("http", "p.test:"+gonePort), phase: failure.Dial, via: "http://p.test:" + gonePort,
			line: "2 addresses failed: 127.0.0.", hint: "about the proxy",
			as: func(t *testing.T, a *failure.Attempt) { assert.ErrorIs(t, a, syscall.ECONNREFUSED) }},
		{name: "unknown proxy", proxy: through("http", "absent.test:1"), phase: failure.Dial, via: "http://absent.test:1",
			line: "the proxy was not reached: lookup absent.test on pipe: no such host", hint: "is its address right",
			as: func(t *testing.T, a *failure.Attempt) { assert.ErrorAs(t, a, new(*net.DNSError)) }},
		{name: "unknown name, socks5", proxy: through("socks5", socks.Addr), phase: failure.Resolve, via: "socks5://" + socks.Addr,
			line: "the target's name: lookup a.test on pipe: no such host", hint: `"socks5h"`,
			as: func(t *testing.T, a *failure.Attempt) { assert.ErrorAs(t, a, new(*net.DNSError)) }},
		{name: "a certificate that is not trusted", proxy: through("https", "p.test:"+securePort), phase: failure.Proxy, via: "https://p.test:" + securePort, permanent: true,
			line: "TLS with it: ", hint: "authority that is not trusted",
			as: func(t *testing.T, a *failure.Attempt) { assert.ErrorAs(t, a, new(x509.UnknownAuthorityError)) }},
		{name: "a scheme unknown", proxy: through("ftp", "p.test"), phase: failure.Proxy, via: "ftp://p.test", permanent: true,
			line: `scheme "ftp" is not supported`},
		{name: "no choice", proxy: func(string) (*url.URL, error) { return nil, bad }, phase: failure.Proxy,
			line: "a.test:443: proxy failed after ", as: func(t *testing.T, a *failure.Attempt) { assert.ErrorIs(t, a, bad) }},
		{name: "silence", proxy: through("http", silent), phase: failure.Proxy, via: "http://" + silent,
			line: "context deadline exceeded", hint: "did not answer in time",
			as: func(t *testing.T, a *failure.Attempt) { assert.ErrorIs(t, a, context.DeadlineExceeded) }},
		{name: "behind the proxy", proxy: through("http", open.Addr), phase: failure.TLS, via: "http://" + open.Addr, permanent: true,
			line: "a.test:443 via http://" + open.Addr + ` as "a.test": tls failed`, hint: "authority",
			as: func(t *testing.T, a *failure.Attempt) { assert.NotErrorAs(t, a, new(*proxy.Error)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			cfg := &Config{Creds: credentials.NewTLS(ca.ClientConfig("")), Secure: true, Proxy: tt.proxy, ProxyTLS: ca.ClientConfig(""),
				Resolver: zone{"p.test": {"127.0.0.1", "127.0.0.2"}}.resolver(t)}
			limit := 50 * time.Second
			if tt.name == "silence" {
				limit = 50 * time.Millisecond
			}
			var a *failure.Attempt
			longEnough(t, limit, func(ctx context.Context) bool {
				_, err := Connect(ctx, cfg, resolver.Address{Addr: "a.test:443"}, "a.test")
				a = attempt(t, err)
				return strings.Contains(a.Hint, tt.hint)
			})
			assert.Equal(t, tt.phase, a.Phase)
			assert.Equal(t, "a.test:443", a.Addr)
			assert.Equal(t, tt.via, a.Proxy)
			assert.Equal(t, tt.permanent, a.Permanent)
			line := a.Error()
			assert.Contains(t, line, tt.line)
			assert.Contains(t, a.Hint, tt.hint)
			assert.NotContains(t, line, "secret")
			assert.NotContains(t, line, "\n")
			assert.Equal(t, 1, strings.Count(line, "a.test:443"), line)
			if tt.as != nil {
				tt.as(t, a)
			}
		})
	}
}

// A function that hangs, and a dialer that ignores its context, hold up nothing.
func TestProxyThatHangs(t *testing.T) {
	h2test.CheckLeaks(t)
	release := make(chan struct{})
	defer close(release)
	for name, tt := range map[string]struct {
		cfg   Config
		phase failure.Phase
	}{
		"choice": {Config{Proxy: func(string) (*url.URL, error) { <-release; return nil, nil }}, failure.Proxy},
		"dialer": {Config{Proxy: through("http", "p.test"), Dialer: func(context.Context, string) (net.Conn, error) { <-release; return nil, errors.New("late") }}, failure.Dial},
	} {
		t.Run(name, func(t *testing.T) {
			tt.cfg.Creds = plaintext
			var a *failure.Attempt
			longEnough(t, 20*time.Millisecond, func(ctx context.Context) bool {
				_, err := Connect(ctx, &tt.cfg, resolver.Address{Addr: "a.test:443"}, "a.test")
				a = attempt(t, err)
				return a.Phase == tt.phase && errors.As(a, new(*proxy.Error))
			})
			assert.Equal(t, tt.phase, a.Phase)
			assert.ErrorIs(t, a, context.DeadlineExceeded)
			assert.ErrorAs(t, a, new(*proxy.Error))
		})
	}
}

// A dialer of the user's makes the connection to the proxy. It gets the address
// as the URL has it, with the port that belongs to the scheme.
func TestDialerAndProxy(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t)
	srv.Serve(nil)
	p := proxytest.ListenHTTP(t, map[string]string{"a.test:443": srv.Addr()}, authorization, nil)
	var dialed atomic.Value
	cfg := &Config{Creds: plaintext, Proxy: through("http", "p.test"), Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
		dialed.Store(addr)
		return new(net.Dialer).DialContext(ctx, "tcp", p.Addr)
	}}
	c, err := Connect(t.Context(), cfg, resolver.Address{Addr: "a.test:443"}, "a.test")
	require.NoError(t, err)
	finish(t, c)
	assert.Equal(t, "p.test:80", dialed.Load())
}

// Unix sockets take no proxy, in whatever form the address is.
func TestUnixSocketsTakeNoProxy(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t, h2test.Unix())
	srv.Serve(nil)
	never := func(target string) (*url.URL, error) { t.Errorf("asked for %q", target); return nil, nil }
	for _, addr := range []resolver.Address{
		{Addr: "unix:" + srv.Addr()}, {Addr: "unix://" + srv.Addr()}, {Addr: srv.Addr()}, UnixSocket(resolver.Address{Addr: srv.Addr()}),
	} {
		c, err := Connect(t.Context(), &Config{Creds: plaintext, Proxy: never}, addr, "a.test")
		require.NoError(t, err)
		finish(t, c)
	}
	_, err := Connect(t.Context(), &Config{Creds: plaintext, Proxy: never, Dialer: func(context.Context, string) (net.Conn, error) {
		return nil, syscall.ECONNREFUSED
	}}, resolver.Address{Addr: "unix:s"}, "a.test")
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// Credentials leave for an https proxy only after its certificate was verified.
func TestNoCredentialInClearForHTTPSProxies(t *testing.T) {
	h2test.CheckLeaks(t)
	ca := h2test.NewCA(t)
	got := make(chan []byte, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	addr := proxytest.Serve(t, func(nc net.Conn) {
		first := make([]byte, 1)
		_, err := io.ReadFull(nc, first)
		assert.NoError(t, err)
		cancel()
		b, _ := io.ReadAll(nc)
		got <- append(first, b...)
	})
	_, port, _ := net.SplitHostPort(addr)
	cfg := &Config{Creds: plaintext, Proxy: through("https", net.JoinHostPort("127.0.0.1", port)), ProxyTLS: ca.ClientConfig("")}
	_, err := Connect(ctx, cfg, resolver.Address{Addr: "a.test:443"}, "a.test")
	require.Error(t, err)
	sent := <-got
	require.NotEmpty(t, sent)
	assert.Equal(t, byte(22), sent[0], "a TLS record")
	assert.NotContains(t, string(sent), "CONNECT")
	assert.NotContains(t, string(sent), "dXNlcjpzZWNyZXQ")
}
