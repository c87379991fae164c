package e2e_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A channel without RPCs goes back to how NewClient made it, says why, and
// connects again for the next RPC.
func TestIdleAfterAWhile(t *testing.T) {
	b := backendtest.Start(t, "one")
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(b))
	var built, closed atomic.Int32
	r.BuildCallback = func(resolver.Target, resolver.ClientConn, resolver.BuildOptions) { built.Add(1) }
	r.CloseCallback = func() { closed.Add(1) }
	cc := plain(t, target, option, grpcdial.WithIdleTimeout(20*time.Millisecond))
	next := watched(t, cc)
	for i := range 3 {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		require.NoError(t, err)
		assert.Equal(t, grpcdial.ErrIdle, next(connectivity.Idle).Cause)
		backendtest.Eventually(t, func() bool { return closed.Load() == int32(i+1) }, "the resolver is closed")
		assert.Equal(t, int32(i+1), built.Load())
		backendtest.Eventually(t, func() bool { return len(cc.Snapshot().Endpoints) == 0 }, "no connection is left")
	}
	backendtest.AwaitOurs(t, 1) // the watcher
}

// An RPC that runs keeps the channel busy, however long it takes.
func TestRPCKeepsTheChannelBusy(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc := plain(t, b.Addr, grpcdial.WithIdleTimeout(5*time.Millisecond))
	s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Backend/Stream")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	awaitState(t, cc, connectivity.Ready)
	assert.False(t, cc.WaitForStateChange(ctx, connectivity.Ready))
	require.NoError(t, s.CloseSend())
	require.Error(t, s.RecvMsg(new(wrapperspb.StringValue)))
	awaitState(t, cc, connectivity.Idle)
}

// An idle time-out of next to nothing does not have a running RPC looked at without
// pause: this test would take as many looks as there are nanoseconds in a second.
func TestIdleTimeoutOfNextToNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe(t)
		server.SetBound(time.Hour)
		cc, err := grpcdial.NewClient("x:1", grpcdial.WithInsecure(), grpcdial.WithIdleTimeout(1), grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return client, nil }))
		require.NoError(t, err)
		defer cc.Close()
		ended := make(chan error, 1)
		go func() { _, err := backendtest.AskName(t.Context(), cc); ended <- err }()
		server.Handshake()
		headers, _ := server.ExpectUnary()
		time.Sleep(time.Second)
		server.ReplyUnary(headers.StreamID, nil)
		require.NoError(t, <-ended)
		server.ExpectClosed()
	})
}

// RPCs that begin while the channel goes idle all succeed.
func TestIdleUnderLoad(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc := plain(t, b.Addr, grpcdial.WithIdleTimeout(time.Millisecond))
	next := watched(t, cc)
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			for j := range 100 {
				if _, err := backendtest.AskName(backendtest.Bounded(t), cc); err != nil {
					t.Errorf("an RPC failed: %v", err)
				}
				time.Sleep(time.Duration((i+j)%5) * 500 * time.Microsecond)
			}
		})
	}
	load.Wait()
	next(connectivity.Idle)
}

// The time counts from the last RPC's end, or from when idle was left.
func TestIdleTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cc, err := grpcdial.NewClient("passthrough:///x:1", grpcdial.WithInsecure(), grpcdial.WithContextDialer(backendtest.Hang))
		require.NoError(t, err)
		defer cc.Close()
		cc.Connect()
		synctest.Wait()
		time.Sleep(20 * time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err = backendtest.AskName(ctx, cc)
		require.Error(t, err)
		time.Sleep(30*time.Minute - time.Second)
		synctest.Wait()
		assert.NotEqual(t, connectivity.Idle, cc.GetState())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, connectivity.Idle, cc.GetState())

		cc.Connect()
		time.Sleep(29 * time.Minute)
		synctest.Wait()
		assert.NotEqual(t, connectivity.Idle, cc.GetState())
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, connectivity.Idle, cc.GetState())
	})
	synctest.Test(t, func(t *testing.T) {
		cc, err := grpcdial.NewClient("passthrough:///x:1", grpcdial.WithInsecure(), grpcdial.WithContextDialer(backendtest.Hang), grpcdial.WithIdleTimeout(0))
		require.NoError(t, err)
		defer cc.Close()
		cc.Connect()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		assert.NotEqual(t, connectivity.Idle, cc.GetState())
	})
}

// A wait for READY keeps the channel from going idle, however short its idle time-out.
func TestWaitersKeepTheChannelBusy(t *testing.T) {
	b := backendtest.Start(t, "one")
	slow := func(ctx context.Context, addr string) (net.Conn, error) {
		time.Sleep(50 * time.Millisecond)
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	for _, timeout := range []time.Duration{1, time.Millisecond, 20 * time.Millisecond} {
		cc := plain(t, b.Addr, grpcdial.WithIdleTimeout(timeout), grpcdial.WithContextDialer(slow))
		require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
		cc, err := grpcdial.DialContext(backendtest.Bounded(t), b.Addr, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithIdleTimeout(timeout), grpcdial.WithContextDialer(slow))
		require.NoError(t, err)
		require.NoError(t, cc.Close())
	}
}

// Nor does that throw away the back-off.
func TestWaitersKeepTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int64
		cc := plain(t, "x:1", grpcdial.WithIdleTimeout(time.Millisecond), grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			attempts.Add(1)
			return nil, errors.New("refused")
		}))
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		err := cc.AwaitReady(ctx)
		var e *grpcdial.DialError
		require.ErrorAs(t, err, &e)
		assert.Len(t, e.Attempts, 1)
		assert.EqualValues(t, 1, attempts.Load(), "the first delay is a second")
	})
}

// A channel that leaves idle again begins anew with what it knows of its resolver: a wait
// that ends says that the resolver has not answered, and since when.
func TestIdleForgetsTheResolversAnswer(t *testing.T) {
	b := backendtest.Start(t, "one")
	var built atomic.Int64
	seen := new(events)
	cc := plain(t, "scripted:///x", grpcdial.WithIdleTimeout(50*time.Millisecond), seen.option(), grpcdial.WithResolvers(backendtest.Scripted{OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
		switch built.Add(1) {
		case 1:
			return cc.UpdateState(backendtest.Addresses(b))
		case 2:
			return nil
		}
		time.Sleep(10 * time.Millisecond)
		_ = cc.UpdateState(resolver.State{})
		return nil
	}}))
	awaitReady(t, cc)
	awaitState(t, cc, connectivity.Idle)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	var e *grpcdial.DialError
	require.ErrorAs(t, cc.AwaitReady(ctx), &e)
	require.Len(t, e.Attempts, 1)
	assert.Equal(t, grpcdial.PhaseResolve, e.Attempts[0].Phase)
	assert.ErrorIs(t, e.Attempts[0].Err, grpcdial.ErrUnfinished)

	awaitState(t, cc, connectivity.Idle)
	backendtest.Eventually(t, func() bool { cc.Connect(); return seen.find(grpcdial.EventResolveDone).Err != nil }, "the resolver gives no addresses")
	assert.GreaterOrEqual(t, seen.find(grpcdial.EventResolveDone).Elapsed, 10*time.Millisecond)
}
