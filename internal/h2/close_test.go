package h2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// However a connection ends while all is going on, each call ends, and nothing runs
// afterwards.
func TestEndInTheMiddle(t *testing.T) {
	boom := errors.New("boom")
	ends := []struct {
		name string
		end  func(c *client, server *h2test.Conn)
	}{
		{"Close", func(c *client, _ *h2test.Conn) { c.Close(boom, nil) }},
		{"Close with a status", func(c *client, _ *h2test.Conn) { c.Close(boom, status.New(codes.Canceled, "closing")) }},
		{"Close by many", func(c *client, _ *h2test.Conn) {
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { c.Close(boom, nil) })
				wg.Go(func() { c.Drain(boom) })
			}
			wg.Wait()
		}},
		{"Drain", func(c *client, _ *h2test.Conn) { c.Drain(boom) }},
		{"server closes", func(_ *client, server *h2test.Conn) { server.Close() }},
		{"server resets", func(_ *client, server *h2test.Conn) { server.CloseHard() }},
		{"server goes away", func(_ *client, server *h2test.Conn) { server.GoAway(1<<31-1, 0, ""); server.GoAway(9, 0, "") }},
		{"server goes away and closes", func(_ *client, server *h2test.Conn) { server.GoAway(51, 0, ""); server.Close() }},
		{"server errs", func(_ *client, server *h2test.Conn) { server.RawBytes([]byte("HTTP/1.1 500 Oops\r\n\r\n")) }},
	}
	for _, w := range wires {
		for _, e := range ends {
			t.Run(w.name+"/"+e.name, func(t *testing.T) {
				h2test.CheckLeaks(t)
				var opts []h2test.Option
				if w.tls {
					opts = append(opts, h2test.WithTLS())
				}
				srv := h2test.Listen(t, opts...)
				var started atomic.Int64
				enough := make(chan *h2test.Conn, 1)
				srv.Script(func(server *h2test.Conn) {
					server.Handshake(h2test.MaxConcurrentStreams(20), h2test.InitialWindowSize(20000))
					server.Loop(func(s *h2test.Stream) {
						if s.Frame == s.Headers && started.Add(1) == 60 {
							enough <- server
						}
						h2test.Echo(s)
					})
				})
				nc, err := net.Dial("tcp", srv.Addr())
				require.NoError(t, err)
				var ready func() *client
				if w.tls {
					ready = shake(t, w.wrap(nc), srv.ClientTLS(), h2.Config{KeepaliveTime: time.Millisecond, KeepaliveTimeout: 5 * time.Second})
				} else {
					ready = shake(t, w.wrap(nc), nil, h2.Config{KeepaliveTime: time.Millisecond, KeepaliveTimeout: 5 * time.Second})
				}
				c := ready()
				var wg sync.WaitGroup
				fine := func(err error) bool {
					switch status.Code(err) {
					case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
						return true
					}
					return false
				}
				for g := range 24 {
					wg.Go(func() {
						for i := 0; !isDone(c); i++ {
							ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
							if i%5 == 4 {
								ctx, cancel = context.WithTimeout(ctx, 300*time.Microsecond)
							}
							switch {
							case g%4 == 3:
								s, err := c.Open(ctx, req("/test/Echo"))
								if err != nil {
									if !fine(err) {
										t.Error(err)
									}
									break
								}
								sent := make(chan struct{})
								go func() {
									defer close(sent)
									for k := 0; k < 3 && s.Send(h2test.PutMessage(false, make([]byte, 30000)), k == 2) == nil; k++ {
									}
								}()
								for {
									m, err := s.Recv()
									if err != nil {
										if err != io.EOF && !fine(err) {
											t.Error(err)
										}
										break
									}
									m.Free()
								}
								<-sent
							default:
								payload := string(make([]byte, []int{0, 100, 50000}[i%3]))
								r := c.unary(ctx, req("/test/Echo"), payload)
								if r.failure() == nil {
									if len(r.reply) != len(payload) {
										t.Errorf("%d bytes came back of %d", len(r.reply), len(payload))
									}
								} else if !fine(r.failure()) {
									t.Error(r.failure())
								}
							}
							cancel()
						}
					})
				}
				server := await(t, enough, "some calls")
				e.end(c, server)
				wg.Wait()
				require.Error(t, await(t, c.served, "the end of Serve"))
				require.Zero(t, c.Streams())
			})
		}
	}
}

// Forced disconnects lose no call that was not sent, was refused, or is above a
// GOAWAY's id: it says that it may be sent again, and is, on the next connection. The server
// counts each message it was sent whole.
func TestDisconnects(t *testing.T) {
	h2test.CheckLeaks(t)
	for _, w := range wires[:2] {
		t.Run(w.name, func(t *testing.T) {
			var opts []h2test.Option
			if w.tls {
				opts = append(opts, h2test.WithTLS())
			}
			srv := h2test.Listen(t, opts...)
			var mu sync.Mutex
			seen := map[string]int{}
			var connections atomic.Int64
			srv.Script(func(server *h2test.Conn) {
				n := connections.Add(1)
				server.Handshake()
				calls := 0
				server.Loop(func(s *h2test.Stream) {
					if !s.Ended {
						return
					}
					calls++
					switch {
					case calls == 30 && n%3 == 0:
						server.GoAway(s.ID-2, 0, "") // this one is not processed
						server.EndLoop()
						return
					case calls == 30 && n%3 == 1:
						server.GoAway(1<<31-1, 0, "")
					case calls == 60:
						server.EndLoop()
						return
					case calls%7 == 0:
						s.RST(7) // REFUSED_STREAM
						return
					}
					mu.Lock()
					seen[string(s.Take()[0].Payload)]++
					mu.Unlock()
					s.Reply([]byte("ok"))
				})
			})
			var current atomic.Pointer[client]
			var dialing sync.Mutex
			next := func(old *client) *client {
				dialing.Lock()
				defer dialing.Unlock()
				if c := current.Load(); c != old {
					return c
				}
				nc, err := net.Dial("tcp", srv.Addr())
				if err != nil {
					t.Error(err)
				}
				var c *client
				if w.tls {
					c = shake(t, nc, srv.ClientTLS(), h2.Config{})()
				} else {
					c = shake(t, nc, nil, h2.Config{})()
				}
				current.Store(c)
				return c
			}
			next(nil)
			var wg sync.WaitGroup
			for g := range 16 {
				wg.Go(func() {
					for i := range 100 {
						name := fmt.Sprintf("%d/%d", g, i)
						for {
							c := current.Load()
							r := c.unary(context.Background(), req("/test/Call"), name)
							e := r.failure()
							mu.Lock()
							n := seen[name]
							mu.Unlock()
							if e == nil {
								if n != 1 {
									t.Errorf("call %s succeeded and was seen %d times", name, n)
								}
								break
							}
							if e.Status.Code() != codes.Unavailable {
								t.Errorf("call %s: %v", name, e)
							}
							if !e.Unsent && !e.Unprocessed {
								break // lost: it may have been processed, or not
							}
							if n != 0 {
								t.Errorf("call %s may be sent again (unsent %v, unprocessed %v) and was seen %d times", name, e.Unsent, e.Unprocessed, n)
							}
							if isDone(c) {
								next(c)
							}
						}
					}
				})
			}
			wg.Wait()
			require.Greater(t, connections.Load(), int64(10))
		})
	}
}
