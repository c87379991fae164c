package e2e_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
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
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A channel that is READY and has nothing to do has its connection's goroutine
// and no other.
func TestChannelAtRest(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc := plain(t, b.Addr)
	for range 3 {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		require.NoError(t, err)
	}
	assert.Contains(t, backendtest.AwaitOurs(t, 1)[0], "(*loop).serve")
}

// After Close nothing of ours runs, whatever state the channel was in.
func TestCloseInEveryState(t *testing.T) {
	ca := h2test.NewCA(t)
	mutes := h2test.Listen(t) // accepts, and says nothing
	tlsServer := h2test.Listen(t, h2test.WithTLSConfig(ca.ServerConfig("backend.example")))
	tlsServer.Serve(h2test.Echo)
	for _, tt := range []struct {
		name  string
		state connectivity.State
		dial  func() (*grpcdial.ClientConn, error)
	}{
		{"IDLE, never used", connectivity.Idle, func() (*grpcdial.ClientConn, error) { return grpcdial.NewClient("x:1", grpcdial.WithInsecure()) }},
		{"IDLE, after a loss", connectivity.Idle, func() (*grpcdial.ClientConn, error) {
			b := backendtest.Start(t, "one")
			cc, err := grpcdial.Dial(b.Addr, grpcdial.WithInsecure(), grpcdial.WithBlock())
			b.Cut()
			return cc, err
		}},
		{"IDLE, after a while", connectivity.Idle, func() (*grpcdial.ClientConn, error) {
			return grpcdial.Dial(backendtest.Start(t, "one").Addr, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithIdleTimeout(time.Millisecond))
		}},
		{"CONNECTING, resolving", connectivity.Connecting, func() (*grpcdial.ClientConn, error) {
			_, target, option := handResolver(t)
			return grpcdial.Dial(target, grpcdial.WithInsecure(), option)
		}},
		{"CONNECTING, dialing", connectivity.Connecting, func() (*grpcdial.ClientConn, error) {
			return grpcdial.Dial("x:1", grpcdial.WithInsecure(), grpcdial.WithContextDialer(backendtest.Hang))
		}},
		{"CONNECTING, in the TLS handshake", connectivity.Connecting, func() (*grpcdial.ClientConn, error) {
			return grpcdial.Dial(mutes.Addr(), grpcdial.WithTransportCredentials(credentials.NewTLS(nil)))
		}},
		{"CONNECTING, waiting for SETTINGS", connectivity.Connecting, func() (*grpcdial.ClientConn, error) {
			return grpcdial.Dial(mutes.Addr(), grpcdial.WithInsecure())
		}},
		{"READY", connectivity.Ready, func() (*grpcdial.ClientConn, error) {
			return grpcdial.Dial(backendtest.Start(t, "one").Addr, grpcdial.WithInsecure(), grpcdial.WithBlock())
		}},
		{"READY, TLS", connectivity.Ready, func() (*grpcdial.ClientConn, error) {
			return grpcdial.Dial(tlsServer.Addr(), grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example"))), grpcdial.WithBlock())
		}},
		{"READY, three backends", connectivity.Ready, func() (*grpcdial.ClientConn, error) {
			r, target, option := handResolver(t)
			r.InitialState(backendtest.Addresses(backendtest.StartAll(t, "a", "b", "c")...))
			return grpcdial.Dial(target, grpcdial.WithInsecure(), grpcdial.WithBlock(), option, grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin))
		}},
		{"TRANSIENT_FAILURE", connectivity.TransientFailure, func() (*grpcdial.ClientConn, error) {
			return grpcdial.Dial(backendtest.UnusedAddr(t), grpcdial.WithInsecure())
		}},
		{"TRANSIENT_FAILURE, resolving", connectivity.TransientFailure, func() (*grpcdial.ClientConn, error) {
			r, target, option := handResolver(t)
			r.BuildCallback = backendtest.ReportError
			return grpcdial.Dial(target, grpcdial.WithInsecure(), option)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var cc *grpcdial.ClientConn
			backendtest.Within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
				var err error
				cc, err = tt.dial()
				require.NoError(t, err)
				awaitState(t, cc, tt.state)
				begun := time.Now()
				require.NoError(t, cc.Close())
				took := time.Since(begun)
				backendtest.AssertNothingRuns(t)
				return took
			})
			assert.Equal(t, connectivity.Shutdown, cc.GetState())

			assert.Equal(t, grpc.ErrClientConnClosing, cc.Close(), "the second Close")
			_, err := backendtest.AskName(context.Background(), cc)
			assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
			assert.Equal(t, codes.Canceled, status.Code(err))
			cc.Connect()
			cc.ResetConnectBackoff()
			cc.ResetConnectBackoff()
			assert.Equal(t, connectivity.Shutdown, cc.GetState())
			backendtest.AssertNothingRuns(t)
		})
	}
}

