package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

var (
	unaryDesc  = &grpc.StreamDesc{}
	clientDesc = &grpc.StreamDesc{ClientStreams: true}
	serverDesc = &grpc.StreamDesc{ServerStreams: true}
	bidiDesc   = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
)

// streamService sums, repeats and echoes.
func streamService() *testService {
	return &testService{
		unary: echo,
		client: func(st testpb.TestService_StreamingInputCallServer) error {
			sum := 0
			for {
				req, err := st.Recv()
				if err == io.EOF {
					return st.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
				} else if err != nil {
					return err
				}
				sum += len(req.Payload.Body)
			}
		},
		server: func(req *testpb.StreamingOutputCallRequest, st testpb.TestService_StreamingOutputCallServer) error {
			for _, p := range req.ResponseParameters {
				if err := st.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.Size)}}); err != nil {
					return err
				}
			}
			return nil
		},
		bidi: func(st testpb.TestService_FullDuplexCallServer) error {
			md, _ := metadata.FromIncomingContext(st.Context())
			if v := md["echo"]; v != nil {
				if err := st.SendHeader(metadata.MD{"echo": v}); err != nil {
					return err
				}
			}
			st.SetTrailer(metadata.Pairs("bye", "now"))
			for {
				req, err := st.Recv()
				if err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				if s := req.ResponseStatus; s != nil {
					return status.Error(codes.Code(s.Code), s.Message)
				}
				if err := st.Send(&testpb.StreamingOutputCallResponse{Payload: req.Payload}); err != nil {
					return err
				}
			}
		},
	}
}

func chunk(n int) *testpb.StreamingOutputCallRequest {
	return &testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: make([]byte, n)}}
}

// finished counts OnFinish.
type finished struct {
	mu   sync.Mutex
	errs []error
}

func (f *finished) option() grpc.CallOption {
	return grpc.OnFinish(func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.errs = append(f.errs, err)
	})
}

// require waits until OnFinish ran, which may be on another goroutine.
func (f *finished) require(t *testing.T, code codes.Code) {
	t.Helper()
	require.Eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.errs) > 0 }, time.Minute, time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Len(t, f.errs, 1)
	require.Equal(t, code, status.Code(f.errs[0]), "%v", f.errs[0])
}

func TestGeneratedStubs(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	stub := testpb.NewTestServiceClient(ch)

	up, err := stub.StreamingInputCall(soon(t))
	require.NoError(t, err)
	for range 10 {
		require.NoError(t, up.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, 7)}}))
	}
	sum, err := up.CloseAndRecv()
	require.NoError(t, err)
	assert.EqualValues(t, 70, sum.AggregatedPayloadSize)

	down, err := stub.StreamingOutputCall(soon(t), &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1}, {Size: 100000}, {Size: 3}}})
	require.NoError(t, err)
	for _, want := range []int{1, 100000, 3} {
		m, err := down.Recv()
		require.NoError(t, err)
		assert.Len(t, m.Payload.Body, want)
	}
	_, err = down.Recv()
	require.Equal(t, io.EOF, err)

	both, err := stub.FullDuplexCall(soon(t))
	require.NoError(t, err)
	for n := range 50 {
		require.NoError(t, both.Send(chunk(n*1000)))
		m, err := both.Recv()
		require.NoError(t, err)
		assert.Len(t, m.Payload.GetBody(), n*1000)
	}
	require.NoError(t, both.CloseSend())
	_, err = both.Recv()
	require.Equal(t, io.EOF, err)
	assert.Equal(t, []string{"now"}, both.Trailer()["bye"])
	requireNoneActive(t, ch)
}

func TestUnaryThroughNewStream(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	var f finished
	cs, err := ch.NewStream(soon(t), unaryDesc, unaryMethod, f.option())
	require.NoError(t, err)
	require.NoError(t, cs.SendMsg(request("hello")))
	require.NoError(t, cs.CloseSend())
	require.NoError(t, cs.CloseSend())
	reply := new(testpb.SimpleResponse)
	require.NoError(t, cs.RecvMsg(reply))
	assert.Equal(t, "hello", string(reply.Payload.Body))
	f.require(t, codes.OK)
	assert.Equal(t, io.EOF, cs.RecvMsg(reply))
	requireNoneActive(t, ch)
}

