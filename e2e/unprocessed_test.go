package e2e_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// An RPC to a server that processes nothing ends soon, and without a storm.
func TestServersThatProcessNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		serve    func(*h2test.Stream)
		code     codes.Code
		requests int32 // at most
	}{
		"REFUSED_STREAM":       {func(s *h2test.Stream) { s.RST(http2.ErrCodeRefusedStream) }, codes.Unavailable, 2},
		"GOAWAY":               {func(s *h2test.Stream) { s.Conn().GoAway(0, http2.ErrCodeNo, "") }, codes.Unavailable, 11},
		"GOAWAY with an error": {func(s *h2test.Stream) { s.Conn().GoAway(0, http2.ErrCodeInternal, "") }, codes.Unavailable, 2},
	} {
		t.Run(name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			srv := h2test.Listen(t)
			var requests atomic.Int32
			srv.Serve(func(s *h2test.Stream) {
				if s.Ended && !s.Reset {
					requests.Add(1)
					tt.serve(s)
				}
			})
			cc := newClient(t, srv.Addr(), grpcdial.WithInsecure())
			begun := time.Now()
			err := ask(cc, time.Minute)
			assert.Equal(t, tt.code, status.Code(err), "%v", err)
			assert.Less(t, time.Since(begun), 5*time.Second)
			assert.LessOrEqual(t, requests.Load(), tt.requests)
			require.NoError(t, cc.Close())
		})
	}
}

// limited is a server that processes so many RPCs at a time and refuses the others,
// without having announced that.
type limited struct {
	limit             int32
	requests, running atomic.Int32
}

func (l *limited) serve(s *h2test.Stream) {
	if !s.Ended || s.Reset {
		return
	}
	l.requests.Add(1)
	if l.running.Add(1) > l.limit {
		l.running.Add(-1)
		s.RST(http2.ErrCodeRefusedStream)
		return
	}
	s.Conn().Go(func(c *h2test.Conn) {
		time.Sleep(2 * time.Millisecond)
		l.running.Add(-1)
		c.ReplyUnary(s.ID, []byte("\n\x01x"))
	})
}

// A server that processes fewer RPCs at a time than there are, and refuses the others,
// gets to each of them, and is not asked all the time.
func TestRefusedWhileOthersAreServed(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t)
	l := &limited{limit: 4}
	srv.Serve(l.serve)
	cc := newClient(t, srv.Addr(), grpcdial.WithInsecure())
	const rpcs = 300
	var callers sync.WaitGroup
	var failed atomic.Int32
	for range 30 {
		callers.Go(func() {
			for range rpcs / 30 {
				if err := ask(cc, time.Minute); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	callers.Wait()
	require.NoError(t, cc.Close())
	assert.Zero(t, failed.Load())
	assert.Less(t, l.requests.Load(), int32(10*rpcs))
}

// What one backend does not process goes to another one.
func TestRefusedRPCsGoElsewhere(t *testing.T) {
	h2test.CheckLeaks(t)
	var addrs []resolver.Address
	var refused atomic.Int32
	answered := false
	for n := range 2 {
		srv := h2test.Listen(t)
		srv.Serve(func(s *h2test.Stream) {
			if n == 0 {
				if s.Ended && !s.Reset {
					refused.Add(1)
					s.RST(http2.ErrCodeRefusedStream)
				}
				return
			}
			h2test.Echo(s)
		})
		addrs = append(addrs, resolver.Address{Addr: srv.Addr()})
	}
	r := manual.NewBuilderWithScheme("hand")
	r.InitialState(resolver.State{Addresses: addrs})
	cc := newClient(t, "hand:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r), grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin))
	cc.Connect()
	// Then the policy picks both; a moment before, it may know of the first alone, whose
	// refusals are the RPCs' ends.
	backendtest.Eventually(t, func() bool {
		err := ask(cc, time.Minute)
		answered = answered || err == nil
		return answered && refused.Load() > 0
	}, "RPCs go to both")
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for range 20 {
				assert.NoError(t, ask(cc, time.Minute))
			}
		})
	}
	callers.Wait()
	require.NoError(t, cc.Close())
}

// A policy that stays with the first backend that takes connections goes
// on to the next one if that serves nothing.
func TestGoAwaysAtOnceLeadElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serving, stop := servePiped(t, 0, nil, keepalive.ServerParameters{})
		defer stop()
		dial := func(ctx context.Context, addr string) (net.Conn, error) {
			if addr == "serving:1" {
				return serving(ctx, addr)
			}
			return shortLivedThen(func(f *http2.Framer) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) }), nil
		}
		r := manual.NewBuilderWithScheme("hand")
		r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "leaving:1"}, {Addr: "serving:1"}}})
		cc := inBubbleTo(t, "hand:///x", dial, grpcdial.WithResolvers(r))
		require.Eventually(t, func() bool { return ask(cc, time.Minute) == nil }, time.Minute, time.Millisecond)
		require.NoError(t, cc.Close())
	})
}