// RPCs that run when the channel is closed end with Canceled, at once.
func TestCloseCutsRPCs(t *testing.T) {
	b := backendtest.Start(t, "one")
	refused := backendtest.UnusedAddr(t)
	for name, dial := range map[string]func(*testing.T) *grpcdial.ClientConn{
		"on a connection": func(t *testing.T) *grpcdial.ClientConn { return plain(t, b.Addr) },
		"waiting for a connection": func(t *testing.T) *grpcdial.ClientConn {
			return plain(t, "x:1", grpcdial.WithContextDialer(backendtest.Hang))
		},
		"waiting for the resolver": func(t *testing.T) *grpcdial.ClientConn {
			return plain(t, "scripted:///x", grpcdial.WithResolvers(backendtest.Scripted{}))
		},
		"waiting for another state": func(t *testing.T) *grpcdial.ClientConn { return plain(t, refused) },
	} {
		t.Run(name, func(t *testing.T) {
			backendtest.Within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
				cc := dial(t)
				results := make(chan error, 20)
				for range 10 {
					go func() {
						results <- cc.Invoke(context.Background(), "/test.Backend/Hold", new(wrapperspb.StringValue), new(wrapperspb.StringValue), grpc.WaitForReady(true))
					}()
					go func() {
						s, err := cc.NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Backend/Stream", grpc.WaitForReady(true))
						if err == nil {
							err = s.RecvMsg(new(wrapperspb.StringValue))
						}
						results <- err
					}()
				}
				backendtest.Eventually(t, func() bool { return rpcsRunning(t, cc) == 20 }, "all begun")
				if name == "on a connection" {
					for range 10 {
						<-b.Held
					}
				}
				begun := time.Now()
				require.NoError(t, cc.Close())
				for range 20 {
					err := <-results
					assert.Equal(t, codes.Canceled, status.Code(err), "%v", err)
					assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
				}
				return time.Since(begun)
			})
		})
	}
}

// A peer that does not read any more does not hold up Close.
func TestCloseWithStoppedPeer(t *testing.T) {
	ca := h2test.NewCA(t)
	big := wrapperspb.String(strings.Repeat("x", 1<<20))
	for name, tt := range map[string]struct {
		server []h2test.Option
		client grpcdial.DialOption
	}{
		"plaintext": {nil, grpcdial.WithInsecure()},
		"TLS":       {[]h2test.Option{h2test.WithTLSConfig(ca.ServerConfig("backend.example"))}, grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example")))},
	} {
		t.Run(name, func(t *testing.T) {
			srv := h2test.Listen(t, append(tt.server, h2test.SocketBuffers(4096, 4096))...)
			srv.Script(func(c *h2test.Conn) { c.Handshake(); c.StopReading() })
			backendtest.Within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
				cc, err := grpcdial.Dial(srv.Addr(), tt.client, grpcdial.WithBlock())
				require.NoError(t, err)
				var stuck sync.WaitGroup
				for range 8 {
					stuck.Go(func() {
						err := cc.Invoke(context.Background(), "/test.Backend/Name", big, new(wrapperspb.StringValue))
						assert.Equal(t, codes.Canceled, status.Code(err))
					})
				}
				backendtest.Eventually(t, func() bool { return rpcsRunning(t, cc) == 8 }, "all begun")
				begun := time.Now()
				require.NoError(t, cc.Close())
				took := time.Since(begun)
				stuck.Wait()
				backendtest.AssertNothingRuns(t)
				return took
			})
		})
	}
}

// A dialer that ignores its context does not hold up Close; what it returns in
// the end is closed.
func TestCloseWithDeafDialer(t *testing.T) {
	backendtest.Within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
		release := make(chan struct{})
		client, server := net.Pipe()
		cc, err := grpcdial.Dial("x:1", grpcdial.WithInsecure(), grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			<-release
			return client, nil
		}))
		require.NoError(t, err)
		awaitState(t, cc, connectivity.Connecting)
		begun := time.Now()
		require.NoError(t, cc.Close())
		took := time.Since(begun)
		close(release)
		_, err = server.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF)
		return took
	})
}

// Many closers, one close.
func TestCloseFromManyGoroutines(t *testing.T) {
	b := backendtest.Start(t, "one")
	for range 20 {
		cc, err := grpcdial.Dial(b.Addr, grpcdial.WithInsecure())
		require.NoError(t, err)
		results := make(chan error, 8)
		for range 8 {
			go func() { results <- cc.Close() }()
		}
		go cc.Connect()
		closed := 0
		for range 8 {
			if err := <-results; err == nil {
				closed++
			} else {
				assert.Equal(t, grpc.ErrClientConnClosing, err)
			}
		}
		assert.Equal(t, 1, closed)
	}
}

// Close while everything moves.
func TestCloseUnderLoad(t *testing.T) {
	backends := backendtest.StartAll(t, "a", "b")
	for range 20 {
		r, target, option := handResolver(t)
		r.InitialState(backendtest.Addresses(backends...))
		cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin), fastBackoff(), grpcdial.WithIdleTimeout(2*time.Millisecond))
		var load sync.WaitGroup
		var rpcs atomic.Int64
		for range 4 {
			load.Go(func() {
				for {
					if _, err := backendtest.AskName(backendtest.Bounded(t), cc); errors.Is(err, grpc.ErrClientConnClosing) {
						return
					}
					rpcs.Add(1)
				}
			})
		}
		load.Go(func() {
			for cc.GetState() != connectivity.Shutdown {
				r.UpdateState(backendtest.Addresses(backends[0]))
				r.UpdateState(backendtest.Addresses(backends...))
				backends[1].Cut()
			}
		})
		awaitReady(t, cc)
		backendtest.Eventually(t, func() bool { return rpcs.Load() > 20 }, "RPCs run")
		require.NoError(t, cc.Close())
		load.Wait()
	}
}
