package grpcdial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestBlockingDialIsReady(t *testing.T) {
	b := backendtest.Start(t, "one")
	for name, dial := range map[string]func() (*ClientConn, error){
		"Dial": func() (*ClientConn, error) { return Dial(b.Addr, WithInsecure(), WithBlock()) },
		"DialContext": func() (*ClientConn, error) {
			return DialContext(backendtest.Bounded(t), b.Addr, WithInsecure(), WithBlock())
		},
		"WithReturnConnectionError": func() (*ClientConn, error) { return Dial(b.Addr, WithInsecure(), WithReturnConnectionError()) },
		"WithTimeout": func() (*ClientConn, error) {
			return Dial(b.Addr, WithInsecure(), WithBlock(), WithTimeout(10*time.Second))
		},
		"one of two": func() (*ClientConn, error) {
			r := manual.NewBuilderWithScheme("two")
			r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: backendtest.UnusedAddr(t)}, {Addr: b.Addr}}})
			return Dial("two:///x", WithInsecure(), WithBlock(), WithResolvers(r))
		},
	} {
		t.Run(name, func(t *testing.T) {
			cc, err := dial()
			require.NoError(t, err)
			defer cc.Close()
			assert.Equal(t, connectivity.Ready, cc.GetState())
			got, err := backendtest.AskName(backendtest.Bounded(t), cc)
			require.NoError(t, err)
			assert.Equal(t, "one", got)
		})
	}
}

func TestDialSchemes(t *testing.T) {
	dialed, err := Dial("backend:1", WithInsecure(), WithContextDialer(backendtest.Hang))
	require.NoError(t, err)
	defer dialed.Close()
	assert.Equal(t, "backend:1", dialed.Target())
	assert.Equal(t, "passthrough:///backend:1", dialed.CanonicalTarget())
	assert.Equal(t, "dns:///backend:1", plain(t, "backend:1").CanonicalTarget())
	assert.Equal(t, "passthrough:///backend:1", plain(t, "passthrough:///backend:1").CanonicalTarget())
}

// A dial that does not wait returns though nothing goes forward.
func TestNonBlockingDialDoesNotWait(t *testing.T) {
	silent := manual.NewBuilderWithScheme("silent")
	for name, opts := range map[string][]DialOption{
		"a dialer that hangs":              {WithContextDialer(backendtest.Hang)},
		"a resolver that never delivers":   {WithResolvers(silent)},
		"a refused connection":             {WithContextDialer(backendtest.Refuse)},
		"a connection that never answers":  {WithContextDialer(backendtest.Mute)},
		"options of a blocking dial alone": {WithContextDialer(backendtest.Hang), FailOnNonTempDialError(true), WithTimeout(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			cc, err := DialContext(backendtest.Bounded(t), "silent:///x", append(opts, WithInsecure())...)
			require.NoError(t, err)
			require.NoError(t, cc.Close())
		})
	}
}

// A dialer that does not return holds up neither a dial that waits nor Close. A connection
// that it returns in the end is closed.
func TestDialWithDeafDialer(t *testing.T) {
	for name, dialer := range map[string]func(func() net.Conn) DialOption{
		"WithContextDialer": func(f func() net.Conn) DialOption {
			return WithContextDialer(func(context.Context, string) (net.Conn, error) { return f(), nil })
		},
		"WithDialer": func(f func() net.Conn) DialOption {
			return WithDialer(func(string, time.Duration) (net.Conn, error) { return f(), nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			client, server := net.Pipe()
			option := dialer(func() net.Conn { <-release; return client })
			ctx := backendtest.NewUntilNow()
			trace := WithDialTrace(&DialTrace{DialStart: func(DialEvent) { ctx.End() }})
			_, err := DialContext(ctx, "x:1", WithInsecure(), WithBlock(), option, trace)
			var e *DialError
			require.ErrorAs(t, err, &e)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			require.Len(t, e.Attempts, 1)
			assert.Equal(t, PhaseDial, e.Attempts[0].Phase)
			close(release)
			_, err = server.Read(make([]byte, 1))
			assert.ErrorIs(t, err, io.EOF)
			backendtest.AssertNothingRuns(t)
		})
	}
}

func TestEndedContextFailsTheDial(t *testing.T) {
	b := backendtest.Start(t, "one")
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	expired, cancel := context.WithTimeout(context.Background(), -1)
	defer cancel()
	for _, opts := range [][]DialOption{{WithInsecure()}, {WithInsecure(), WithBlock()}} {
		_, err := DialContext(canceled, b.Addr, opts...)
		var e *DialError
		require.ErrorAs(t, err, &e)
		assert.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, codes.Canceled, status.Code(err))
		assert.Equal(t, connectivity.Idle, e.State)

		_, err = DialContext(expired, b.Addr, opts...)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	}
	assert.Zero(t, b.Accepted())

	_, err := DialContext(canceled, b.Addr)
	assert.ErrorIs(t, err, ErrNoTransportSecurity, "what is wrong with the options comes first")
}

