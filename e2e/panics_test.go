package e2e_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// unwindingCodec ends the goroutine that marshals with it, or unmarshals.
type unwindingCodec struct {
	encoding.Codec
	marshal, unmarshal func()
}

func (unwindingCodec) Name() string                      { return "bad" }
func (c unwindingCodec) Marshal(any) ([]byte, error)     { c.marshal(); return nil, nil }
func (c unwindingCodec) Unmarshal(_ []byte, _ any) error { c.unmarshal(); return nil }

// unwindingCredentials are per-RPC credentials.
type unwindingCredentials struct{ get func() }

func (c unwindingCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	c.get()
	return nil, nil
}
func (unwindingCredentials) RequireTransportSecurity() bool { return false }

// unwindingHandler ends the goroutine that reports the event to it.
type unwindingHandler struct{ event string }

func (h unwindingHandler) on(event string) {
	if event == h.event {
		panic(event)
	}
}

func (h unwindingHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	h.on("TagRPC")
	return ctx
}
func (h unwindingHandler) HandleRPC(_ context.Context, s stats.RPCStats) { h.on(fmt.Sprintf("%T", s)) }
func (unwindingHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (unwindingHandler) HandleConn(context.Context, stats.ConnStats) {}

// TestPanicsEndTheRPC: a panic in code of the program's, which an HTTP handler for one
// recovers from, and runtime.Goexit, which a test's FailNow is, end the RPC. Shutdown does not
// wait for it, and the channel can become idle.
func TestPanicsEndTheRPC(t *testing.T) {
	srv := backendtest.StartEcho(t)
	nothing, fail := func() {}, func() { panic("on purpose") }
	cases := map[string]struct {
		option  grpc.CallOption
		handler stats.Handler
	}{
		"marshal":     {option: grpc.ForceCodec(unwindingCodec{marshal: fail, unmarshal: nothing})},
		"unmarshal":   {option: grpc.ForceCodec(unwindingCodec{marshal: nothing, unmarshal: fail})},
		"credentials": {option: grpc.PerRPCCredentials(credentials.PerRPCCredentials(unwindingCredentials{fail}))},
		"goexit":      {option: grpc.PerRPCCredentials(unwindingCredentials{runtime.Goexit})},
		"finish":      {option: grpc.OnFinish(func(error) { fail() })},
	}
	for _, event := range []string{"TagRPC", "*stats.Begin", "*stats.OutHeader", "*stats.OutPayload", "*stats.InHeader",
		"*stats.InPayload", "*stats.InTrailer", "*stats.End"} {
		cases[event] = struct {
			option  grpc.CallOption
			handler stats.Handler
		}{grpc.EmptyCallOption{}, unwindingHandler{event}}
	}
	for name, tt := range cases {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stream %t", name, stream), func(t *testing.T) {
				opts := []grpcdial.DialOption{grpcdial.WithInsecure()}
				if tt.handler != nil {
					opts = append(opts, grpcdial.WithStatsHandler(tt.handler))
				}
				cc := newClient(t, srv.Addr, opts...)
				ctx, cancel := context.WithCancel(backendtest.Bounded(t))
				unwound := make(chan bool)
				go func() {
					returned := false
					defer func() {
						_ = recover()
						unwound <- !returned
					}()
					if reply := new(wrapperspb.StringValue); !stream {
						_ = cc.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("x"), reply, tt.option)
					} else if s, err := cc.NewStream(ctx, bidi, "/test.Echo/Echo", tt.option); err == nil {
						_ = s.SendMsg(wrapperspb.String("x"))
						_ = s.CloseSend()
						_ = s.RecvMsg(reply)
						_ = s.RecvMsg(reply)
					}
					returned = true
				}()
				require.True(t, <-unwound)
				cancel() // a stream that was open is, as ever, until its context ends
				assert.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
			})
		}
	}
}
