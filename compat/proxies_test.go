package compat

import (
	"context"
	"io"
	"testing"

	"github.com/fullstorydev/grpchan"
	"github.com/mwitkow/grpc-proxy/proxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// exercise makes RPCs of the test service: unary, one that fails, a bidirectional
// stream.
func exercise(t *testing.T, cc grpc.ClientConnInterface) {
	t.Helper()
	client := testpb.NewTestServiceClient(cc)
	reply, err := client.UnaryCall(soon(t), &testpb.SimpleRequest{Payload: payload("x")})
	require.NoError(t, err)
	assert.Equal(t, "x", string(reply.Payload.Body))
	_, err = client.UnaryCall(soon(t), &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.NotFound), Message: "nothing"}})
	assert.Equal(t, codes.NotFound, status.Code(err))
	assert.Equal(t, "nothing", status.Convert(err).Message())
	stream, err := client.FullDuplexCall(soon(t))
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload("y")}))
		reply, err := stream.Recv()
		require.NoError(t, err)
		assert.Equal(t, "y", string(reply.Payload.Body))
	}
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.Equal(t, io.EOF, err)
}

// testService runs a server of the test service.
func testService(t *testing.T) (string, *backendtest.Agents) {
	return backendtest.Serve(t, func(s *grpc.Server) { testpb.RegisterTestServiceServer(s, new(server)) })
}

// TestGRPCProxy: the backend of a grpc-proxy is reached on our channel.
func TestGRPCProxy(t *testing.T) {
	backend, agents := testService(t)
	cc, err := grpcdial.NewClient(backend, grpcdial.WithInsecure(),
		grpcdial.WithDefaultCallOptions(grpc.CallCustomCodec(proxy.Codec()))) //nolint:staticcheck // the library's own
	require.NoError(t, err)
	defer cc.Close()
	director := func(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return metadata.NewOutgoingContext(ctx, md), cc.GRPC(), nil
	}
	front, _ := backendtest.Serve(t, func(*grpc.Server) {}, grpc.CustomCodec(proxy.Codec()), //nolint:staticcheck // likewise
		grpc.UnknownServiceHandler(proxy.TransparentHandler(director)))
	conn, err := grpc.NewClient(front, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	exercise(t, conn)
	agents.AssertOurs(t, "UnaryCall", "FullDuplexCall")
}

// TestGRPCChan: interceptors of grpchan's wrap our channel, which is a grpchan.Channel.
func TestGRPCChan(t *testing.T) {
	addr, agents := testService(t)
	var methods []string
	var channel grpchan.Channel = dial(t, addr, settings{})
	exercise(t, grpchan.InterceptClientConn(channel,
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			methods = append(methods, method)
			return invoker(ctx, method, req, reply, cc, opts...)
		},
		func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			methods = append(methods, method)
			return streamer(ctx, desc, cc, method, opts...)
		}))
	const service = "/grpc.testing.TestService/"
	assert.Equal(t, []string{service + "UnaryCall", service + "UnaryCall", service + "FullDuplexCall"}, methods)
	agents.AssertOurs(t, "UnaryCall", "FullDuplexCall")
}
