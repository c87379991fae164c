package grpcdial

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backendtest"
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

// What happens before the context ends counts, though the wait learns of both at once.
func TestWaitThatEndsWithItsContext(t *testing.T) {
	b := backendtest.Start(t, "one")
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for name, dial := range map[string]func(context.Context) (net.Conn, error){
		"READY": func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", b.Addr)
		},
		"failed for good": func(context.Context) (net.Conn, error) { return nil, refused },
	} {
		t.Run(name, func(t *testing.T) {
			for range 16 { // a wait that looked at its context alone would do so in half of the cases
				proceed := make(chan struct{})
				cc := plain(t, "x:1", WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					<-proceed
					return dial(ctx)
				}))
				ctx := &endsLate{UntilNow: backendtest.NewUntilNow(), before: sync.OnceFunc(func() {
					close(proceed)
					for s := cc.GetState(); s == connectivity.Idle || s == connectivity.Connecting; s = cc.GetState() {
						cc.WaitForStateChange(backendtest.Bounded(t), s)
					}
				})}
				err := cc.waitReady(ctx, waitEnds{failFast: true}, cc.state.latest().Seq)
				if name == "READY" {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, syscall.ECONNREFUSED)
				}
				require.NoError(t, cc.Close())
			}
		})
	}
}

// endsLate is a context that ends once a goroutine waits for it, after before has
// returned.
type endsLate struct {
	*backendtest.UntilNow
	before func()
}

func (c *endsLate) Done() <-chan struct{} {
	c.before()
	c.End()
	return c.UntilNow.Done()
}
