package compat

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/timeout"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestRetryInterceptor: go-grpc-middleware tries again what failed.
func TestRetryInterceptor(t *testing.T) {
	options := []retry.CallOption{retry.WithMax(4), retry.WithCodes(codes.Unavailable), retry.WithBackoff(retry.BackoffLinear(time.Millisecond))}
	set := settings{
		unary:  []grpc.UnaryClientInterceptor{retry.UnaryClientInterceptor(options...)},
		stream: []grpc.StreamClientInterceptor{retry.StreamClientInterceptor(options...)},
	}
	for name, channel := range channels {
		t.Run(name, func(t *testing.T) {
			srv := serve(t)
			client := testpb.NewTestServiceClient(channel(t, srv.addr, set))
			srv.fail(3)
			reply, err := client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{Payload: payload("x")})
			require.NoError(t, err)
			assert.Equal(t, "x", string(reply.Payload.Body))
			seen := srv.seen()
			require.Len(t, seen, 4)
			assert.Equal(t, []string{"3"}, seen[3].Get(retry.AttemptMetadataKey))

			srv.fail(10)
			_, err = client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{}, retry.WithMax(2))
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Len(t, srv.seen(), 2)

			srv.fail(2)
			stream, err := client.StreamingOutputCall(backendtest.Bounded(t), &testpb.StreamingOutputCallRequest{
				ResponseParameters: make([]*testpb.ResponseParameters, 2), Payload: payload("y")})
			require.NoError(t, err)
			for range 2 {
				m, err := stream.Recv()
				require.NoError(t, err)
				assert.Equal(t, "y", string(m.Payload.Body))
			}
			_, err = stream.Recv()
			assert.Equal(t, io.EOF, err)
			assert.Len(t, srv.seen(), 3)
		})
	}
}

// TestTimeoutInterceptor: the deadline that it sets is the RPC's.
func TestTimeoutInterceptor(t *testing.T) {
	set := settings{unary: []grpc.UnaryClientInterceptor{timeout.UnaryClientInterceptor(30 * time.Millisecond)}}
	for name, channel := range channels {
		t.Run(name, func(t *testing.T) {
			srv := serve(t)
			client := testpb.NewTestServiceClient(channel(t, srv.addr, set))
			srv.wait(time.Minute)
			_, err := client.UnaryCall(context.Background(), &testpb.SimpleRequest{}, grpc.WaitForReady(true))
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
			srv.wait(0)
			assert.Eventually(t, func() bool { // a busy machine may need longer than the deadline for one
				_, err := client.UnaryCall(context.Background(), &testpb.SimpleRequest{})
				return err == nil
			}, time.Minute, time.Millisecond)
		})
	}
}

// TestLoggingInterceptor: the log of calls is the same as with grpc-go's channel.
func TestLoggingInterceptor(t *testing.T) {
	logs := map[string][]string{}
	for name, channel := range channels {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var lines []string
			logger := logging.LoggerFunc(func(_ context.Context, level logging.Level, msg string, fields ...any) {
				mu.Lock()
				defer mu.Unlock()
				line := fmt.Sprintf("%v %s", level, msg)
				for it := logging.Fields(fields).Iterator(); it.Next(); {
					switch k, v := it.At(); k {
					case "grpc.start_time", "grpc.time_ms", "grpc.recv.duration", "grpc.send.duration", "grpc.request.deadline", "peer.address":
						line += " " + k
					default:
						line += fmt.Sprintf(" %s=%v", k, v)
					}
				}
				lines = append(lines, line)
			})
			events := logging.WithLogOnEvents(logging.StartCall, logging.FinishCall, logging.PayloadReceived, logging.PayloadSent)
			set := settings{
				unary:  []grpc.UnaryClientInterceptor{logging.UnaryClientInterceptor(logger, events)},
				stream: []grpc.StreamClientInterceptor{logging.StreamClientInterceptor(logger, events)},
			}
			srv := serve(t)
			client := testpb.NewTestServiceClient(channel(t, srv.addr, set))
			_, err := client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{Payload: payload("x")}, grpc.WaitForReady(true))
			require.NoError(t, err)
			_, err = client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.NotFound), Message: "nothing"}})
			require.Error(t, err)
			stream, err := client.FullDuplexCall(backendtest.Bounded(t))
			require.NoError(t, err)
			require.NoError(t, stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload("x")}))
			_, err = stream.Recv()
			require.NoError(t, err)
			require.NoError(t, stream.CloseSend())
			_, err = stream.Recv()
			require.Equal(t, io.EOF, err)
			logs[name] = lines
		})
	}
	assert.NotEmpty(t, logs["grpcdial"])
	assert.Equal(t, logs["grpc-go"], logs["grpcdial"])
}
