package e2e_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

var bidi = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// assertRefused holds the error of an RPC on a channel that is closing.
func assertRefused(t *testing.T, err error) {
	t.Helper()
	assert.Equal(t, codes.Canceled, status.Code(err))
	assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
}

// shutDown calls Shutdown and returns its outcome later.
func shutDown(ctx context.Context, cc *grpcdial.ClientConn) <-chan error {
	done := make(chan error, 1)
	go func() { done <- cc.Shutdown(ctx) }()
	return done
}

// awaitRefusal waits until the channel refuses RPCs, of both kinds.
func awaitRefusal(t *testing.T, cc *grpcdial.ClientConn) {
	t.Helper()
	backendtest.Eventually(t, func() bool {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		return errors.Is(err, grpc.ErrClientConnClosing)
	}, "RPCs are refused")
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assertRefused(t, err)
	_, err = cc.NewStream(backendtest.Bounded(t), bidi, "/test.Backend/Stream")
	assertRefused(t, err)
}

// TestShutdownLetsRPCsEnd: what runs goes on, what is new is refused, and the
// channel is closed after the last.
func TestShutdownLetsRPCsEnd(t *testing.T) {
	b := backendtest.Start(t, "b")
	cc := plain(t, b.Addr)
	s, err := cc.NewStream(backendtest.Bounded(t), bidi, "/test.Backend/Stream")
	require.NoError(t, err)
	talk := func() {
		reply := new(wrapperspb.StringValue)
		require.NoError(t, s.SendMsg(wrapperspb.String("x")))
		require.NoError(t, s.RecvMsg(reply))
		assert.Equal(t, "b", reply.Value)
	}
	talk()
	done := shutDown(backendtest.Bounded(t), cc)
	awaitRefusal(t, cc)
	talk()
	assert.Equal(t, connectivity.Ready, cc.GetState())
	assert.Empty(t, done)

	require.NoError(t, s.CloseSend())
	require.Equal(t, io.EOF, s.RecvMsg(new(wrapperspb.StringValue)))
	require.NoError(t, <-done)
	assert.Equal(t, connectivity.Shutdown, cc.GetState())
	backendtest.AssertNothingRuns(t)
	assertRefused(t, cc.Shutdown(backendtest.Bounded(t)))
	assertRefused(t, cc.Close())
}

// TestShutdownCutsAtTheEnd: what still runs when ctx ends is cut and counted.
func TestShutdownCutsAtTheEnd(t *testing.T) {
	b := backendtest.Start(t, "b")
	cc := plain(t, b.Addr)
	var held sync.WaitGroup
	for range 2 {
		held.Go(func() {
			assertRefused(t, cc.Invoke(backendtest.Bounded(t), "/test.Backend/Hold", new(wrapperspb.StringValue), new(wrapperspb.StringValue)))
		})
		<-b.Held
	}
	s, err := cc.NewStream(backendtest.Bounded(t), bidi, "/test.Backend/Stream")
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	done := shutDown(ctx, cc)
	awaitRefusal(t, cc)
	cancel()
	err = <-done
	var cut *grpcdial.ShutdownError
	require.ErrorAs(t, err, &cut)
	assert.Equal(t, 3, cut.Aborted)
	assert.ErrorIs(t, err, context.Canceled)
	assert.EqualError(t, err, "grpcdial: Shutdown aborted 3 RPCs that were still running: context canceled")
	held.Wait()
	assertRefused(t, s.RecvMsg(new(wrapperspb.StringValue)))
	backendtest.AssertNothingRuns(t)
}

func TestShutdownErrorText(t *testing.T) {
	assert.EqualError(t, &grpcdial.ShutdownError{Aborted: 1, Err: context.DeadlineExceeded}, "grpcdial: Shutdown aborted 1 RPC that was still running: context deadline exceeded")
}

// TestShutdownAtRest: with nothing to wait for it is Close, in whatever state.
func TestShutdownAtRest(t *testing.T) {
	b := backendtest.Start(t, "b")
	t.Run("idle", func(t *testing.T) { require.NoError(t, plain(t, b.Addr).Shutdown(t.Context())) })
	t.Run("ready", func(t *testing.T) {
		cc := plain(t, b.Addr)
		awaitReady(t, cc)
		require.NoError(t, cc.Shutdown(t.Context()))
	})
	t.Run("ended context", func(t *testing.T) {
		cc := plain(t, b.Addr)
		awaitReady(t, cc)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, cc.Shutdown(ctx))
		assert.Equal(t, connectivity.Shutdown, cc.GetState())
	})
	backendtest.AssertNothingRuns(t)
}

// TestShutdownWaitsForWhatWaits: an RPC that has no connection yet runs too.
func TestShutdownWaitsForWhatWaits(t *testing.T) {
	b := backendtest.Start(t, "b")
	b.Stop()
	cc := plain(t, b.Addr, fastBackoff())
	got := make(chan error, 1)
	go func() {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		got <- err
	}()
	awaitState(t, cc, connectivity.TransientFailure)
	done := shutDown(backendtest.Bounded(t), cc)
	awaitRefusal(t, cc)
	b.Start()
	require.NoError(t, <-got)
	require.NoError(t, <-done)
}

