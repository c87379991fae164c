package e2e_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// The bytes of a large message are the program's again when SendMsg has returned, though the
// connection takes them from where the program has them.
func TestProgramUsesTheBytesOfALargeMessageAgain(t *testing.T) {
	const messages, size = 8, 300 << 10
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i), byte(i)}, size/2) }
	for _, tt := range securities(t) {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			addr, _ := backendtest.Serve(t, func(*grpc.Server) {}, append(tt.server, grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
				for i := 0; ; i++ {
					var m anypb.Any
					switch err := s.RecvMsg(&m); {
					case err == io.EOF && i == messages:
						return s.SendMsg(new(emptypb.Empty))
					case err != nil:
						return status.Errorf(codes.Internal, "message %d: %v", i, err)
					case m.TypeUrl != string(content(i)[:10]) || !bytes.Equal(m.Value, content(i)):
						return status.Errorf(codes.DataLoss, "message %d is %q and %d bytes", i, m.TypeUrl, len(m.Value))
					}
				}
			}))...)
			cc, err := grpcdial.Dial(addr, tt.client)
			require.NoError(t, err)
			defer cc.Close()
			s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true}, "/test.Service/Upload")
			require.NoError(t, err)
			value := make([]byte, size)
			for i := range messages {
				copy(value, content(i))
				if err := s.SendMsg(&anypb.Any{TypeUrl: string(content(i)[:10]), Value: value}); err != nil {
					break // RecvMsg returns why
				}
				clear(value)
			}
			require.NoError(t, s.CloseSend())
			require.NoError(t, s.RecvMsg(new(emptypb.Empty)))
		})
	}
}
