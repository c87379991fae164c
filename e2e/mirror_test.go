package e2e_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// waitMirror waits until conn is in state want.
func waitMirror(t *testing.T, conn *grpc.ClientConn, want connectivity.State) {
	t.Helper()
	ctx := backendtest.Bounded(t)
	for s := conn.GetState(); s != want; s = conn.GetState() {
		require.True(t, conn.WaitForStateChange(ctx, s), "the mirror is in %v, want %v", s, want)
	}
}

// TestMirrorStates: the states of a channel as a library sees them that has its
// *grpc.ClientConn: all five.
func TestMirrorStates(t *testing.T) {
	srv := backendtest.StartEcho(t)
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure(), grpcdial.WithIdleTimeout(0))
	conn := cc.GRPC()
	assert.Same(t, conn, cc.GRPC())
	assert.Equal(t, srv.Addr, conn.Target())
	assert.Equal(t, connectivity.Idle, conn.GetState(), "making it does not connect")
	assert.Equal(t, connectivity.Idle, cc.GetState())

	conn.Connect()
	waitMirror(t, conn, connectivity.Ready)
	assert.Equal(t, connectivity.Ready, cc.GetState())

	srv.Stop()
	ctx := backendtest.Bounded(t)
	for cc.GetState() == connectivity.Ready {
		cc.WaitForStateChange(ctx, connectivity.Ready)
	}
	conn.Connect()
	waitMirror(t, conn, connectivity.TransientFailure)

	require.NoError(t, cc.Close())
	assert.Equal(t, connectivity.Shutdown, conn.GetState())
	require.ErrorIs(t, conn.Close(), grpc.ErrClientConnClosing)
	_, err := backendtest.CallEcho(t, conn, "Echo")
	require.ErrorIs(t, err, grpc.ErrClientConnClosing)
	_, err = conn.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo")
	assert.Equal(t, codes.Canceled, status.Code(err))
}

// TestMirrorOfClosedChannel: made when there is nothing left to mirror.
func TestMirrorOfClosedChannel(t *testing.T) {
	srv := backendtest.StartEcho(t)
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure())
	require.NoError(t, cc.Close())
	for _, conn := range []*grpc.ClientConn{cc.GRPC(), cc.GRPCOwned()} {
		assert.Equal(t, connectivity.Shutdown, conn.GetState())
		_, err := backendtest.CallEcho(t, conn, "Echo")
		require.ErrorIs(t, err, grpc.ErrClientConnClosing)
	}
}

// TestMirrorClose: closing it ends its RPCs and leaves the channel open.
func TestMirrorClose(t *testing.T) {
	srv := backendtest.StartEcho(t)
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure())
	conn := cc.GRPC()
	onMirror, err := conn.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Echo")
	require.NoError(t, err)
	require.NoError(t, onMirror.SendMsg(wrapperspb.String("there")))
	require.NoError(t, onMirror.RecvMsg(new(wrapperspb.StringValue)))
	waiting := make(chan error, 1)
	var began sync.WaitGroup
	began.Add(1)
	go func() {
		began.Done()
		_, err := backendtest.CallEcho(t, conn, "Hang")
		waiting <- err
	}()
	began.Wait()

	require.NoError(t, conn.Close(), "the first")
	require.ErrorIs(t, conn.Close(), grpc.ErrClientConnClosing, "the second")
	assert.Equal(t, connectivity.Shutdown, conn.GetState())
	err = onMirror.RecvMsg(new(wrapperspb.StringValue))
	assert.Equal(t, codes.Canceled, status.Code(err))
	require.ErrorIs(t, err, grpc.ErrClientConnClosing)
	require.NotErrorIs(t, err, context.Canceled, "the program's context goes on")
	err = <-waiting
	require.ErrorIs(t, err, grpc.ErrClientConnClosing)
	_, err = backendtest.CallEcho(t, conn, "Echo")
	require.ErrorIs(t, err, grpc.ErrClientConnClosing)

	require.NotEqual(t, connectivity.Shutdown, cc.GetState())
	_, err = backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
}

// TestMirrorOwned: closing it closes the channel.
func TestMirrorOwned(t *testing.T) {
	srv := backendtest.StartEcho(t)
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure())
	shared, owned := cc.GRPC(), cc.GRPCOwned()
	assert.NotSame(t, shared, owned)
	assert.Same(t, owned, cc.GRPCOwned())
	_, err := backendtest.CallEcho(t, owned, "Echo")
	require.NoError(t, err)
	require.NoError(t, owned.Close())
	assert.Equal(t, connectivity.Shutdown, cc.GetState())
	assert.Equal(t, connectivity.Shutdown, shared.GetState())
	require.ErrorIs(t, cc.Close(), grpc.ErrClientConnClosing)
}

// TestMirrorPassedOn: an interceptor that passes the mirror to its invoker, in place of
// what it got, is met once.
func TestMirrorPassedOn(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var cc *grpcdial.ClientConn
	var met int
	cc = newClient(t, srv.Addr, grpcdial.WithInsecure(),
		grpcdial.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, _ *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			met++
			return invoker(ctx, method, req, reply, cc.GRPC(), opts...)
		}))
	_, err := backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
	assert.Equal(t, 1, met)
}

// TestMirrorIdle: a channel that goes idle takes its mirror along, and an RPC on the
// mirror wakes both.
func TestMirrorIdle(t *testing.T) {
	srv := backendtest.StartEcho(t)
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure(), grpcdial.WithIdleTimeout(20*time.Millisecond))
	conn := cc.GRPC()
	for range 2 {
		_, err := backendtest.CallEcho(t, conn, "Echo")
		require.NoError(t, err)
		waitMirror(t, conn, connectivity.Idle)
	}
}

// TestMirrorLeavesNothing: closing the channel or the mirror ends the mirror's
// goroutines. A bubble does not end while one is left in it.
func TestMirrorLeavesNothing(t *testing.T) {
	for name, end := range map[string]func(*grpcdial.ClientConn){
		"channel": func(cc *grpcdial.ClientConn) { assert.NoError(t, cc.Close()) },
		"owned":   func(cc *grpcdial.ClientConn) { assert.NoError(t, cc.GRPCOwned().Close()) },
		"mirror": func(cc *grpcdial.ClientConn) {
			assert.NoError(t, cc.GRPC().Close())
			assert.NoError(t, cc.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cc, err := grpcdial.NewClient("passthrough:///nowhere", grpcdial.WithInsecure())
				require.NoError(t, err)
				require.Equal(t, connectivity.Idle, cc.GRPC().GetState())
				end(cc)
			})
		})
	}
}

// TestMirrorCost: what one costs an idle channel. The goroutines are those that every
// *grpc.ClientConn has which is not closed.
func TestMirrorCost(t *testing.T) {
	const made = 100
	var all [made]*grpcdial.ClientConn
	for i := range all {
		all[i] = newClient(t, "passthrough:///nowhere", grpcdial.WithInsecure())
	}
	var before, after runtime.MemStats
	running := runtime.NumGoroutine()
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, cc := range all {
		cc.GRPC()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, runtime.NumGoroutine()-running, 3*made)
	each := float64(after.HeapAlloc-before.HeapAlloc) / made
	t.Logf("%.0f bytes of heap, %.0f of stacks", each, float64(after.StackInuse-before.StackInuse)/made)
	assert.Less(t, each, 12_000.0)
}
