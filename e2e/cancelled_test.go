package e2e_test

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// A program that cancels an upload and then half-closes it, or sends, has cancelled it: the
// server does not take it for complete, and sees nothing that came after the cancellation.
func TestCancelledUploadIsNotComplete(t *testing.T) {
	ends := make(chan error, 1)
	received := make(chan string, 2)
	addr, _ := backendtest.Run(t, grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		for {
			m := new(wrapperspb.StringValue)
			if err := s.RecvMsg(m); err != nil {
				ends <- err
				return nil
			}
			received <- m.GetValue()
		}
	})))
	cc, err := grpcdial.NewClient("passthrough:///"+addr, grpcdial.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer cc.Close()

	for _, after := range []struct {
		name string
		do   func(*testing.T, grpc.ClientStream)
	}{
		{"CloseSend", func(t *testing.T, s grpc.ClientStream) { require.NoError(t, s.CloseSend()) }},
		{"SendMsg", func(t *testing.T, s grpc.ClientStream) {
			require.Equal(t, io.EOF, s.SendMsg(wrapperspb.String("late")))
		}},
	} {
		t.Run(after.name, func(t *testing.T) {
			for range 200 {
				ctx, cancel := context.WithCancel(backendtest.Bounded(t))
				stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/test.Service/Upload")
				require.NoError(t, err)
				require.NoError(t, stream.SendMsg(wrapperspb.String("first")))
				require.Equal(t, "first", <-received)

				cancel()
				after.do(t, stream)
				require.Equal(t, codes.Canceled, status.Code(<-ends))
				require.Equal(t, codes.Canceled, status.Code(stream.RecvMsg(new(wrapperspb.StringValue))))
				require.Empty(t, received)
			}
		})
	}
}
