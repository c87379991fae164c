package e2e_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// hedgeable are the kinds of RPCs with one request. Each function makes an RPC and returns
// the replies, joined by spaces.
var hedgeable = map[string]func(context.Context, grpc.ClientConnInterface, string, ...grpc.CallOption) (string, error){
	"unary": func(ctx context.Context, cc grpc.ClientConnInterface, request string, opts ...grpc.CallOption) (string, error) {
		reply := new(wrapperspb.StringValue)
		err := cc.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String(request), reply, opts...)
		return reply.Value, err
	},
	"a server stream":   streamed(&grpc.StreamDesc{ServerStreams: true}),
	"unary as a stream": streamed(&grpc.StreamDesc{}),
}

func streamed(desc *grpc.StreamDesc) func(context.Context, grpc.ClientConnInterface, string, ...grpc.CallOption) (string, error) {
	return func(ctx context.Context, cc grpc.ClientConnInterface, request string, opts ...grpc.CallOption) (string, error) {
		s, err := cc.NewStream(ctx, desc, "/test.Echo/Echo", opts...)
		if err != nil {
			return "", err
		}
		if err := s.SendMsg(wrapperspb.String(request)); err != nil {
			return "", err
		}
		if err := s.CloseSend(); err != nil {
			return "", err
		}
		var replies []string
		for {
			reply := new(wrapperspb.StringValue)
			err := s.RecvMsg(reply)
			if err == io.EOF {
				return strings.Join(replies, " "), nil
			} else if err != nil {
				return strings.Join(replies, " "), err
			}
			if replies = append(replies, reply.Value); !desc.ServerStreams {
				return replies[0], nil
			}
		}
	}
}

var serverStream = hedgeable["a server stream"]

// TestHedgedStreamIsFaster: a stream whose first server does not respond goes on with
// another one, to its end. The loser is cancelled at its server when the other responds.
func TestHedgedStreamIsFaster(t *testing.T) {
	first := atomic.Bool{}
	script := func(ctx context.Context, _ int) error {
		if first.CompareAndSwap(false, true) {
			return hang(ctx)
		}
		return nil
	}
	servers := []*scripted{serveScript(t, script), serveScript(t, script)}
	for _, s := range servers {
		s.replies = 100
	}
	handler := new(ends)
	cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: 20 * time.Millisecond}, nil, servers, grpcdial.WithStatsHandler(handler))
	finished := 0
	var p peer.Peer
	var header, trailer metadata.MD
	began := time.Now()
	replies, err := serverStream(backendtest.Bounded(t), cc, "hello", grpc.Peer(&p), grpc.Header(&header), grpc.Trailer(&trailer),
		grpc.OnFinish(func(err error) { finished++; assert.NoError(t, err) }))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(began), 20*time.Millisecond)
	var slow, fast *scripted
	for i, s := range servers {
		if s.calls.Load() > 0 && s.attempts()[0] == "" {
			slow, fast = s, servers[1-i]
		}
	}
	require.NotNil(t, slow)
	assert.Equal(t, []string{"1"}, fast.attempts(), "another backend, with the number of the attempt")
	assert.Equal(t, fast.addr, p.Addr.String())
	assert.Equal(t, []string{fast.addr}, header["server"])
	assert.Equal(t, []string{fast.addr}, trailer["server"])
	all := strings.Fields(replies)
	require.Len(t, all, 100)
	assert.Equal(t, "hello@"+fast.addr+"#99", all[99])
	assert.Equal(t, 1, finished)
	require.Eventually(t, func() bool { return slow.cancelled.Load() == 1 && handler.cancelled.Load() == 1 }, time.Minute, time.Millisecond)
	assert.EqualValues(t, 2, handler.begun.Load())
	assert.EqualValues(t, 2, handler.ended.Load())
	require.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
}

