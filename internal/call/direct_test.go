package call

import (
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestDirect(t *testing.T) {
	b := insecureBackend(t, startServer(t, streamService()))
	woken := 0
	ch := New(Config{Owner: owner{wake: func() { woken++ }}, DefaultOptions: []grpc.CallOption{grpc.MaxCallRecvMsgSize(1)}})
	ch.SetIdle(true)
	defer ch.Close()
	d := Direct{Channel: ch, Endpoint: b} // no picker, no resolver result
	reply := new(testpb.SimpleResponse)
	require.NoError(t, d.Invoke(soon(t), unaryMethod, request("hello"), reply))
	assert.Equal(t, "hello", string(reply.Payload.Body))

	cs, err := d.NewStream(soon(t), bidiDesc, bidiMethod)
	require.NoError(t, err)
	running, _ := ch.Active()
	assert.Zero(t, running, "the channel may go idle")
	assert.Zero(t, ch.Calls(), "they are not the program's")
	require.NoError(t, cs.SendMsg(chunk(3)))
	require.NoError(t, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)))
	require.NoError(t, cs.CloseSend())
	require.Equal(t, io.EOF, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)))
	assert.Zero(t, woken)

	abandoned, err := d.NewStream(soon(t), bidiDesc, bidiMethod)
	require.NoError(t, err)
	ch.Close()
	assert.ErrorIs(t, abandoned.RecvMsg(new(testpb.StreamingOutputCallResponse)), grpc.ErrClientConnClosing)
	assert.ErrorIs(t, d.Invoke(soon(t), unaryMethod, request(""), reply), grpc.ErrClientConnClosing)
	requireNoneActive(t, ch)
}

func TestDirectDoesNotTryAgain(t *testing.T) {
	attempts := 0
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
		attempts++
		s.SendTrailers(codes.Unavailable, "not now")
	})
	ch.SetConfig(retryConfig(t, quickPolicy, ""))
	d := Direct{Channel: ch, Endpoint: ch.picker.Load().picker.(fixed).sc.(Endpoint)}
	err := d.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Equal(t, 1, attempts)

	err = Direct{Channel: ch, Endpoint: &backend{}}.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse))
	assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
}
