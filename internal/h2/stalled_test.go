package h2_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// wires are the ways to be connected to a server on a socket.
var wires = []struct {
	name string
	tls  bool
	wrap func(net.Conn) net.Conn
}{
	{"plaintext", false, bare},
	{"TLS", true, bare},
	{"wrapped", false, wrap},
	{"wrapped TLS", true, wrap},
}

// stopped connects to a server that shakes hands and then reads nothing more, by
// way of small socket buffers.
func stopped(t *testing.T, useTLS bool, wrap func(net.Conn) net.Conn) *client {
	t.Helper()
	opts := []h2test.Option{h2test.SocketBuffers(4096, 4096)}
	if useTLS {
		opts = append(opts, h2test.WithTLS())
	}
	srv := h2test.Listen(t, opts...)
	srv.Script(func(server *h2test.Conn) {
		server.Handshake(h2test.InitialWindowSize(1 << 30))
		server.WindowUpdate(0, 1<<30)
		server.StopReading()
	})
	nc, err := net.Dial("tcp", srv.Addr())
	require.NoError(t, err)
	require.NoError(t, nc.(*net.TCPConn).SetWriteBuffer(4096))
	if useTLS {
		return shake(t, wrap(nc), srv.ClientTLS(), h2.Config{})()
	}
	return shake(t, wrap(nc), nil, h2.Config{})()
}

// lateness returns a function that ends the measurement and returns how late a timer has been
// at worst since: what a busy machine adds to any time that is measured.
func lateness() func() time.Duration {
	ended := make(chan struct{})
	worst := make(chan time.Duration)
	go func() {
		var most time.Duration
		for {
			due := time.Now().Add(5 * time.Millisecond)
			select {
			case <-time.After(time.Until(due)):
				most = max(most, time.Since(due))
			case <-ended:
				worst <- most
				return
			}
		}
	}()
	return func() time.Duration {
		close(ended)
		return <-worst
	}
}

// A server that stops reading holds up no caller beyond its deadline, whatever it waits
// for: one that writes for all others, one that waits for room, one whose message is half
// sent, a stream's sender.
func TestStoppedServer(t *testing.T) {
	const timeout, late = 100 * time.Millisecond, 250 * time.Millisecond
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			c := stopped(t, w.tls, w.wrap)
			var messages [][]byte
			for _, n := range []int{10, 16 << 10, 100 << 10, 1 << 20} {
				messages = append(messages, h2test.PutMessage(false, make([]byte, n)))
			}
			// What the machine adds when it has other things to do is no more than a guess: a run
			// that it does not disturb counts.
			for begun := time.Now(); ; {
				slow := lateness()
				var wg sync.WaitGroup
				var worst atomic.Int64
				for g := range 32 {
					wg.Go(func() {
						for i := range 4 {
							ctx, cancel := context.WithTimeout(context.Background(), timeout)
							began := time.Now()
							msg := messages[(g+i)%4]
							var s *h2.Stream
							var err error
							if g%8 == 7 {
								s, err = c.Open(ctx, req("/test/Stream"))
								for err == nil {
									err = s.Send(msg, false)
								}
								if s != nil {
									_, err = s.Recv()
								}
							} else if s, err = c.Unary(ctx, req("/test/Call"), msg); err == nil {
								err = s.Err()
								s.Release()
							}
							if e, ok := err.(*h2.Error); !ok || e == nil || e.Status.Code() != codes.DeadlineExceeded {
								t.Errorf("call %d/%d: %v", g, i, err)
							}
							took := time.Since(began)
							for {
								was := worst.Load()
								if int64(took) <= was || worst.CompareAndSwap(was, int64(took)) {
									break
								}
							}
							cancel()
						}
					})
				}
				wg.Wait()
				require.Zero(t, c.Streams())
				added := slow()
				t.Logf("the last was %v late, a timer %v", time.Duration(worst.Load())-timeout, added)
				if time.Duration(worst.Load()) < timeout+late+2*added {
					break
				}
				require.Less(t, time.Since(begun), time.Minute, "callers are late each time")
			}

			// Close ends callers that have no deadline, and does not wait for the server.
			results := make([]<-chan result, 8)
			for i := range results {
				results[i] = c.call(context.Background(), "/test/Hang", strings.Repeat("x", 100<<10))
			}
			s := make(chan error, 1)
			go func() {
				_, err := c.Open(context.Background(), req("/test/Stream"))
				s <- err
			}()
			began := time.Now()
			c.Close(io.ErrClosedPipe, nil)
			require.Equal(t, io.ErrClosedPipe, await(t, c.served, "the end of Serve"))
			for _, res := range results {
				r := await(t, res, "a call")
				require.Equal(t, codes.Unavailable, r.failure().Status.Code())
				require.True(t, r.failure().Unsent)
			}
			await(t, s, "the stream")
			require.Less(t, time.Since(began), 5*time.Second)
		})
	}
}

