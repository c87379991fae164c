package e2e_test

import (
	"context"
	"fmt"
	"io"
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
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// closable is a channel, of grpc-go's or ours.
type closable interface {
	grpc.ClientConnInterface
	io.Closer
}

// withEach runs f on a channel of grpc-go's, the yardstick, and on one of ours.
func withEach(t *testing.T, target, config string, dial func(context.Context, string) (net.Conn, error), f func(t *testing.T, cc grpc.ClientConnInterface, ours bool)) {
	t.Helper()
	theirs := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(config)}
	ours := []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(config)}
	if dial != nil {
		theirs, ours = append(theirs, grpc.WithContextDialer(dial)), append(ours, grpcdial.WithContextDialer(dial))
	}
	for name, make := range map[string]func() (closable, error){
		"grpc-go":  func() (closable, error) { return grpc.NewClient(target, theirs...) },
		"grpcdial": func() (closable, error) { return grpcdial.NewClient(target, ours...) },
	} {
		cc, err := make()
		require.NoError(t, err)
		f(t, cc, name == "grpcdial")
		require.NoError(t, cc.Close())
	}
}

// servePiped runs a grpc-go server in a bubble whose unary RPCs take as long as given.
// wrap, if not nil, is put around its side of each connection.
func servePiped(t *testing.T, takes time.Duration, wrap func(net.Conn) net.Conn, p keepalive.ServerParameters) (dial func(context.Context, string) (net.Conn, error), stop func()) {
	t.Helper()
	lis := h2test.ListenUnbuffered()
	srv := grpc.NewServer(grpc.KeepaliveParams(p), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		m := new(wrapperspb.StringValue)
		if err := s.RecvMsg(m); err != nil {
			return err
		}
		time.Sleep(takes)
		return s.SendMsg(m)
	}))
	go srv.Serve(wrapped{lis, wrap})
	return lis.DialContext, srv.Stop
}

type wrapped struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (w wrapped) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err == nil && w.wrap != nil {
		c = w.wrap(c)
	}
	return c, err
}

// closesIdle is a server's connection that is closed when nothing has come for 100 ms.
type closesIdle struct {
	net.Conn
	timer *time.Timer
}

func newClosesIdle(c net.Conn) net.Conn {
	return &closesIdle{c, time.AfterFunc(100*time.Millisecond, func() { _ = c.Close() })}
}

func (c *closesIdle) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.timer.Reset(100 * time.Millisecond)
	return n, err
}

// ask makes a unary RPC that may take so long.
func ask(cc grpc.ClientConnInterface, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return cc.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue))
}

// A server that ends connections that are idle for a moment is there whenever an RPC
// comes, however rarely that is, and whether or not the policy connects again by itself.
func TestRareRPCsAndIdleConnections(t *testing.T) {
	for name, tt := range map[string]struct {
		idle time.Duration
		wrap func(net.Conn) net.Conn
	}{
		"GOAWAY":      {100 * time.Millisecond, nil},
		"end of file": {time.Hour, newClosesIdle},
	} {
		for policy, config := range map[string]string{"pick_first": "{}", "round_robin": backendtest.RoundRobin} {
			for _, every := range []time.Duration{3030 * time.Millisecond, 150 * time.Millisecond, 1050 * time.Millisecond} {
				t.Run(fmt.Sprintf("%s, %s, every %v", name, policy, every), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						dial, stop := servePiped(t, 0, tt.wrap, keepalive.ServerParameters{MaxConnectionIdle: tt.idle})
						withEach(t, "passthrough:///x", config, dial, func(t *testing.T, cc grpc.ClientConnInterface, ours bool) {
							for range 10 {
								assert.NoError(t, ask(cc, 500*time.Millisecond), "ours: %v", ours)
								time.Sleep(every)
							}
						})
						stop()
					})
				})
			}
		}
	}
}

// A server that ends connections that are old, sooner than it answers, answers as soon
// as on others.
func TestOldConnectionsAndSlowRPCs(t *testing.T) {
	for _, age := range []time.Duration{100 * time.Millisecond, 30 * time.Millisecond} {
		for policy, config := range map[string]string{"pick_first": "{}", "round_robin": backendtest.RoundRobin} {
			t.Run(fmt.Sprintf("%v, %s", age, policy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dial, stop := servePiped(t, 300*time.Millisecond, nil, keepalive.ServerParameters{MaxConnectionAge: age, MaxConnectionAgeGrace: time.Minute})
					slowest := make(map[bool]time.Duration)
					withEach(t, "passthrough:///x", config, dial, func(t *testing.T, cc grpc.ClientConnInterface, ours bool) {
						var callers sync.WaitGroup
						var most atomic.Int64
						for n := range 10 {
							callers.Go(func() {
								time.Sleep(time.Duration(n) * 7 * time.Millisecond)
								for range 10 {
									begun := time.Now()
									assert.NoError(t, ask(cc, 10*time.Second), "ours: %v", ours)
									for took := int64(time.Since(begun)); ; {
										if before := most.Load(); before >= took || most.CompareAndSwap(before, took) {
											break
										}
									}
								}
							})
						}
						callers.Wait()
						slowest[ours] = time.Duration(most.Load())
					})
					assert.LessOrEqual(t, slowest[true], max(slowest[false], 310*time.Millisecond))
					stop()
				})
			})
		}
	}
}

// A server that ends its first connections in good order, before it serves anything, and
// then serves, loses no RPC. grpc-go sends a request a second time only.
func TestGoAwaysBeforeTheFirstReply(t *testing.T) {
	for name, goAway := range map[string]func(*h2test.Conn){
		"at once": func(c *h2test.Conn) {
			c.GoAway(0, http2.ErrCodeNo, "")
		},
		"when a request has come": func(c *h2test.Conn) {
			c.ExpectUnary()
			c.GoAway(0, http2.ErrCodeNo, "")
		},
		"announced, when a request has come": func(c *h2test.Conn) {
			c.ExpectUnary()
			c.GoAway(1<<31-1, http2.ErrCodeNo, "")
			c.GoAway(0, http2.ErrCodeNo, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			srv := h2test.Listen(t)
			var connections atomic.Int32
			srv.Script(func(c *h2test.Conn) {
				n := connections.Add(1)
				c.Lenient()
				c.Handshake()
				if n <= 9 {
					goAway(c)
					c.ExpectClosed()
					return
				}
				c.Loop(h2test.Echo)
			})
			cc := newClient(t, srv.Addr(), grpcdial.WithInsecure())
			begun := time.Now()
			assert.NoError(t, ask(cc, time.Minute))
			assert.Less(t, time.Since(begun), 30*time.Second)
			require.NoError(t, cc.Close())
		})
	}
}