// The context bounds the dial and not the channel.
func TestContextHasNoHoldOnTheChannel(t *testing.T) {
	b := backendtest.Start(t, "one")
	for _, opts := range [][]DialOption{{WithInsecure()}, {WithInsecure(), WithBlock()}} {
		ctx, cancel := context.WithCancel(context.Background())
		cc, err := DialContext(ctx, b.Addr, opts...)
		require.NoError(t, err)
		defer cc.Close()
		cancel()
		_, err = backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		b.Cut()
		backendtest.Eventually(t, func() bool {
			_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
			return err == nil
		}, "connected again")
	}
}

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

// ctx bounds the resolver's Build, in a dial that does not wait too.
func TestBuildIsBounded(t *testing.T) {
	for _, opts := range [][]DialOption{{WithInsecure()}, {WithInsecure(), WithBlock()}} {
		r, target, option := handResolver(t)
		release, closed := make(chan struct{}), make(chan struct{})
		ctx := backendtest.NewUntilNow()
		r.BuildCallback = func(resolver.Target, resolver.ClientConn, resolver.BuildOptions) { ctx.End(); <-release }
		r.CloseCallback = func() { close(closed) }
		_, err := DialContext(ctx, target, append(opts, option)...)
		var e *DialError
		require.ErrorAs(t, err, &e)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		require.Len(t, e.Attempts, 1)
		assert.Equal(t, PhaseResolve, e.Attempts[0].Phase)
		close(release)
		<-closed // what Build makes in the end is closed
	}
}

// Also if it has delivered already.
func TestBuildIsBoundedAfterAnUpdate(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	ctx := backendtest.NewUntilNow()
	trace := WithDialTrace(&DialTrace{DialStart: func(DialEvent) { ctx.End() }})
	_, err := DialContext(ctx, "scripted:///x", WithInsecure(), trace, WithContextDialer(backendtest.Hang), WithResolvers(backendtest.Scripted{
		OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
			_ = cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
			<-release
			return nil
		}}))
	var e *DialError
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Attempts, 1)
	assert.Equal(t, "x:1", e.Attempts[0].Addr)
}

func TestBuildErrorFailsTheDial(t *testing.T) {
	boom := errors.New("boom")
	_, err := Dial("failing:///x", WithInsecure(), WithResolvers(failingBuilder{boom}))
	require.ErrorIs(t, err, boom)
	assert.Contains(t, err.Error(), `"failing:///x"`)

	cc := plain(t, "failing:///x", WithResolvers(failingBuilder{boom}))
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Contains(t, err.Error(), "boom")
	assert.Equal(t, connectivity.TransientFailure, cc.GetState())
}

type failingBuilder struct{ err error }

func (failingBuilder) Scheme() string { return "failing" }
func (b failingBuilder) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, b.err
}

