package e2e_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// selectorFunc is a CallConfigSelector made of a function.
type selectorFunc func(grpcdial.CallInfo) (*grpcdial.CallConfig, error)

func (f selectorFunc) SelectCallConfig(i grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
	return f(i)
}

// selected makes a channel whose resolver gives addr and sel, and returns what updates it.
func selected(t *testing.T, addr string, sel grpcdial.CallConfigSelector, opts ...grpcdial.DialOption) (*grpcdial.ClientConn, func(grpcdial.CallConfigSelector)) {
	t.Helper()
	state := func(sel grpcdial.CallConfigSelector) resolver.State {
		s := resolver.State{Endpoints: []resolver.Endpoint{{Addresses: []resolver.Address{{Addr: addr}}}}}
		if sel == nil {
			return s
		}
		return grpcdial.SetCallConfigSelector(s, sel)
	}
	r := manual.NewBuilderWithScheme("selected")
	r.InitialState(state(sel))
	cc := newClient(t, "selected:///shop", append(opts, grpcdial.WithInsecure(), grpcdial.WithResolvers(r))...)
	return cc, func(sel grpcdial.CallConfigSelector) { r.UpdateState(state(sel)) }
}

// TestSelectorChooses: the context, the method config and the authority that it returns
// are those of the RPC.
func TestSelectorChooses(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var info grpcdial.CallInfo
	timeout := 50 * time.Millisecond
	cc, _ := selected(t, srv.Addr, selectorFunc(func(i grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
		info = i
		c := &grpcdial.CallConfig{Context: metadata.AppendToOutgoingContext(i.Context, "step", "selected")}
		if i.Method == "/test.Echo/Hang" {
			c.MethodConfig.Timeout = &timeout
		}
		return c, nil
	}))
	ctx := metadata.AppendToOutgoingContext(backendtest.Bounded(t), "step", "program")
	require.NoError(t, cc.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue)))
	_, md, _ := srv.Last()
	assert.Equal(t, []string{"program", "selected"}, md.Get("step"))
	assert.Equal(t, "/test.Echo/Echo", info.Method)
	assert.Equal(t, "shop", info.Authority)
	seen, _ := metadata.FromOutgoingContext(info.Context)
	assert.Equal(t, []string{"program"}, seen.Get("step"))

	_, err := backendtest.CallEcho(t, cc, "Hang")
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	assert.Equal(t, []string{"one", "two", "three"}, converse(t, cc))
	_, md, _ = srv.Last()
	assert.Equal(t, []string{"selected"}, md.Get("step"))
}

// TestSelectorRetries: a retry policy for one RPC.
func TestSelectorRetries(t *testing.T) {
	srv := backendtest.StartEcho(t)
	plain := newClient(t, srv.Addr, grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(
		`{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}`))
	require.NoError(t, plain.AwaitReady(backendtest.Bounded(t)))
	_, err := backendtest.CallEcho(t, plain, "Echo")
	require.NoError(t, err)
	policy := plain.GetMethodConfig("/test.Echo/Fail")
	cc, _ := selected(t, srv.Addr, selectorFunc(func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
		return &grpcdial.CallConfig{MethodConfig: policy}, nil
	}))
	before := srv.Calls.Load()
	_, err = backendtest.CallEcho(t, cc, "Fail")
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.EqualValues(t, 3, srv.Calls.Load()-before)
}

func TestSelectorFails(t *testing.T) {
	srv := backendtest.StartEcho(t)
	own := errors.New("no route")
	for name, tt := range map[string]struct {
		config *grpcdial.CallConfig
		err    error
		want   codes.Code
	}{
		"status":                 {nil, status.Error(codes.Unavailable, "no route"), codes.Unavailable},
		"status of applications": {nil, status.Error(codes.NotFound, "no route"), codes.Internal},
		"other error":            {nil, own, codes.Unknown},
		"method config":          {&grpcdial.CallConfig{MethodConfig: grpcdial.MethodConfig{MaxReqSize: new(-1)}}, nil, codes.Internal},
		"nothing to say":         {nil, nil, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			cc, _ := selected(t, srv.Addr, selectorFunc(func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) { return tt.config, tt.err }))
			finished := 0
			_, err := backendtest.CallEcho(t, cc, "Echo", grpc.OnFinish(func(error) { finished++ }))
			assert.Equal(t, tt.want, status.Code(err), "%v", err)
			assert.Equal(t, 1, finished)
			if tt.err == own {
				require.ErrorIs(t, err, own)
			}
			_, err = cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo")
			assert.Equal(t, tt.want, status.Code(err))
		})
	}
}

