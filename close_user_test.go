package grpcdial

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A program may hold a lock while it closes the channel, and take it when an RPC
// has ended: pools that count do. Each of the RPCs ends all the same, with its
// OnFinish and stats.
func TestCloseUnderALockOfTheProgram(t *testing.T) {
	b := backendtest.Start(t, "one")
	const streams = 10
	var mu sync.Mutex
	var ended, finished atomic.Int64
	cc := plain(t, b.Addr, WithStatsHandler(backendtest.EndHandler(func() {
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
	backendtest.Eventually(t, func() bool { return finished.Load() == streams && ended.Load() == streams }, "each has ended once")
}

// What waits for a policy when Close begins is not told to it any more: of a
// thousand backends it would be much, and Close waits for its queue.
func TestCloseDoesNotWaitForABacklog(t *testing.T) {
	const backends = 1000
	entered, leave := make(chan struct{}), make(chan struct{})
	var told atomic.Int64
	p := &backendtest.SpyPolicy{As: "grpcdial_test_backlog"}
	p.OnUpdate = func(s *backendtest.Spy, state balancer.ClientConnState) error {
		for range backends {
			sc, err := s.CC.NewSubConn(state.ResolverState.Addresses, balancer.NewSubConnOptions{StateListener: func(balancer.SubConnState) {
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
	cc := plain(t, target, option, WithDefaultServiceConfig(p.Config()), WithContextDialer(func(context.Context, string) (net.Conn, error) {
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

// A Connect that waits for the policy when Close begins does not reach it any more, nor
// does one on an idle channel have a resolver built.
func TestCloseBeforeConnect(t *testing.T) {
	t.Run("a policy", func(t *testing.T) {
		entered, leave := make(chan struct{}), make(chan struct{})
		var exits atomic.Int64
		p := &backendtest.SpyPolicy{As: "grpcdial_test_left_alone", OnExitIdle: func(*backendtest.Spy) { exits.Add(1) }, OnUpdate: func(*backendtest.Spy, balancer.ClientConnState) error {
			close(entered)
			<-leave
			return nil
		}}
		balancer.Register(p)
		cc, err := NewClient("passthrough:///x:1", WithInsecure(), WithDefaultServiceConfig(p.Config()))
		require.NoError(t, err)
		cc.wake()
		<-entered
		cc.askToConnect()
		closed := make(chan error)
		go func() { closed <- cc.Close() }()
		<-cc.closing
		close(leave)
		require.NoError(t, <-closed)
		assert.Zero(t, exits.Load())
	})
	t.Run("a resolver", func(t *testing.T) {
		var built atomic.Int64
		cc, err := NewClient("scripted:///x", WithInsecure(), WithResolvers(backendtest.Scripted{OnBuild: func(resolver.ClientConn, resolver.BuildOptions) error {
			built.Add(1)
			return nil
		}}))
		require.NoError(t, err)
		leave := make(chan struct{})
		cc.policyQueue.Post(func() { <-leave })
		cc.askToConnect()
		closed := make(chan error)
		go func() { closed <- cc.Close() }()
		<-cc.closing
		close(leave)
		require.NoError(t, <-closed)
		assert.Zero(t, built.Load())
	})
}

// The ends of streams have been told when Close returns, if those who are told do not
// wait for it.
func TestCloseHasTold(t *testing.T) {
	b := backendtest.Start(t, "one")
	const streams = 50
	// Another try is for a machine that is busy with something else.
	for try := 1; ; try++ {
		cc := plain(t, b.Addr)
		var finished atomic.Int64
		for range streams {
			_, err := cc.NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Backend/Stream",
				grpc.OnFinish(func(error) { finished.Add(1) }))
			require.NoError(t, err)
		}
		require.NoError(t, cc.Close())
		if told := finished.Load(); told == streams || try == 5 {
			assert.EqualValues(t, streams, told)
			return
		}
	}
}

// Code of the program's may end the goroutine that calls it, as a test's FailNow does.
// Close does not wait for that goroutine, and its connection is closed.
func TestGoexitInCallbacks(t *testing.T) {
	leave := func(DialEvent) { runtime.Goexit() }
	for name, tt := range map[string]struct {
		trace  DialTrace
		stats  stats.Handler
		refuse bool
	}{
		"failed":      {trace: DialTrace{Failed: leave}, refuse: true},
		"backing off": {trace: DialTrace{Backoff: leave}, refuse: true},
		"ready":       {trace: DialTrace{Ready: leave}},
		"lost":        {trace: DialTrace{Lost: leave}},
		"ConnBegin":   {stats: connHandler(func(s stats.ConnStats) bool { _, ok := s.(*stats.ConnBegin); return ok })},
		"ConnEnd":     {stats: connHandler(func(s stats.ConnStats) bool { _, ok := s.(*stats.ConnEnd); return ok })},
	} {
		t.Run(name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			ended := make(chan struct{}, 100)
			addr := backendtest.ServeRaw(t, func(c net.Conn) {
				defer func() { ended <- struct{}{} }()
				if tt.refuse {
					return
				}
				framer := http2.NewFramer(c, c)
				_, _ = io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
				_ = framer.WriteSettings()
				for {
					if _, err := framer.ReadFrame(); err != nil {
						return
					}
				}
			})
			opts := []DialOption{WithDialTrace(&tt.trace)}
			if tt.stats != nil {
				opts = append(opts, WithStatsHandler(tt.stats))
			}
			cc := plain(t, addr, opts...)
			cc.Connect()
			if tt.refuse {
				<-ended
				backendtest.Eventually(t, func() bool { return cc.subchannels.Loops() == 0 }, "the goroutine has ended")
			} else {
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancel()
				_ = cc.AwaitReady(ctx)
			}
			require.NoError(t, cc.Close())
			if !tt.refuse {
				<-ended
			}
		})
	}
}

// connHandler ends the goroutine at an event of a connection for which it is true.
type connHandler func(stats.ConnStats) bool

func (connHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (connHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (connHandler) HandleRPC(context.Context, stats.RPCStats)                         {}
func (h connHandler) HandleConn(_ context.Context, s stats.ConnStats) {
	if h(s) {
		runtime.Goexit()
	}
}

// A policy that goes on reporting after Close is not listened to, nor kept.
func TestReportsAfterClose(t *testing.T) {
	built := make(chan *backendtest.Spy, 1)
	p := &backendtest.SpyPolicy{As: "grpcdial_test_talkative", OnBuild: func(s *backendtest.Spy) { built <- s }}
	balancer.Register(p)
	cc := plain(t, "passthrough:///x:1", WithDefaultServiceConfig(p.Config()))
	cc.Connect()
	lb := <-built
	require.NoError(t, cc.Close())
	for range 10 {
		lb.CC.UpdateState(balancer.State{ConnectivityState: connectivity.Ready, Picker: backendtest.FixedPicker{}})
	}
	assert.Empty(t, cc.reports.take())
}