func TestSendAndReceiveAtTheSameTime(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod)
	require.NoError(t, err)
	const n = 500
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			if err := cs.SendMsg(chunk(i * 37 % 5000)); err != nil {
				sent <- err
				return
			}
		}
		sent <- cs.CloseSend()
	}()
	for i := range n {
		m := new(testpb.StreamingOutputCallResponse)
		require.NoError(t, cs.RecvMsg(m))
		require.Len(t, m.Payload.GetBody(), i*37%5000)
	}
	require.Equal(t, io.EOF, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)))
	require.NoError(t, <-sent)
}

func TestHeaderTrailerAndContext(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	ctx := metadata.AppendToOutgoingContext(soon(t), "echo", "ping")
	var header, trailer metadata.MD
	var p peer.Peer
	cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&p))
	require.NoError(t, err)
	assert.Equal(t, metadata.MD{}, cs.Trailer(), "before the end: a map that a program may write to")
	md, err := cs.Header()
	require.NoError(t, err)
	assert.Equal(t, []string{"ping"}, md["echo"])
	sctx := cs.Context()
	sp, ok := peer.FromContext(sctx)
	require.True(t, ok)
	assert.Contains(t, sp.Addr.String(), "127.0.0.1:")
	assert.Equal(t, sctx, cs.Context())
	require.NoError(t, sctx.Err())

	require.NoError(t, cs.CloseSend())
	require.Equal(t, io.EOF, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)))
	assert.Error(t, sctx.Err(), "the stream's context ends with it")
	assert.Equal(t, []string{"now"}, cs.Trailer()["bye"])
	assert.Equal(t, []string{"ping"}, header["echo"])
	assert.Equal(t, []string{"now"}, trailer["bye"])
	assert.Equal(t, sp.Addr, p.Addr)
	md, err = cs.Header()
	require.NoError(t, err)
	assert.Equal(t, []string{"ping"}, md["echo"], "after the end")
}

func TestStreamStatus(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	var f finished
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, f.option())
	require.NoError(t, err)
	req := chunk(0)
	req.ResponseStatus = &testpb.EchoStatus{Code: int32(codes.Aborted), Message: "enough"}
	require.NoError(t, cs.SendMsg(req))
	// SendMsg returns io.EOF at last; RecvMsg returns the cause.
	require.Eventually(t, func() bool { return cs.SendMsg(chunk(1)) == io.EOF }, time.Minute, time.Millisecond)
	err = cs.RecvMsg(new(testpb.StreamingOutputCallResponse))
	assert.Equal(t, codes.Aborted, status.Code(err))
	assert.ErrorIs(t, err, status.Error(codes.Aborted, "enough"))
	f.require(t, codes.Aborted)
	assert.Equal(t, err, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)), "again the same")
	assert.Equal(t, io.EOF, cs.SendMsg(chunk(1)))
	requireNoneActive(t, ch)
}

func TestSendMsgErrorsEndTheStream(t *testing.T) {
	tests := []struct {
		name string
		send func(grpc.ClientStream) error
		code codes.Code
	}{
		{"after CloseSend", func(cs grpc.ClientStream) error { _ = cs.CloseSend(); return cs.SendMsg(chunk(1)) }, codes.Internal},
		{"what cannot be encoded", func(cs grpc.ClientStream) error { return cs.SendMsg("text") }, codes.Internal},
		{"what is too large", func(cs grpc.ClientStream) error { return cs.SendMsg(chunk(5000)) }, codes.ResourceExhausted},
	}
	ch := serve(t, Config{}, &testService{bidi: func(st testpb.TestService_FullDuplexCallServer) error {
		<-st.Context().Done()
		return st.Context().Err()
	}})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f finished
			cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, f.option(), grpc.MaxCallSendMsgSize(4000))
			require.NoError(t, err)
			err = tt.send(cs)
			require.Equal(t, tt.code, status.Code(err), "%v", err)
			f.require(t, tt.code)
			assert.Equal(t, err, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)))
			requireNoneActive(t, ch)
		})
	}
}

