package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// stallingPeer is a server that shakes hands, opens all windows and then reads nothing
// any more.
type stallingPeer struct {
	name string
	dial func(t *testing.T) *grpcdial.ClientConn
}

// small makes a connection whose send buffer is soon full.
func small(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return nc, nc.(*net.TCPConn).SetWriteBuffer(4096)
}

// smallWrapped is small with a type of its own.
func smallWrapped(ctx context.Context, addr string) (net.Conn, error) {
	nc, err := small(ctx, addr)
	return struct{ net.Conn }{nc}, err
}

func neverReads(c *h2test.Conn) {
	c.Handshake(h2test.InitialWindowSize(1 << 30))
	c.WindowUpdate(0, 1<<30)
	c.StopReading()
}

// trickle goes on reading, so slowly that it makes no difference to the others but for
// the writes that end all the time.
func trickle(c *h2test.Conn) {
	c.Handshake(h2test.InitialWindowSize(1 << 30))
	c.WindowUpdate(0, 1<<30)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for buf := make([]byte, 1000); ; <-tick.C {
		if _, err := c.NetConn().Read(buf); err != nil {
			return
		}
	}
}

func stallingPeers() []stallingPeer {
	over := func(script func(*h2test.Conn), dialer func(context.Context, string) (net.Conn, error), opts ...h2test.Option) func(t *testing.T) *grpcdial.ClientConn {
		return func(t *testing.T) *grpcdial.ClientConn {
			srv := h2test.Listen(t, append(opts, h2test.SocketBuffers(4096, 0))...)
			srv.Script(script)
			creds := insecure.NewCredentials()
			if len(opts) > 0 {
				creds = credentials.NewTLS(srv.ClientTLS())
			}
			return channelTo(t, "passthrough:///"+srv.Addr(), creds, grpcdial.WithContextDialer(dialer))
		}
	}
	return []stallingPeer{
		{"plaintext", over(neverReads, small)},
		{"TLS", over(neverReads, small, h2test.WithTLS())},
		{"another connection", over(neverReads, smallWrapped)},
		{"TLS on another connection", over(neverReads, smallWrapped, h2test.WithTLS())},
		{"plaintext, slow", over(trickle, small)},
		{"TLS, slow", over(trickle, small, h2test.WithTLS())},
		{"bufconn", func(t *testing.T) *grpcdial.ClientConn {
			lis := bufconn.Listen(4096)
			t.Cleanup(func() { _ = lis.Close() })
			go func() {
				for {
					nc, err := lis.Accept()
					if err != nil {
						return
					}
					_ = h2test.Greet(nc, h2test.InitialWindowSize(1<<30)).WriteWindowUpdate(0, 1<<30)
				}
			}()
			return plain(t, "passthrough:///x", grpcdial.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
		}},
	}
}

// fill makes RPCs until there is no room for a request any more: after the first
// that the socket does not take, some more wait behind it.
func fill(t *testing.T, cc *grpcdial.ClientConn) {
	t.Helper()
	const behind = 10 // of 16 kB, where 64 kB have room
	stuck := 0
	for i := 0; ; i++ {
		require.Less(t, i, 1000, "the connection does not fill")
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		err := cc.Invoke(ctx, "/test/Fill", sized(16_000), new(wrapperspb.BytesValue))
		cancel()
		require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		var e *grpcdial.RPCError
		if errors.As(err, &e) && e.Stage == grpcdial.StageSend {
			stuck++
		}
		if stuck == behind {
			return
		}
	}
}

// A peer that stops reading makes callers wait for nothing but their own deadline,
// however much the others want to send, and does not hold up Close.
func TestStalledPeer(t *testing.T) {
	for i, p := range stallingPeers() {
		for _, size := range []int{10, 16_000, 1 << 20} {
			for _, kind := range []string{"unary", "streams"} {
				if i > 1 && size != 16_000 && (size < 16_000 || kind == "streams") {
					continue // the first two peers will do
				}
				t.Run(fmt.Sprintf("%s, %s of %d B", p.name, kind, size), func(t *testing.T) {
					h2test.CheckLeaks(t)
					cc := p.dial(t)
					awaitReady(t, cc)
					if size < 1000 {
						fill(t, cc) // such messages do not do it soon
					}
					rpc := unaryOf
					if kind == "streams" {
						rpc = streamOf
					}
					if size > 1<<19 {
						expire(t, cc, rpc, size) // so that there is memory for as many messages
					}
					// What the busy machine adds is no more than a guess: an attempt that it does
					// not disturb counts.
					backendtest.Within(t, 150*time.Millisecond, func(t *testing.T) time.Duration {
						starved := watchTime()
						late := expire(t, cc, rpc, size)
						held := starved()
						t.Logf("callers returned at most %v after their deadline (of it the machine was busy for up to %v)",
							late.Round(10*time.Microsecond), held.Round(10*time.Microsecond))
						return late - held
					})

					var all sync.WaitGroup
					for range 8 {
						all.Go(func() {
							err := rpc(context.Background(), cc, size)
							assert.Equal(t, codes.Canceled, status.Code(err), "%v", err)
							assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
						})
					}
					backendtest.Eventually(t, func() bool { return rpcsRunning(t, cc) == 8 }, "all begun")
					begun := time.Now()
					require.NoError(t, cc.Close())
					closed := time.Since(begun)
					all.Wait()
					assert.Less(t, closed, 30*time.Second)
					assert.Less(t, time.Since(begun), 30*time.Second)
					backendtest.AssertNothingRuns(t)
					t.Logf("Close took %v, and cut RPCs %v", closed.Round(10*time.Microsecond), time.Since(begun).Round(10*time.Microsecond))
				})
			}
		}
	}
}

// expire makes 64 RPCs with a deadline of 100 ms, all at once, and returns how long after it
// the last of them returned.
func expire(t *testing.T, cc *grpcdial.ClientConn, rpc func(context.Context, *grpcdial.ClientConn, int) error, size int) time.Duration {
	t.Helper()
	late := make([]time.Duration, 64)
	var all sync.WaitGroup
	for i := range late {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			err := rpc(ctx, cc, size)
			at, _ := ctx.Deadline()
			late[i] = time.Since(at)
			assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
	}
	all.Wait()
	return slices.Max(late)
}

// watchTime returns a function that returns for how long the process did not run, though
// it had something to do, since the call of watchTime.
func watchTime() func() time.Duration {
	stop, lost := make(chan struct{}), make(chan time.Duration)
	go func() {
		const pause, usual = time.Millisecond, 10 * time.Millisecond
		var sum time.Duration
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-tick.C:
				if gap := time.Since(last); gap > usual {
					sum += gap
				}
			case <-stop:
				lost <- sum
				return
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-lost
	}
}

func unaryOf(ctx context.Context, cc *grpcdial.ClientConn, size int) error {
	return cc.Invoke(ctx, "/test/Unary", sized(size), new(wrapperspb.BytesValue))
}

// streamOf sends until the stream has ended.
func streamOf(ctx context.Context, cc *grpcdial.ClientConn, size int) error {
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test/Stream")
	if err != nil {
		return err
	}
	for err == nil {
		err = s.SendMsg(sized(size))
	}
	if err != io.EOF {
		return err
	}
	return s.RecvMsg(new(wrapperspb.BytesValue))
}

// RPCs that end while they wait for a stream, for a window, for room in the buffer or
// for an answer give back what they held: however many did, others find as much
// as ever.
func TestCancelledRPCsHoldNothing(t *testing.T) {
	ca := h2test.NewCA(t)
	for _, tt := range []struct {
		name   string
		server []grpc.ServerOption
		creds  credentials.TransportCredentials
	}{
		{"plaintext", nil, insecure.NewCredentials()},
		{"TLS", []grpc.ServerOption{grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example")))}, credentials.NewTLS(ca.ClientConfig("backend.example"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			cc := channelTo(t, backendtest.StartEcho(t, append(tt.server, grpc.MaxConcurrentStreams(8))...).Addr, tt.creds)
			awaitReady(t, cc)
			var all sync.WaitGroup
			var ended, cut atomic.Int64
			for i := range 32 {
				all.Go(func() {
					rpc := unaryOf
					if i%4 == 3 {
						rpc = streamOf // sends without end
					}
					for range 40 {
						ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(3000))*time.Microsecond)
						err := rpc(ctx, cc, []int{10, 16_000, 70_000, 300_000}[rand.IntN(4)])
						cancel()
						switch status.Code(err) {
						case codes.OK:
							ended.Add(1)
						case codes.DeadlineExceeded:
							cut.Add(1)
						default:
							t.Errorf("unexpected: %v", err)
						}
					}
				})
			}
			all.Wait()
			t.Logf("%d RPCs ended well, %d were cut", ended.Load(), cut.Load())
			require.Zero(t, streams(cc))
			for range 32 {
				all.Go(func() { assert.NoError(t, unaryOf(backendtest.Bounded(t), cc, 1<<20)) })
			}
			all.Wait()
			assert.Len(t, cc.Snapshot().Endpoints, 1, "all on one connection")
		})
	}
}

