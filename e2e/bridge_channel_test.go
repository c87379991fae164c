package e2e_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// converse sends three messages on a bidirectional stream and returns what
// comes back.
func converse(t *testing.T, cc grpc.ClientConnInterface, opts ...grpc.CallOption) []string {
	t.Helper()
	s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Echo", opts...)
	require.NoError(t, err)
	var replies []string
	for _, word := range []string{"one", "two", "three"} {
		require.NoError(t, s.SendMsg(wrapperspb.String(word)))
		reply := new(wrapperspb.StringValue)
		require.NoError(t, s.RecvMsg(reply))
		replies = append(replies, reply.Value)
	}
	require.NoError(t, s.CloseSend())
	require.ErrorIs(t, s.RecvMsg(new(wrapperspb.StringValue)), io.EOF)
	return replies
}

// TestMirrorRunsOnTheChannel: RPCs of a *grpc.ClientConn that are the
// channel's.
func TestMirrorRunsOnTheChannel(t *testing.T) {
	srv := backendtest.StartEcho(t)
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure(), grpcdial.WithUserAgent("bridged"))
	bridge := cc.GRPC()

	var header metadata.MD
	reply, err := backendtest.CallEcho(t, bridge, "Headers", grpc.Header(&header))
	require.NoError(t, err)
	assert.Equal(t, "hello", reply)
	assert.Len(t, header.Get("filler"), 1)
	_, md, _ := srv.Last()
	assert.Equal(t, []string{"bridged grpc-go-grpcdial/0.1.0"}, md.Get("user-agent"))

	assert.Equal(t, []string{"one", "two", "three"}, converse(t, bridge, grpc.Header(&header)))

	_, err = backendtest.CallEcho(t, bridge, "Fail")
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorContains(t, err, "as asked")
}

// TestInterceptorsOnTheChannel: interceptors written for grpc-go.
func TestInterceptorsOnTheChannel(t *testing.T) {
	srv := backendtest.StartEcho(t)
	var seen []string
	cc := newClient(t, srv.Addr, grpcdial.WithInsecure(),
		grpcdial.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			seen = append(seen, cc.Target()+method)
			return invoker(metadata.AppendToOutgoingContext(ctx, "step", "1"), method, req, reply, cc, opts...)
		}),
		grpcdial.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			ctx = metadata.AppendToOutgoingContext(ctx, "step", "2")
			err := invoker(ctx, method, req, reply, cc, opts...)
			if status.Code(err) == codes.Unavailable {
				// Again, by another RPC on the connection that it got.
				err = cc.Invoke(ctx, "/test.Echo/Echo", req, reply, opts...)
			}
			return err
		}),
		grpcdial.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			seen = append(seen, cc.Target()+method)
			return streamer(metadata.AppendToOutgoingContext(ctx, "step", "stream"), desc, cc, method, opts...)
		}))

	_, err := backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
	_, md, _ := srv.Last()
	assert.Equal(t, []string{"1", "2"}, md.Get("step"))

	reply, err := backendtest.CallEcho(t, cc, "Fail")
	require.NoError(t, err)
	assert.Equal(t, "hello", reply)

	assert.Equal(t, []string{"one", "two", "three"}, converse(t, cc))
	_, md, _ = srv.Last()
	assert.Equal(t, []string{"stream"}, md.Get("step"))
	assert.Equal(t, []string{srv.Addr + "/test.Echo/Echo", srv.Addr + "/test.Echo/Fail", srv.Addr + "/test.Echo/Echo", srv.Addr + "/test.Echo/Echo"}, seen)
}

// TestInterceptorAnswers: an RPC that an interceptor answers needs no backend.
func TestInterceptorAnswers(t *testing.T) {
	refused := errors.New("refused by an interceptor")
	cc := newClient(t, "passthrough:///nowhere", grpcdial.WithInsecure(),
		grpcdial.WithUnaryInterceptor(func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
			reply.(*wrapperspb.StringValue).Value = "cached"
			return nil
		}),
		grpcdial.WithStreamInterceptor(func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
			return nil, refused
		}))
	reply, err := backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
	assert.Equal(t, "cached", reply)
	_, err = cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{}, "/test.Echo/Echo")
	require.ErrorIs(t, err, refused)
	assert.Equal(t, connectivity.Idle, cc.GetState())
}
