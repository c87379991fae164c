package grpcdial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// Every kind of failure says in a blocking dial's error what it was.
func TestBlockingDialFailures(t *testing.T) {
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	creds := WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example")))
	tlsServer := func(cfg *tls.Config) string {
		srv := h2test.Listen(t, h2test.WithTLSConfig(cfg))
		srv.Script(func(c *h2test.Conn) { c.Lenient(); c.Handshake(); c.StopReading() })
		return srv.Addr()
	}
	raw := func(answer string) string {
		return backendtest.ServeRaw(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1024))
			_, _ = c.Write([]byte(answer))
			_, _ = c.Read(make([]byte, 1024))
		})
	}
	noSuchHost := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "nowhere.example", IsNotFound: true}}
	for _, tt := range []struct {
		name   string
		target string
		opts   []DialOption
		phase  Phase
		seen   EventKind // what has happened when the context ends; EventFailed if it is empty
		says   []string
		is     error
		as     any
	}{
		{name: "refused", target: backendtest.UnusedAddr(t), phase: PhaseDial, says: []string{"refused"}, is: syscall.ECONNREFUSED, as: new(*net.OpError)},
		{name: "dialer hangs", target: "x:1", opts: []DialOption{WithContextDialer(backendtest.Hang)}, phase: PhaseDial, seen: EventDialStart, says: []string{"x:1: dial not finished after"}},
		{name: "never answers", target: "x:1", opts: []DialOption{WithContextDialer(backendtest.Mute)}, phase: PhaseHTTP2, seen: EventHTTP2Start, says: []string{"x:1: http2 not finished after"}},
		{name: "no such host", target: "x:1", phase: PhaseDial, says: []string{"no such host"}, as: new(*net.DNSError),
			opts: []DialOption{WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, noSuchHost })}},
		{name: "unknown authority", target: tlsServer(other.ServerConfig("backend.example")), opts: []DialOption{creds}, phase: PhaseTLS, says: []string{"unknown authority"}, as: new(x509.UnknownAuthorityError)},
		{name: "another name", target: tlsServer(ca.ServerConfig("other.example")), opts: []DialOption{creds}, phase: PhaseTLS, says: []string{"other.example"}, as: new(x509.HostnameError)},
		{name: "plaintext server", target: backendtest.Start(t, "plain").Addr, opts: []DialOption{creds}, phase: PhaseTLS},
		{name: "TLS server", target: tlsServer(ca.ServerConfig("backend.example")), phase: PhaseHTTP2, says: []string{"TLS"}},
		{name: "HTTP/1 server", target: raw("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), phase: PhaseHTTP2, says: []string{"HTTP/1.1 400"}},
		{name: "closes at once", target: backendtest.ServeRaw(t, func(net.Conn) {}), phase: PhaseHTTP2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// The context ends when that has happened which the error is to name.
			ctx := backendtest.NewUntilNow()
			seen := tt.seen
			if seen == "" {
				seen = EventFailed
			}
			opts := append([]DialOption{WithBlock(), WithDialTrace(&DialTrace{Every: func(e DialEvent) {
				if e.Kind == seen {
					ctx.End()
				}
			}})}, tt.opts...)
			if len(tt.opts) == 0 || tt.name == "dialer hangs" || tt.name == "never answers" || tt.name == "no such host" {
				opts = append(opts, WithInsecure())
			}
			cc, err := DialContext(ctx, tt.target, opts...)
			require.Nil(t, cc)
			var e *DialError
			require.ErrorAs(t, err, &e)
			t.Log(err)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.NotErrorIs(t, err, context.Canceled)
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
			require.Len(t, e.Attempts, 1)
			assert.Equal(t, tt.target, e.Attempts[0].Addr)
			assert.Equal(t, tt.phase, e.Attempts[0].Phase)
			assert.NotContains(t, err.Error(), "\n")
			for _, s := range append(tt.says, tt.target, "context deadline exceeded") {
				assert.Contains(t, err.Error(), s)
			}
			if tt.is != nil {
				assert.ErrorIs(t, err, tt.is)
			}
			if tt.as != nil {
				assert.ErrorAs(t, err, tt.as)
			}
		})
	}
}

func TestBlockingDialNamesEveryAddress(t *testing.T) {
	refused, closes := backendtest.UnusedAddr(t), backendtest.ServeRaw(t, func(net.Conn) {})
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: refused}, {Addr: closes}}})
	ctx := backendtest.NewUntilNow()
	_, err := DialContext(ctx, target, WithInsecure(), WithBlock(), option, WithDialTrace(&DialTrace{State: func(e DialEvent) {
		if e.To == connectivity.TransientFailure { // both have failed
			ctx.End()
		}
	}}))
	var e *DialError
	require.ErrorAs(t, err, &e)
	t.Log(err)
	require.Len(t, e.Attempts, 2)
	assert.Equal(t, connectivity.TransientFailure, e.State)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 3)
	assert.Contains(t, lines[0], `"hand:///backends"`)
	assert.Contains(t, lines[1], "\t"+refused+": dial failed after")
	assert.Contains(t, lines[2], "\t"+closes+": http2 failed after")
}