// Callers that share one connection to a server that is well get their turns.
func TestNoStreamStarves(t *testing.T) {
	const callers = 64
	ca := h2test.NewCA(t)
	for _, tt := range []struct {
		name string
		rpc  func(ctx context.Context, cc *grpcdial.ClientConn, calls *atomic.Int64) error
		time time.Duration
	}{
		{"unary", func(ctx context.Context, cc *grpcdial.ClientConn, calls *atomic.Int64) error {
			err := cc.Invoke(ctx, "/test.Diary/Unary", sized(16_000), new(wrapperspb.BytesValue))
			calls.Add(1)
			return err
		}, 2 * time.Second},
		{"streams", func(ctx context.Context, cc *grpcdial.ClientConn, calls *atomic.Int64) error {
			s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Diary/Stream")
			for range 10 {
				if err == nil {
					err = s.SendMsg(sized(16_000))
				}
				if err == nil {
					err = s.RecvMsg(new(wrapperspb.BytesValue))
				}
				calls.Add(1)
			}
			if err == nil {
				_ = s.CloseSend()
				err = s.RecvMsg(new(wrapperspb.BytesValue))
			}
			if err == io.EOF {
				err = nil
			}
			return err
		}, time.Second / 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			srv := backendtest.StartEcho(t, grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example")))).Addr
			cc := channelTo(t, srv, credentials.NewTLS(ca.ClientConfig("backend.example")))
			awaitReady(t, cc)
			backendtest.Undisturbed(t, func(t *testing.T) (bool, string) {
				calls := make([]atomic.Int64, callers)
				var late atomic.Int64
				until := time.Now().Add(tt.time)
				var all sync.WaitGroup
				for i := range calls {
					all.Go(func() {
						for time.Now().Before(until) {
							ctx, cancel := context.WithTimeout(context.Background(), time.Second)
							err := tt.rpc(ctx, cc, &calls[i])
							cancel()
							if status.Code(err) == codes.DeadlineExceeded {
								late.Add(1)
							} else {
								assert.NoError(t, err)
							}
						}
					})
				}
				all.Wait()
				least, most, sum := calls[0].Load(), int64(0), int64(0)
				for i := range calls {
					n := calls[i].Load()
					least, most, sum = min(least, n), max(most, n), sum+n
				}
				measured := fmt.Sprintf("%d calls, %d to %d a caller, %d RPCs took longer than a second", sum, least, most, late.Load())
				t.Log(measured)
				return late.Load() == 0 && least >= most/8, measured
			})
		})
	}
}
