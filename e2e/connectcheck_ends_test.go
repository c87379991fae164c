package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// A check that does not return has the time of the attempt. A wait that ends before says
// where the attempt is.
func TestConnectCheckThatBlocks(t *testing.T) {
	srv := backendtest.StartEcho(t)
	hangs := grpcdial.WithConnectCheck(func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
		return info.Conn.Invoke(ctx, "/test.Echo/Hang", wrapperspb.String(""), new(wrapperspb.StringValue))
	})
	begun := make(chan struct{}, 1)
	cc := plain(t, srv.Addr, hangs, grpcdial.WithDialTrace(&grpcdial.DialTrace{CheckStart: func(grpcdial.DialEvent) { begun <- struct{}{} }}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	err := cc.AwaitReady(ctx)
	require.ErrorIs(t, err, context.Canceled)
	var dialError *grpcdial.DialError
	require.ErrorAs(t, err, &dialError)
	assert.Equal(t, grpcdial.PhaseCheck, dialError.Attempts[0].Phase)
	assert.ErrorIs(t, dialError.Attempts[0].Err, grpcdial.ErrUnfinished)
	assert.Contains(t, err.Error(), "the program's check of the connection (WithConnectCheck) has not returned yet")
	require.NoError(t, cc.Close())

	short := grpcdial.ConnectParams{MinConnectTimeout: 50 * time.Millisecond}
	short.Backoff.BaseDelay, short.Backoff.MaxDelay = time.Millisecond, time.Millisecond
	cc = plain(t, srv.Addr, hangs, grpcdial.WithConnectParams(short), grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool { return a.Phase == grpcdial.PhaseCheck }))
	err = cc.AwaitReady(backendtest.Bounded(t))
	require.ErrorAs(t, err, &dialError)
	assert.Equal(t, grpcdial.PhaseCheck, dialError.Attempts[0].Phase)
	assert.NotErrorIs(t, err, context.DeadlineExceeded)
	assert.Contains(t, dialError.Attempts[0].Hint, "the check did not pass in time")
}

// Close ends the check, and what the check has open. Nothing is left.
func TestCloseDuringTheConnectCheck(t *testing.T) {
	srv := backendtest.StartEcho(t)
	for name, check := range map[string]func(context.Context, grpcdial.ConnectCheckInfo) error{
		"waits for its context": func(ctx context.Context, _ grpcdial.ConnectCheckInfo) error {
			<-ctx.Done()
			return ctx.Err()
		},
		"runs an RPC": func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
			return info.Conn.Invoke(ctx, "/test.Echo/Hang", wrapperspb.String(""), new(wrapperspb.StringValue))
		},
		"runs an RPC without its context": func(_ context.Context, info grpcdial.ConnectCheckInfo) error {
			return info.Conn.Invoke(context.Background(), "/test.Echo/Hang", wrapperspb.String(""), new(wrapperspb.StringValue))
		},
		"receives from a stream": func(_ context.Context, info grpcdial.ConnectCheckInfo) error {
			s, err := info.Conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo")
			if err != nil {
				return err
			}
			return s.RecvMsg(new(wrapperspb.StringValue))
		},
		"leaves a stream behind": func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
			if _, err := info.Conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo"); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			begun := make(chan struct{})
			cc := plain(t, srv.Addr, grpcdial.WithConnectCheck(func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
				close(begun)
				return check(ctx, info)
			}))
			cc.Connect()
			<-begun
			require.NoError(t, cc.Close())
			backendtest.Eventually(t, func() bool { return len(backendtest.Ours()) == 0 }, "no goroutine is left")
		})
	}
}

// A check that ignores its context does not hold Close.
func TestCloseDoesNotWaitForAConnectCheck(t *testing.T) {
	srv := backendtest.StartEcho(t)
	begun, release, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
	cc := plain(t, srv.Addr, grpcdial.WithConnectCheck(func(context.Context, grpcdial.ConnectCheckInfo) error {
		defer close(returned)
		close(begun)
		<-release
		return nil
	}))
	cc.Connect()
	<-begun
	require.NoError(t, cc.Close())
	close(release)
	<-returned
}

// A stream that the check leaves open ends with it, so that a connection that drains is
// not kept by it.
func TestConnectCheckThatLeavesAStream(t *testing.T) {
	ended := make(chan struct{}, 10)
	addr, _ := backendtest.Run(t, grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		<-s.Context().Done()
		ended <- struct{}{}
		return nil
	})))
	cc := plain(t, addr, grpcdial.WithConnectCheck(func(_ context.Context, info grpcdial.ConnectCheckInfo) error {
		_, err := info.Conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Echo")
		return err
	}))
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	select {
	case <-ended:
	case <-backendtest.Bounded(t).Done():
		t.Fatal("the server serves the check's stream for ever")
	}
	backendtest.Eventually(t, func() bool { return cc.Snapshot().Endpoints[0].Streams == 0 }, "the stream is gone here too")
}

// A check whose goroutine ends (t.FailNow in one, for instance) has failed.
func TestConnectCheckThatEndsItsGoroutine(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var round atomic.Int64
	cc := plain(t, srv.Addr, fastBackoff(), grpcdial.WithConnectCheck(func(context.Context, grpcdial.ConnectCheckInfo) error {
		if round.Add(1) == 1 {
			runtime.Goexit()
		}
		return nil
	}))
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	assert.Equal(t, int64(2), round.Load())
}

// A panic of the check ends the program: nothing recovers it.
func TestConnectCheckThatPanics(t *testing.T) {
	if addr := os.Getenv("GRPCDIAL_TEST_PANIC"); addr != "" {
		cc := plain(t, addr, grpcdial.WithConnectCheck(func(context.Context, grpcdial.ConnectCheckInfo) error { panic("the check is broken") }))
		_ = cc.AwaitReady(backendtest.Bounded(t))
		return
	}
	srv := backendtest.StartEcho(t)
	child := exec.CommandContext(backendtest.Bounded(t), os.Args[0], "-test.run=^TestConnectCheckThatPanics$", "-test.count=1")
	child.Env = append(os.Environ(), "GRPCDIAL_TEST_PANIC="+srv.Addr)
	out, err := child.CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "panic: the check is broken")
}
