package e2e_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// What fails about a proxy is a *ProxyError, wherever one looks, and one line.
func TestProxyFailures(t *testing.T) {
	demanding := proxytest.ListenHTTP(t, nil, "Basic other", nil)
	socks := proxytest.ListenSOCKS(t, map[string]string{"backend.test:443": "2"}, userPassword)
	refused := backendtest.UnusedAddr(t)
	for _, tt := range []struct {
		name  string
		proxy grpcdial.DialOption
		phase grpcdial.Phase
		want  grpcdial.ProxyError // Target left out; Err is compared by cause
		cause error
		line  string
		hint  string
		final bool // it will not heal by itself
	}{
		{name: "407", proxy: via("http", demanding.Addr), phase: grpcdial.PhaseProxy, final: true,
			want: grpcdial.ProxyError{Proxy: "http://" + demanding.Addr, Step: "handshake", StatusCode: http.StatusProxyAuthRequired,
				Status: "407 Proxy Authentication Required", Challenges: []string{"Basic"}, Authenticated: true, Body: "who goes?"},
			line: `backend.test:443 via http://` + demanding.Addr + `: proxy failed after `,
			hint: "the proxy refused the user name or the password in its URL"},
		{name: "socks", proxy: via("socks5h", socks.Addr), phase: grpcdial.PhaseProxy, final: true,
			want: grpcdial.ProxyError{Proxy: "socks5h://" + socks.Addr, Step: "handshake", StatusCode: 2,
				Status: "connection not allowed by ruleset", Authenticated: true},
			line: `: it answered "connection not allowed by ruleset"; `, hint: "the proxy's rules do not allow this target"},
		{name: "refused", proxy: via("http", refused), phase: grpcdial.PhaseDial, cause: syscall.ECONNREFUSED, final: true,
			want: grpcdial.ProxyError{Proxy: "http://" + refused, Step: "dial"},
			line: ": the proxy was not reached: dial tcp " + refused, hint: "this is about the proxy, not the target"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check := func(t *testing.T, err error) {
				t.Helper()
				var p *grpcdial.ProxyError
				require.ErrorAs(t, err, &p)
				assert.NotContains(t, err.Error(), "secret")
				got := *p
				assert.Equal(t, "backend.test:443", got.Target)
				if tt.cause != nil {
					require.ErrorIs(t, err, tt.cause)
					require.ErrorIs(t, got.Err, tt.cause)
				}
				got.Target, got.Err = "", nil
				assert.Equal(t, tt.want, got)
				var e *grpcdial.DialError
				require.ErrorAs(t, err, &e)
				require.Len(t, e.Attempts, 1)
				a := e.Attempts[0]
				assert.Equal(t, tt.phase, a.Phase)
				assert.Equal(t, "backend.test:443", a.Addr)
				assert.Equal(t, tt.want.Proxy, a.Proxy)
				assert.Contains(t, a.Hint, tt.hint)
				assert.Same(t, p, a.Err)
				assert.Contains(t, a.String(), tt.line)
				assert.Contains(t, err.Error(), a.String())
				assert.Equal(t, 1, strings.Count(a.String(), "backend.test:443"), a.String())
				assert.NotContains(t, err.Error(), "\n")
			}
			cc := plain(t, "backend.test:443", tt.proxy)
			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			check(t, err)
			now := cc.Snapshot()
			assert.Equal(t, connectivity.TransientFailure, now.State)
			check(t, now.Cause)
			_, err = grpcdial.DialContext(backendtest.Bounded(t), "backend.test:443", tt.proxy, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true))
			check(t, err)
			assertOnlyChannels(t, cc)
		})
	}
	t.Run("as text", func(t *testing.T) {
		e := &grpcdial.ProxyError{Proxy: "http://p:1", Target: "a.test:443", Step: "handshake", StatusCode: 407, Status: "407 Proxy Authentication Required"}
		assert.Equal(t, `proxy "http://p:1" for "a.test:443": it answered "407 Proxy Authentication Required"`, e.Error())
		assert.Equal(t, `it answered "407 Proxy Authentication Required"`, e.Reason())
	})
}

// assertOnlyChannels checks that nothing but these channels is left.
func assertOnlyChannels(t *testing.T, channels ...*grpcdial.ClientConn) {
	t.Helper()
	for _, cc := range channels {
		require.NoError(t, cc.Close())
	}
	backendtest.AssertNothingRuns(t)
}