func TestReceivedMessageThatIsTooLargeEndsTheStream(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	var f finished
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, grpc.MaxCallRecvMsgSize(100), f.option())
	require.NoError(t, err)
	require.NoError(t, cs.SendMsg(chunk(1000)))
	err = cs.RecvMsg(new(testpb.StreamingOutputCallResponse))
	assert.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
	f.require(t, codes.ResourceExhausted)
	requireNoneActive(t, ch)
}

func TestStreamCancelAndDeadline(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	t.Run("cancel while receiving", func(t *testing.T) {
		ctx, cancel := context.WithCancel(soon(t))
		var f finished
		cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod, f.option())
		require.NoError(t, err)
		require.NoError(t, cs.SendMsg(chunk(1)))
		require.NoError(t, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)))
		go cancel()
		err = cs.RecvMsg(new(testpb.StreamingOutputCallResponse))
		assert.Equal(t, codes.Canceled, status.Code(err), "%v", err)
		assert.ErrorIs(t, err, context.Canceled)
		f.require(t, codes.Canceled)
	})
	t.Run("deadline", func(t *testing.T) {
		var f finished
		cs, err := ch.NewStream(timeout(t, aWhile), bidiDesc, bidiMethod, f.option())
		require.NoError(t, err)
		err = cs.RecvMsg(new(testpb.StreamingOutputCallResponse))
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		assert.Equal(t, StageReply, err.(*Error).Stage)
		f.require(t, codes.DeadlineExceeded)
	})
	t.Run("deadline in Header", func(t *testing.T) {
		var f finished
		cs, err := ch.NewStream(timeout(t, aWhile), bidiDesc, bidiMethod, f.option())
		require.NoError(t, err)
		md, err := cs.Header()
		assert.NoError(t, err)
		assert.Nil(t, md)
		f.require(t, codes.DeadlineExceeded)
		assert.Equal(t, codes.DeadlineExceeded, status.Code(cs.RecvMsg(new(testpb.StreamingOutputCallResponse))))
	})
	t.Run("deadline while the server does not read", func(t *testing.T) {
		ch := serve(t, Config{}, &testService{bidi: func(st testpb.TestService_FullDuplexCallServer) error {
			<-st.Context().Done()
			return st.Context().Err()
		}})
		cs, err := ch.NewStream(timeout(t, aWhile), bidiDesc, bidiMethod)
		require.NoError(t, err)
		for err == nil {
			err = cs.SendMsg(chunk(100000))
		}
		assert.Equal(t, io.EOF, err)
		assert.Equal(t, codes.DeadlineExceeded, status.Code(cs.RecvMsg(new(testpb.StreamingOutputCallResponse))))
	})
	requireNoneActive(t, ch)
}

// TestAbandonedStreams: the end of the context ends a stream that the program no longer
// receives from.
func TestAbandonedStreams(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	ctx, cancel := context.WithCancel(soon(t))
	const n = 100
	var f [n]finished
	// The first one brings what belongs to the connection to life.
	_, err := ch.NewStream(ctx, bidiDesc, bidiMethod, f[0].option())
	require.NoError(t, err)
	before := clientGoroutines()
	for i := range n - 1 {
		cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod, f[i+1].option())
		require.NoError(t, err)
		require.NoError(t, cs.SendMsg(chunk(10)))
		if i%2 == 0 {
			require.NoError(t, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)))
		}
	}
	assert.LessOrEqual(t, clientGoroutines(), before, "no goroutine for a stream at rest")
	cancel()
	for i := range f {
		f[i].require(t, codes.Canceled)
	}
	requireNoneActive(t, ch)
}

// clientGoroutines counts goroutines that this package started.
func clientGoroutines() int {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	return strings.Count(string(buf), "created by github.com/grpcdial/grpcdial/internal/call.(") +
		strings.Count(string(buf), "created by context")
}

