package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/local"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// failureKind is one way in which a dial fails, and what has to be said about it.
type failureKind struct {
	name      string
	target    string
	opts      []grpcdial.DialOption
	phase     grpcdial.Phase
	cause     func(error) bool // what errors.Is or errors.As finds
	permanent bool
	sentinel  bool   // the cause is a standard sentinel, which the error of an RPC does not match
	timeout   bool   // the cause is that the attempt's own time was over
	refused   bool   // the dialer says that it is not temporary, which is not permanent
	hint      string // a part of it
}

func causeIs(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func causeAs[T error](match ...func(T) bool) func(error) bool {
	return func(err error) bool {
		var target T
		return errors.As(err, &target) && (match == nil || match[0](target))
	}
}

func isAlert(number uint8) func(error) bool {
	return causeAs(func(a tls.AlertError) bool { return a == tls.AlertError(number) })
}

// swift is how soon a dial ends at a failure for good.
const swift = 200 * time.Millisecond

// Each kind of failure, at a peer that makes it: phase, cause, permanence, hint and
// time to fail. Nothing is left of the dial. The texts are in testdata/failures.golden.
func TestFailuresGolden(t *testing.T) {
	g := golden{file: "failures.golden"}
	for _, k := range failureKinds(t) {
		t.Run(k.name, func(t *testing.T) {
			files := backendtest.CheckFiles(t)
			err := k.dial(t)
			files()
			backendtest.AssertNothingRuns(t)
			e, a := k.assertAttempt(t, err)
			if k.timeout {
				assert.ErrorIs(t, a.Err, context.DeadlineExceeded)
			} else {
				assert.True(t, k.cause(err), "%v", a.Err)
			}
			// If a time-out is the cause, a later attempt may have failed the same way meanwhile, from another port.
			assert.Equal(t, normal(a.Err.Error()), normal(e.Err.Error()), "it ended the wait")
			g.add(k.name, err.Error())
		})
	}
	g.add("several addresses, and the caller's deadline", severalFail(t).Error())
	g.check(t)
}

// Each kind of failure is the same one to a program that waits with AwaitReady, and to
// one that only calls: its cause is found, and nothing is found that would be taken
// for the end of the caller's context.
func TestFailuresInEveryWait(t *testing.T) {
	for _, k := range failureKinds(t) {
		if !strings.Contains(k.target, "://") {
			k.target = "passthrough:///" + k.target
		}
		opts := append([]grpcdial.DialOption{grpcdial.WithGiveUp(func(grpcdial.Attempt) bool { return true }), grpcdial.WithConnectParams(k.params(4 * time.Second))}, k.opts...)
		for _, w := range waits[1:] {
			t.Run(k.name+", "+w.name, func(t *testing.T) {
				t.Parallel()
				err := w.wait(t, backendtest.Bounded(t), k.target, opts...)
				k.assertAttempt(t, err)
				if !k.timeout {
					assert.Equal(t, !(k.sentinel && w.name == "RPC"), k.cause(err), "%v", err)
				}
			})
		}
	}
}

// severalFail is the error of a dial to three addresses that fail differently, of
// which one may still succeed.
func severalFail(t *testing.T) error {
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{
		{Addr: backendtest.UnusedAddr(t)},
		{Addr: backendtest.ServeRaw(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "220 mail.example ESMTP\r\n")
			_, _ = io.Copy(io.Discard, c)
		})},
		{Addr: "unix:///absent/socket"},
	}})
	ctx := backendtest.NewUntilNow()
	_, err := grpcdial.DialContext(ctx, target, grpcdial.WithInsecure(), grpcdial.WithBlock(), option, grpcdial.WithDialTrace(&grpcdial.DialTrace{State: func(e grpcdial.DialEvent) {
		if e.To == connectivity.TransientFailure { // each has failed
			ctx.End()
		}
	}}))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorAs(t, err, new(*h2.PrefaceError))
	return err
}

// final reports whether FailOnNonTempDialError ends a dial.
func (k *failureKind) final() bool { return k.permanent || k.refused }

