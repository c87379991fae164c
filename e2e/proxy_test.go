package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// userAgent is what channels call themselves, if the program does not say.
var userAgent = regexp.MustCompile(`^grpc-go-grpcdial/\d+\.\d+\.\S+$`)

const (
	authorization = "Basic dXNlcjpzZWNyZXQ=" // user:secret
	userPassword  = "user:secret"
)

// noProxies empties the variables that say which proxy to take.
func noProxies(t *testing.T) {
	t.Helper()
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY"} {
		t.Setenv(name, "")
		t.Setenv(strings.ToLower(name), "")
	}
}

// What a proxy is asked for: the name where it looks it up, else an address.
func TestProxies(t *testing.T) {
	b := backendtest.Start(t, "one")
	names := dnstest.Listen(t, dnstest.Zone{"backend.test": {Addrs: []string{"192.0.2.1"}}})
	at := func(endpoint string) string { return asked(names, endpoint) }
	hosts := map[string]string{"backend.test:443": b.Addr, "backend.test:50051": b.Addr, "192.0.2.1:443": b.Addr, "192.0.2.7:443": b.Addr}
	ca := h2test.NewCA(t)
	plainProxy := proxytest.ListenHTTP(t, hosts, authorization, nil)
	secureProxy := proxytest.ListenHTTP(t, hosts, authorization, ca.ServerConfig("127.0.0.1"))
	socks := proxytest.ListenSOCKS(t, hosts, userPassword)
	overHTTP, overSOCKS := via("http", plainProxy.Addr), func(scheme string) grpcdial.DialOption { return via(scheme, socks.Addr) }
	for _, tt := range []struct {
		name   string
		dial   bool // by DialContext
		target string
		opts   []grpcdial.DialOption
		want   string // what the proxy is asked for
	}{
		{"NewClient", false, at("backend.test:443"), []grpcdial.DialOption{overHTTP}, "backend.test:443"},
		{"NewClient, a bare target", false, "backend.test", []grpcdial.DialOption{overHTTP}, "backend.test:443"},
		{"NewClient, an IP address", false, "192.0.2.7", []grpcdial.DialOption{overHTTP}, "192.0.2.7:443"},
		{"NewClient, passthrough", false, "passthrough:///backend.test:50051", []grpcdial.DialOption{overHTTP}, "backend.test:50051"},
		{"NewClient, WithLocalDNSResolution", false, at("backend.test"), []grpcdial.DialOption{overHTTP, grpcdial.WithLocalDNSResolution()}, "192.0.2.1:443"},
		{"NewClient, socks5h", false, at("backend.test"), []grpcdial.DialOption{overSOCKS("socks5h")}, "backend.test:443"},
		{"NewClient, socks5", false, at("backend.test"), []grpcdial.DialOption{overSOCKS("socks5")}, "192.0.2.1:443"},
		{"NewClient, https", false, at("backend.test"), []grpcdial.DialOption{via("https", secureProxy.Addr), grpcdial.WithProxyTLSConfig(ca.ClientConfig(""))}, "backend.test:443"},
		{"DialContext", true, "backend.test:50051", []grpcdial.DialOption{overHTTP}, "backend.test:50051"},
		{"DialContext, dns", true, at("backend.test"), []grpcdial.DialOption{overHTTP}, "192.0.2.1:443"},
		{"DialContext, dns, socks5h", true, at("backend.test"), []grpcdial.DialOption{overSOCKS("socks5h")}, "192.0.2.1:443"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			oldHTTP, oldHTTPS, oldSOCKS := len(plainProxy.Requests()), len(secureProxy.Requests()), len(socks.Requests())
			var cc *grpcdial.ClientConn
			if tt.dial {
				var err error
				cc, err = grpcdial.DialContext(backendtest.Bounded(t), tt.target, append(tt.opts, grpcdial.WithInsecure(), grpcdial.WithBlock())...)
				require.NoError(t, err)
				defer cc.Close()
			} else {
				cc = plain(t, tt.target, tt.opts...)
			}
			got, err := backendtest.AskName(backendtest.Bounded(t), cc)
			require.NoError(t, err)
			assert.Equal(t, "one", got)
			var seen []string
			for _, r := range append(plainProxy.Requests()[oldHTTP:], secureProxy.Requests()[oldHTTPS:]...) {
				seen = append(seen, r.Host)
				assert.Regexp(t, userAgent, r.Header.Get("User-Agent"))
			}
			for _, r := range socks.Requests()[oldSOCKS:] {
				seen = append(seen, r.Target())
			}
			assert.Equal(t, []string{tt.want}, seen)
		})
	}
}