// TestSelectorCommitted: once an RPC, and for a stream as soon as it has a response.
func TestSelectorCommitted(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var committed atomic.Int64
	cc, _ := selected(t, srv.Addr, selectorFunc(func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
		return &grpcdial.CallConfig{OnCommitted: func() { committed.Add(1) }}, nil
	}))
	_, err := backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
	assert.EqualValues(t, 1, committed.Load())
	_, err = backendtest.CallEcho(t, cc, "Fail")
	require.Error(t, err)
	assert.EqualValues(t, 2, committed.Load())

	s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Echo")
	require.NoError(t, err)
	require.NoError(t, s.SendMsg(wrapperspb.String("x")))
	assert.EqualValues(t, 2, committed.Load())
	require.NoError(t, s.RecvMsg(new(wrapperspb.StringValue)))
	assert.EqualValues(t, 3, committed.Load())
	require.NoError(t, s.CloseSend())
	require.Error(t, s.RecvMsg(new(wrapperspb.StringValue)))
	assert.EqualValues(t, 3, committed.Load())
}

// TestSelectorCommittedOnce: OnCommitted is called once also for RPCs that its interceptor
// answers itself or fails, and not again after it has panicked, which the program may have
// recovered from.
func TestSelectorCommittedOnce(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var committed, finished atomic.Int64
	var intercept func() (grpc.ClientStream, error)
	cc, _ := selected(t, srv.Addr, selectorFunc(func(i grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
		if i.Method == "/test.Echo/Panics" {
			return &grpcdial.CallConfig{OnCommitted: func() { committed.Add(1); panic("on purpose") }}, nil
		}
		return &grpcdial.CallConfig{
			OnCommitted: func() { committed.Add(1) },
			Interceptor: func(context.Context, grpcdial.CallInfo, grpcdial.NewStreamFunc, ...grpc.CallOption) (grpc.ClientStream, error) {
				return intercept()
			},
		}, nil
	}))
	onFinish := grpc.OnFinish(func(error) { finished.Add(1) })
	for name, tt := range map[string]struct {
		intercept func() (grpc.ClientStream, error)
		want      codes.Code
	}{
		"own stream": {func() (grpc.ClientStream, error) { return &ownStream{}, nil }, codes.OK},
		"own error":  {func() (grpc.ClientStream, error) { return nil, status.Error(codes.Aborted, "") }, codes.Aborted},
		"nothing":    {func() (grpc.ClientStream, error) { return nil, nil }, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			intercept = tt.intercept
			before, ended := committed.Load(), finished.Load()
			err := cc.Invoke(backendtest.Bounded(t), "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue), onFinish)
			assert.Equal(t, tt.want, status.Code(err))
			assert.EqualValues(t, 1, committed.Load()-before)
			assert.EqualValues(t, 1, finished.Load()-ended)
			_, err = cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo")
			assert.Equal(t, tt.want, status.Code(err))
			assert.EqualValues(t, 2, committed.Load()-before)
		})
	}

	before := committed.Load()
	over := make(chan struct{})
	ctx, cancel := context.WithCancel(backendtest.Bounded(t))
	assert.Panics(t, func() {
		s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Panics", grpc.OnFinish(func(error) { close(over) }))
		require.NoError(t, err)
		require.NoError(t, s.SendMsg(wrapperspb.String("x")))
		_ = s.RecvMsg(new(wrapperspb.StringValue))
	})
	cancel() // ends the RPC on a goroutine of the channel's
	<-over
	assert.EqualValues(t, 1, committed.Load()-before)
}

// ownStream is a stream of an interceptor's own, which receives one empty message.
type ownStream struct {
	grpc.ClientStream
	received bool
}

func (*ownStream) SendMsg(any) error { return nil }
func (*ownStream) CloseSend() error  { return nil }
func (s *ownStream) RecvMsg(any) error {
	if s.received {
		return io.EOF
	}
	s.received = true
	return nil
}

