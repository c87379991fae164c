package e2e_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// A server learns of a server stream on which the program has sent nothing yet as soon as the
// program waits for it, or gives it up.
func TestServerStreamWithoutItsMessage(t *testing.T) {
	ended := make(chan struct{}, 1)
	addr, _ := backendtest.Run(t, grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		switch method, _ := grpc.MethodFromServerStream(s); method {
		case "/test.Service/Refuse":
			return status.Error(codes.PermissionDenied, "not you")
		case "/test.Service/Greet":
			return s.SendHeader(metadata.Pairs("greeting", "hello"))
		default:
			<-s.Context().Done()
			ended <- struct{}{}
			return s.Context().Err()
		}
	})))
	cc, err := grpcdial.NewClient("passthrough:///"+addr, grpcdial.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer cc.Close()
	open := func(ctx context.Context, method string) grpc.ClientStream {
		t.Helper()
		s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Service/"+method)
		require.NoError(t, err)
		return s
	}

	header, err := open(backendtest.Bounded(t), "Greet").Header()
	require.NoError(t, err)
	require.Equal(t, []string{"hello"}, header["greeting"])

	err = open(backendtest.Bounded(t), "Refuse").RecvMsg(new(wrapperspb.StringValue))
	require.Equal(t, codes.PermissionDenied, status.Code(err))

	ctx, cancel := context.WithCancel(backendtest.Bounded(t))
	s := open(ctx, "Wait")
	cancel()
	require.Equal(t, codes.Canceled, status.Code(s.RecvMsg(new(wrapperspb.StringValue))))
	<-ended
}
