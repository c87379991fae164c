package e2e_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// serveShortly serves connections that end as soon as they are set up, after
// farewell.
func serveShortly(t *testing.T, accepted *atomic.Int32, farewell func(net.Conn, *http2.Framer)) (addr string) {
	return backendtest.ServeRaw(t, func(c net.Conn) {
		accepted.Add(1)
		framer := h2test.Greet(c)
		for {
			f, err := framer.ReadFrame()
			if settings, ok := f.(*http2.SettingsFrame); err != nil || ok && settings.IsAck() {
				farewell(c, framer)
				return
			}
		}
	})
}

// connectAllTheTime is a program that wants a connection all the time.
func connectAllTheTime(cc *grpcdial.ClientConn) (stop func()) {
	ended := make(chan struct{})
	var eager sync.WaitGroup
	eager.Go(func() {
		for {
			select {
			case <-ended:
				return
			default:
				cc.Connect()
				time.Sleep(time.Millisecond)
			}
		}
	})
	return func() {
		close(ended)
		eager.Wait()
	}
}

// resets ends a connection so that the client sees a reset.
func resets(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }

// A server that resets connections right after it accepted them is not stormed, and is
// down: RPCs fail, and say why.
func TestShortLivedConnectionsBackOff(t *testing.T) {
	var accepted atomic.Int32
	addr := serveShortly(t, &accepted, func(c net.Conn, _ *http2.Framer) { resets(c) })
	p := grpcdial.ConnectParams{MinConnectTimeout: time.Second}
	p.Backoff.BaseDelay, p.Backoff.Multiplier, p.Backoff.MaxDelay = 50*time.Millisecond, 2, time.Hour
	cc := plain(t, addr, grpcdial.WithConnectParams(p))
	next := watched(t, cc)
	defer connectAllTheTime(cc)()
	begun := time.Now()
	cause := next(connectivity.TransientFailure).Cause
	var e *grpcdial.DialError
	require.ErrorAs(t, cause, &e)
	require.Len(t, e.Attempts, 1)
	assert.Equal(t, grpcdial.PhaseHTTP2, e.Attempts[0].Phase)
	assert.Contains(t, e.Error(), "accepts connections and ends them")
	backendtest.Eventually(t, func() bool { return accepted.Load() >= 5 }, "five attempts")
	// Two at once, then after 50, 100 and 200 ms.
	assert.Greater(t, time.Since(begun), 300*time.Millisecond)
}

// Nor is one that ends them in good order. It is not down: RPCs wait for it instead of
// failing, and an RPC that waits in vain says why.
func TestShortLivedConnectionsThatEndWell(t *testing.T) {
	for name, farewell := range map[string]func(*http2.Framer){
		"GOAWAY": func(f *http2.Framer) {
			time.Sleep(20 * time.Millisecond)
			_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
		},
		"end of file": func(*http2.Framer) { time.Sleep(20 * time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var accepted atomic.Int32
				cc := inBubble(t, func(context.Context, string) (net.Conn, error) {
					accepted.Add(1)
					return shortLivedThen(farewell), nil
				})
				defer time.Sleep(time.Second) // until the servers have ended
				defer cc.Close()
				ctx, cancel := context.WithCancel(context.Background())
				var failed atomic.Int32
				var watcher sync.WaitGroup
				watcher.Go(func() {
					for c := range cc.Watch(ctx) {
						if c.To == connectivity.TransientFailure {
							failed.Add(1)
						}
					}
				})
				defer connectAllTheTime(cc)()
				time.Sleep(500 * time.Millisecond)
				assert.Positive(t, accepted.Load())
				assert.LessOrEqual(t, accepted.Load(), int32(5), "in half a second")
				cc.ResetConnectBackoff()
				cancel()
				watcher.Wait()
				assert.Zero(t, failed.Load())
			})
		})
	}
}

// The first such end is none of note. After the second an RPC that waits in vain names it,
// although the channel was READY in between.
func TestWaitingInVainForConnectionsThatEndWell(t *testing.T) {
	for _, ends := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			connections := 0
			cc := inBubble(t, func(ctx context.Context, addr string) (net.Conn, error) {
				if connections++; connections > ends {
					return backendtest.Hang(ctx, addr)
				}
				return shortLived(), nil
			})
			defer cc.Close()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			for range ends {
				require.NoError(t, cc.AwaitReady(ctx))
				awaitState(t, cc, connectivity.Idle)
			}
			err := cc.AwaitReady(ctx)
			var e *grpcdial.DialError
			require.ErrorAs(t, err, &e)
			if ends == 1 {
				require.Len(t, e.Attempts, 1)
				assert.ErrorIs(t, e.Attempts[0].Err, grpcdial.ErrUnfinished)
			} else {
				assert.ErrorContains(t, err, "ends them before an RPC is served")
			}
		})
	}
}

