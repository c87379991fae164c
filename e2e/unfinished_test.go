package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// The waits for a channel, with what they return when ctx ends them.
var waits = []struct {
	name string
	wait func(t *testing.T, ctx context.Context, target string, opts ...grpcdial.DialOption) error
}{
	{"DialContext", func(_ *testing.T, ctx context.Context, target string, opts ...grpcdial.DialOption) error {
		_, err := grpcdial.DialContext(ctx, target, append(opts, grpcdial.WithBlock())...)
		return err
	}},
	{"AwaitReady", func(t *testing.T, ctx context.Context, target string, opts ...grpcdial.DialOption) error {
		cc, err := grpcdial.NewClient(target, opts...)
		require.NoError(t, err)
		defer cc.Close()
		return cc.AwaitReady(ctx)
	}},
	{"RPC", func(t *testing.T, ctx context.Context, target string, opts ...grpcdial.DialOption) error {
		cc, err := grpcdial.NewClient(target, opts...)
		require.NoError(t, err)
		defer cc.Close()
		_, err = backendtest.AskName(ctx, cc)
		return err
	}},
}

// A wait that ends while an attempt is running says where that is, in each phase. The
// texts are in testdata/unfinished.golden.
func TestUnfinishedGolden(t *testing.T) {
	g := golden{file: "unfinished.golden"}
	ca := h2test.NewCA(t)
	secure := grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example")))
	silent := backendtest.ServeRaw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	shakes := backendtest.ServeRaw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, tls.Server(c, ca.ServerConfig("backend.example"))) })
	proxy := proxytest.Serve(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	ill := h2test.Listen(t)
	var asked atomic.Pointer[func()] // is called when the health service is asked
	ill.Serve(func(*h2test.Stream) {
		if f := asked.Load(); f != nil {
			(*f)()
		}
	})
	names := dnstest.Listen(t, dnstest.Zone{"silent.example": {Silent: true}})
	for _, tt := range []struct {
		name   string
		target string
		opts   []grpcdial.DialOption
		ends   grpcdial.EventKind // when the waiter's context does
		addr   string
		phase  grpcdial.Phase
		proxy  string
		hint   string
	}{
		{name: "resolver", target: "scripted:///x", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithResolvers(backendtest.Scripted{})},
			ends: grpcdial.EventResolveStart, addr: "x", phase: grpcdial.PhaseResolve, hint: `scheme "scripted"`},
		{name: "name server", target: "dns://" + names.Addr() + "/silent.example:443", opts: []grpcdial.DialOption{grpcdial.WithInsecure()},
			ends: grpcdial.EventResolveStart, addr: "silent.example:443", phase: grpcdial.PhaseResolve, hint: "name servers"},
		{name: "dial", target: "passthrough:///backend.example:443", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithContextDialer(backendtest.Hang)},
			ends: grpcdial.EventDialStart, addr: "backend.example:443", phase: grpcdial.PhaseDial, hint: "a firewall drops"},
		{name: "proxy", target: "passthrough:///backend.example:443", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithProxy(proxyAt("http://" + proxy))},
			ends: grpcdial.EventProxyStart, addr: "backend.example:443", phase: grpcdial.PhaseProxy, proxy: "http://" + proxy, hint: "the proxy took the connection"},
		{name: "TLS", target: "passthrough:///" + silent, opts: []grpcdial.DialOption{secure},
			ends: grpcdial.EventTLSStart, addr: silent, phase: grpcdial.PhaseTLS, hint: "it may not speak TLS"},
		{name: "SETTINGS", target: "passthrough:///" + silent, opts: []grpcdial.DialOption{grpcdial.WithInsecure()},
			ends: grpcdial.EventHTTP2Start, addr: silent, phase: grpcdial.PhaseHTTP2, hint: "it may require TLS"},
		{name: "SETTINGS within TLS", target: "passthrough:///" + shakes, opts: []grpcdial.DialOption{secure},
			ends: grpcdial.EventHTTP2Start, addr: shakes, phase: grpcdial.PhaseHTTP2, hint: "since the TLS handshake"},
		{name: "health", target: "passthrough:///" + ill.Addr(), opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(backendtest.CheckedConfig)},
			ends: "asked", addr: ill.Addr(), phase: grpcdial.PhaseHealth, hint: "health service has not answered"},
	} {
		for _, w := range waits {
			t.Run(tt.name+", "+w.name, func(t *testing.T) {
				ctx := backendtest.NewUntilNow()
				soon := func() { time.AfterFunc(20*time.Millisecond, ctx.End) }
				asked.Store(&soon)
				trace := grpcdial.WithDialTrace(&grpcdial.DialTrace{Every: func(e grpcdial.DialEvent) {
					if e.Kind == tt.ends {
						ctx.End()
					}
				}})
				begun := time.Now()
				err := w.wait(t, ctx, tt.target, append(tt.opts, trace)...)
				took := time.Since(begun)

				var e *grpcdial.DialError
				require.ErrorAs(t, err, &e)
				require.Len(t, e.Attempts, 1, "%v", err)
				a := e.Attempts[0]
				assert.Equal(t, tt.addr, a.Addr)
				assert.Equal(t, tt.phase, a.Phase)
				assert.Equal(t, tt.proxy, a.Proxy)
				assert.ErrorIs(t, a.Err, grpcdial.ErrUnfinished)
				assert.Contains(t, a.Hint, tt.hint)
				assert.False(t, a.Permanent)
				assert.False(t, a.Start.Before(begun))
				assert.Positive(t, a.Elapsed)
				assert.LessOrEqual(t, a.Elapsed, took)
				assert.Equal(t, connectivity.Connecting, e.State)

				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.NotErrorIs(t, err, context.Canceled)
				assert.ErrorIs(t, err, grpcdial.ErrUnfinished)
				assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
				assert.NotContains(t, err.Error(), "\n")
				assert.Contains(t, err.Error(), tt.addr)
				assert.Contains(t, err.Error(), string(tt.phase)+" not finished after ")
				if w.name == "DialContext" { // AwaitReady's is the same, and an RPC's ends with it
					g.add(tt.name, err.Error())
				}
			})
		}
	}
	g.check(t)
}

