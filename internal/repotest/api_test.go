package repotest_test

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	grpcchannelz "google.golang.org/grpc/channelz"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/channelz"
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

// The dial options, the errors, and the other packages.
type option = grpcdial.DialOption

var (
	_ func() option                                                = grpcdial.WithBlock
	_ func() option                                                = grpcdial.WithReturnConnectionError
	_ func(bool) option                                            = grpcdial.FailOnNonTempDialError
	_ func(time.Duration) option                                   = grpcdial.WithTimeout
	_ func() option                                                = grpcdial.WithInsecure
	_ func(credentials.TransportCredentials) option                = grpcdial.WithTransportCredentials
	_ func(credentials.Bundle) option                              = grpcdial.WithCredentialsBundle
	_ func(credentials.PerRPCCredentials) option                   = grpcdial.WithPerRPCCredentials
	_ func(string) option                                          = grpcdial.WithAuthority
	_ func(string) option                                          = grpcdial.WithUserAgent
	_ func(func(context.Context, string) (net.Conn, error)) option = grpcdial.WithContextDialer
	_ func(func(string, time.Duration) (net.Conn, error)) option   = grpcdial.WithDialer
	_ func() option                                                = grpcdial.WithNoProxy
	_ func() option                                                = grpcdial.WithLocalDNSResolution
	_ func(...resolver.Builder) option                             = grpcdial.WithResolvers
	_ func(<-chan grpcdial.ServiceConfig) option                   = grpcdial.WithServiceConfig
	_ func(string) option                                          = grpcdial.WithDefaultServiceConfig
	_ func() option                                                = grpcdial.WithDisableServiceConfig
	_ func(grpcdial.ConnectParams) option                          = grpcdial.WithConnectParams
	_ func(grpc.BackoffConfig) option                              = grpcdial.WithBackoffConfig
	_ func(time.Duration) option                                   = grpcdial.WithBackoffMaxDelay
	_ func(keepalive.ClientParameters) option                      = grpcdial.WithKeepaliveParams
	_ func(time.Duration) option                                   = grpcdial.WithIdleTimeout
	_ func(grpc.UnaryClientInterceptor) option                     = grpcdial.WithUnaryInterceptor
	_ func(...grpc.UnaryClientInterceptor) option                  = grpcdial.WithChainUnaryInterceptor
	_ func(grpc.StreamClientInterceptor) option                    = grpcdial.WithStreamInterceptor
	_ func(...grpc.StreamClientInterceptor) option                 = grpcdial.WithChainStreamInterceptor
	_ func(stats.Handler) option                                   = grpcdial.WithStatsHandler
	_ func(...grpc.CallOption) option                              = grpcdial.WithDefaultCallOptions
	_ func(grpc.Codec) option                                      = grpcdial.WithCodec
	_ func(grpc.Compressor) option                                 = grpcdial.WithCompressor
	_ func(grpc.Decompressor) option                               = grpcdial.WithDecompressor
	_ func(int) option                                             = grpcdial.WithMaxMsgSize
	_ func(uint32) option                                          = grpcdial.WithMaxHeaderListSize
	_ func(int32) option                                           = grpcdial.WithInitialWindowSize
	_ func(int32) option                                           = grpcdial.WithInitialConnWindowSize
	_ func(int32) option                                           = grpcdial.WithStaticStreamWindowSize
	_ func(int32) option                                           = grpcdial.WithStaticConnWindowSize
	_ func(int) option                                             = grpcdial.WithReadBufferSize
	_ func(int) option                                             = grpcdial.WithWriteBufferSize
	_ func(bool) option                                            = grpcdial.WithSharedWriteBuffer
	_ func() option                                                = grpcdial.WithDisableRetry
	_ func(int) option                                             = grpcdial.WithMaxCallAttempts
	_ func() option                                                = grpcdial.WithDisableHealthCheck
	_ func(grpcchannelz.Identifier) option                         = grpcdial.WithChannelzParentID
	_ option                                                       = grpcdial.EmptyDialOption{}
	_ func(*grpcdial.DialTrace) option                             = grpcdial.WithDialTrace
	_ func(*slog.Logger) option                                    = grpcdial.WithLogger
	_ func(func(grpcdial.Attempt) bool) option                     = grpcdial.WithGiveUp
	_ func(func(string) (*url.URL, error)) option                  = grpcdial.WithProxy
	_ func(int) option                                             = grpcdial.WithMaxConnectionsPerSubchannel
	_ func(time.Duration, time.Duration) option                    = grpcdial.WithMaxConnectionAge
	_ func(*grpcdial.ClientConn, context.Context) error            = (*grpcdial.ClientConn).Renew
	_ func(*grpcdial.ClientConn) *grpc.ClientConn                  = (*grpcdial.ClientConn).GRPCOwned
	_ func(...grpc.DialOption) (option, error)                     = bridge.FromGRPC
	_ func(...option) []grpc.DialOption                            = bridge.ToGRPC
	_ func() http.Handler                                          = channelz.Handler
	_                                                              = []error{(*grpcdial.DialError)(nil), (*grpcdial.RPCError)(nil), (*grpcdial.GoAwayError)(nil), (*grpcdial.ProxyError)(nil), grpcdial.ErrClosed}
	_                                                              = []grpcdial.Phase{grpcdial.PhaseResolve, grpcdial.PhaseDial, grpcdial.PhaseProxy, grpcdial.PhaseTLS, grpcdial.PhaseHTTP2, grpcdial.PhaseHealth}
)

// TestNoTypeOfXNet: the documentation of the root names no type of golang.org/x/net, whose
// versions are not ours to promise.
func TestNoTypeOfXNet(t *testing.T) {
	text, err := exec.Command("go", "doc", "-all", module).Output()
	require.NoError(t, err)
	assert.NotContains(t, string(text), "http2.")
	assert.NotContains(t, string(text), "x/net")
}