// shortLived makes a connection in a bubble that the server closes at once.
func shortLived() net.Conn { return shortLivedThen(func(*http2.Framer) {}) }

// shortLivedThen makes a connection in a bubble that the server closes after farewell.
func shortLivedThen(farewell func(*http2.Framer)) net.Conn {
	client, server := net.Pipe()
	go func() {
		framer := h2test.Greet(server)
		for {
			f, err := framer.ReadFrame()
			if settings, ok := f.(*http2.SettingsFrame); err != nil || ok && settings.IsAck() {
				farewell(framer)
				_ = server.Close()
				return
			}
		}
	}()
	return client
}

// One that does so at once, ten times in a row, is down: RPCs fail, and say why. A wait
// has seen it READY.
func TestGoAwayAtOnceAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cc := inBubble(t, func(context.Context, string) (net.Conn, error) {
			return shortLivedThen(func(f *http2.Framer) { _ = f.WriteGoAway(0, http2.ErrCodeNo, []byte("draining")) }), nil
		})
		defer cc.Close()
		require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
		defer connectAllTheTime(cc)()
		begun := time.Now()
		backendtest.Eventually(t, func() bool {
			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			return cc.GetState() == connectivity.TransientFailure
		}, "TRANSIENT_FAILURE")
		assert.Less(t, time.Since(begun), 5*time.Second, "RPCs hurry it")
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		var e *grpcdial.DialError
		require.ErrorAs(t, err, &e)
		var goAway *grpcdial.GoAwayError
		require.ErrorAs(t, e, &goAway)
		assert.Equal(t, "draining", goAway.Debug)
		assert.ErrorContains(t, err, "ends them before an RPC is served")
	})
}

// A server that ends connections which are idle for a moment, or old after one, is
// called whenever the program likes.
func TestServersThatEndConnections(t *testing.T) {
	for name, p := range map[string]keepalive.ServerParameters{
		"idle": {MaxConnectionIdle: 50 * time.Millisecond},
		"old":  {MaxConnectionAge: 50 * time.Millisecond, MaxConnectionAgeGrace: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := backendtest.Start(t, "one", grpc.KeepaliveParams(p))
			for _, policy := range []string{"pick_first", "round_robin"} {
				cc := plain(t, b.Addr, grpcdial.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+policy+`": {}}]}`))
				for range 12 {
					_, err := backendtest.AskName(backendtest.Bounded(t), cc)
					require.NoError(t, err)
					s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Backend/Stream")
					require.NoError(t, err)
					time.Sleep(120 * time.Millisecond) // how often the program calls
					require.NoError(t, s.CloseSend())
				}
			}
		})
	}
}

// What a connection of no use leads to is forgotten when an attempt fails by itself:
// each refusal is reported, and is followed by one delay.
func TestShortLivedThenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a connectCalls
		refused := errors.New("refused")
		cc := inBubble(t, func(ctx context.Context, addr string) (net.Conn, error) {
			a.note(ctx, addr)
			if a.count() > 1 {
				return nil, refused
			}
			return shortLived(), nil
		})
		defer cc.Close()
		cc.Connect()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		for range 3 {
			cc.Connect()
			synctest.Wait()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			var e *grpcdial.DialError
			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			require.ErrorAs(t, err, &e)
			assert.ErrorIs(t, e, refused)
		}
		assert.GreaterOrEqual(t, a.count(), 4, "no attempt is left out")
	})
}

// ResetConnectBackoff holds for the attempt that is being made too.
func TestResetConnectBackoffWhileConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a connectCalls
		cc := inBubble(t, a.failing(15*time.Second))
		defer cc.Close()
		cc.Connect()
		time.Sleep(10 * time.Minute)
		n := a.count()
		for a.count() == n {
			time.Sleep(time.Second)
		}
		cc.ResetConnectBackoff()
		synctest.Wait()
		time.Sleep(16 * time.Second)
		synctest.Wait()
		assert.Equal(t, n+2, a.count(), "the delay of a second has passed during the attempt")
	})
}