// TestProxyTLSConfig: what the program says of TLS with an https proxy.
func TestProxyTLSConfig(t *testing.T) {
	b := backendtest.Start(t, "one")
	hosts := map[string]string{"backend.test:443": b.Addr}
	ca := h2test.NewCA(t)
	open := proxytest.ListenHTTP(t, hosts, authorization, ca.ServerConfig("127.0.0.1"))
	elsewhere := proxytest.ListenHTTP(t, hosts, authorization, ca.ServerConfig("proxy.example"))
	demanding := ca.ServerConfig("127.0.0.1")
	demanding.ClientAuth, demanding.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	mutual := proxytest.ListenHTTP(t, hosts, authorization, demanding)
	trusting := &tls.Config{RootCAs: ca.Pool()}
	known := &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{ca.Client("me")}}
	named := &tls.Config{RootCAs: ca.Pool(), ServerName: "proxy.example"}
	for _, tt := range []struct {
		name  string
		proxy *proxytest.HTTP
		cfg   *tls.Config
		env   bool   // the proxy is the environment's
		step  string // at which it fails; "": not at all
		hint  string
	}{
		{name: "roots", proxy: open, cfg: trusting},
		{name: "roots, the environment's proxy", proxy: open, cfg: trusting, env: true},
		{name: "none", proxy: open, step: "tls", hint: "RootCAs in WithProxyTLSConfig"},
		{name: "none, the environment's proxy", proxy: open, env: true, step: "tls", hint: "RootCAs in WithProxyTLSConfig"},
		{name: "a client certificate", proxy: mutual, cfg: known},
		{name: "no client certificate", proxy: mutual, cfg: trusting, step: "handshake", hint: "client certificate, which WithProxyTLSConfig sets"},
		{name: "a server name", proxy: elsewhere, cfg: named},
		{name: "no server name", proxy: elsewhere, cfg: trusting, step: "tls", hint: "not for \"127.0.0.1\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noProxies(t)
			opts := []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithGiveUp(func(grpcdial.Attempt) bool { return true }), grpcdial.WithProxyTLSConfig(tt.cfg)}
			if tt.env {
				t.Setenv("HTTPS_PROXY", "https://"+userPassword+"@"+tt.proxy.Addr)
			} else {
				opts = append(opts, via("https", tt.proxy.Addr))
			}
			before := len(tt.proxy.Requests())
			cc, err := grpcdial.DialContext(backendtest.Bounded(t), "backend.test:443", opts...)
			if tt.step == "" {
				require.NoError(t, err)
				defer cc.Close()
				got, err := backendtest.AskName(backendtest.Bounded(t), cc)
				require.NoError(t, err)
				assert.Equal(t, "one", got)
				return
			}
			var p *grpcdial.ProxyError
			require.ErrorAs(t, err, &p)
			assert.EqualValues(t, tt.step, p.Step)
			assert.ErrorContains(t, err, tt.hint)
			assert.NotContains(t, err.Error(), "\n")
			assert.Len(t, tt.proxy.Requests(), before, "no credentials, no target")
		})
	}
	assert.Empty(t, trusting.ServerName, "the configuration is the program's")
	assert.Empty(t, trusting.NextProtos)
}

// TLS with the backend is the channel's own, and the name that is verified is the
// target's.
func TestTLSThroughAProxy(t *testing.T) {
	ca := h2test.NewCA(t)
	srv := h2test.Listen(t, h2test.WithTLSConfig(ca.ServerConfig("backend.test")))
	srv.Serve(nil)
	p := proxytest.ListenHTTP(t, map[string]string{"backend.test:443": srv.Addr()}, authorization, nil)
	for _, target := range []string{"backend.test", "dns:///backend.test:443", "passthrough:///backend.test:443"} {
		cc, err := grpcdial.NewClient(target, grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig(""))), via("http", p.Addr))
		require.NoError(t, err)
		awaitReady(t, cc)
		require.NoError(t, cc.Close())
	}
}

func TestProxyOutlivesALoss(t *testing.T) {
	b := backendtest.Start(t, "one")
	p := proxytest.ListenSOCKS(t, map[string]string{"backend.test:443": b.Addr}, userPassword)
	cc := plain(t, "backend.test", via("socks5h", p.Addr))
	backendtest.AwaitNames(t, cc, "one")
	b.Cut()
	backendtest.AwaitNames(t, cc, "one")
	assert.Len(t, p.Requests(), 2)
}

