package e2e_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// rpcKinds are RPCs that do not end by themselves on a server that does not
// answer, in the states that they can be in.
var rpcKinds = map[string]func(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error{
	"unary": func(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error {
		return cc.Invoke(ctx, "/test/Unary", sized(5), new(wrapperspb.BytesValue), opts...)
	},
	"unary, large": func(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error {
		return cc.Invoke(ctx, "/test/Unary", sized(200_000), new(wrapperspb.BytesValue), opts...)
	},
	"stream that receives": func(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error {
		s, err := cc.NewStream(ctx, bidi, "/test/Stream", opts...)
		if err != nil {
			return err
		}
		return s.RecvMsg(new(wrapperspb.BytesValue))
	},
	"stream that sends": func(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error {
		s, err := cc.NewStream(ctx, bidi, "/test/Stream", opts...)
		for err == nil {
			err = s.SendMsg(sized(50_000))
		}
		if err == io.EOF {
			err = s.RecvMsg(new(wrapperspb.BytesValue))
		}
		return err
	},
	"stream that waits for headers": func(ctx context.Context, cc *grpcdial.ClientConn, opts ...grpc.CallOption) error {
		s, err := cc.NewStream(ctx, bidi, "/test/Stream", opts...)
		if err != nil {
			return err
		}
		if _, err := s.Header(); err != nil {
			return err
		}
		return s.RecvMsg(new(wrapperspb.BytesValue))
	},
}

// streams returns how many streams are open on the channel's connections.
func streams(cc *grpcdial.ClientConn) (n int) {
	for _, e := range cc.Snapshot().Endpoints {
		n += e.Streams
	}
	return n
}

// In each state, and with RPCs waiting for whatever RPCs wait for, Close leaves
// no goroutine and no socket, and RPCs end with an error that says it was Close.
func TestCloseLeavesNothing(t *testing.T) {
	ca := h2test.NewCA(t)
	clientTLS := credentials.NewTLS(ca.ClientConfig("backend.example"))
	untilClosed := func(settings ...http2.Setting) func(*h2test.Conn) {
		return func(c *h2test.Conn) { c.Handshake(settings...); c.ExpectClosed() }
	}
	silent := func(t *testing.T) string {
		return backendtest.ServeRaw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	}
	serve := func(f func(*h2test.Conn), opts ...h2test.Option) func(t *testing.T) string {
		return func(t *testing.T) string {
			srv := h2test.Listen(t, opts...)
			srv.Script(f)
			return srv.Addr()
		}
	}
	unused := func(t *testing.T) string { return backendtest.UnusedAddr(t) }
	secure := h2test.WithTLSConfig(ca.ServerConfig("backend.example"))
	roomy := []http2.Setting{h2test.InitialWindowSize(1 << 30)}
	for _, tt := range []struct {
		name    string
		server  func(t *testing.T) string
		creds   credentials.TransportCredentials
		opts    []grpcdial.DialOption
		state   connectivity.State
		streams int // of each kind of RPC one runs: how many get a stream
	}{
		{"IDLE", unused, nil, nil, connectivity.Idle, -1},
		{"CONNECTING, the dialer hangs", unused, nil, []grpcdial.DialOption{grpcdial.WithContextDialer(backendtest.Hang)}, connectivity.Connecting, 0},
		{"CONNECTING, TLS to a silent server", silent, clientTLS, nil, connectivity.Connecting, 0},
		{"CONNECTING, plaintext to a silent server", silent, nil, nil, connectivity.Connecting, 0},
		{"CONNECTING, a wrapped connection to a silent server", silent, clientTLS, []grpcdial.DialOption{grpcdial.WithContextDialer(smallWrapped)}, connectivity.Connecting, 0},
		{"READY, windows open", serve(untilClosed(roomy...)), nil, nil, connectivity.Ready, len(rpcKinds)},
		{"READY, TLS, windows open", serve(untilClosed(roomy...), secure), clientTLS, nil, connectivity.Ready, len(rpcKinds)},
		{"READY, streams' windows closed", serve(untilClosed(h2test.InitialWindowSize(0))), nil, nil, connectivity.Ready, len(rpcKinds)},
		{"READY, TLS, a wrapped connection, streams' windows closed", serve(untilClosed(h2test.InitialWindowSize(0)), secure), clientTLS,
			[]grpcdial.DialOption{grpcdial.WithContextDialer(smallWrapped)}, connectivity.Ready, len(rpcKinds)},
		{"READY, one stream at a time", serve(untilClosed(h2test.MaxConcurrentStreams(1))), nil, nil, connectivity.Ready, 1},
		{"READY, no stream at all", serve(untilClosed(h2test.MaxConcurrentStreams(0)), secure), clientTLS, nil, connectivity.Ready, 0},
		{"READY, but going away", serve(func(c *h2test.Conn) {
			c.Handshake()
			c.Skip(h2test.WindowUpdates | h2test.SettingsAcks | h2test.DataFrames)
			for range rpcKinds {
				c.ExpectHeaders()
			}
			c.GoAway(1<<31-1, http2.ErrCodeNo, "")
			c.ExpectClosed()
		}), nil, nil, connectivity.Idle, len(rpcKinds)},
		{"TRANSIENT_FAILURE", unused, nil, nil, connectivity.TransientFailure, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			if tt.creds == nil {
				tt.creds = insecure.NewCredentials()
			}
			target := tt.server(t)
			files := backendtest.CheckFiles(t)
			cc := channelTo(t, "passthrough:///"+target, tt.creds, tt.opts...)
			var running sync.WaitGroup
			if tt.streams >= 0 {
				for name, rpc := range rpcKinds {
					running.Go(func() {
						err := rpc(context.Background(), cc, grpc.WaitForReady(true))
						assert.ErrorIs(t, err, grpc.ErrClientConnClosing, name)
						assert.Equal(t, codes.Canceled, status.Code(err), name)
					})
				}
				backendtest.Eventually(t, func() bool { return rpcsRunning(t, cc) == len(rpcKinds) }, "RPCs run")
				backendtest.Eventually(t, func() bool { return streams(cc) == tt.streams }, "streams are open")
			}
			awaitState(t, cc, tt.state)

			begun := time.Now()
			require.NoError(t, cc.Close())
			took := time.Since(begun)
			running.Wait()
			assert.Less(t, took, 30*time.Second)
			backendtest.AssertNothingRuns(t)
			files()
			t.Logf("Close took %v", took.Round(10*time.Microsecond))

			assert.Equal(t, grpc.ErrClientConnClosing, cc.Close(), "SHUTDOWN")
			for name, rpc := range rpcKinds {
				err := rpc(context.Background(), cc)
				assert.ErrorIs(t, err, grpc.ErrClientConnClosing, name)
			}
			assert.False(t, cc.WaitForStateChange(cancelled(), connectivity.Shutdown))
			backendtest.AssertNothingRuns(t)
		})
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// An RPC that waits to be tried again is ended by Close too.
func TestCloseBetweenAttempts(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Serve(func(s *h2test.Stream) {
		if s.Ended {
			s.SendTrailers(codes.Unavailable, "later", "grpc-retry-pushback-ms", "1000000")
		}
	})
	var ended atomic.Int64 // attempts, each of which another one is to follow
	cc := plain(t, srv.Addr(), grpcdial.WithStatsHandler(backendtest.EndHandler(func() { ended.Add(1) })), grpcdial.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {
		"maxAttempts": 2, "initialBackoff": "1000s", "maxBackoff": "1000s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`))
	awaitReady(t, cc)
	results := make(chan error, 2)
	go func() {
		results <- cc.Invoke(context.Background(), "/test/Unary", sized(1), new(wrapperspb.BytesValue))
	}()
	go func() {
		s, err := cc.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true}, "/test/Stream")
		if err == nil {
			err = s.SendMsg(sized(1))
		}
		if err == nil {
			err = s.RecvMsg(new(wrapperspb.BytesValue))
		}
		results <- err
	}()
	backendtest.Eventually(t, func() bool { return ended.Load() == 2 }, "RPCs wait")
	require.NoError(t, cc.Close())
	for range 2 {
		err := <-results
		assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
		assert.Equal(t, codes.Canceled, status.Code(err))
	}
}

// Channels come and go and leave nothing behind.
func TestManyChannels(t *testing.T) {
	h2test.CheckLeaks(t)
	ca := h2test.NewCA(t)
	clientTLS := credentials.NewTLS(ca.ClientConfig("backend.example"))
	b := backendtest.Start(t, "one")
	secured := backendtest.StartEcho(t, grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example")))).Addr
	files := backendtest.CheckFiles(t)
	begun := time.Now()
	for round := range 10 {
		// 100 at once, of which each tenth speaks TLS.
		var all sync.WaitGroup
		open := make(chan *grpcdial.ClientConn, 100)
		for i := range cap(open) {
			all.Go(func() {
				target, creds := b.Addr, insecure.NewCredentials()
				if i%10 == 0 {
					target, creds = secured, clientTLS
				}
				cc, err := grpcdial.DialContext(backendtest.Bounded(t), target, grpcdial.WithTransportCredentials(creds), grpcdial.WithBlock())
				if assert.NoError(t, err) {
					_, err = backendtest.AskName(backendtest.Bounded(t), cc)
					assert.NoError(t, err)
					open <- cc
				}
			})
		}
		all.Wait()
		close(open)
		if round == 0 {
			backendtest.Eventually(t, func() bool { return len(backendtest.Ours()) <= cap(open) }, "no more than a goroutine for each channel")
			t.Logf("%d channels: %d goroutines, %d files", cap(open), len(backendtest.Ours()), backendtest.OpenFiles())
		}
		for cc := range open {
			all.Go(func() { assert.NoError(t, cc.Close()) })
		}
		all.Wait()
	}
	t.Logf("1000 channels opened, used and closed in %v", time.Since(begun).Round(time.Millisecond))
	backendtest.AssertNothingRuns(t)
	files()
}

// Everything that a program may call at any time is called at the same time, on
// channels whose backends come and go and that are closed in the middle of it.
func TestEverythingAtOnce(t *testing.T) {
	h2test.CheckLeaks(t)
	backends := backendtest.StartAll(t, "a", "b")
	files := backendtest.CheckFiles(t)
	for range 5 {
		r, target, option := handResolver(t)
		r.InitialState(backendtest.Addresses(backends...))
		cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin), noBackoff(), grpcdial.WithIdleTimeout(time.Millisecond))
		var all sync.WaitGroup
		until := func(f func()) {
			all.Go(func() {
				for cc.GetState() != connectivity.Shutdown {
					f()
					runtime.Gosched()
				}
			})
		}
		ctx, cancel := context.WithCancel(context.Background())
		for range 4 {
			until(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(int(10*time.Millisecond))))
				defer cancel()
				_, err := backendtest.AskName(ctx, cc, grpc.WaitForReady(rand.IntN(2) == 0))
				switch status.Code(err) {
				case codes.OK, codes.Unavailable, codes.DeadlineExceeded:
				case codes.Canceled:
					assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
				default:
					t.Errorf("unexpected: %v", err)
				}
			})
			until(func() {
				if s, err := cc.NewStream(ctx, bidi, "/test.Backend/Stream"); err == nil {
					_ = s.SendMsg(new(wrapperspb.StringValue))
					_, _ = s.Header()
					_ = s.CloseSend()
					for s.RecvMsg(new(wrapperspb.StringValue)) == nil {
					}
					_ = s.Trailer()
				}
			})
			until(func() { cc.WaitForStateChange(ctx, cc.GetState()) })
		}
		until(cc.Connect)
		until(cc.ResetConnectBackoff)
		until(func() {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(int(5*time.Millisecond))))
			defer cancel()
			if err := cc.AwaitReady(ctx); err != nil {
				var e *grpcdial.DialError
				assert.ErrorAs(t, err, &e)
			}
		})
		until(func() { backends[rand.IntN(2)].Cut(); awaitOne(cc) })
		until(func() { r.UpdateState(backendtest.Addresses(backends[rand.IntN(2)])); awaitOne(cc) })
		all.Go(func() {
			for range cc.Watch(ctx) {
			}
		})
		for range 10 {
			awaitOne(cc)
		}
		for range 3 {
			all.Go(func() { _ = cc.Close() })
		}
		all.Wait()
		cancel()
		assert.Equal(t, grpc.ErrClientConnClosing, cc.Close())
		backendtest.AssertNothingRuns(t)
	}
	files()
}