// That needs no option: a server that accepts and says nothing, and
// a program that waits for a while.
func TestAwaitReadyOfASilentServer(t *testing.T) {
	silent := backendtest.ServeRaw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	cc := plain(t, silent)
	for wait := 100 * time.Millisecond; ; wait *= 2 { // a busy machine may need longer to connect
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		err := cc.AwaitReady(ctx)
		cancel()
		var e *grpcdial.DialError
		require.ErrorAs(t, err, &e)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		if len(e.Attempts) == 0 || e.Attempts[0].Phase != grpcdial.PhaseHTTP2 {
			require.Less(t, wait, 10*time.Second, "%v", err)
			continue
		}
		a := e.Attempts[0]
		assert.Equal(t, silent, a.Addr)
		assert.Equal(t, grpcdial.ErrUnfinished, a.Err)
		assert.Greater(t, a.Elapsed, time.Duration(0))
		assert.Regexp(t, `after \S+, in CONNECTING for \S+ \(context deadline exceeded\): `+silent+`: http2 not finished after \S+: the server took the connection and has sent no SETTINGS yet: `, err.Error())
		return
	}
}

// The error of a wait names each address of a host name with several: those that have
// failed, and those that are still being tried.
func TestUnfinishedNamesEveryAddress(t *testing.T) {
	silent := backendtest.ServeRaw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	_, port, err := net.SplitHostPort(silent)
	require.NoError(t, err)
	refused := "127.0.0.2:" + port // nothing listens there
	names := dnstest.Listen(t, dnstest.Zone{"two.example": {Addrs: []string{"127.0.0.2", "127.0.0.1"}}})
	r, byHand, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: refused}, {Addr: silent}}})
	for name, tt := range map[string]struct {
		target string
		opts   []grpcdial.DialOption
	}{
		"addresses": {byHand, []grpcdial.DialOption{option}},
		"name":      {"dns://" + names.Addr() + "/two.example:" + port, nil},
	} {
		for _, w := range waits {
			t.Run(name+", "+w.name, func(t *testing.T) {
				ctx := backendtest.NewUntilNow()
				var failed, silence atomic.Bool
				trace := grpcdial.WithDialTrace(&grpcdial.DialTrace{Every: func(e grpcdial.DialEvent) {
					switch e.Kind {
					case grpcdial.EventFailed:
						failed.Store(true)
					case grpcdial.EventHTTP2Start:
						silence.Store(true)
					}
					if failed.Load() && silence.Load() {
						ctx.End()
					}
				}})
				err := w.wait(t, ctx, tt.target, append(tt.opts, grpcdial.WithInsecure(), trace)...)
				var e *grpcdial.DialError
				require.ErrorAs(t, err, &e)
				require.Len(t, e.Attempts, 2, "%v", err)
				assert.Equal(t, refused, e.Attempts[0].Addr)
				assert.ErrorIs(t, e.Attempts[0].Err, syscall.ECONNREFUSED)
				assert.Equal(t, silent, e.Attempts[1].Addr)
				assert.ErrorIs(t, e.Attempts[1].Err, grpcdial.ErrUnfinished)
				assert.Equal(t, grpcdial.PhaseHTTP2, e.Attempts[1].Phase)
				assert.ErrorIs(t, err, syscall.ECONNREFUSED)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				if w.name != "RPC" {
					assert.Regexp(t, `^grpcdial: no connection for .*\n\t127\.0\.0\.2:.* refused; .*\n\t127\.0\.0\.1:.* http2 not finished after .*$`, err.Error())
				}
			})
		}
	}
}

// mentioned is how long an attempt has to be in progress to be named beside the failure of
// the one before it.
const mentioned = 100 * time.Millisecond

