package grpcdial

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// endHandler is told of the end of each RPC.
type endHandler func()

func (endHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (endHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (endHandler) HandleConn(context.Context, stats.ConnStats)                       {}
func (h endHandler) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); ok {
		h()
	}
}

// A program may hold a lock while it closes the channel, and take it when an RPC
// has ended: pools that count do. Each of the RPCs ends all the same, with its
// OnFinish and stats.
func TestCloseUnderALockOfTheProgram(t *testing.T) {
	b := startBackend(t, "one")
	const streams = 10
	var mu sync.Mutex
	var ended, finished atomic.Int64
	cc := plain(t, b.addr, WithStatsHandler(endHandler(func() {
		mu.Lock()
		defer mu.Unlock()
		ended.Add(1)
	})))
	var open []grpc.ClientStream
	for range streams {
		s, err := cc.NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Backend/Stream",
			grpc.OnFinish(func(err error) {
				mu.Lock()
				defer mu.Unlock()
				assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
				finished.Add(1)
			}))
		require.NoError(t, err)
		open = append(open, s)
	}
	mu.Lock()
	require.NoError(t, cc.Close())
	mu.Unlock()
	for _, s := range open {
		assert.Equal(t, codes.Canceled, status.Code(s.RecvMsg(nil)))
	}
	eventually(t, func() bool { return finished.Load() == streams && ended.Load() == streams }, "each has ended once")
}

// What waits for a policy when Close begins is not told to it any more: of a
// thousand backends it would be much, and Close waits for its queue.
func TestCloseDoesNotWaitForABacklog(t *testing.T) {
	const backends = 1000
	entered, leave := make(chan struct{}), make(chan struct{})
	var told atomic.Int64
	p := &spyPolicy{name: "grpcdial_test_backlog"}
	p.update = func(s *spy, state balancer.ClientConnState) error {
		for range backends {
			sc, err := s.cc.NewSubConn(state.ResolverState.Addresses, balancer.NewSubConnOptions{StateListener: func(balancer.SubConnState) {
				if told.Add(1) == 1 {
					close(entered)
					<-leave
				}
			}})
			if err != nil {
				return err
			}
			sc.Connect()
		}
		return nil
	}
	balancer.Register(p)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
	cc := plain(t, target, option, WithDefaultServiceConfig(p.config()), WithContextDialer(func(context.Context, string) (net.Conn, error) {
		return nil, errors.New("refused")
	}))
	cc.Connect()
	<-entered
	closed := make(chan error)
	go func() { closed <- cc.Close() }()
	<-cc.closing
	close(leave)
	require.NoError(t, <-closed)
	assert.EqualValues(t, 1, told.Load())
}
