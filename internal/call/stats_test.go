package call

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// recorder is a stats handler that records its events.
type recorder struct {
	t      *testing.T
	events chan string
	peers  bool // the peer is in the context
}

type tagKey struct{}

func newRecorder(t *testing.T) *recorder { return &recorder{t: t, events: make(chan string, 1000)} }

func (r *recorder) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	ctx = context.WithValue(ctx, tagKey{}, info.FullMethodName)
	return metadata.AppendToOutgoingContext(ctx, "tagged", "yes")
}

func (r *recorder) HandleRPC(ctx context.Context, s stats.RPCStats) {
	assert.NotNil(r.t, ctx.Value(tagKey{}))
	assert.True(r.t, s.IsClient())
	text := ""
	switch s := s.(type) {
	case *stats.Begin:
		text = fmt.Sprintf("Begin failfast=%t client=%t server=%t", s.FailFast, s.IsClientStream, s.IsServerStream)
		if s.IsTransparentRetryAttempt {
			text += " transparent"
		}
	case *stats.OutHeader:
		text = fmt.Sprintf("OutHeader %s compression=%q tagged=%v own=%v remote=%t", s.FullMethod, s.Compression, s.Header["tagged"], s.Header["own"], s.RemoteAddr != nil)
		_, r.peers = peer.FromContext(ctx)
	case *stats.OutPayload:
		text = fmt.Sprintf("OutPayload length=%d compressed=%d wire=%d", s.Length, s.CompressedLength, s.WireLength)
		assert.False(r.t, s.SentTime.IsZero())
	case *stats.InHeader:
		text = fmt.Sprintf("InHeader compression=%q h=%v", s.Compression, s.Header["h"])
		assert.Positive(r.t, s.WireLength)
	case *stats.InPayload:
		text = fmt.Sprintf("InPayload length=%d compressed=%d wire=%d", s.Length, s.CompressedLength, s.WireLength)
	case *stats.InTrailer:
		text = fmt.Sprintf("InTrailer t=%v", s.Trailer["t"])
		assert.Positive(r.t, s.WireLength)
	case *stats.End:
		text = fmt.Sprintf("End %v t=%v", s.Error, s.Trailer["t"])
		assert.False(r.t, s.EndTime.Before(s.BeginTime))
	default:
		text = fmt.Sprintf("%T", s)
	}
	r.events <- text
}

func (r *recorder) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (r *recorder) HandleConn(context.Context, stats.ConnStats)                       {}

// take returns the events up to and including End.
func (r *recorder) take() []string {
	var all []string
	for {
		e := <-r.events
		all = append(all, e)
		if strings.HasPrefix(e, "End") {
			return all
		}
	}
}