// A choice that is of no use fails the dial at once, and the RPCs of a channel
// that was not dialed.
func TestUselessChoiceOfAProxy(t *testing.T) {
	noIdea := errors.New("no idea")
	choose := func(u *url.URL, err error) grpcdial.DialOption {
		return grpcdial.WithProxy(func(string) (*url.URL, error) { return u, err })
	}
	for _, tt := range []struct {
		name, env string
		opts      []grpcdial.DialOption
		says      string
		cause     error
		proxy     string // as the failure shows it
	}{
		{name: "scheme", proxy: "ftp://p", opts: []grpcdial.DialOption{choose(&url.URL{Scheme: "ftp", User: url.UserPassword("user", "secret"), Host: "p"}, nil)},
			says: `proxy "ftp://p" for "backend.test:443": scheme "ftp" is not supported: it is one of "http", "https", "socks5" and "socks5h"`},
		{name: "no host", proxy: "http:", opts: []grpcdial.DialOption{choose(&url.URL{Scheme: "http"}, nil)}, says: "the URL names no host"},
		{name: "error", opts: []grpcdial.DialOption{choose(nil, noIdea)}, says: `the choice of a proxy for "backend.test:443": no idea`, cause: noIdea},
		{name: "environment", env: "http://user:sec/ret@p:1", says: "the environment's HTTPS_PROXY is no URL"},
		{name: "environment's scheme", proxy: "ftp://p", env: "ftp://user:secret@p", says: `scheme "ftp" is not supported`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noProxies(t)
			t.Setenv("HTTPS_PROXY", tt.env)
			check := func(err error) {
				t.Helper()
				var p *grpcdial.ProxyError
				require.ErrorAs(t, err, &p)
				assert.Equal(t, "backend.test:443", p.Target)
				assert.ErrorContains(t, err, tt.says)
				assert.NotContains(t, err.Error(), "sec")
				assert.NotContains(t, err.Error(), "\n")
				if tt.cause != nil {
					assert.ErrorIs(t, err, tt.cause)
				}
			}
			_, err := grpcdial.Dial("backend.test:443", append(tt.opts, grpcdial.WithInsecure())...)
			check(err)
			cc := plain(t, "backend.test", tt.opts...)
			_, err = backendtest.AskName(backendtest.Bounded(t), cc)
			check(err)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			var e *grpcdial.DialError
			require.ErrorAs(t, err, &e)
			require.Len(t, e.Attempts, 1)
			assert.Equal(t, grpcdial.PhaseProxy, e.Attempts[0].Phase)
			assert.Equal(t, tt.proxy, e.Attempts[0].Proxy)
			assertOnlyChannels(t, cc)
		})
	}
}

// A failure behind the proxy is reported as such, not as one of the proxy.
func TestFailureBehindAProxy(t *testing.T) {
	addr := backendtest.ServeRaw(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0\r\n"); _, _ = io.Copy(io.Discard, c) })
	p := proxytest.ListenHTTP(t, map[string]string{"backend.test:443": addr}, authorization, nil)
	_, err := backendtest.AskName(backendtest.Bounded(t), plain(t, "backend.test", via("http", p.Addr)))
	var e *grpcdial.DialError
	require.ErrorAs(t, err, &e)
	assert.Equal(t, grpcdial.PhaseHTTP2, e.Attempts[0].Phase)
	assert.Equal(t, "http://"+p.Addr, e.Attempts[0].Proxy)
	assert.Contains(t, err.Error(), "backend.test:443 via http://"+p.Addr+": http2 failed")
	var pe *grpcdial.ProxyError
	assert.False(t, errors.As(err, &pe), "the proxy did its part")
}

// A proxy that does not answer holds up nothing: the dial ends with its context, and
// Close at once.
func TestSilentProxy(t *testing.T) {
	addr := proxytest.Serve(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	ctx := backendtest.NewUntilNow()
	_, err := grpcdial.DialContext(ctx, "backend.test:443", via("http", addr), grpcdial.WithInsecure(), grpcdial.WithBlock(),
		grpcdial.WithDialTrace(&grpcdial.DialTrace{ProxyStart: func(grpcdial.DialEvent) { ctx.End() }}))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var e *grpcdial.DialError
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Attempts, 1)
	assert.Equal(t, "http://"+addr, e.Attempts[0].Proxy)
	assert.Equal(t, grpcdial.PhaseProxy, e.Attempts[0].Phase)
	assert.ErrorContains(t, err, "backend.test:443 via http://"+addr+": proxy not finished after ")
	backendtest.Within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
		var seen events
		cc := plain(t, "backend.test:443", via("http", addr), seen.option())
		cc.Connect()
		seen.await(t, grpcdial.EventProxyStart)
		begun := time.Now()
		require.NoError(t, cc.Close())
		took := time.Since(begun)
		backendtest.AssertNothingRuns(t)
		return took
	})
}
