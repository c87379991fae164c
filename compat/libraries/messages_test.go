package libraries

import (
	"context"
	"testing"

	"buf.build/go/protovalidate"
	validation "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/protovalidate"
	testvalidate "github.com/grpc-ecosystem/go-grpc-middleware/v2/testing/testvalidate/v1"
	vtgrpc "github.com/planetscale/vtprotobuf/codec/grpc"
	"github.com/planetscale/vtprotobuf/types/known/wrapperspb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	plain "google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestVTProtobuf: messages are encoded and decoded by vtprotobuf's codec. A server that
// knows nothing of it replies.
func TestVTProtobuf(t *testing.T) {
	addr, agents := backendtest.Serve(t, func(*grpc.Server) {}, grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		m := new(plain.StringValue)
		if err := s.RecvMsg(m); err != nil {
			return err
		}
		m.Value += ", seen"
		return s.SendMsg(m)
	}))
	cc := dial(t, addr, grpcdial.WithDefaultCallOptions(grpc.ForceCodec(vtgrpc.Codec{})))

	request, reply := (*wrapperspb.StringValue)(plain.String("hello")), new(wrapperspb.StringValue)
	require.NoError(t, cc.Invoke(backendtest.Bounded(t), "/test.S/Unary", request, reply))
	assert.Equal(t, "hello, seen", reply.Value)
	s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.S/Stream")
	require.NoError(t, err)
	require.NoError(t, s.SendMsg(request))
	require.NoError(t, s.RecvMsg(reply))
	assert.Equal(t, "hello, seen", reply.Value)

	// The codec's own error for a message without its methods.
	err = cc.Invoke(backendtest.Bounded(t), "/test.S/Unary", new(emptypb.Empty), reply)
	require.ErrorContains(t, err, "missing vtprotobuf helpers")
	agents.AssertOurs(t, "/Unary", "/Stream")
}

type validated struct {
	testvalidate.UnimplementedTestValidateServiceServer
}

func (validated) Send(context.Context, *testvalidate.SendRequest) (*testvalidate.SendResponse, error) {
	return new(testvalidate.SendResponse), nil
}

// TestProtovalidate: a server's violations get to the client with their details, and an
// interceptor of the client's finds them before anything is sent.
func TestProtovalidate(t *testing.T) {
	validator, err := protovalidate.New()
	require.NoError(t, err)
	addr, agents := backendtest.Serve(t, func(s *grpc.Server) { testvalidate.RegisterTestValidateServiceServer(s, validated{}) },
		grpc.UnaryInterceptor(validation.UnaryServerInterceptor(validator)))
	bad := &testvalidate.SendRequest{Message: "no address"}

	client := testvalidate.NewTestValidateServiceClient(dial(t, addr))
	_, err = client.Send(backendtest.Bounded(t), &testvalidate.SendRequest{Message: "someone@example.com"})
	require.NoError(t, err)
	_, err = client.Send(backendtest.Bounded(t), bad)
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	assert.Len(t, status.Convert(err).Details(), 1)
	agents.AssertOurs(t, "TestValidateService/Send")

	checks := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if err := validator.Validate(req.(proto.Message)); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	nowhere := dial(t, backendtest.UnusedAddr(t), grpcdial.WithUnaryInterceptor(checks))
	_, err = testvalidate.NewTestValidateServiceClient(nowhere).Send(backendtest.Bounded(t), bad)
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}