func TestBlockingDialWithoutAddresses(t *testing.T) {
	picky := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(*backendtest.Spy, balancer.ClientConnState) error { return errors.New("not these") }}
	balancer.Register(picky)
	for name, tt := range map[string]struct {
		prepare func(r *manual.Resolver)
		says    string
		opts    []DialOption
	}{
		"the resolver never answers": {func(*manual.Resolver) {}, "backends: resolve not finished after", nil},
		"it fails":                   {func(r *manual.Resolver) { r.BuildCallback = backendtest.ReportError }, "no zone", nil},
		"it gives no addresses":      {func(r *manual.Resolver) { r.InitialState(resolver.State{}) }, "no addresses", nil},
		"the policy refuses them": {func(r *manual.Resolver) {
			r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
		}, "the load-balancing policy refused the resolver's addresses: not these", []DialOption{WithDefaultServiceConfig(picky.Config())}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, target, option := handResolver(t)
				tt.prepare(r)
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				defer cancel()
				_, err := DialContext(ctx, target, append(tt.opts, WithInsecure(), WithBlock(), option)...)
				var e *DialError
				require.ErrorAs(t, err, &e)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				require.Len(t, e.Attempts, 1)
				assert.Equal(t, PhaseResolve, e.Attempts[0].Phase)
				assert.Contains(t, err.Error(), tt.says)
			})
		})
	}
}

func TestFailOnNonTempDialError(t *testing.T) {
	ca := h2test.NewCA(t)
	otherCA := h2test.Listen(t, h2test.WithTLSConfig(h2test.NewCA(t).ServerConfig("backend.example")))
	otherCA.Script(func(c *h2test.Conn) { c.Lenient(); c.Handshake() })
	creds := WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example")))
	temporary := &net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}
	for _, tt := range []struct {
		name   string
		target string
		opts   []DialOption
		ends   bool
	}{
		{"refused", backendtest.UnusedAddr(t), []DialOption{WithInsecure()}, true},
		{"the dialer says it is not temporary", "x:1", []DialOption{WithInsecure(), WithContextDialer(backendtest.Refuse)}, true},
		{"the dialer says it is temporary", "x:1", []DialOption{WithInsecure(), WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, temporary })}, false},
		{"the dialer does not say", "x:1", []DialOption{WithInsecure(), WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("no") })}, false},
		{"a certificate that is not trusted", otherCA.Addr(), []DialOption{creds}, true},
		{"not HTTP/2", backendtest.ServeRaw(t, func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }), []DialOption{WithInsecure()}, true},
		{"closed at once", backendtest.ServeRaw(t, func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }), []DialOption{WithInsecure()}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// A wait that does not end by itself is ended when the second attempt has failed;
			// where it does, there is none.
			ctx := backendtest.NewUntilNow()
			time.AfterFunc(time.Minute, ctx.End)
			var failed atomic.Int32
			again := ConnectParams{MinConnectTimeout: 20 * time.Second}
			again.Backoff.BaseDelay, again.Backoff.MaxDelay, again.Backoff.Multiplier = time.Hour, time.Hour, 1
			if !tt.ends {
				again.Backoff.BaseDelay, again.Backoff.MaxDelay = time.Millisecond, time.Millisecond
			}
			_, err := DialContext(ctx, tt.target, append(tt.opts, WithBlock(), FailOnNonTempDialError(true), WithConnectParams(again),
				WithDialTrace(&DialTrace{Failed: func(DialEvent) {
					if failed.Add(1) == 2 {
						ctx.End()
					}
				}}))...)
			var e *DialError
			require.ErrorAs(t, err, &e)
			t.Log(err)
			require.Len(t, e.Attempts, 1)
			if !tt.ends {
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				return
			}
			assert.NotErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Equal(t, e.Attempts[0].Err, e.Err)
		})
	}
}

// WithTimeout bounds the dial, beside the context, and not the channel.
func TestTimeoutOption(t *testing.T) {
	for _, tt := range []struct {
		name    string
		context time.Duration // 0: none
		option  time.Duration
		want    time.Duration
	}{
		{"no context", 0, 3 * time.Second, 3 * time.Second},
		{"a longer context", 5 * time.Second, 3 * time.Second, 3 * time.Second},
		{"a shorter context", time.Second, 3 * time.Second, time.Second},
		{"zero is none", 5 * time.Second, 0, 5 * time.Second},
		{"below zero is none", 5 * time.Second, -time.Second, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := withTimeout(t.Context(), tt.context)
				defer cancel()
				begun := time.Now()
				_, err := DialContext(ctx, "x:1", WithInsecure(), WithBlock(), WithContextDialer(backendtest.Hang), WithTimeout(tt.option))
				assert.Equal(t, tt.want, time.Since(begun))
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		cc, err := Dial("x:1", WithInsecure(), WithTimeout(time.Second), WithContextDialer(func(context.Context, string) (net.Conn, error) {
			attempts++
			return nil, backendtest.ErrRefused
		}))
		require.NoError(t, err)
		defer cc.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Greater(t, attempts, 3)
	})
}

// One address that may still succeed keeps the wait going.
func TestFailOnNonTempDialErrorWhileOneMaySucceed(t *testing.T) {
	var calls atomic.Int32
	b := backendtest.Start(t, "late")
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "bad:1"}, {Addr: "late:1"}}})
	cc, err := DialContext(backendtest.Bounded(t), target, WithInsecure(), WithBlock(), FailOnNonTempDialError(true), option, fastBackoff(),
		WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			switch {
			case addr == "bad:1":
				return nil, backendtest.ErrRefused
			case calls.Add(1) < 3:
				return nil, errors.New("not yet")
			}
			return new(net.Dialer).DialContext(ctx, "tcp", b.Addr)
		}))
	require.NoError(t, err)
	defer cc.Close()
	assert.EqualValues(t, 3, calls.Load())
}

// fastBackoff makes attempts follow each other without long waits.
func fastBackoff() DialOption {
	p := ConnectParams{MinConnectTimeout: 20 * time.Second}
	p.Backoff.BaseDelay, p.Backoff.MaxDelay, p.Backoff.Multiplier = 5*time.Millisecond, 20*time.Millisecond, 1.6
	return WithConnectParams(p)
}
