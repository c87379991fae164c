package call

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
)

// recorder is a stats handler that writes down what it is told.
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

// take returns what was told up to and including End.
func (r *recorder) take() []string {
	var all []string
	for {
		e := <-r.events
		all = append(all, e)
		if strings.HasPrefix(e, "End") {
			// grpc-go tells InTrailer when its reader sees it, at any time before End.
			at := slices.IndexFunc(all, func(e string) bool { return strings.HasPrefix(e, "InTrailer") })
			if trailer := ""; at >= 0 {
				trailer = all[at]
				all = slices.Insert(slices.Delete(all, at, at+1), len(all)-2, trailer)
			}
			return all
		}
	}
}

// TestStatsEvents compares with what grpc-go's channel tells.
func TestStatsEvents(t *testing.T) {
	svc := streamService()
	svc.unary = func(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		assert.Equal(t, []string{"yes"}, md["tagged"])
		_ = grpc.SetHeader(ctx, metadata.Pairs("h", "1"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("t", "1"))
		return echo(ctx, req)
	}
	addr := startServer(t, svc)
	theirs, ours := newRecorder(t), newRecorder(t)
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(theirs))
	require.NoError(t, err)
	defer cc.Close()
	cc.Connect()
	for s := cc.GetState(); s.String() != "READY"; s = cc.GetState() {
		require.True(t, cc.WaitForStateChange(soon(t), s))
	}
	ch := ready(t, Config{StatsHandlers: []stats.Handler{ours}}, insecureBackend(t, addr))
	scenarios := map[string]func(grpc.ClientConnInterface) error{
		"unary": func(cc grpc.ClientConnInterface) error {
			ctx := metadata.AppendToOutgoingContext(soon(t), "own", "1")
			return cc.Invoke(ctx, unaryMethod, request("hello"), new(testpb.SimpleResponse))
		},
		"unary, compressed": func(cc grpc.ClientConnInterface) error {
			return cc.Invoke(soon(t), unaryMethod, request("hello"), new(testpb.SimpleResponse), grpc.UseCompressor("test-reverse"))
		},
		"an error": func(cc grpc.ClientConnInterface) error {
			_ = cc.Invoke(soon(t), "/grpc.testing.TestService/Unheard", request("hello"), new(testpb.SimpleResponse), grpc.WaitForReady(true))
			return nil
		},
		"stream": func(cc grpc.ClientConnInterface) error {
			cs, err := cc.NewStream(soon(t), bidiDesc, bidiMethod)
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
	}
	for name, scenario := range scenarios {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, scenario(cc))
			want := theirs.take()
			require.NoError(t, scenario(ch))
			assert.Equal(t, want, ours.take())
			assert.True(t, ours.peers)
		})
	}
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