// TestHedgedStreamSteps: Header waits for the response too, and a stream whose request
// was not sent yet is not hedged.
func TestHedgedStreamSteps(t *testing.T) {
	s := serveScript(t, func(ctx context.Context, n int) error {
		if n == 1 {
			return hang(ctx)
		}
		return nil
	})
	cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 5, HedgingDelay: 5 * time.Millisecond}, nil, []*scripted{s})
	stream, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo")
	require.NoError(t, err)
	received := make(chan error, 1)
	go func() { received <- stream.RecvMsg(new(wrapperspb.StringValue)) }() // before there is a request
	backendtest.Eventually(t, func() bool { return s.calls.Load() == 1 }, "the first attempt begins with the stream")
	require.NoError(t, stream.SendMsg(wrapperspb.String("x")))
	md, err := stream.Header()
	require.NoError(t, err)
	assert.Equal(t, []string{s.addr}, md["server"])
	require.NoError(t, <-received)
	require.Equal(t, io.EOF, stream.RecvMsg(new(wrapperspb.StringValue)))
	assert.Equal(t, []string{s.addr}, stream.Trailer()["server"])
	assert.Equal(t, []string{"", "1"}, s.attempts())
	assert.Equal(t, codes.Internal, status.Code(stream.SendMsg(wrapperspb.String("x"))), "there is one request")
}

// TestHedgingOfWhatMayNotBe: a program that may send more, or a request that is too large
// to be kept, or a context that the program has asked for: there is one attempt.
func TestHedgingOfWhatMayNotBe(t *testing.T) {
	for name, start := range map[string]func(context.Context, grpc.ClientConnInterface) error{
		"a client stream": func(ctx context.Context, cc grpc.ClientConnInterface) error {
			s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/test.Echo/Echo")
			require.NoError(t, err)
			require.NoError(t, s.SendMsg(wrapperspb.String("x")))
			require.NoError(t, s.CloseSend())
			return s.RecvMsg(new(wrapperspb.StringValue))
		},
		"a stream of both kinds": func(ctx context.Context, cc grpc.ClientConnInterface) error {
			s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Echo")
			require.NoError(t, err)
			require.NoError(t, s.SendMsg(wrapperspb.String("x")))
			return s.RecvMsg(new(wrapperspb.StringValue))
		},
		"a large request": func(ctx context.Context, cc grpc.ClientConnInterface) error {
			_, err := serverStream(ctx, cc, "123456789", grpc.MaxRetryRPCBufferSize(10))
			return err
		},
		"the context before the request": func(ctx context.Context, cc grpc.ClientConnInterface) error {
			s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo")
			require.NoError(t, err)
			_, ok := peer.FromContext(s.Context())
			require.True(t, ok)
			require.NoError(t, s.SendMsg(wrapperspb.String("x")))
			return s.RecvMsg(new(wrapperspb.StringValue))
		},
		"the context after it": func(ctx context.Context, cc grpc.ClientConnInterface) error {
			s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo")
			require.NoError(t, err)
			require.NoError(t, s.SendMsg(wrapperspb.String("x")))
			require.NotNil(t, s.Context())
			return s.RecvMsg(new(wrapperspb.StringValue))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveScript(t, func(ctx context.Context, _ int) error { return hang(ctx) })
			cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 5, HedgingDelay: 50 * time.Millisecond}, nil, []*scripted{s})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // to reach the server, and for hedges that must not come
			defer cancel()
			err := start(ctx, cc)
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
			assert.EqualValues(t, 1, s.calls.Load())
		})
	}
}

// TestHedgedStreamEnds: with the program's context, with Close and with Shutdown while
// attempts run. Nothing is left.
func TestHedgedStreamEnds(t *testing.T) {
	s := serveScript(t, func(ctx context.Context, _ int) error { return hang(ctx) })
	policy := grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: time.Millisecond}
	for kind, invoke := range hedgeable {
		t.Run(kind, func(t *testing.T) {
			cc := hedged(t, policy, nil, []*scripted{s})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			defer cancel()
			_, err := invoke(ctx, cc, "x")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
			require.NoError(t, cc.Close())

			ended, end := context.WithCancel(t.Context())
			end()
			for _, closes := range []func(*grpcdial.ClientConn) error{
				(*grpcdial.ClientConn).Close,
				func(cc *grpcdial.ClientConn) error { return cc.Shutdown(ended) },
			} {
				cc = hedged(t, policy, nil, []*scripted{s})
				finished := make(chan error, 1)
				result := make(chan error, 1)
				before := s.calls.Load()
				go func() {
					_, err := invoke(context.Background(), cc, "x", grpc.OnFinish(func(err error) { finished <- err }))
					result <- err
				}()
				backendtest.Eventually(t, func() bool { return s.calls.Load() >= before+3 }, "all attempts run")
				_ = closes(cc) // Shutdown says that it cut RPCs
				require.ErrorIs(t, <-result, grpcdial.ErrClosed)
				require.ErrorIs(t, <-finished, grpcdial.ErrClosed)
				backendtest.Eventually(t, func() bool { return len(backendtest.Ours()) == 0 }, "no goroutine is left")
			}
		})
	}
}