// awaitOne waits for one RPC that ends well, or for the channel's end.
func awaitOne(cc *grpcdial.ClientConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		_, err := backendtest.AskName(ctx, cc, grpc.WaitForReady(true))
		if err == nil || errors.Is(err, grpc.ErrClientConnClosing) || ctx.Err() != nil {
			return
		}
	}
}

// Attempts that fail, one after the other and each in its way, leave no socket.
func TestFailedAttemptsLeaveNothing(t *testing.T) {
	clientTLS := credentials.NewTLS(h2test.NewCA(t).ClientConfig("backend.example"))
	read := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	answer := func(with string) func(net.Conn) {
		return func(c net.Conn) { _, _ = c.Read(make([]byte, 1)); _, _ = io.WriteString(c, with); read(c) }
	}
	for _, tt := range []struct {
		name  string
		serve func(net.Conn)
		creds credentials.TransportCredentials
	}{
		{"closes", func(net.Conn) {}, insecure.NewCredentials()},
		{"closes, TLS", func(net.Conn) {}, clientTLS},
		{"silent", read, insecure.NewCredentials()},
		{"silent, TLS", read, clientTLS},
		{"HTTP/1", answer("HTTP/1.1 200 OK\r\n\r\n"), insecure.NewCredentials()},
		{"HTTP/1, TLS", answer("HTTP/1.1 200 OK\r\n\r\n"), clientTLS},
		{"half a SETTINGS", answer("\x00\x00\x06\x04\x00\x00"), insecure.NewCredentials()},
		{"wrong SETTINGS", answer("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x01"), insecure.NewCredentials()},
		{"GOAWAY", answer("\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0b"), insecure.NewCredentials()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			var accepted atomic.Int64
			addr := backendtest.ServeRaw(t, func(c net.Conn) { accepted.Add(1); tt.serve(c) })
			files := backendtest.CheckFiles(t)
			params := grpcdial.ConnectParams{MinConnectTimeout: 2 * time.Millisecond}
			params.Backoff.BaseDelay, params.Backoff.MaxDelay, params.Backoff.Multiplier = time.Millisecond, time.Millisecond, 1
			cc := channelTo(t, addr, tt.creds, grpcdial.WithConnectParams(params))
			var waiting sync.WaitGroup
			waiting.Go(func() {
				_, err := backendtest.AskName(context.Background(), cc, grpc.WaitForReady(true))
				for status.Code(err) == codes.Unavailable {
					// It was on a connection before the GOAWAY was read, twice.
					_, err = backendtest.AskName(context.Background(), cc, grpc.WaitForReady(true))
				}
				assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
			})
			backendtest.Eventually(t, func() bool { return accepted.Load() >= 15 }, "attempts")
			require.NoError(t, cc.Close())
			waiting.Wait()
			backendtest.AssertNothingRuns(t)
			files()
		})
	}
}