func TestCloseEndsStreams(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	var abandoned, receiving finished
	_, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, abandoned.option())
	require.NoError(t, err)
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, receiving.option())
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() { result <- cs.RecvMsg(new(testpb.StreamingOutputCallResponse)) }()
	ch.Close()
	assert.ErrorIs(t, <-result, grpc.ErrClientConnClosing)
	abandoned.require(t, codes.Canceled)
	receiving.require(t, codes.Canceled)
	assert.ErrorIs(t, abandoned.errs[0], grpc.ErrClientConnClosing)
	requireNoneActive(t, ch)
}

func TestConnectionLoss(t *testing.T) {
	started := make(chan struct{}, 2)
	ch := New(Config{})
	b := insecureBackend(t, startServer(t, &testService{
		unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			started <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		},
		bidi: func(st testpb.TestService_FullDuplexCallServer) error {
			started <- struct{}{}
			<-st.Context().Done()
			return nil
		},
	}))
	ch.SetPicker(fixed{b})
	ch.SetResolved(true)
	run := func(t *testing.T) (unary, stream error) {
		cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod)
		require.NoError(t, err)
		result := make(chan error, 1)
		go func() { result <- ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse)) }()
		<-started
		<-started
		lost := errors.New("the cable was pulled")
		if t.Name() == "TestConnectionLoss/lost" {
			b.Conn().Close(lost, nil)
		} else {
			b.Conn().Close(lost, status.Convert(grpc.ErrClientConnClosing))
		}
		return <-result, cs.RecvMsg(new(testpb.StreamingOutputCallResponse))
	}
	t.Run("lost", func(t *testing.T) {
		unary, stream := run(t)
		for _, err := range []error{unary, stream} {
			assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
			assert.ErrorContains(t, err, "the cable was pulled")
			assert.NotErrorIs(t, err, grpc.ErrClientConnClosing)
			require.Len(t, err.(*Error).Unwrap(), 1)
		}
	})
	again := insecureBackend(t, b.Conn().Peer().Addr.String())
	b.transport.Store(again.Transport())
	t.Run("closed", func(t *testing.T) {
		unary, stream := run(t)
		for _, err := range []error{unary, stream} {
			assert.Equal(t, codes.Canceled, status.Code(err), "%v", err)
			assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
		}
	})
	requireNoneActive(t, ch)
}

func TestNewStreamThatFails(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	var f finished
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, f.option(), grpc.UseCompressor("nobody-registered-this"))
	assert.Nil(t, cs)
	assert.Equal(t, codes.Internal, status.Code(err))
	f.require(t, codes.Internal)

	var f2 finished
	ctx := metadata.NewOutgoingContext(soon(t), metadata.MD{"bad key": {"x"}})
	_, err = ch.NewStream(ctx, bidiDesc, bidiMethod, f2.option())
	assert.Equal(t, codes.Internal, status.Code(err))
	f2.require(t, codes.Internal)
	requireNoneActive(t, ch)
}

func TestManyStreamsAtOnce(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for i := range 32 {
		wg.Go(func() {
			for n := range 20 {
				if err := pingPong(ch, soon(t), (i+1)*100+n); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	requireNoneActive(t, ch)
}

func pingPong(ch *Channel, ctx context.Context, size int) error {
	cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod)
	if err != nil {
		return err
	}
	for range 3 {
		if err := cs.SendMsg(chunk(size)); err != nil {
			return err
		}
		m := new(testpb.StreamingOutputCallResponse)
		if err := cs.RecvMsg(m); err != nil {
			return err
		}
		if len(m.Payload.Body) != size {
			return fmt.Errorf("want %d bytes, got %d", size, len(m.Payload.Body))
		}
	}
	if err := cs.CloseSend(); err != nil {
		return err
	}
	if err := cs.RecvMsg(new(testpb.StreamingOutputCallResponse)); err != io.EOF {
		return fmt.Errorf("want io.EOF, got %v", err)
	}
	return nil
}