// TestHedgingThrottledMeanwhile: a server asks for a pause, and before that is over other
// failures have used up what throttling allows. The RPC ends as it has failed, at once.
func TestHedgingThrottledMeanwhile(t *testing.T) {
	for kind, invoke := range hedgeable {
		t.Run(kind, func(t *testing.T) {
			paused := make(chan struct{})
			s := serveScript(t, func(_ context.Context, n int) error {
				if n == 1 {
					defer close(paused)
					return status.Error(codes.Unavailable, "pushback 200")
				}
				return status.Error(codes.Unavailable, "pushback -1")
			})
			cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: time.Hour, NonFatalStatusCodes: []codes.Code{codes.Unavailable}},
				&grpcdial.RetryThrottling{MaxTokens: 6, TokenRatio: 0.1}, []*scripted{s})
			result := make(chan error, 1)
			var trailer metadata.MD
			go func() {
				_, err := invoke(backendtest.Bounded(t), cc, "x", grpc.Trailer(&trailer))
				result <- err
			}()
			<-paused
			for range 4 {
				_, err := backendtest.CallEcho(t, cc, "Echo")
				require.Equal(t, codes.Unavailable, status.Code(err))
			}
			err := <-result
			assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
			assert.Equal(t, []string{"200"}, trailer["grpc-retry-pushback-ms"])
			assert.EqualValues(t, 5, s.calls.Load())
		})
	}
}

// TestHedgedStreamWithoutRoom: SendMsg does not wait for a server that gives no room for
// the request, and that server does not keep the next from being asked.
func TestHedgedStreamWithoutRoom(t *testing.T) {
	stuck := h2test.Listen(t)
	stuck.Script(func(c *h2test.Conn) {
		c.Handshake(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
		c.Skip(h2test.HeadersFrames, h2test.DataFrames, h2test.RSTs, h2test.SettingsAcks, h2test.WindowUpdates, h2test.GoAways)
		c.ExpectClosed()
	})
	fast := serveScript(t, func(context.Context, int) error { return nil })
	cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 2, HedgingDelay: time.Millisecond}, nil, []*scripted{{addr: stuck.Addr()}, fast})
	for range 20 {
		replies, err := serverStream(backendtest.Bounded(t), cc, strings.Repeat("x", 1000))
		require.NoError(t, err)
		require.Len(t, replies, 1000)
	}
	require.NoError(t, cc.Close())
}

// TestHedgedStreamsUnderLoad: each RPC has its own replies, of one server, and each attempt
// ends.
func TestHedgedStreamsUnderLoad(t *testing.T) {
	var finished atomic.Int64
	hedgedLoad(t, 50, 5, func(ctx context.Context, cc grpc.ClientConnInterface, request string) error {
		replies, err := serverStream(ctx, cc, request, grpc.OnFinish(func(error) { finished.Add(1) }))
		if err != nil {
			return err
		}
		all := strings.Fields(replies)
		if !assert.Len(t, all, 5) {
			return nil
		}
		server, _, _ := strings.Cut(all[0], "#")
		for n, reply := range all {
			assert.Equal(t, fmt.Sprintf("%s#%d", server, n), reply)
		}
		assert.True(t, strings.HasPrefix(server, request+"@"), server)
		return nil
	})
	assert.EqualValues(t, 400, finished.Load())
}
