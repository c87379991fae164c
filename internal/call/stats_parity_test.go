package call

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// fieldRecorder writes down the events of RPCs with all fields that are the same
// for both channels.
type fieldRecorder struct {
	stats.Handler
	current *fieldRecord
}

// fieldRecord is one RPC. grpc-go's reader reports on a goroutine of its own, at any
// time, so its events are kept apart: only the order within each counts.
type fieldRecord struct {
	mu       sync.Mutex
	calls    []string // guarded by mu: what the RPC's goroutine reports
	received []string // guarded by mu: InHeader and InTrailer
}

// next makes RPCs that begin from now on go to a new record.
func (r *fieldRecorder) next() *fieldRecord {
	r.current = new(fieldRecord)
	return r.current
}

func (r *fieldRecorder) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	r.current.note(&r.current.calls, fmt.Sprintf("%+v", *info))
	return context.WithValue(ctx, tagKey{}, r.current)
}

func (*fieldRecorder) HandleRPC(ctx context.Context, s stats.RPCStats) {
	ctx.Value(tagKey{}).(*fieldRecord).handle(ctx, s)
}

func (*fieldRecorder) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (*fieldRecorder) HandleConn(context.Context, stats.ConnStats) {}

func (r *fieldRecord) note(list *[]string, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*list = append(*list, text)
}

func (r *fieldRecord) handle(ctx context.Context, s stats.RPCStats) {
	p, hasPeer := peer.FromContext(ctx)
	hasPeer = hasPeer && p.Addr != nil
	switch s := s.(type) {
	case *stats.Begin:
		r.note(&r.calls, fmt.Sprintf("Begin %t %t %t %t %t", s.Client, s.FailFast, s.IsClientStream, s.IsServerStream, s.IsTransparentRetryAttempt))
	case *stats.OutHeader:
		md := s.Header.Copy()
		md.Delete("user-agent")
		r.note(&r.calls, fmt.Sprintf("OutHeader %t %q %s %v %s local=%t remote=%v peer=%t", s.Client, s.Compression, s.FullMethod, md, s.Authority, s.LocalAddr != nil, s.RemoteAddr, hasPeer))
	case *stats.OutPayload:
		r.note(&r.calls, fmt.Sprintf("OutPayload %t %T %d %d %d %t", s.Client, s.Payload, s.Length, s.CompressedLength, s.WireLength, s.SentTime.IsZero()))
	case *stats.InPayload:
		r.note(&r.calls, fmt.Sprintf("InPayload %t %T %d %d %d %t", s.Client, s.Payload, s.Length, s.CompressedLength, s.WireLength, s.RecvTime.IsZero()))
	case *stats.End:
		r.note(&r.calls, fmt.Sprintf("End %t %v %v %t", s.Client, status.Code(s.Error), s.Trailer["t"], s.EndTime.Before(s.BeginTime)))
	case *stats.InHeader:
		r.note(&r.received, fmt.Sprintf("InHeader %t %q %s %v %d local=%t remote=%t peer=%t", s.Client, s.Compression, s.FullMethod, s.Header, s.WireLength, s.LocalAddr != nil, s.RemoteAddr != nil, hasPeer))
	case *stats.InTrailer:
		r.note(&r.received, fmt.Sprintf("InTrailer %t %v %d peer=%t", s.Client, s.Trailer["t"], s.WireLength, hasPeer))
	default:
		r.note(&r.calls, fmt.Sprintf("%T", s))
	}
}

func (r *fieldRecord) text(list *[]string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(*list, "\n")
}

// TestStatsParity: both channels report the same, attempt by attempt, whatever the server
// does.
func TestStatsParity(t *testing.T) {
	reply := replyBytes(t)
	srv := h2test.Listen(t)
	asked := map[string]int{} // the server's goroutine only
	srv.Serve(func(s *h2test.Stream) {
		if !s.Ended || s.Reset {
			return
		}
		if s.Method() != "/t/AtTheThird" {
			behaviours[s.Method()](s, reply)
			return
		}
		if asked[s.Method()]++; asked[s.Method()]%3 != 0 {
			s.SendTrailers(codes.Unavailable, "not now", "t", "1")
			return
		}
		s.Reply(reply)
	})
	const config = `{"methodConfig": [{"name": [{"service": "t", "method": "AtTheThird"}], "retryPolicy": {` + quickPolicy + `}}]}`
	theirRecord, ourRecord := new(fieldRecorder), new(fieldRecorder)
	theirs, err := grpc.NewClient(srv.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(theirRecord), grpc.WithDefaultServiceConfig(config), grpc.WithAuthority("test.example"))
	require.NoError(t, err)
	defer theirs.Close()
	for theirs.Connect(); theirs.GetState() != connectivity.Ready; {
		require.True(t, theirs.WaitForStateChange(soon(t), theirs.GetState()))
	}
	ours := ready(t, Config{StatsHandlers: []stats.Handler{ourRecord}}, insecureBackend(t, srv.Addr()))
	parsed, err := serviceconfig.Parse(config)
	require.NoError(t, err)
	ours.SetConfig(parsed)

	methods := []string{"/t/AtTheThird"}
	for m := range behaviours {
		methods = append(methods, m)
	}
	unary := func(cc grpc.ClientConnInterface, method string) {
		ctx := metadata.AppendToOutgoingContext(soon(t), "own", "1")
		_ = cc.Invoke(ctx, method, request("x"), new(testpb.SimpleResponse))
	}
	stream := func(desc *grpc.StreamDesc) func(grpc.ClientConnInterface, string) {
		return func(cc grpc.ClientConnInterface, method string) {
			cs, err := cc.NewStream(soon(t), desc, method, grpc.WaitForReady(true))
			require.NoError(t, err)
			_ = cs.SendMsg(request("x"))
			_ = cs.CloseSend()
			for err == nil {
				err = cs.RecvMsg(new(testpb.SimpleResponse))
			}
		}
	}
	for name, call := range map[string]func(grpc.ClientConnInterface, string){
		"unary": unary, "server": stream(serverDesc), "bidi": stream(bidiDesc),
	} {
		for _, method := range methods {
			t.Run(name+method, func(t *testing.T) {
				want, got := theirRecord.next(), ourRecord.next()
				call(theirs, method)
				call(ours, method)
				gotCalls, gotReceived := got.text(&got.calls), got.text(&got.received)
				if name+method == "unary/t/TwoMessages" {
					// grpc-go never ends this one.
					assert.Contains(t, gotCalls, "End true Internal")
					return
				}
				assert.Equal(t, want.text(&want.calls), gotCalls)
				switch method {
				case "/t/CompressedWithoutEncoding", "/t/CompressedWithUnknownEncoding", "/t/MessageOfGarbage":
					// The client ends these, before or after the trailers come.
				default:
					assert.Eventually(t, func() bool { return want.text(&want.received) == gotReceived }, time.Minute, time.Millisecond,
						"%s\nwant\n%s", gotReceived, want.text(&want.received))
				}
			})
		}
	}
}
