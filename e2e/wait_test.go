package e2e_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestErrClosed: one value, by either name.
func TestErrClosed(t *testing.T) {
	cc := newClient(t, "passthrough:///nowhere", grpcdial.WithInsecure())
	require.NoError(t, cc.Close())
	_, err := backendtest.CallEcho(t, cc, "Echo")
	for _, err := range []error{err, cc.Close(), cc.Shutdown(t.Context())} {
		require.ErrorIs(t, err, grpcdial.ErrClosed)
		require.ErrorIs(t, err, grpc.ErrClientConnClosing)
	}
}

// TestWaitOptions: what ends one wait on a channel of NewClient's, and no other.
func TestWaitOptions(t *testing.T) {
	srv := backendtest.StartEcho(t)
	srv.Stop()
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure())
	var failed *grpcdial.DialError
	err := cc.AwaitReady(backendtest.Bounded(t), grpcdial.FailFast())
	require.ErrorAs(t, err, &failed)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, failed.Attempts, 1)
	assert.Equal(t, grpcdial.PhaseDial, failed.Attempts[0].Phase)
	assert.Positive(t, failed.Attempts[0].AttemptID)

	asked := 0
	err = cc.AwaitReady(backendtest.Bounded(t), grpcdial.GiveUpOn(func(a grpcdial.Attempt) bool { asked++; return a.Phase == grpcdial.PhaseDial }))
	require.ErrorAs(t, err, &failed)
	assert.Positive(t, asked)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, cc.AwaitReady(ctx), context.DeadlineExceeded)
	require.ErrorContains(t, cc.AwaitReady(ctx, nil), "option 1 of 1 is nil")
}

// TestTracesAddUp: each of several traces gets each event.
func TestTracesAddUp(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var first, second int
	trace := func(n *int) grpcdial.DialOption {
		d := &grpcdial.DialTrace{Ready: func(grpcdial.DialEvent) { *n++ }}
		o := grpcdial.WithDialTrace(d)
		d.Ready = nil // it was copied
		return o
	}
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure(), trace(&first), grpcdial.WithDialTrace(nil), trace(&second))
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	require.NoError(t, cc.Close())
	assert.Equal(t, 1, first)
	assert.Equal(t, 1, second)
}
