package grpcdial

import (
	"context"
	"errors"
	"io"
	"net"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// ours returns the stacks of goroutines that run code of this library, other than
// what the tests start.
func ours() []string {
	buf := make([]byte, 1<<22)
	buf = buf[:runtime.Stack(buf, true)]
	_, self, _, _ := runtime.Caller(0)
	root := filepath.ToSlash(filepath.Dir(self))
	var found []string
	for _, g := range strings.Split(string(buf), "\n\n")[1:] { // the first is the caller
		for line := range strings.Lines(g) {
			file, isFile := strings.CutPrefix(line, "\t"+root)
			file, _, _ = strings.Cut(file, ":")
			if isFile && !strings.HasSuffix(path.Base(file), "_test.go") && !strings.HasSuffix(path.Dir(file), "test") {
				found = append(found, g)
				break
			}
		}
	}
	return found
}

// awaitOurs waits until n goroutines run code of this library, which takes no
// longer than the last steps of those that have said that they are done.
func awaitOurs(t *testing.T, n int) []string {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		left := ours()
		if len(left) == n {
			return left
		}
		if time.Now().After(deadline) {
			require.FailNow(t, "goroutines of ours", "want %d, got %d:\n%s", n, len(left), strings.Join(left, "\n\n"))
		}
	}
}

// assertNothingRuns fails the test if code of this library is still running.
func assertNothingRuns(t *testing.T) {
	t.Helper()
	awaitOurs(t, 0)
}

// within fails the test if f takes longer than limit each time it is tried: now
// and then the machine has something else to do.
func within(t *testing.T, limit time.Duration, f func(t *testing.T) time.Duration) {
	t.Helper()
	var took []time.Duration
	for range 5 {
		took = append(took, f(t))
		if t.Failed() || took[len(took)-1] < limit {
			return
		}
	}
	assert.Fail(t, "too slow", "%v, want less than %v", took, limit)
}

// A channel that is READY and has nothing to do has its connection's goroutine
// and no other.
func TestChannelAtRest(t *testing.T) {
	b := startBackend(t, "one")
	cc := plain(t, b.addr)
	for range 3 {
		_, err := askName(bounded(t), cc)
		require.NoError(t, err)
	}
	assert.Contains(t, awaitOurs(t, 1)[0], "(*link).serve")
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
		dial  func() (*ClientConn, error)
	}{
		{"IDLE, never used", connectivity.Idle, func() (*ClientConn, error) { return NewClient("x:1", WithInsecure()) }},
		{"IDLE, after a loss", connectivity.Idle, func() (*ClientConn, error) {
			b := startBackend(t, "one")
			cc, err := Dial(b.addr, WithInsecure(), WithBlock())
			b.cut()
			return cc, err
		}},
		{"IDLE, after a while", connectivity.Idle, func() (*ClientConn, error) {
			return Dial(startBackend(t, "one").addr, WithInsecure(), WithBlock(), WithIdleTimeout(time.Millisecond))
		}},
		{"CONNECTING, resolving", connectivity.Connecting, func() (*ClientConn, error) {
			_, target, option := handResolver(t)
			return Dial(target, WithInsecure(), option)
		}},
		{"CONNECTING, dialing", connectivity.Connecting, func() (*ClientConn, error) {
			return Dial("x:1", WithInsecure(), WithContextDialer(hang))
		}},
		{"CONNECTING, in the TLS handshake", connectivity.Connecting, func() (*ClientConn, error) {
			return Dial(mutes.Addr(), WithTransportCredentials(credentials.NewTLS(nil)))
		}},
		{"CONNECTING, waiting for SETTINGS", connectivity.Connecting, func() (*ClientConn, error) {
			return Dial(mutes.Addr(), WithInsecure())
		}},
		{"READY", connectivity.Ready, func() (*ClientConn, error) {
			return Dial(startBackend(t, "one").addr, WithInsecure(), WithBlock())
		}},
		{"READY, TLS", connectivity.Ready, func() (*ClientConn, error) {
			return Dial(tlsServer.Addr(), WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example"))), WithBlock())
		}},
		{"READY, three backends", connectivity.Ready, func() (*ClientConn, error) {
			r, target, option := handResolver(t)
			r.InitialState(addresses(startBackends(t, "a", "b", "c")...))
			return Dial(target, WithInsecure(), WithBlock(), option, WithDefaultServiceConfig(roundRobin))
		}},
		{"TRANSIENT_FAILURE", connectivity.TransientFailure, func() (*ClientConn, error) {
			return Dial(unusedAddr(t), WithInsecure())
		}},
		{"TRANSIENT_FAILURE, resolving", connectivity.TransientFailure, func() (*ClientConn, error) {
			r, target, option := handResolver(t)
			r.BuildCallback = reportError
			return Dial(target, WithInsecure(), option)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var cc *ClientConn
			within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
				var err error
				cc, err = tt.dial()
				require.NoError(t, err)
				awaitState(t, cc, tt.state)
				begun := time.Now()
				require.NoError(t, cc.Close())
				took := time.Since(begun)
				assertNothingRuns(t)
				return took
			})
			assert.Equal(t, connectivity.Shutdown, cc.GetState())

			assert.Equal(t, grpc.ErrClientConnClosing, cc.Close(), "the second Close")
			_, err := askName(context.Background(), cc)
			assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
			assert.Equal(t, codes.Canceled, status.Code(err))
			cc.Connect()
			cc.ResetConnectBackoff()
			cc.ResetConnectBackoff()
			assert.Equal(t, connectivity.Shutdown, cc.GetState())
			assertNothingRuns(t)
		})
	}
}

