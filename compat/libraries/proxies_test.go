package libraries

import (
	"context"
	"testing"

	"github.com/fullstorydev/grpchan"
	"github.com/mwitkow/grpc-proxy/proxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestGRPCProxy: the backend of a grpc-proxy is reached on our channel.
func TestGRPCProxy(t *testing.T) {
	backend, agents := testService(t)
	cc := dial(t, backend, grpcdial.WithDefaultCallOptions(grpc.CallCustomCodec(proxy.Codec()))) // the library's own
	director := func(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return metadata.NewOutgoingContext(ctx, md), cc.GRPC(), nil
	}
	front, _ := backendtest.Serve(t, func(*grpc.Server) {}, grpc.CustomCodec(proxy.Codec()), // likewise
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
	var channel grpchan.Channel = dial(t, addr)
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