// A server that stops and goes on loses nothing.
func TestServerPauses(t *testing.T) {
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			opts := []h2test.Option{h2test.SocketBuffers(4096, 4096)}
			if w.tls {
				opts = append(opts, h2test.WithTLS())
			}
			srv := h2test.Listen(t, opts...)
			pause, resume := make(chan struct{}), make(chan struct{})
			srv.Script(func(server *h2test.Conn) {
				server.Handshake(h2test.InitialWindowSize(1 << 30))
				server.WindowUpdate(0, 1<<30)
				close(pause)
				<-resume
				server.Loop(h2test.Echo)
			})
			nc, err := net.Dial("tcp", srv.Addr())
			require.NoError(t, err)
			require.NoError(t, nc.(*net.TCPConn).SetWriteBuffer(4096))
			var ready func() *client
			if w.tls {
				ready = shake(t, w.wrap(nc), srv.ClientTLS(), h2.Config{})
			} else {
				ready = shake(t, w.wrap(nc), nil, h2.Config{})
			}
			c := ready()
			<-pause
			var results []<-chan result
			for i := range 20 {
				results = append(results, c.call(context.Background(), "/test/Echo", strings.Repeat(fmt.Sprint(i%10), 20000+i)))
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			defer cancel()
			r := c.unary(ctx, req("/test/Late"), strings.Repeat("x", 100))
			require.Equal(t, codes.DeadlineExceeded, r.failure().Status.Code())
			close(resume)
			for i, res := range results {
				r := await(t, res, "a call")
				require.Nil(t, r.failure())
				require.Equal(t, strings.Repeat(fmt.Sprint(i%10), 20000+i), r.reply)
			}
		})
	}
}

// With a server that reads as fast as it can no caller starves, though there is always
// another that writes.
func TestEveryCallerGetsOn(t *testing.T) {
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			var opts []h2test.Option
			if w.tls {
				opts = append(opts, h2test.WithTLS())
			}
			srv := h2test.Listen(t, opts...)
			srv.Serve(func(s *h2test.Stream) {
				s.Take()
				if s.Ended {
					s.SendTrailers(codes.OK, "")
				}
			})
			nc, err := net.Dial("tcp", srv.Addr())
			require.NoError(t, err)
			var ready func() *client
			if w.tls {
				ready = shake(t, w.wrap(nc), srv.ClientTLS(), h2.Config{})
			} else {
				ready = shake(t, w.wrap(nc), nil, h2.Config{})
			}
			c := ready()
			const callers, share = 64, 12
			counts := make([]int, callers)
			var total atomic.Int64
			payload := strings.Repeat("x", 16<<10)
			var wg sync.WaitGroup
			for g := range callers {
				wg.Go(func() {
					for total.Add(1) <= callers*share {
						ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
						if e := c.unary(ctx, req("/test/Call"), payload).failure(); e != nil {
							t.Error(e)
						}
						cancel()
						counts[g]++
					}
				})
			}
			wg.Wait()
			for _, n := range counts {
				require.GreaterOrEqual(t, 4*n, share, "calls of each caller: %v", counts)
			}
		})
	}
}

// Both sides write more than the buffers between them hold before they read. The
// client's reader goes on while its writes wait.
func TestBothSidesWrite(t *testing.T) {
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			opts := []h2test.Option{h2test.SocketBuffers(4096, 4096)}
			if w.tls {
				opts = append(opts, h2test.WithTLS())
			}
			srv := h2test.Listen(t, opts...)
			const size = 1 << 20
			srv.Script(func(server *h2test.Conn) {
				server.Handshake(h2test.InitialWindowSize(1 << 30))
				server.WindowUpdate(0, 1<<30)
				server.Skip(h2test.WindowUpdates, h2test.PingAcks)
				server.ExpectHeaders()
				server.ReplyHeaders(1)
				server.ReplyMessage(1, make([]byte, size)) // waits for the client to read
				server.Ping([8]byte{'a'})
				got := 0
				for got < size+5 {
					got += len(server.ExpectData(1).Data)
				}
				server.ReplyTrailers(1, codes.OK, "")
				server.StopReading()
			})
			nc, err := net.Dial("tcp", srv.Addr())
			require.NoError(t, err)
			require.NoError(t, nc.(*net.TCPConn).SetWriteBuffer(4096))
			cfg := h2.Config{StreamWindow: 16 << 20}
			var ready func() *client
			if w.tls {
				ready = shake(t, w.wrap(nc), srv.ClientTLS(), cfg)
			} else {
				ready = shake(t, w.wrap(nc), nil, cfg)
			}
			c := ready()
			s, err := c.Open(context.Background(), req("/test/Stream"))
			require.NoError(t, err)
			sent := make(chan error, 1)
			go func() { sent <- s.Send(h2test.PutMessage(false, make([]byte, size)), true) }()
			m, err := s.Recv()
			require.NoError(t, err)
			require.Len(t, m.Data, size)
			m.Free()
			require.NoError(t, await(t, sent, "Send"))
			_, err = s.Recv()
			require.Equal(t, io.EOF, err)
		})
	}
}

// What a stopped server makes a client hold is bounded: also headers count.
func TestStoppedServerMemory(t *testing.T) {
	c := stopped(t, false, wires[0].wrap)
	r := req("/test/Call")
	r.Extra = []string{"large", strings.Repeat("\x7f", 8000)}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 2000 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		s, err := c.Open(ctx, r)
		if err == nil {
			s.Cancel(nil)
		}
		cancel()
		if err != nil {
			break
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(2<<20))
}
