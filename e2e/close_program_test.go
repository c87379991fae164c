package e2e_test

import (
	"context"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
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
	cc := plain(t, b.Addr, grpcdial.WithStatsHandler(backendtest.EndHandler(func() {
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

// OnFinish of each stream has been called when Close returns, if it does not wait for
// Close.
func TestCloseHasReported(t *testing.T) {
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
		if n := finished.Load(); n == streams || try == 5 {
			assert.EqualValues(t, streams, n)
			return
		}
	}
}

// Code of the program's may end the goroutine that calls it, as a test's FailNow does.
// Close does not wait for that goroutine, and its connection is closed.
func TestGoexitInCallbacks(t *testing.T) {
	leave := func(grpcdial.DialEvent) { runtime.Goexit() }
	for name, tt := range map[string]struct {
		trace  grpcdial.DialTrace
		stats  stats.Handler
		refuse bool
	}{
		"failed":      {trace: grpcdial.DialTrace{Failed: leave}, refuse: true},
		"backing off": {trace: grpcdial.DialTrace{Backoff: leave}, refuse: true},
		"ready":       {trace: grpcdial.DialTrace{Ready: leave}},
		"lost":        {trace: grpcdial.DialTrace{Lost: leave}},
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
				framer := h2test.Greet(c)
				for {
					if _, err := framer.ReadFrame(); err != nil {
						return
					}
				}
			})
			opts := []grpcdial.DialOption{grpcdial.WithDialTrace(&tt.trace)}
			if tt.stats != nil {
				opts = append(opts, grpcdial.WithStatsHandler(tt.stats))
			}
			cc := plain(t, addr, opts...)
			cc.Connect()
			if tt.refuse {
				<-ended
				backendtest.AwaitOurs(t, 0)
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

func (connHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (connHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (connHandler) HandleRPC(context.Context, stats.RPCStats) {}

func (h connHandler) HandleConn(_ context.Context, s stats.ConnStats) {
	if h(s) {
		runtime.Goexit()
	}
}
