package call

import (
	"context"
	"strings"
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
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestUnary(t *testing.T) {
	ch := serve(t, Config{}, &testService{unary: echo})
	reply := new(testpb.SimpleResponse)
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request("hello"), reply))
	assert.Equal(t, "hello", string(reply.Payload.Body))
	requireNoneActive(t, ch)
}

func TestUnaryMetadataBothWays(t *testing.T) {
	ch := serve(t, Config{}, &testService{unary: func(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if err := grpc.SendHeader(ctx, metadata.MD{"h-text": md["c-text"], "h-bin": md["c-bin"]}); err != nil {
			return nil, err
		}
		if err := grpc.SetTrailer(ctx, metadata.Pairs("t-text", "a", "t-text", "b", "t-bin", "\xff\x00")); err != nil {
			return nil, err
		}
		return &testpb.SimpleResponse{Username: strings.Join(md[":authority"], ",")}, nil
	}})
	ctx := metadata.NewOutgoingContext(soon(t), metadata.Pairs("c-text", "one", "c-bin", "\x01\xfe,"))
	ctx = metadata.AppendToOutgoingContext(ctx, "c-text", "two")
	var header, trailer metadata.MD
	var p peer.Peer
	reply := new(testpb.SimpleResponse)
	require.NoError(t, ch.Invoke(ctx, unaryMethod, request(""), reply, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&p)))
	assert.Equal(t, []string{"one", "two"}, header["h-text"])
	assert.Equal(t, []string{"\x01\xfe,"}, header["h-bin"])
	assert.Equal(t, []string{"a", "b"}, trailer["t-text"])
	assert.Equal(t, []string{"\xff\x00"}, trailer["t-bin"])
	assert.Equal(t, "test.example", reply.Username)
	assert.Contains(t, p.Addr.String(), "127.0.0.1:")
}

func TestUnaryStatusWithDetails(t *testing.T) {
	st, err := status.New(codes.NotFound, "no such thing: ünïcode\n\t%").WithDetails(wrapperspb.String("7"))
	require.NoError(t, err)
	ch := serve(t, Config{}, &testService{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("why", "because"))
		return nil, st.Err()
	}})
	var trailer metadata.MD
	err = ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse), grpc.Trailer(&trailer))
	got, ok := status.FromError(err)
	require.True(t, ok)
	assert.Equal(t, codes.NotFound, got.Code())
	assert.Equal(t, st.Message(), got.Message())
	require.Len(t, got.Details(), 1)
	assert.Equal(t, "7", got.Details()[0].(*wrapperspb.StringValue).Value)
	assert.Equal(t, []string{"because"}, trailer["why"])
	require.ErrorIs(t, err, st.Err())
}

func TestUnaryDeadline(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Serve(func(*h2test.Stream) {}) // never answers
	ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
	err := ch.Invoke(timeout(t, aWhile), unaryMethod, request(""), new(testpb.SimpleResponse))
	require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	e, ok := err.(*Error)
	require.True(t, ok)
	assert.Equal(t, StageReply, e.Stage)
	assert.Contains(t, e.Peer, "127.0.0.1:")
	assert.GreaterOrEqual(t, e.Elapsed, aWhile-time.Millisecond)
	assert.Regexp(t, `context deadline exceeded after \S+s: sent, waiting for 127\.0\.0\.1:\d+ to answer$`, err.Error())
	requireNoneActive(t, ch)
}

// TestDeadlineThatTheServerNoticesFirst: its answer is the same event.
func TestDeadlineThatTheServerNoticesFirst(t *testing.T) {
	ch := serve(t, Config{}, &testService{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		if _, ok := ctx.Deadline(); !ok {
			return nil, status.Error(codes.FailedPrecondition, "no deadline")
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	for range 20 {
		err := ch.Invoke(timeout(t, 5*time.Millisecond), unaryMethod, request(""), new(testpb.SimpleResponse))
		require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
}

// TestDeadlineOfTheServersOwn is not the RPC's.
func TestDeadlineOfTheServersOwn(t *testing.T) {
	ch := serve(t, Config{}, &testService{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return nil, status.Error(codes.DeadlineExceeded, "a backend of mine was slow")
	}})
	err := ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse))
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}

func TestUnaryCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(soon(t))
	ch := serve(t, Config{}, &testService{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	err := ch.Invoke(ctx, unaryMethod, request(""), new(testpb.SimpleResponse))
	require.Equal(t, codes.Canceled, status.Code(err), "%v", err)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, grpc.ErrClientConnClosing)
}

func TestUnaryContextThatHasEnded(t *testing.T) {
	ch := serve(t, Config{}, &testService{unary: echo})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	finished := 0
	err := ch.Invoke(ctx, unaryMethod, request(""), new(testpb.SimpleResponse), grpc.OnFinish(func(error) { finished++ }))
	require.Equal(t, codes.Canceled, status.Code(err), "%v", err)
	assert.Equal(t, 1, finished)
}

// TestOptionsThatAskAtTheEnd come in every form in which options may be written.
func TestOptionsThatAskAtTheEnd(t *testing.T) {
	ch := serve(t, Config{DefaultOptions: []grpc.CallOption{ownOption{}}}, &testService{unary: func(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		_ = grpc.SetHeader(ctx, metadata.Pairs("h", "1"))
		return echo(ctx, req)
	}})
	var direct, pointed, embedded metadata.MD
	var finished []int
	finish := func(n int) grpc.OnFinishCallOption {
		return grpc.OnFinishCallOption{OnFinish: func(error) { finished = append(finished, n) }}
	}
	pointer := finish(2)
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse),
		grpc.Header(&direct),
		&grpc.HeaderCallOption{HeaderAddr: &pointed},
		embedsHeader{grpc.HeaderCallOption{HeaderAddr: &embedded}},
		grpc.HeaderCallOption{}, grpc.TrailerCallOption{}, grpc.PeerCallOption{}, // nowhere to put it
		grpc.WaitForReady(true),
		finish(1), &pointer, embedsInterface{finish(3)},
	))
	assert.Equal(t, []string{"1"}, direct["h"])
	assert.Equal(t, direct, pointed)
	assert.Equal(t, direct, embedded)
	assert.Equal(t, []int{1, 2, 3}, finished)
}

func TestHeaderIncludesTheContentType(t *testing.T) {
	ch := serve(t, Config{}, &testService{unary: echo})
	var header metadata.MD
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse), grpc.Header(&header)))
	assert.Equal(t, []string{"application/grpc"}, header["content-type"], "as in grpc-go")
}
