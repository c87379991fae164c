package grpcdial_test

import (
	"context"
	"iter"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
)

// The names that other programs compile against, with their types.
var (
	_ func(string, ...grpcdial.DialOption) (*grpcdial.ClientConn, error)                  = grpcdial.Dial
	_ func(context.Context, string, ...grpcdial.DialOption) (*grpcdial.ClientConn, error) = grpcdial.DialContext
	_ func(string, ...grpcdial.DialOption) (*grpcdial.ClientConn, error)                  = grpcdial.NewClient
	_ grpc.ConnectParams                                                                  = grpcdial.ConnectParams{}
	_ grpc.MethodConfig                                                                   = grpcdial.MethodConfig{}
	_ grpc.ClientConnInterface                                                            = (*grpcdial.ClientConn)(nil)

	_ func(*grpcdial.ClientConn) string                                          = (*grpcdial.ClientConn).Target
	_ func(*grpcdial.ClientConn) string                                          = (*grpcdial.ClientConn).CanonicalTarget
	_ func(*grpcdial.ClientConn) connectivity.State                              = (*grpcdial.ClientConn).GetState
	_ func(*grpcdial.ClientConn, context.Context, connectivity.State) bool       = (*grpcdial.ClientConn).WaitForStateChange
	_ func(*grpcdial.ClientConn)                                                 = (*grpcdial.ClientConn).Connect
	_ func(*grpcdial.ClientConn)                                                 = (*grpcdial.ClientConn).ResetConnectBackoff
	_ func(*grpcdial.ClientConn, string) grpcdial.MethodConfig                   = (*grpcdial.ClientConn).GetMethodConfig
	_ func(*grpcdial.ClientConn) error                                           = (*grpcdial.ClientConn).Close
	_ func(*grpcdial.ClientConn, context.Context, ...grpcdial.WaitOption) error  = (*grpcdial.ClientConn).AwaitReady
	_ func(*grpcdial.ClientConn, context.Context) iter.Seq[grpcdial.StateChange] = (*grpcdial.ClientConn).Watch
	_ func(*grpcdial.ClientConn) grpcdial.Snapshot                               = (*grpcdial.ClientConn).Snapshot
	_ func(*grpcdial.ClientConn, context.Context) error                          = (*grpcdial.ClientConn).Shutdown
	_ func(*grpcdial.ClientConn) *grpc.ClientConn                                = (*grpcdial.ClientConn).GRPC
	_ func() grpcdial.WaitOption                                                 = grpcdial.FailFast
	_ func(func(grpcdial.Attempt) bool) grpcdial.WaitOption                      = grpcdial.GiveUpOn
	_ func(resolver.State, grpcdial.CallConfigSelector) resolver.State           = grpcdial.SetCallConfigSelector
	_ func(grpcdial.ServiceConfig) (string, error)                               = grpcdial.ServiceConfig.JSON
	_ func(string) (grpcdial.ServiceConfig, error)                               = grpcdial.ParseServiceConfig
	_ func(grpcdial.ServiceConfig) grpcdial.DialOption                           = grpcdial.WithDefaultConfig
	_ func(*grpcdial.DialError) []error                                          = (*grpcdial.DialError).Unwrap
	_ func(*grpcdial.DialError) *status.Status                                   = (*grpcdial.DialError).GRPCStatus

	_ = grpcdial.ServiceConfig{LB: new(string), Methods: map[string]grpcdial.MethodConfig{}}
	_ = grpcdial.StateChange{Seq: 1, Time: time.Time{}, From: connectivity.Idle, To: connectivity.Ready, Cause: grpcdial.ErrIdle}
	_ = grpcdial.DialError{Target: "", State: connectivity.Idle, Elapsed: 0, Attempts: nil, Omitted: 0, InState: 0, Err: nil}
	_ = grpcdial.Attempt{AttemptID: 1, Addr: "", ServerName: "", Proxy: "", Phase: grpcdial.PhaseDial, Start: time.Time{}, Elapsed: 0, Err: nil, Hint: "", Permanent: false}
	_ = grpcdial.GoAwayError{Code: 0, Debug: "", LastStreamID: 0}
	_ = grpcdial.DialEvent{Settings: []grpcdial.Setting{{ID: 1, Value: 2}}, AttemptID: 1}
	_ = grpcdial.ShutdownError{Aborted: 1}
)

// TestNoTypeOfXNet: the documentation of the root names no type of golang.org/x/net, whose
// versions are not ours to promise.
func TestNoTypeOfXNet(t *testing.T) {
	text, err := exec.Command("go", "doc", "-all", ".").Output()
	require.NoError(t, err)
	assert.NotContains(t, string(text), "http2.")
	assert.NotContains(t, string(text), "x/net")
}

// TestErrClosed: one value, by either name.
func TestErrClosed(t *testing.T) {
	cc := newClient(t, "passthrough:///nowhere", grpcdial.WithInsecure())
	require.NoError(t, cc.Close())
	_, err := call(t, cc, "Echo")
	for _, err := range []error{err, cc.Close(), cc.Shutdown(t.Context())} {
		require.ErrorIs(t, err, grpcdial.ErrClosed)
		require.ErrorIs(t, err, grpc.ErrClientConnClosing)
	}
}

// TestWaitOptions: what ends one wait on a channel of NewClient's, and no other.
func TestWaitOptions(t *testing.T) {
	srv := serveEcho(t)
	srv.stop()
	cc := newClient(t, srv.addr, grpcdial.WithInsecure())
	var failed *grpcdial.DialError
	err := cc.AwaitReady(soon(t), grpcdial.FailFast())
	require.ErrorAs(t, err, &failed)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, failed.Attempts, 1)
	assert.Equal(t, grpcdial.PhaseDial, failed.Attempts[0].Phase)
	assert.Positive(t, failed.Attempts[0].AttemptID)

	asked := 0
	err = cc.AwaitReady(soon(t), grpcdial.GiveUpOn(func(a grpcdial.Attempt) bool { asked++; return a.Phase == grpcdial.PhaseDial }))
	require.ErrorAs(t, err, &failed)
	assert.Positive(t, asked)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, cc.AwaitReady(ctx), context.DeadlineExceeded)
	require.ErrorContains(t, cc.AwaitReady(ctx, nil), "option 1 of 1 is nil")
}

// TestTracesAddUp: each of several traces gets each event.
func TestTracesAddUp(t *testing.T) {
	srv := serveEcho(t)
	var first, second int
	trace := func(n *int) grpcdial.DialOption {
		d := &grpcdial.DialTrace{Ready: func(grpcdial.DialEvent) { *n++ }}
		o := grpcdial.WithDialTrace(d)
		d.Ready = nil // it was copied
		return o
	}
	cc := newClient(t, srv.addr, grpcdial.WithInsecure(), trace(&first), grpcdial.WithDialTrace(nil), trace(&second))
	require.NoError(t, cc.AwaitReady(soon(t)))
	require.NoError(t, cc.Close())
	assert.Equal(t, 1, first)
	assert.Equal(t, 1, second)
}