// RPCs that run when the channel is closed end with Canceled, at once.
func TestCloseCutsRPCs(t *testing.T) {
	b := startBackend(t, "one")
	refused := unusedAddr(t)
	for name, dial := range map[string]func(*testing.T) *ClientConn{
		"on a connection":           func(t *testing.T) *ClientConn { return plain(t, b.addr) },
		"waiting for a connection":  func(t *testing.T) *ClientConn { return plain(t, "x:1", WithContextDialer(hang)) },
		"waiting for the resolver":  func(t *testing.T) *ClientConn { return plain(t, "scripted:///x", WithResolvers(scripted{})) },
		"waiting for another state": func(t *testing.T) *ClientConn { return plain(t, refused) },
	} {
		t.Run(name, func(t *testing.T) {
			within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
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
				eventually(t, func() bool { running, _ := cc.calls.Active(); return running == 20 }, "all begun")
				if name == "on a connection" {
					for range 10 {
						<-b.held
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
		client DialOption
	}{
		"plaintext": {nil, WithInsecure()},
		"TLS":       {[]h2test.Option{h2test.WithTLSConfig(ca.ServerConfig("backend.example"))}, WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example")))},
	} {
		t.Run(name, func(t *testing.T) {
			srv := h2test.Listen(t, append(tt.server, h2test.SocketBuffers(4096, 4096))...)
			srv.Script(func(c *h2test.Conn) { c.Handshake(); c.StopReading() })
			within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
				cc, err := Dial(srv.Addr(), tt.client, WithBlock())
				require.NoError(t, err)
				var stuck sync.WaitGroup
				for range 8 {
					stuck.Go(func() {
						err := cc.Invoke(context.Background(), "/test.Backend/Name", big, new(wrapperspb.StringValue))
						assert.Equal(t, codes.Canceled, status.Code(err))
					})
				}
				eventually(t, func() bool { running, _ := cc.calls.Active(); return running == 8 }, "all begun")
				begun := time.Now()
				require.NoError(t, cc.Close())
				took := time.Since(begun)
				stuck.Wait()
				assertNothingRuns(t)
				return took
			})
		})
	}
}

// A dialer that ignores its context does not hold up Close; what it returns in
// the end is closed.
func TestCloseWithDeafDialer(t *testing.T) {
	within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
		release := make(chan struct{})
		client, server := net.Pipe()
		cc, err := Dial("x:1", WithInsecure(), WithContextDialer(func(context.Context, string) (net.Conn, error) {
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
	b := startBackend(t, "one")
	for range 20 {
		cc, err := Dial(b.addr, WithInsecure())
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

// A policy sees nothing of the channel's end but its own Close.
func TestPolicyIsClosedQuietly(t *testing.T) {
	b := startBackend(t, "one")
	states := make(chan balancer.SubConnState, 10)
	cc, _ := oneSubchannel(t, states, []resolver.Address{{Addr: b.addr}})
	require.NoError(t, cc.Close())
	assert.Empty(t, states)
}

// Close while everything moves.
func TestCloseUnderLoad(t *testing.T) {
	backends := startBackends(t, "a", "b")
	for range 20 {
		r, target, option := handResolver(t)
		r.InitialState(addresses(backends...))
		cc := plain(t, target, option, WithDefaultServiceConfig(roundRobin), fastBackoff(), WithIdleTimeout(2*time.Millisecond))
		var load sync.WaitGroup
		var rpcs atomic.Int64
		for range 4 {
			load.Go(func() {
				for {
					if _, err := askName(bounded(t), cc); errors.Is(err, grpc.ErrClientConnClosing) {
						return
					}
					rpcs.Add(1)
				}
			})
		}
		load.Go(func() {
			for cc.GetState() != connectivity.Shutdown {
				r.UpdateState(addresses(backends[0]))
				r.UpdateState(addresses(backends...))
				backends[1].cut()
			}
		})
		awaitReady(t, cc)
		eventually(t, func() bool { return rpcs.Load() > 20 }, "RPCs run")
		require.NoError(t, cc.Close())
		load.Wait()
	}
}