// params leave an attempt its time, and no attempt follows before the wait has ended: an
// error has one that is in progress too. If the server stays silent an attempt has no more
// than short, and so no back-off, which is a part of that time.
func (k *failureKind) params(short time.Duration) grpcdial.ConnectParams {
	if k.timeout {
		return grpcdial.ConnectParams{MinConnectTimeout: short}
	}
	return grpcdial.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Hour, MaxDelay: time.Hour}}
}

// assertAttempt holds the error of a wait to the kind: one attempt, its phase, permanence
// and hint, one line, and nothing of an end of the caller's context.
func (k *failureKind) assertAttempt(t *testing.T, err error) (*grpcdial.DialError, grpcdial.Attempt) {
	t.Helper()
	var e *grpcdial.DialError
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Attempts, 1)
	a := e.Attempts[0]
	assert.Equal(t, k.phase, a.Phase)
	assert.Equal(t, k.permanent, a.Permanent)
	assert.Contains(t, a.Hint, k.hint)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.NotErrorIs(t, err, context.DeadlineExceeded)
	assert.NotErrorIs(t, err, context.Canceled)
	assert.NotContains(t, err.Error(), "\n")
	return e, a
}

// dial dials until the wait ends by itself: because of FailOnNonTempDialError where
// the failure is for good, in a short time then, and else because the program gives
// up.
func (k *failureKind) dial(t *testing.T) error {
	opts := []grpcdial.DialOption{grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true)}
	if !k.final() {
		opts = append(opts, grpcdial.WithGiveUp(func(grpcdial.Attempt) bool { return true }))
	}
	opts = append(opts, k.opts...)
	// Other tries are for a machine that is busy with something else.
	short := 400 * time.Millisecond
	for first := time.Now(); ; short *= 2 {
		begun := time.Now()
		cc, err := grpcdial.DialContext(backendtest.Bounded(t), k.target, append(opts, grpcdial.WithConnectParams(k.params(short)))...)
		took := time.Since(begun)
		require.Nil(t, cc)
		var e *grpcdial.DialError
		if k.timeout && short < 10*time.Second && errors.As(err, &e) && len(e.Attempts) == 1 &&
			(e.Attempts[0].Phase != k.phase || strings.Contains(err.Error(), "the attempt after that")) {
			continue // it had no time to come so far, or the wait ended late
		}
		if !k.final() || took < swift || time.Since(first) > backendtest.Patience {
			if k.final() {
				assert.Less(t, took, swift)
			}
			return err
		}
	}
}

