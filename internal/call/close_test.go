package call

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// rpcHandler gets the events of RPCs.
type rpcHandler func(stats.RPCStats)

func (rpcHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (rpcHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (rpcHandler) HandleConn(context.Context, stats.ConnStats)                       {}
func (f rpcHandler) HandleRPC(_ context.Context, s stats.RPCStats)                   { f(s) }

// Close waits for code of the program's that the channel's own goroutines call, also for RPCs
// that have ended for their caller: attempts that another one has overtaken, and streams whose
// context has ended.
func TestCloseWaitsForProgramsCode(t *testing.T) {
	hedging, err := serviceconfig.Parse(`{"methodConfig": [{"name": [{}], "hedgingPolicy": {"maxAttempts": 2}}]}`)
	require.NoError(t, err)
	for name, rpc := range map[string]func(t *testing.T, ch *Channel){
		"a hedged RPC": func(t *testing.T, ch *Channel) {
			require.NoError(t, ch.Invoke(soon(t), "/t/M", new(testpb.SimpleRequest), new(testpb.SimpleResponse)))
		},
		"a hedged stream": func(t *testing.T, ch *Channel) {
			cs, err := ch.NewStream(soon(t), &grpc.StreamDesc{ServerStreams: true}, "/t/M")
			require.NoError(t, err)
			require.NoError(t, cs.SendMsg(new(testpb.SimpleRequest)))
			require.NoError(t, cs.RecvMsg(new(testpb.SimpleResponse)))
			require.Error(t, cs.RecvMsg(new(testpb.SimpleResponse)))
		},
		"a cancelled stream": func(t *testing.T, ch *Channel) {
			ctx, cancel := context.WithCancel(soon(t))
			_, err := ch.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/t/M")
			require.NoError(t, err)
			cancel()
		},
	} {
		t.Run(name, func(t *testing.T) {
			called, goOn := make(chan struct{}), make(chan struct{})
			var begun, failed atomic.Int32
			handler := rpcHandler(func(s stats.RPCStats) {
				end, ended := s.(*stats.End)
				_, begins := s.(*stats.Begin)
				if unary := name == "a hedged RPC"; unary && begins && begun.Add(1) == 2 ||
					!unary && ended && end.Error != nil && failed.Add(1) == 1 {
					close(called)
					<-goOn
				}
			})
			answered := map[string]int{"a hedged RPC": 0, "a hedged stream": 1, "a cancelled stream": -1}[name]
			ch := scripted(t, Config{StatsHandlers: []stats.Handler{handler}}, func(n int, s *h2test.Stream) {
				if n == answered {
					if n == 0 {
						<-called
					}
					s.Reply(replyBytes(t))
				}
			})
			ch.SetConfig(hedging)
			rpc(t, ch)
			<-called
			reported := ch.Close()
			require.NotNil(t, reported)
			select {
			case <-reported:
				assert.Fail(t, "the handler still runs")
			default:
			}
			close(goOn)
			<-reported
		})
	}
}
