package libraries

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// dial makes a channel without TLS.
func dial(t *testing.T, target string, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	cc, err := grpcdial.NewClient(target, append(opts, grpcdial.WithInsecure())...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// echo is the test service: it replies to unary RPCs with their payload, or with the status
// that they ask for, and to a bidirectional stream message by message.
type echo struct {
	testpb.UnimplementedTestServiceServer
}

func (echo) UnaryCall(_ context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if st := r.ResponseStatus; st != nil {
		return nil, status.Error(codes.Code(st.Code), st.Message)
	}
	return &testpb.SimpleResponse{Payload: r.Payload}, nil
}

func (echo) FullDuplexCall(s testpb.TestService_FullDuplexCallServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

// testService runs a server of the test service.
func testService(t *testing.T, opts ...grpc.ServerOption) (string, *backendtest.Agents) {
	return backendtest.Serve(t, func(s *grpc.Server) { testpb.RegisterTestServiceServer(s, echo{}) }, opts...)
}

func payload(text string) *testpb.Payload { return &testpb.Payload{Body: []byte(text)} }

// exercise makes RPCs of the test service: unary, one that fails, a bidirectional
// stream.
func exercise(t *testing.T, cc grpc.ClientConnInterface) {
	t.Helper()
	client := testpb.NewTestServiceClient(cc)
	reply, err := client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{Payload: payload("x")})
	require.NoError(t, err)
	assert.Equal(t, "x", string(reply.Payload.Body))
	_, err = client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.NotFound), Message: "nothing"}})
	assert.Equal(t, codes.NotFound, status.Code(err))
	assert.Equal(t, "nothing", status.Convert(err).Message())
	stream, err := client.FullDuplexCall(backendtest.Bounded(t))
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
