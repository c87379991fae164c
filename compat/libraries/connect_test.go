package libraries

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestConnectServer: a server of connect-go's, which is net/http's, replies to our
// channel: metadata, statuses with details, streams.
func TestConnectServer(t *testing.T) {
	const service = "/grpc.testing.TestService/"
	mux := http.NewServeMux()
	mux.Handle(service+"UnaryCall", connect.NewUnaryHandler(service+"UnaryCall",
		func(_ context.Context, r *connect.Request[testpb.SimpleRequest]) (*connect.Response[testpb.SimpleResponse], error) {
			if st := r.Msg.ResponseStatus; st != nil {
				failed := connect.NewError(connect.Code(st.Code), nil)
				if st.Message != "" {
					detail, err := connect.NewErrorDetail(durationpb.New(7))
					if err != nil {
						return nil, err
					}
					failed.AddDetail(detail)
				}
				failed.Meta().Set("why", "asked for")
				return nil, failed
			}
			reply := connect.NewResponse(&testpb.SimpleResponse{Payload: r.Msg.Payload})
			reply.Header().Set("own", r.Header().Get("own"))
			reply.Trailer().Set("end", "1")
			return reply, nil
		}))
	mux.Handle(service+"FullDuplexCall", connect.NewBidiStreamHandler(service+"FullDuplexCall",
		func(_ context.Context, s *connect.BidiStream[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
			for {
				r, err := s.Receive()
				if err != nil {
					return nil
				}
				if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: r.Payload}); err != nil {
					return err
				}
			}
		}))
	agents := new(backendtest.Agents)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agents.Note(r.URL.Path, r.UserAgent())
		mux.ServeHTTP(w, r)
	}))
	web.Config.Protocols = new(http.Protocols)
	web.Config.Protocols.SetUnencryptedHTTP2(true)
	web.Start()
	defer web.Close()

	cc := dial(t, web.Listener.Addr().String())
	client := testpb.NewTestServiceClient(cc)
	var header, trailer metadata.MD
	reply, err := client.UnaryCall(metadata.AppendToOutgoingContext(backendtest.Bounded(t), "own", "mine"), &testpb.SimpleRequest{Payload: payload("x")},
		grpc.Header(&header), grpc.Trailer(&trailer))
	require.NoError(t, err)
	assert.Equal(t, "x", string(reply.Payload.Body))
	assert.Equal(t, []string{"mine"}, header.Get("own"))
	assert.Equal(t, []string{"1"}, trailer.Get("end"))
	_, err = client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.NotFound), Message: "detail"}}, grpc.Trailer(&trailer))
	require.Equal(t, codes.NotFound, status.Code(err))
	require.Len(t, status.Convert(err).Details(), 1)
	assert.Equal(t, []string{"asked for"}, trailer.Get("why"))
	stream, err := client.FullDuplexCall(backendtest.Bounded(t))
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload("y")}))
		_, err := stream.Recv()
		require.NoError(t, err)
	}
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.Equal(t, io.EOF, err)
	agents.AssertOurs(t, "UnaryCall", "FullDuplexCall")
}