// TestCloseDuringShutdown: Close does not wait for RPCs, and Shutdown says that
// it was not the one.
func TestCloseDuringShutdown(t *testing.T) {
	b := backendtest.Start(t, "b")
	cc := plain(t, b.Addr)
	s, err := cc.NewStream(backendtest.Bounded(t), bidi, "/test.Backend/Stream")
	require.NoError(t, err)
	done := shutDown(backendtest.Bounded(t), cc)
	awaitRefusal(t, cc)
	require.NoError(t, cc.Close())
	assertRefused(t, <-done)
	assertRefused(t, s.RecvMsg(new(wrapperspb.StringValue)))
}

// TestShutdownTwice: one of two calls closes the channel; the other returns, once it is
// closed, the error of a channel that is closed already.
func TestShutdownTwice(t *testing.T) {
	b := backendtest.Start(t, "b")
	cc := plain(t, b.Addr)
	s, err := cc.NewStream(backendtest.Bounded(t), bidi, "/test.Backend/Stream")
	require.NoError(t, err)
	first, second := shutDown(backendtest.Bounded(t), cc), shutDown(backendtest.Bounded(t), cc)
	awaitRefusal(t, cc)
	require.NoError(t, s.CloseSend())
	require.Equal(t, io.EOF, s.RecvMsg(new(wrapperspb.StringValue)))
	one, other := <-first, <-second
	if one != nil {
		one, other = other, one
	}
	require.NoError(t, one)
	assertRefused(t, other)
	backendtest.AssertNothingRuns(t)
}

// TestShortShutdownDuringALongOne: the one whose context ends first cuts what runs.
func TestShortShutdownDuringALongOne(t *testing.T) {
	b := backendtest.Start(t, "b")
	cc := plain(t, b.Addr)
	s, err := cc.NewStream(backendtest.Bounded(t), bidi, "/test.Backend/Stream")
	require.NoError(t, err)
	long := shutDown(backendtest.Bounded(t), cc)
	awaitRefusal(t, cc)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var cut *grpcdial.ShutdownError
	require.ErrorAs(t, cc.Shutdown(ended), &cut)
	assert.Equal(t, 1, cut.Aborted)
	assertRefused(t, <-long)
	assertRefused(t, s.RecvMsg(new(wrapperspb.StringValue)))
}

// TestShutdownAndCloseAtOnce: exactly one of them closes the channel, however they
// meet.
func TestShutdownAndCloseAtOnce(t *testing.T) {
	b := backendtest.Start(t, "b")
	for range 200 {
		cc := plain(t, b.Addr)
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		require.NoError(t, err)
		down := shutDown(backendtest.Bounded(t), cc)
		closed := cc.Close()
		if err := <-down; err != nil {
			require.NoError(t, closed)
			assertRefused(t, err)
		} else {
			assertRefused(t, closed)
		}
		assert.Equal(t, connectivity.Shutdown, cc.GetState())
	}
	backendtest.AssertNothingRuns(t)
}

// TestShutdownBeforeThereIsAConnection: an attempt is nothing to wait for, but an RPC that waits
// for it is, up to the context's end.
func TestShutdownBeforeThereIsAConnection(t *testing.T) {
	silent := h2test.Listen(t)
	t.Run("no RPC", func(t *testing.T) {
		cc := plain(t, silent.Target())
		cc.Connect()
		awaitState(t, cc, connectivity.Connecting)
		require.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
		backendtest.AssertNothingRuns(t)
	})
	t.Run("RPCs that wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cc := inBubble(t, backendtest.Hang)
			var waiting sync.WaitGroup
			for range 2 {
				waiting.Go(func() {
					_, err := backendtest.AskName(t.Context(), cc, grpc.WaitForReady(true))
					assertRefused(t, err)
				})
				waiting.Go(func() {
					_, err := cc.NewStream(t.Context(), bidi, "/test.Backend/Stream")
					assertRefused(t, err)
				})
			}
			synctest.Wait() // all wait for a connection
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			var cut *grpcdial.ShutdownError
			require.ErrorAs(t, cc.Shutdown(ctx), &cut)
			assert.Equal(t, 4, cut.Aborted)
			assert.ErrorIs(t, cut, context.DeadlineExceeded)
			waiting.Wait()
		})
	})
}

// TestShutdownUnderLoad: of many RPCs each ends well or is refused, and those that
// were refused have reached no server.
func TestShutdownUnderLoad(t *testing.T) {
	for range 10 {
		var asked atomic.Int64
		srv := backendtest.StartEcho(t)
		cc := plain(t, srv.Addr)
		awaitReady(t, cc)
		var callers sync.WaitGroup
		var well atomic.Int64
		for range 16 {
			callers.Go(func() {
				for {
					asked.Add(1)
					_, err := backendtest.AskName(context.Background(), cc)
					if err != nil {
						assertRefused(t, err)
						return
					}
					well.Add(1)
				}
			})
		}
		backendtest.Eventually(t, func() bool { return well.Load() > 100 }, "RPCs run")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		assert.NoError(t, cc.Shutdown(ctx))
		cancel()
		callers.Wait()
		srv.Stop()
		assert.Equal(t, well.Load(), srv.Calls.Load(), "no RPC was cut")
		assert.Equal(t, asked.Load(), well.Load()+16)
	}
}