// TestStatsEvents: the order is grpc-go's, where that one has one (it reports what comes in
// on a goroutine of its own, at any time after OutHeader).
func TestStatsEvents(t *testing.T) {
	svc := streamService()
	svc.unary = func(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		assert.Equal(t, []string{"yes"}, md["tagged"])
		_ = grpc.SetHeader(ctx, metadata.Pairs("h", "1"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("t", "1"))
		return echo(ctx, req)
	}
	rec := newRecorder(t)
	ch := serve(t, Config{StatsHandlers: []stats.Handler{rec}}, svc)
	tests := []struct {
		name string
		call func() error
		want []string
	}{
		{
			"unary",
			func() error {
				ctx := metadata.AppendToOutgoingContext(soon(t), "own", "1")
				return ch.Invoke(ctx, unaryMethod, request("hello"), new(testpb.SimpleResponse))
			},
			[]string{
				"Begin failfast=true client=false server=false",
				`OutHeader /grpc.testing.TestService/UnaryCall compression="" tagged=[yes] own=[1] remote=true`,
				"OutPayload length=9 compressed=9 wire=14",
				`InHeader compression="" h=[1]`,
				"InPayload length=9 compressed=9 wire=14",
				"InTrailer t=[1]",
				"End <nil> t=[1]",
			},
		},
		{
			"unary, compressed",
			func() error {
				return ch.Invoke(soon(t), unaryMethod, request(strings.Repeat("x", 1000)), new(testpb.SimpleResponse), grpc.UseCompressor("test-padded"))
			},
			[]string{
				"Begin failfast=true client=false server=false",
				`OutHeader /grpc.testing.TestService/UnaryCall compression="test-padded" tagged=[yes] own=[] remote=true`,
				"OutPayload length=1006 compressed=1009 wire=1014",
				`InHeader compression="test-padded" h=[1]`,
				"InPayload length=1006 compressed=1009 wire=1014",
				"InTrailer t=[1]",
				"End <nil> t=[1]",
			},
		},
		{
			"an error",
			func() error {
				_ = ch.Invoke(soon(t), "/grpc.testing.TestService/Unheard", request("hello"), new(testpb.SimpleResponse), grpc.WaitForReady(true))
				return nil
			},
			[]string{
				"Begin failfast=false client=false server=false",
				`OutHeader /grpc.testing.TestService/Unheard compression="" tagged=[yes] own=[] remote=true`,
				"OutPayload length=9 compressed=9 wire=14",
				"InTrailer t=[]",
				"End rpc error: code = Unimplemented desc = unknown method Unheard for service grpc.testing.TestService t=[]",
			},
		},
		{
			"stream",
			func() error {
				cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod)
				if err != nil {
					return err
				}
				for range 2 {
					if err := cs.SendMsg(chunk(10)); err != nil {
						return err
					}
					if err := cs.RecvMsg(new(testpb.StreamingOutputCallResponse)); err != nil {
						return err
					}
				}
				_ = cs.CloseSend()
				if err := cs.RecvMsg(new(testpb.StreamingOutputCallResponse)); err != io.EOF {
					return err
				}
				return nil
			},
			[]string{
				"Begin failfast=true client=true server=true",
				`OutHeader /grpc.testing.TestService/FullDuplexCall compression="" tagged=[yes] own=[] remote=true`,
				"OutPayload length=14 compressed=14 wire=19",
				`InHeader compression="" h=[]`,
				"InPayload length=14 compressed=14 wire=19",
				"OutPayload length=14 compressed=14 wire=19",
				"InPayload length=14 compressed=14 wire=19",
				"InTrailer t=[]",
				"End <nil> t=[]",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.NoError(t, tt.call())
			assert.Equal(t, tt.want, rec.take())
			assert.True(t, rec.peers)
		})
	}
}

// TestStatsOfAttempts: each one begins and ends.
func TestStatsOfAttempts(t *testing.T) {
	rec := newRecorder(t)
	ch := scripted(t, Config{StatsHandlers: []stats.Handler{rec}}, func(n int, s *h2test.Stream) {
		if n == 0 {
			s.RST(http2.ErrCodeRefusedStream)
		} else {
			s.Reply(replyBytes(t))
		}
	})
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse)))
	first, second := rec.take(), rec.take()
	assert.Equal(t, "Begin failfast=true client=false server=false", first[0])
	assert.Equal(t, "Begin failfast=true client=false server=false transparent", second[0])
	assert.Contains(t, first[len(first)-1], "End rpc error: code = Unavailable")
	assert.Equal(t, "End <nil> t=[]", second[len(second)-1])
}

// delays records whether TagRPC sees a delay by the resolver.
type delays struct {
	stats.Handler
	seen []bool
}

func (d *delays) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	d.seen = append(d.seen, info.NameResolutionDelay)
	return ctx
}
func (*delays) HandleRPC(context.Context, stats.RPCStats) {}

// TestStatsOfADelayedResolver: an RPC that waited for the resolver says so.
func TestStatsOfADelayedResolver(t *testing.T) {
	d := new(delays)
	ch := New(Config{StatsHandlers: []stats.Handler{d}})
	ch.SetPicker(fixed{insecureBackend(t, startServer(t, streamService()))})
	go func() {
		for n := 0; n == 0; n, _ = ch.Active() {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(aWhile / 4)
		ch.SetResolved(true)
	}()
	for range 2 {
		require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse)))
	}
	assert.Equal(t, []bool{true, false}, d.seen)
}

func TestStatsOfADelayedPick(t *testing.T) {
	rec := newRecorder(t)
	ch := New(Config{StatsHandlers: []stats.Handler{rec}})
	ch.SetResolved(true)
	b := insecureBackend(t, startServer(t, streamService()))
	go func() {
		for n := 0; n == 0; n, _ = ch.Active() {
			time.Sleep(time.Millisecond)
		}
		<-rec.events // Begin
		ch.SetPicker(fixed{b})
	}()
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse)))
	assert.Equal(t, "*stats.DelayedPickComplete", <-rec.events)
}
