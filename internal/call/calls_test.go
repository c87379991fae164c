package call

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// TestCalls: each RPC is counted once, by how it ended for its caller.
func TestCalls(t *testing.T) {
	svc := streamService()
	svc.unary = func(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		if len(req.Payload.Body) == 0 {
			return nil, status.Error(codes.NotFound, "")
		}
		return echo(ctx, req)
	}
	ch := serve(t, Config{}, svc)
	assert.Zero(t, ch.Calls())

	before := time.Now()
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request("x"), new(testpb.SimpleResponse)))
	assert.Equal(t, codes.NotFound, status.Code(ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse))))

	well, err := ch.NewStream(soon(t), bidiDesc, bidiMethod)
	require.NoError(t, err)
	got := ch.Calls()
	assert.EqualValues(t, 3, got.Started)
	assert.EqualValues(t, 1, got.Succeeded)
	assert.EqualValues(t, 1, got.Failed)
	assert.WithinRange(t, got.LastStarted, before.Add(-time.Millisecond), time.Now())
	require.NoError(t, well.CloseSend())
	require.Equal(t, io.EOF, well.RecvMsg(new(testpb.StreamingOutputCallResponse)))

	ctx, cancel := context.WithCancel(soon(t))
	abandoned, err := ch.NewStream(ctx, bidiDesc, bidiMethod)
	require.NoError(t, err)
	cancel()
	assert.Equal(t, codes.Canceled, status.Code(abandoned.RecvMsg(new(testpb.StreamingOutputCallResponse))))
	_, err = ch.NewStream(ctx, bidiDesc, bidiMethod)
	assert.Equal(t, codes.Canceled, status.Code(err))

	requireNoneActive(t, ch)
	got = ch.Calls()
	assert.EqualValues(t, 5, got.Started)
	assert.EqualValues(t, 2, got.Succeeded)
	assert.EqualValues(t, 3, got.Failed)
}