// The function of WithProxy is asked about the target first, and then about each
// address.
func TestProxyFunction(t *testing.T) {
	b := backendtest.Start(t, "one")
	port := backendtest.PortOf(t, b.Addr)
	names := dnstest.Listen(t, dnstest.Zone{"backend.test": {Addrs: []string{"127.0.0.1"}}})
	p := proxytest.ListenHTTP(t, map[string]string{"127.0.0.1:" + port: b.Addr, "backend.test:" + port: b.Addr}, "", nil)
	for name, tt := range map[string]struct {
		direct string // target without a proxy
		asked  []string
		used   int // times that the proxy was
	}{
		"none for the target":   {"backend.test:" + port, []string{"backend.test:" + port}, 0},
		"none for the address":  {"127.0.0.1:" + port, []string{"backend.test:" + port, "127.0.0.1:" + port}, 0},
		"a proxy for all of it": {"", []string{"backend.test:" + port, "127.0.0.1:" + port}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(p.Requests())
			var mu sync.Mutex
			var targets []string
			f := func(target string) (*url.URL, error) {
				mu.Lock()
				defer mu.Unlock()
				targets = append(targets, target)
				if target == tt.direct {
					return nil, nil
				}
				return &url.URL{Scheme: "http", Host: p.Addr}, nil
			}
			cc := plain(t, asked(names, "backend.test:"+port), grpcdial.WithProxy(f), grpcdial.WithLocalDNSResolution())
			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			require.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			assert.Equal(t, tt.asked, targets)
			assert.Len(t, p.Requests(), before+tt.used)
		})
	}
}

func TestProxyFromEnvironment(t *testing.T) {
	b := backendtest.Start(t, "one")
	unix := h2test.Listen(t, h2test.Unix())
	unix.Serve(nil)
	names := dnstest.Listen(t, dnstest.Zone{"direct.test": {Addrs: []string{"127.0.0.1"}}, "behind.test": {Addrs: []string{"192.0.2.1"}}})
	port := backendtest.PortOf(t, b.Addr)
	p := proxytest.ListenHTTP(t, map[string]string{"behind.test:" + port: b.Addr, "direct.test:" + port: b.Addr, "192.0.2.1:" + port: b.Addr}, authorization, nil)
	u := "http://" + userPassword + "@" + p.Addr
	dialer := grpcdial.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", b.Addr)
	})
	behind, direct := asked(names, "behind.test:"+port), asked(names, "direct.test:"+port)
	for _, tt := range []struct {
		name   string
		env    map[string]string
		target string
		opts   []grpcdial.DialOption
		want   string // what the proxy is asked for; empty: nothing
	}{
		{"HTTPS_PROXY", map[string]string{"HTTPS_PROXY": u}, behind, nil, "behind.test:" + port},
		{"https_proxy", map[string]string{"https_proxy": u}, behind, nil, "behind.test:" + port},
		{"without a scheme", map[string]string{"HTTPS_PROXY": strings.TrimPrefix(u, "http://")}, behind, nil, "behind.test:" + port},
		{"HTTP_PROXY", map[string]string{"HTTP_PROXY": u}, direct, nil, ""},
		{"WithNoProxy", map[string]string{"HTTPS_PROXY": u}, direct, []grpcdial.DialOption{grpcdial.WithNoProxy()}, ""},
		{"WithNoProxy last", map[string]string{"HTTPS_PROXY": u}, direct, []grpcdial.DialOption{via("http", p.Addr), grpcdial.WithNoProxy()}, ""},
		{"WithProxy nil", map[string]string{"HTTPS_PROXY": u}, behind, []grpcdial.DialOption{grpcdial.WithNoProxy(), grpcdial.WithProxy(nil)}, "behind.test:" + port},
		{"NO_PROXY, the name", map[string]string{"HTTPS_PROXY": u, "NO_PROXY": "direct.test"}, direct, nil, ""},
		{"NO_PROXY, another name", map[string]string{"HTTPS_PROXY": u, "NO_PROXY": "other.test"}, direct, nil, "direct.test:" + port},
		{"NO_PROXY, the domain", map[string]string{"HTTPS_PROXY": u, "no_proxy": ".test"}, direct, nil, ""},
		{"NO_PROXY, all", map[string]string{"HTTPS_PROXY": u, "NO_PROXY": "*"}, direct, nil, ""},
		{"an address of this host", map[string]string{"HTTPS_PROXY": u}, direct, []grpcdial.DialOption{grpcdial.WithLocalDNSResolution()}, ""},
		{"another address", map[string]string{"HTTPS_PROXY": u}, behind, []grpcdial.DialOption{grpcdial.WithLocalDNSResolution()}, "192.0.2.1:" + port},
		{"this host", map[string]string{"HTTPS_PROXY": u}, b.Addr, nil, ""},
		{"localhost", map[string]string{"HTTPS_PROXY": u}, "localhost:" + port, nil, ""},
		{"a dialer", map[string]string{"HTTPS_PROXY": u}, behind, []grpcdial.DialOption{dialer}, ""},
		{"unix socket", map[string]string{"HTTPS_PROXY": u}, "unix:" + unix.Addr(), nil, ""},
		{"unix socket, another way", map[string]string{"HTTPS_PROXY": u}, "passthrough:///unix://" + unix.Addr(), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noProxies(t)
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			before := len(p.Requests())
			cc := plain(t, tt.target, tt.opts...)
			noProxies(t) // it was read
			awaitReady(t, cc)
			seen := p.Requests()[before:]
			if tt.want == "" {
				assert.Empty(t, seen)
				return
			}
			require.Len(t, seen, 1)
			assert.Equal(t, tt.want, seen[0].Host)
		})
	}
}