// TestSelectorIntercepts: unary RPCs and streams pass its interceptor, with their call
// options; a unary one is one message each way on the wire.
func TestSelectorIntercepts(t *testing.T) {
	srv := backendtest.StartEcho(t)
	refused := status.Error(codes.Aborted, "a fault was injected")
	var passed, committed atomic.Int64
	cc, _ := selected(t, srv.Addr, selectorFunc(func(i grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
		return &grpcdial.CallConfig{
			Context:     metadata.AppendToOutgoingContext(i.Context, "step", "selector"),
			OnCommitted: func() { committed.Add(1) },
			Interceptor: func(ctx context.Context, info grpcdial.CallInfo, newStream grpcdial.NewStreamFunc, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				passed.Add(1)
				if info.Method == "/test.Echo/Fail" {
					return nil, refused
				}
				return newStream(metadata.AppendToOutgoingContext(ctx, "step", "interceptor"), opts...)
			},
		}, nil
	}))
	finished := 0
	var header metadata.MD
	reply, err := backendtest.CallEcho(t, cc, "Echo", grpc.Header(&header), grpc.OnFinish(func(err error) { finished++; assert.NoError(t, err) }))
	require.NoError(t, err)
	assert.Equal(t, "hello", reply)
	assert.NotNil(t, header)
	_, md, _ := srv.Last()
	assert.Equal(t, []string{"selector", "interceptor"}, md.Get("step"))
	assert.Equal(t, 1, finished)
	assert.EqualValues(t, 1, committed.Load())

	_, err = backendtest.CallEcho(t, cc, "Fail", grpc.OnFinish(func(err error) { finished++; assert.ErrorIs(t, err, refused) }))
	require.ErrorIs(t, err, refused)
	assert.Equal(t, 2, finished)
	assert.EqualValues(t, 2, committed.Load())

	assert.Equal(t, []string{"one", "two", "three"}, converse(t, cc, grpc.OnFinish(func(error) { finished++ })))
	assert.Equal(t, 3, finished)
	_, err = cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Fail", grpc.OnFinish(func(error) { finished++ }))
	require.ErrorIs(t, err, refused)
	assert.Equal(t, 4, finished)
	assert.EqualValues(t, 4, passed.Load())
	assert.EqualValues(t, 4, committed.Load())
	require.NoError(t, cc.Shutdown(backendtest.Bounded(t)), "every RPC was counted out")
}

// TestSelectorInterceptorLooks: an interceptor that looks at a unary RPC's stream: the
// headers before the reply, the trailers after.
func TestSelectorInterceptorLooks(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var header metadata.MD
	cc, _ := selected(t, srv.Addr, selectorFunc(func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
		return &grpcdial.CallConfig{Interceptor: func(ctx context.Context, _ grpcdial.CallInfo, newStream grpcdial.NewStreamFunc, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := newStream(ctx, opts...)
			return &lookingStream{s, &header}, err
		}}, nil
	}))
	reply, err := backendtest.CallEcho(t, cc, "Headers")
	require.NoError(t, err)
	assert.Equal(t, "hello", reply)
	assert.Len(t, header.Get("filler"), 1)
	require.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
}

// TestSelectorInterceptorSees: the stream of a unary RPC is used to its end, so that an
// interceptor finds out when it is over.
func TestSelectorInterceptorSees(t *testing.T) {
	srv := backendtest.StartEcho(t)
	for name, looks := range map[string]bool{"not looked at": false, "looked at": true} {
		t.Run(name, func(t *testing.T) {
			var used []string
			cc, _ := selected(t, srv.Addr, selectorFunc(func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
				return &grpcdial.CallConfig{Interceptor: func(ctx context.Context, _ grpcdial.CallInfo, newStream grpcdial.NewStreamFunc, opts ...grpc.CallOption) (grpc.ClientStream, error) {
					s, err := newStream(ctx, opts...)
					if looks {
						s = &lookingStream{s, new(metadata.MD)}
					}
					return &notingStream{s, &used}, err
				}}, nil
			}))
			reply, err := backendtest.CallEcho(t, cc, "Echo")
			require.NoError(t, err)
			assert.Equal(t, "hello", reply)
			assert.Equal(t, []string{"SendMsg", "CloseSend", "RecvMsg", "RecvMsg: EOF"}, used)
			_, err = backendtest.CallEcho(t, cc, "Fail")
			assert.Equal(t, codes.Unavailable, status.Code(err))
			require.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
		})
	}
}

// notingStream notes the calls of its methods.
type notingStream struct {
	grpc.ClientStream
	used *[]string
}

