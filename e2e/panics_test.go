package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
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
// wait for it, the channel can become idle, and the picker, which may count the RPCs of each
// backend, has the end of each pick.
func TestPanicsEndTheRPC(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var running atomic.Int32
	picking = func(sc balancer.SubConn, _ balancer.PickInfo) (balancer.PickResult, error) {
		running.Add(1)
		return balancer.PickResult{SubConn: sc, Done: func(balancer.DoneInfo) { running.Add(-1) }}, nil
	}
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
				opts := []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(backendtest.PolicyConfig(picksName))}
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
				assert.Zero(t, running.Swap(0), "picks without an end")
			})
		}
	}
}

// TestPanicsBetweenAttempts: in a retry of a stream that the receiver makes, and on the goroutine
// that makes the attempts of a hedged stream.
func TestPanicsBetweenAttempts(t *testing.T) {
	s := serveScript(t, func(_ context.Context, n int) error { return status.Error(codes.Unavailable, "try again") })
	for name, tt := range map[string]struct {
		settings grpcdial.MethodSettings
		event    string
		skip     int32
		end      func()
	}{
		"retry":       {retried, "*stats.Begin", 1, func() { panic("on purpose") }},
		"retry, exit": {retried, "*stats.End", 0, runtime.Goexit},
		"hedging":     {hedgedSoon, "*stats.End", 0, runtime.Goexit},
	} {
		t.Run(name, func(t *testing.T) {
			tt.settings.Names = []grpcdial.MethodName{{}}
			cc := newClient(t, s.addr, grpcdial.WithInsecure(), grpcdial.WithStatsHandler(&unwindingOnce{event: tt.event, skip: tt.skip, end: tt.end}),
				grpcdial.WithDefaultConfig(grpcdial.ServiceConfig{MethodSettings: []grpcdial.MethodSettings{tt.settings}}))
			ctx, cancel := context.WithCancel(backendtest.Bounded(t))
			defer cancel()
			cs, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo")
			require.NoError(t, err)
			require.NoError(t, cs.SendMsg(wrapperspb.String("x")))
			received := make(chan error, 1)
			go func() {
				defer func() { _ = recover(); received <- err }()
				err = errUnwound
				err = cs.RecvMsg(new(wrapperspb.StringValue))
			}()
			if err := <-received; err != errUnwound {
				assert.Equal(t, codes.Internal, status.Code(err), err)
			}
			assert.Equal(t, codes.Internal, status.Code(cs.RecvMsg(new(wrapperspb.StringValue))))
			assert.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
		})
	}
}

var (
	errUnwound = errors.New("the goroutine did not return")
	retried    = grpcdial.MethodSettings{Retry: &grpcdial.RetryPolicy{MaxAttempts: 3, InitialBackoff: time.Millisecond, MaxBackoff: time.Millisecond,
		BackoffMultiplier: 1, RetryableStatusCodes: []codes.Code{codes.Unavailable}}}
	hedgedSoon = grpcdial.MethodSettings{Hedging: &grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: time.Hour, NonFatalStatusCodes: []codes.Code{codes.Unavailable}}}
)

// unwindingOnce ends the goroutine that reports the event to it for the first time after it
// has skipped some.
type unwindingOnce struct {
	unwindingHandler
	event string
	skip  int32
	seen  atomic.Int32
	end   func()
}

func (h *unwindingOnce) HandleRPC(_ context.Context, s stats.RPCStats) {
	if fmt.Sprintf("%T", s) == h.event && h.seen.Add(1) == h.skip+1 {
		h.end()
	}
}

// TestPanicsBeforeTheFirstAttempt: a stream that code of the program's, or an argument that is
// nil, ends before it begins does not count among the channel's RPCs.
func TestPanicsBeforeTheFirstAttempt(t *testing.T) {
	srv := backendtest.StartEcho(t)
	fail := func() { panic("on purpose") }
	for name, tt := range map[string]struct {
		selector selectorFunc
		option   grpc.CallOption
	}{
		"selector": {selector: func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) { fail(); return nil, nil }},
		"interceptor": {selector: func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
			return &grpcdial.CallConfig{Interceptor: func(context.Context, grpcdial.CallInfo, grpcdial.NewStreamFunc, ...grpc.CallOption) (grpc.ClientStream, error) {
				fail()
				return nil, nil
			}}, nil
		}},
		"codec":       {option: grpc.ForceCodec((*namelessCodec)(nil))},
		"nil context": {},
	} {
		t.Run(name, func(t *testing.T) {
			var sel grpcdial.CallConfigSelector
			if tt.selector != nil {
				sel = tt.selector
			}
			cc, _ := selected(t, srv.Addr, sel)
			require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
			ctx := backendtest.Bounded(t)
			if name == "nil context" {
				ctx = nil
			}
			assert.Panics(t, func() { _, _ = cc.NewStream(ctx, bidi, "/test.Echo/Echo", tt.option) })
			assert.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
		})
	}
}

// namelessCodec panics when it is asked for its name.
type namelessCodec struct{ encoding.Codec }

// TestNilArguments: what grpc-go panics at is an error of the RPC, and what it takes is taken.
func TestNilArguments(t *testing.T) {
	srv := backendtest.StartEcho(t)
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure())
	ctx := backendtest.Bounded(t)
	call := func(opt grpc.CallOption) error {
		return cc.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue), opt)
	}
	assert.NoError(t, call(nil))
	assert.NoError(t, call(grpc.ForceCodecV2(nil)))
	err := call(grpc.ForceCodec(nil))
	assert.Equal(t, codes.Internal, status.Code(err))
	assert.ErrorContains(t, err, "ForceCodec: the codec is nil")
	_, err = cc.NewStream(ctx, nil, "/test.Echo/Echo")
	assert.Equal(t, codes.Internal, status.Code(err))
	assert.ErrorContains(t, err, "the StreamDesc is nil")
	assert.NoError(t, cc.Shutdown(backendtest.Bounded(t)))

	_, err = grpcdial.NewClient(srv.Addr, grpcdial.WithInsecure(), grpcdial.WithDefaultCallOptions(grpc.ForceCodec(nil)))
	assert.ErrorContains(t, err, "the codec of ForceCodec is nil")
}