// A dialer of the program's own makes the connection to the proxy of WithProxy.
func TestDialerAndProxyCompose(t *testing.T) {
	b := backendtest.Start(t, "one")
	p := proxytest.ListenHTTP(t, map[string]string{"backend.test:443": b.Addr}, authorization, nil)
	dialed := make(chan string, 10)
	cc := plain(t, "backend.test:443", via("http", "proxy.test"), grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		dialed <- addr
		return new(net.Dialer).DialContext(ctx, "tcp", p.Addr)
	}))
	got, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	assert.Equal(t, "one", got)
	assert.Equal(t, "proxy.test:80", <-dialed)
	assert.Empty(t, dialed)
}

// What is dialed for a proxy whose URL has no port.
func TestProxyPorts(t *testing.T) {
	for scheme, want := range map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080", "HTTP": "80"} {
		dialed := make(chan string, 10)
		cc := plain(t, "192.0.2.1:50051", via(scheme, "proxy.test"), grpcdial.WithContextDialer(func(_ context.Context, addr string) (net.Conn, error) {
			dialed <- addr
			return nil, backendtest.ErrRefused
		}))
		cc.Connect()
		assert.Equal(t, "proxy.test:"+want, <-dialed, scheme)
	}
}

// An https proxy gets nothing in clear, and nothing at all before its certificate
// was verified.
func TestHTTPSProxyGetsNoCredentialInClear(t *testing.T) {
	other := h2test.NewCA(t)
	var mu sync.Mutex
	var heard []byte
	deaf := proxytest.Serve(t, func(nc net.Conn) {
		b := make([]byte, 4096)
		n, _ := nc.Read(b)
		mu.Lock()
		heard = append(heard, b[:n]...)
		mu.Unlock()
	})
	untrusted := proxytest.ListenHTTP(t, nil, authorization, other.ServerConfig("127.0.0.1"))
	for _, addr := range []string{deaf, untrusted.Addr} {
		_, err := backendtest.AskName(backendtest.Bounded(t), plain(t, "backend.test", via("https", addr)))
		var p *grpcdial.ProxyError
		require.ErrorAs(t, err, &p)
		assert.EqualValues(t, "tls", p.Step)
	}
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, heard)
	assert.Equal(t, byte(22), heard[0], "TLS, RFC 8446 §5.1")
	for _, secret := range []string{"CONNECT", "secret", strings.TrimPrefix(authorization, "Basic ")} {
		assert.NotContains(t, string(heard), secret)
	}
	assert.Empty(t, untrusted.Requests())
}

// Unix sockets take no proxy, and WithProxy's function is not called for them.
func TestUnixTargetsTakeNoProxy(t *testing.T) {
	srv := h2test.Listen(t, h2test.Unix())
	srv.Serve(nil)
	var targets []string
	var mu sync.Mutex
	ask := grpcdial.WithProxy(func(target string) (*url.URL, error) {
		mu.Lock()
		defer mu.Unlock()
		targets = append(targets, target)
		return nil, errors.New("asked")
	})
	for _, target := range []string{"unix:" + srv.Addr(), "unix://" + srv.Addr()} {
		awaitReady(t, plain(t, target, ask))
		cc, err := grpcdial.DialContext(backendtest.Bounded(t), target, grpcdial.WithInsecure(), grpcdial.WithBlock(), ask)
		require.NoError(t, err)
		require.NoError(t, cc.Close())
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Empty(t, targets)
}