func (s *notingStream) SendMsg(m any) error {
	*s.used = append(*s.used, "SendMsg")
	return s.ClientStream.SendMsg(m)
}

func (s *notingStream) CloseSend() error {
	*s.used = append(*s.used, "CloseSend")
	return s.ClientStream.CloseSend()
}

func (s *notingStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if errors.Is(err, io.EOF) {
		*s.used = append(*s.used, "RecvMsg: EOF")
	} else {
		*s.used = append(*s.used, "RecvMsg")
	}
	return err
}

type lookingStream struct {
	grpc.ClientStream
	header *metadata.MD
}

func (s *lookingStream) RecvMsg(m any) error {
	var err error
	if *s.header, err = s.Header(); err != nil {
		return err
	}
	return s.ClientStream.RecvMsg(m)
}

// TestSelectorSwapped: when UpdateState returns, the selector before is not called any
// more, under load.
func TestSelectorSwapped(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var inForce atomic.Int64
	numbered := func(n int64) selectorFunc {
		return func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
			if now := inForce.Load(); now > n {
				return nil, status.Errorf(codes.Internal, "selector %d was called after %d had taken its place", n, now)
			}
			return &grpcdial.CallConfig{}, nil
		}
	}
	cc, update := selected(t, srv.Addr, numbered(0))
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := backendtest.CallEcho(t, cc, "Echo"); !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	for n := range int64(50) {
		update(numbered(n + 1))
		inForce.Store(n + 1)
	}
	update(nil)
	close(stop)
	callers.Wait()
}

// TestSelectorLetGo: a channel that goes idle asks its selector no more, and one that
// comes back gets another.
func TestSelectorLetGo(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var asked atomic.Int64
	cc, _ := selected(t, srv.Addr, selectorFunc(func(grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
		asked.Add(1)
		return nil, nil
	}), grpcdial.WithIdleTimeout(10*time.Millisecond))
	for n := range int64(2) {
		_, err := backendtest.CallEcho(t, cc, "Echo")
		require.NoError(t, err)
		assert.Equal(t, n+1, asked.Load())
		ctx := backendtest.Bounded(t)
		for s := cc.GetState(); s != connectivity.Idle; s = cc.GetState() {
			require.True(t, cc.WaitForStateChange(ctx, s))
		}
	}
}

// RPCInfo and grpcSelector have the shape of grpc-go's config selectors.
type RPCInfo struct{}

type grpcSelector struct{}

func (grpcSelector) SelectConfig(RPCInfo) (any, error) { return nil, nil }

// TestForeignSelectorRefused: RPCs fail with the way out, instead of going where the
// policy does not know them.
func TestForeignSelectorRefused(t *testing.T) {
	srv := backendtest.StartEcho(t)
	r := manual.NewBuilderWithScheme("foreign")
	r.InitialState(resolver.State{
		Endpoints:  []resolver.Endpoint{{Addresses: []resolver.Address{{Addr: srv.Addr}}}},
		Attributes: attributes.New("other", 1).WithValue("selector", grpcSelector{}).WithValue("another", "x"),
	})
	cc := newClient(t, "foreign:///shop", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
	_, err := backendtest.CallEcho(t, cc, "Echo")
	assert.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, `import _ "github.com/grpcdial/grpcdial/xds"`)
	assert.Zero(t, srv.Calls.Load())
}

// TestForeignSelectorTranslated: an update with both is for us, and is for grpc-go's
// channels too.
func TestForeignSelectorTranslated(t *testing.T) {
	srv := backendtest.StartEcho(t)
	r := manual.NewBuilderWithScheme("translated")
	r.InitialState(grpcdial.SetCallConfigSelector(resolver.State{
		Endpoints:  []resolver.Endpoint{{Addresses: []resolver.Address{{Addr: srv.Addr}}}},
		Attributes: attributes.New("selector", grpcSelector{}),
	}, selectorFunc(func(i grpcdial.CallInfo) (*grpcdial.CallConfig, error) {
		return &grpcdial.CallConfig{Context: metadata.AppendToOutgoingContext(i.Context, "step", "ours")}, nil
	})))
	cc := newClient(t, "translated:///shop", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
	_, err := backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
	_, md, _ := srv.Last()
	assert.Equal(t, []string{"ours"}, md.Get("step"))
}