// A server that refused connections accepts them now and says nothing: the error has the
// failure, and how far the attempt after it is.
func TestUnfinishedAttemptAfterAFailedOne(t *testing.T) {
	silent := backendtest.ServeRaw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	for _, w := range waits {
		t.Run(w.name, func(t *testing.T) {
			ctx := backendtest.NewUntilNow()
			var attempts atomic.Int32
			err := w.wait(t, ctx, "passthrough:///"+silent, grpcdial.WithInsecure(), fastBackoff(),
				grpcdial.WithDefaultCallOptions(grpc.WaitForReady(true)),
				grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
					if attempts.Add(1) == 1 {
						return nil, backendtest.ErrRefused
					}
					return new(net.Dialer).DialContext(ctx, "tcp", addr)
				}),
				grpcdial.WithDialTrace(&grpcdial.DialTrace{HTTP2Start: func(grpcdial.DialEvent) { time.AfterFunc(mentioned+20*time.Millisecond, ctx.End) }}))
			var e *grpcdial.DialError
			require.ErrorAs(t, err, &e)
			require.Len(t, e.Attempts, 1)
			assert.Equal(t, grpcdial.PhaseDial, e.Attempts[0].Phase)
			assert.ErrorIs(t, err, backendtest.ErrRefused)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Regexp(t, `is the port right\?; the attempt after that: http2 not finished after \S+$`, err.Error())
		})
	}
}

// How long an attempt was running ends with the wait, not with the attempt, which a
// dialer may draw out.
func TestUnfinishedAttemptEndsWithTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := grpcdial.DialContext(ctx, "x:1", grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			time.Sleep(30 * time.Millisecond)
			return nil, ctx.Err()
		}))
		var e *grpcdial.DialError
		require.ErrorAs(t, err, &e)
		require.Len(t, e.Attempts, 1)
		assert.Equal(t, time.Second, e.Elapsed)
		assert.Equal(t, time.Second, e.Attempts[0].Elapsed)
	})
}

// The cause that the waiter's context was cancelled with is in the error.
func TestCauseOfTheWaitersContext(t *testing.T) {
	stopped := errors.New("the operator\nstopped the start")
	for _, w := range waits {
		t.Run(w.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			dialer := func(ctx context.Context, addr string) (net.Conn, error) {
				cancel(stopped)
				return backendtest.Hang(ctx, addr)
			}
			err := w.wait(t, ctx, "passthrough:///x:1", grpcdial.WithInsecure(), grpcdial.WithContextDialer(dialer))
			assert.ErrorIs(t, err, stopped)
			assert.ErrorIs(t, err, context.Canceled)
			assert.NotErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, codes.Canceled, status.Code(err))
			if w.name != "RPC" {
				assert.Contains(t, err.Error(), "(context canceled: the operator stopped the start)")
			}
		})
	}
	// One that is itself the end of a context ends nothing here.
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(context.DeadlineExceeded)
	_, err := grpcdial.DialContext(ctx, "x:1", grpcdial.WithInsecure(), grpcdial.WithBlock())
	assert.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, codes.Canceled, status.Code(err))
}

// The time-outs of attempts are not the caller's deadline: an RPC, and a wait that
// gives up, that end because of one do not match it.
func TestTimeOutsOfAttemptsAreNotTheCallers(t *testing.T) {
	p := grpcdial.ConnectParams{MinConnectTimeout: 30 * time.Millisecond}
	p.Backoff.BaseDelay, p.Backoff.MaxDelay, p.Backoff.Multiplier = time.Millisecond, time.Millisecond, 1
	for _, w := range waits {
		for name, dialer := range map[string]func(context.Context, string) (net.Conn, error){
			"context": backendtest.Hang,
			"network": func(context.Context, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: timedOut{}}
			},
		} {
			t.Run(name+", "+w.name, func(t *testing.T) {
				err := w.wait(t, backendtest.Bounded(t), "passthrough:///x:1", grpcdial.WithInsecure(), grpcdial.WithConnectParams(p), grpcdial.WithContextDialer(dialer),
					grpcdial.WithGiveUp(func(grpcdial.Attempt) bool { return true }))
				require.Error(t, err)
				assert.NotErrorIs(t, err, context.DeadlineExceeded)
				assert.NotErrorIs(t, err, context.Canceled)
				assert.Equal(t, codes.Unavailable, status.Code(err))
				assert.Contains(t, err.Error(), "nothing answered")
			})
		}
	}
}

// timedOut is package net's error for a deadline that has passed.
type timedOut struct{}

func (timedOut) Error() string { return "i/o timeout" }

func (timedOut) Timeout() bool { return true }

func (timedOut) Is(target error) bool { return target == context.DeadlineExceeded }

// The channel of a wait that has ended goes on, and the next one may succeed.
func TestUnfinishedAttemptGoesOn(t *testing.T) {
	b := backendtest.Start(t, "late")
	release := make(chan struct{})
	cc := plain(t, "passthrough:///"+b.Addr, grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		<-release
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}))
	ctx := backendtest.NewUntilNow()
	time.AfterFunc(10*time.Millisecond, ctx.End)
	require.ErrorIs(t, cc.AwaitReady(ctx), context.DeadlineExceeded)
	close(release)
	awaitReady(t, cc)
	name, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(false))
	require.NoError(t, err)
	assert.Equal(t, "late", name)
}