func TestFirstServiceConfigIsBounded(t *testing.T) {
	b := backendtest.Start(t, "one")
	configs := make(chan ServiceConfig, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := DialContext(ctx, b.Addr, WithInsecure(), WithServiceConfig(configs))
	require.ErrorIs(t, err, context.DeadlineExceeded)

	configs <- ServiceConfig{Methods: map[string]MethodConfig{"/test.Backend/": {Timeout: new(time.Duration)}}}
	cc, err := Dial(b.Addr, WithInsecure(), WithServiceConfig(configs))
	require.NoError(t, err)
	defer cc.Close()
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "the first config is in force for the first RPC")

	configs <- ServiceConfig{}
	backendtest.Eventually(t, func() bool { _, err := backendtest.AskName(backendtest.Bounded(t), cc); return err == nil }, "later configs replace it")

	closed := make(chan ServiceConfig)
	close(closed)
	cc, err = Dial(b.Addr, WithInsecure(), WithServiceConfig(closed), WithBlock())
	require.NoError(t, err)
	require.NoError(t, cc.Close())
}

// NewClient does no I/O and builds nothing.
func TestNewClientIsIdle(t *testing.T) {
	b := backendtest.Start(t, "one")
	for name, leave := range map[string]func(*ClientConn) error{
		"RPC":        func(cc *ClientConn) error { _, err := backendtest.AskName(backendtest.Bounded(t), cc); return err },
		"Connect":    func(cc *ClientConn) error { cc.Connect(); return nil },
		"AwaitReady": func(cc *ClientConn) error { return cc.AwaitReady(backendtest.Bounded(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			r, target, option := handResolver(t)
			r.InitialState(backendtest.Addresses(b))
			var built atomic.Bool
			r.BuildCallback = func(resolver.Target, resolver.ClientConn, resolver.BuildOptions) { built.Store(true) }
			configs := make(chan ServiceConfig)
			cc := plain(t, target, option, WithServiceConfig(configs))
			assert.Equal(t, connectivity.Idle, cc.GetState())
			assert.False(t, built.Load())
			require.NoError(t, leave(cc))
			awaitState(t, cc, connectivity.Ready)
			assert.True(t, built.Load())
		})
	}
}

func TestAwaitReady(t *testing.T) {
	t.Run("tells of attempts that still run", func(t *testing.T) {
		ctx := backendtest.NewUntilNow()
		cc := plain(t, "x:1", WithContextDialer(backendtest.Hang), WithDialTrace(&DialTrace{DialStart: func(DialEvent) { ctx.End() }}))
		err := cc.AwaitReady(ctx)
		var e *DialError
		require.ErrorAs(t, err, &e)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		require.Len(t, e.Attempts, 1)
		assert.Contains(t, err.Error(), "x:1: dial not finished after")
		assert.Equal(t, connectivity.Connecting, cc.GetState(), "the channel goes on")
	})
	t.Run("on a closed channel", func(t *testing.T) {
		cc := plain(t, "x:1")
		require.NoError(t, cc.Close())
		err := cc.AwaitReady(backendtest.Bounded(t))
		var e *DialError
		require.ErrorAs(t, err, &e)
		assert.Equal(t, connectivity.Shutdown, e.State)
		assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
	})
	t.Run("connects again after a loss", func(t *testing.T) {
		b := backendtest.Start(t, "one")
		cc := plain(t, b.Addr)
		awaitReady(t, cc)
		b.Cut()
		awaitState(t, cc, connectivity.Idle)
		awaitReady(t, cc)
	})
	t.Run("finds a backend that comes late", func(t *testing.T) {
		b := backendtest.Start(t, "late")
		b.Stop()
		cc := plain(t, b.Addr, fastBackoff())
		cc.Connect()
		awaitState(t, cc, connectivity.TransientFailure)
		b.Start()
		awaitReady(t, cc)
	})
}

// An RPC that finds no connection says why the channel has none.
func TestRPCErrorHoldsTheDialError(t *testing.T) {
	cc := plain(t, backendtest.UnusedAddr(t))
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	var e *DialError
	require.ErrorAs(t, err, &e)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	var op *net.OpError
	assert.ErrorAs(t, err, &op)
	assert.Equal(t, connectivity.TransientFailure, e.State)
}
