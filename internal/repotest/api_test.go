package repotest_test

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

	_ func(*grpcdial.ClientConn) string                                                = (*grpcdial.ClientConn).Target
	_ func(*grpcdial.ClientConn) string                                                = (*grpcdial.ClientConn).CanonicalTarget
	_ func(*grpcdial.ClientConn) connectivity.State                                    = (*grpcdial.ClientConn).GetState
	_ func(*grpcdial.ClientConn, context.Context, connectivity.State) bool             = (*grpcdial.ClientConn).WaitForStateChange
	_ func(*grpcdial.ClientConn)                                                       = (*grpcdial.ClientConn).Connect
	_ func(*grpcdial.ClientConn)                                                       = (*grpcdial.ClientConn).ResetConnectBackoff
	_ func(*grpcdial.ClientConn, string) grpcdial.MethodConfig                         = (*grpcdial.ClientConn).GetMethodConfig
	_ func(*grpcdial.ClientConn) error                                                 = (*grpcdial.ClientConn).Close
	_ func(*grpcdial.ClientConn, context.Context, ...grpcdial.WaitOption) error        = (*grpcdial.ClientConn).AwaitReady
	_ func(*grpcdial.ClientConn, context.Context) iter.Seq[grpcdial.StateChange]       = (*grpcdial.ClientConn).Watch
	_ func(*grpcdial.ClientConn) grpcdial.Snapshot                                     = (*grpcdial.ClientConn).Snapshot
	_ func(*grpcdial.ClientConn, context.Context) error                                = (*grpcdial.ClientConn).Shutdown
	_ func(*grpcdial.ClientConn) *grpc.ClientConn                                      = (*grpcdial.ClientConn).GRPC
	_ func() grpcdial.WaitOption                                                       = grpcdial.FailFast
	_ func(func(grpcdial.Attempt) bool) grpcdial.WaitOption                            = grpcdial.GiveUpOn
	_ func(resolver.State, grpcdial.CallConfigSelector) resolver.State                 = grpcdial.SetCallConfigSelector
	_ func(grpcdial.ServiceConfig) (string, error)                                     = grpcdial.ServiceConfig.JSON
	_ func(string) (grpcdial.ServiceConfig, error)                                     = grpcdial.ParseServiceConfig
	_ func(grpcdial.ServiceConfig) grpcdial.DialOption                                 = grpcdial.WithDefaultConfig
	_ func(func(context.Context, grpcdial.ConnectCheckInfo) error) grpcdial.DialOption = grpcdial.WithConnectCheck
	_ func(*grpcdial.DialError) []error                                                = (*grpcdial.DialError).Unwrap
	_ func(*grpcdial.DialError) *status.Status                                         = (*grpcdial.DialError).GRPCStatus

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
	text, err := exec.Command("go", "doc", "-all", module).Output()
	require.NoError(t, err)
	assert.NotContains(t, string(text), "http2.")
	assert.NotContains(t, string(text), "x/net")
}