func failureKinds(t *testing.T) []failureKind {
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	const name = "backend.example"
	secure := func(change ...func(*tls.Config)) []grpcdial.DialOption {
		cfg := ca.ClientConfig(name)
		for _, f := range change {
			f(cfg)
		}
		return []grpcdial.DialOption{grpcdial.WithTransportCredentials(credentials.NewTLS(cfg))}
	}
	plaintext := []grpcdial.DialOption{grpcdial.WithInsecure()}
	with := func(opts []grpcdial.DialOption, more ...grpcdial.DialOption) []grpcdial.DialOption {
		return append(more, opts...)
	}

	// Peers.
	says := func(answer string) string {
		return backendtest.ServeRaw(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, answer)
			_, _ = io.Copy(io.Discard, c)
		})
	}
	ends := func() string {
		return backendtest.ServeRaw(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		})
	}
	resets := func() string {
		return backendtest.ServeRaw(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_ = c.(*net.TCPConn).SetLinger(0)
		})
	}
	silent := func() string { return backendtest.ServeRaw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) }
	speaks := func(cert tls.Certificate, change ...func(*tls.Config)) string {
		cfg := ca.ServerConfig(name)
		cfg.Certificates = []tls.Certificate{cert}
		for _, f := range change {
			f(cfg)
		}
		return backendtest.ServeRaw(t, func(c net.Conn) {
			tc := tls.Server(c, cfg)
			if tc.Handshake() == nil {
				_, _ = io.WriteString(tc, settings)
				_, _ = io.Copy(io.Discard, tc)
			}
		})
	}
	right := ca.Server(name)
	requireClient := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool() }
	tls12 := func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	mine := other.Client("me")
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)

	// Names.
	names := dnstest.Listen(t, dnstest.Zone{
		"broken.example": {Code: dnsmessage.RCodeServerFailure}, "silent.example": {Silent: true}, "empty.example": {},
	})
	lookUp := func(host string) string { return "dns://" + names.Addr() + "/" + host + ":443" }

	// Proxies.
	auth := proxytest.ListenHTTP(t, nil, "Basic dXNlcjpzZWNyZXQ=", nil)
	open := proxytest.ListenHTTP(t, nil, "", nil)
	through := func(addr string) []grpcdial.DialOption {
		return with(secure(), grpcdial.WithProxy(proxyAt("http://"+addr)))
	}
	const proxied = "passthrough:///backend.example:443"

	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	require.NoError(t, err)
	lis.SetUnlinkOnClose(false)
	require.NoError(t, lis.Close())

	return []failureKind{
		{name: "no such host", target: lookUp("absent.example"), opts: plaintext,
			phase: grpcdial.PhaseResolve, cause: causeAs(func(e *net.DNSError) bool { return e.IsNotFound }), hint: `"absent.example"`},
		{name: "a host without addresses", target: lookUp("empty.example"), opts: plaintext,
			phase: grpcdial.PhaseResolve, cause: causeAs[*net.DNSError](), hint: `"empty.example"`},
		{name: "name server that fails", target: lookUp("broken.example"), opts: plaintext,
			phase: grpcdial.PhaseResolve, cause: causeAs[*net.DNSError](), hint: "name servers failed"},
		{name: "name server that is silent", target: lookUp("silent.example"), opts: with(plaintext, grpcdial.WithDNS(grpcdial.DNSOptions{Timeout: 50 * time.Millisecond})),
			phase: grpcdial.PhaseResolve, cause: causeAs(func(e *net.DNSError) bool { return e.IsTimeout }), hint: "did not answer in time"},
		{name: "no port", target: "backend.example", opts: plaintext,
			phase: grpcdial.PhaseResolve, cause: causeAs[*net.AddrError](), permanent: true, hint: "host:port"},

		{name: "refused", target: backendtest.UnusedAddr(t), opts: plaintext,
			phase: grpcdial.PhaseDial, cause: causeIs(syscall.ECONNREFUSED), refused: true, hint: "nothing listens there"},
		{name: "nothing answers", target: "backend.example:443", opts: with(plaintext, grpcdial.WithContextDialer(backendtest.Hang)),
			phase: grpcdial.PhaseDial, timeout: true, hint: "a firewall drops"},
		{name: "no such socket", target: "unix://" + filepath.Join(dir, "absent"), opts: plaintext,
			phase: grpcdial.PhaseDial, cause: causeIs(os.ErrNotExist), sentinel: true, refused: true, hint: "no such socket"},
		{name: "a socket without a server", target: "unix://" + stale, opts: plaintext,
			phase: grpcdial.PhaseDial, cause: causeIs(syscall.ECONNREFUSED), refused: true, hint: "no process listens on it"},

		{name: "proxy that is not there", target: proxied, opts: through(backendtest.UnusedAddr(t)),
			phase: grpcdial.PhaseDial, cause: causeAs[*grpcdial.ProxyError](), refused: true, hint: "about the proxy"},
		{name: "proxy that wants a password", target: proxied, opts: through(auth.Addr),
			phase: grpcdial.PhaseProxy, cause: causeAs(func(e *grpcdial.ProxyError) bool { return e.StatusCode == 407 }), permanent: true, hint: "wants a user name"},
		{name: "proxy that does not reach the server", target: proxied, opts: through(open.Addr),
			phase: grpcdial.PhaseProxy, cause: causeAs(func(e *grpcdial.ProxyError) bool { return e.StatusCode == 502 }), hint: "did not reach the target"},
		{name: "proxy that is none", target: proxied, opts: through(says("SSH-2.0-OpenSSH_9.6\r\n")),
			phase: grpcdial.PhaseProxy, cause: causeAs[*grpcdial.ProxyError](), permanent: true, hint: "the proxy's port"},

		{name: "unknown authority", target: speaks(other.Server(name)), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: causeAs[x509.UnknownAuthorityError](), permanent: true, hint: "CN=h2test CA"},
		{name: "certificate for another name", target: speaks(ca.Server("other.example", "192.0.2.1")), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: causeAs[x509.HostnameError](), permanent: true, hint: `for "other.example", "192.0.2.1", we asked for "backend.example"`},
		{name: "expired certificate", target: speaks(ca.Expired(name)), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: causeAs[x509.CertificateInvalidError](), permanent: true, hint: "ended on 1995-01-01"},
		{name: "certificate that is not valid yet", target: speaks(ca.NotYetValid(name)), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: causeAs[*tls.CertificateVerificationError](), permanent: true, hint: "begins on 2110-01-01"},
		{name: "client certificate required", target: speaks(right, requireClient), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: isAlert(116), permanent: true, hint: "requires a client certificate"},
		{name: "client certificate required, TLS 1.2", target: speaks(right, requireClient), opts: secure(tls12),
			phase: grpcdial.PhaseTLS, cause: causeAs[tls.AlertError](), permanent: true, hint: "client certificate"},
		{name: "client certificate of an unknown authority", target: speaks(right, requireClient), opts: secure(func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &mine, nil }
		}), phase: grpcdial.PhaseTLS, cause: isAlert(48), permanent: true, hint: "does not trust the authority"},
		{name: "no TLS version in common", target: speaks(right, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }), opts: secure(tls12),
			phase: grpcdial.PhaseTLS, cause: isAlert(70), permanent: true, hint: "no TLS version in common"},
		{name: "no cipher suite in common", opts: secure(tls12, func(c *tls.Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} }),
			target: speaks(right, func(c *tls.Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384} }),
			phase:  grpcdial.PhaseTLS, cause: isAlert(40), permanent: true, hint: "no cipher suite"},
		{name: "no ALPN", target: speaks(right, func(c *tls.Config) { c.NextProtos = nil }), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: func(err error) bool { return strings.Contains(err.Error(), "ALPN") }, permanent: true, hint: "gRPC needs h2"},
		{name: "another protocol by ALPN", target: speaks(right, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: isAlert(120), permanent: true, hint: "does not offer h2"},
		{name: "TLS to a plaintext gRPC server", target: backendtest.Start(t, "plaintext").Addr, opts: secure(),
			phase: grpcdial.PhaseTLS, cause: causeAs[tls.RecordHeaderError](), permanent: true, hint: "HTTP/2 without TLS"},
		{name: "TLS to a web server", target: web.Listener.Addr().String(), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: causeAs[tls.RecordHeaderError](), permanent: true, hint: `"HTTP/1.1 400 Bad Request"`},
		{name: "TLS to an SSH server", target: says("SSH-2.0-OpenSSH_9.6\r\n"), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: causeAs[tls.RecordHeaderError](), permanent: true, hint: `"SSH-2.0-OpenSSH_9.6\r\n"`},
		{name: "closed in the TLS handshake", target: ends(), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: causeIs(io.EOF), sentinel: true, hint: "may not speak TLS"},
		{name: "reset in the TLS handshake", target: resets(), opts: secure(),
			phase: grpcdial.PhaseTLS, cause: causeIs(syscall.ECONNRESET), hint: "may not speak TLS"},
		{name: "silence in the TLS handshake", target: silent(), opts: secure(),
			phase: grpcdial.PhaseTLS, timeout: true, hint: "did not finish the TLS handshake"},
		{name: "less security than the RPCs' credentials need", target: says(""),
			opts:  []grpcdial.DialOption{grpcdial.WithTransportCredentials(local.NewCredentials()), grpcdial.WithPerRPCCredentials(token{value: "x", secure: true})},
			phase: grpcdial.PhaseTLS, cause: causeIs(grpcdial.ErrPerRPCNeedsTransportSecurity), permanent: true, hint: "credentials that do not require it"},

		{name: "plaintext to a TLS server that sends an alert", target: says("\x15\x03\x03\x00\x02\x02\x46"), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, cause: causeAs[*h2.PrefaceError](), permanent: true, hint: `"protocol version not supported"`},
		{name: "plaintext to a gRPC server with TLS", target: speaks(right), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, cause: causeIs(io.EOF), sentinel: true, hint: "it may require TLS"},
		{name: "plaintext to a secure web server", target: says("HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n<center>The plain HTTP request was sent to HTTPS port</center>"), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, cause: causeAs[*h2.PrefaceError](), permanent: true, hint: "asks for HTTPS"},
		{name: "plaintext to a web server", target: web.Listener.Addr().String(), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, cause: causeAs[*h2.PrefaceError](), permanent: true, hint: `"HTTP/1.1 `},
		{name: "plaintext to an SSH server", target: says("SSH-2.0-OpenSSH_9.6\r\n"), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, cause: causeAs[*h2.PrefaceError](), permanent: true, hint: `"SSH-2.0-OpenSSH_9.6\r\n"`},
		{name: "HTTP/1 within TLS", opts: secure(), target: backendtest.ServeRaw(t, func(c net.Conn) {
			tc := tls.Server(c, ca.ServerConfig(name))
			_, _ = tc.Read(make([]byte, 4096))
			_, _ = io.WriteString(tc, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
			_, _ = io.Copy(io.Discard, tc)
		}), phase: grpcdial.PhaseHTTP2, cause: causeAs[*h2.PrefaceError](), permanent: true, hint: `"HTTP/1.1 502 Bad Gateway"`},
		{name: "GOAWAY in the place of SETTINGS", target: says("\x00\x00\x0c\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0bbusy"), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, cause: causeAs[http2.GoAwayError](), hint: `GOAWAY ENHANCE_YOUR_CALM "busy"`},
		{name: "SETTINGS that are forbidden", target: says("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x01"), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, cause: causeAs[http2.ConnectionError](), permanent: true, hint: "breaks the rules"},
		{name: "silence in the place of SETTINGS", target: silent(), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, timeout: true, hint: "sent no SETTINGS"},
		{name: "half of the SETTINGS", target: says(settings[:5]), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, timeout: true, hint: "did not finish its SETTINGS"},
		{name: "closed without a word", target: ends(), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, cause: causeIs(io.EOF), sentinel: true, hint: "it may require TLS"},
		{name: "reset without a word", target: resets(), opts: plaintext,
			phase: grpcdial.PhaseHTTP2, cause: causeIs(syscall.ECONNRESET), hint: "it may require TLS"},

		{name: "a check that refuses", target: backendtest.Start(t, "refused").Addr, opts: with(plaintext, grpcdial.WithConnectCheck(func(context.Context, grpcdial.ConnectCheckInfo) error { return errNotTrusted })),
			phase: grpcdial.PhaseCheck, cause: causeIs(errNotTrusted), permanent: true},
		{name: "a check whose RPC fails", target: backendtest.Start(t, "unserved").Addr, opts: with(plaintext, grpcdial.WithConnectCheck(func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
			_, err := backendtest.AskName(ctx, info.Conn, grpc.MaxCallRecvMsgSize(1))
			return err
		})), phase: grpcdial.PhaseCheck, cause: func(err error) bool { return strings.Contains(err.Error(), "larger than") }},
		{name: "a check that does not return", target: backendtest.Start(t, "blocked").Addr, opts: with(plaintext, grpcdial.WithConnectCheck(func(ctx context.Context, _ grpcdial.ConnectCheckInfo) error {
			<-ctx.Done()
			return ctx.Err()
		})), phase: grpcdial.PhaseCheck, timeout: true, hint: "the check did not pass in time"},
		{name: "a backend that does not serve", target: backendtest.StartChecked(t, "sick", healthpb.HealthCheckResponse_NOT_SERVING).Addr, opts: with(plaintext, grpcdial.WithDefaultServiceConfig(backendtest.CheckedConfig)),
			phase: grpcdial.PhaseHealth, cause: func(err error) bool { return strings.Contains(err.Error(), "NOT_SERVING") }, hint: "does not serve now"},
	}
}

// errNotTrusted is a check's verdict for good.
var errNotTrusted error = lastingError{}

type lastingError struct{}

func (lastingError) Error() string   { return "the server is not the one we know" }
func (lastingError) Temporary() bool { return false }

// settings is a server's SETTINGS frame with nothing in it.
const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
