package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
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
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// attemptCounts counts the attempts of RPCs.
type attemptCounts struct{ begun, ended atomic.Int64 }

func (*attemptCounts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*attemptCounts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*attemptCounts) HandleConn(context.Context, stats.ConnStats)                       {}
func (b *attemptCounts) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.Begin:
		b.begun.Add(1)
	case *stats.End:
		b.ended.Add(1)
	}
}

// noBackoff makes attempts follow each other at once, or nearly so.
func noBackoff() grpcdial.DialOption {
	p := grpcdial.ConnectParams{MinConnectTimeout: 20 * time.Second}
	p.Backoff.BaseDelay, p.Backoff.MaxDelay, p.Backoff.Multiplier = time.Millisecond, 2*time.Millisecond, 1.6
	return grpcdial.WithConnectParams(p)
}

// Connections are cut in all manners while RPCs run. An RPC that fails is one
// whose request was written to its end, whatever the connection is: the client
// knows by itself which were not, and sends them again.
func TestForcedDisconnects(t *testing.T) {
	ca := h2test.NewCA(t)
	for _, tt := range []struct {
		name    string
		network string
		cuts    int
		tls     bool
		wrapped bool // the dialer's connection has a type of its own
		exact   bool // it is known which requests were written
	}{
		{name: "TCP", network: "tcp", cuts: 200, exact: true},
		{name: "unix", network: "unix", cuts: 80, exact: runtime.GOOS == "linux"},
		{name: "TLS", network: "tcp", cuts: 40, tls: true},
		{name: "another connection", network: "unix", cuts: 40, wrapped: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			d := newDiary()
			backend := startDiaryServer(t, d)
			dir, err := filepath.EvalSymlinks(t.TempDir())
			require.NoError(t, err)
			var listeners []net.Listener
			targets := make(map[string]net.Addr)
			for _, name := range []string{"a", "b"} {
				addr := "127.0.0.1:0"
				if tt.network == "unix" {
					addr = filepath.Join(dir, name)
				}
				lis, err := net.Listen(tt.network, addr)
				require.NoError(t, err)
				listeners = append(listeners, lis)
				targets[name] = lis.Addr()
			}
			var server *tls.Config
			creds := insecure.NewCredentials()
			if tt.tls {
				server = ca.ServerConfig("backend.example")
				creds = credentials.NewTLS(ca.ClientConfig("backend.example"))
			}
			relay := startRelay(t, d, backend.addr, server, listeners...)

			r, target, option := handResolver(t)
			r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "a"}, {Addr: "b"}}})
			attempts := new(attemptCounts)
			handler := grpcdial.DialOption(grpcdial.EmptyDialOption{}) // it makes RPCs go another way
			if tt.tls {
				handler = grpcdial.WithStatsHandler(attempts)
			}
			cc := channelTo(t, target, creds, option, handler, grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin), noBackoff(),
				grpcdial.WithContextDialer(func(ctx context.Context, name string) (net.Conn, error) {
					nc, err := new(net.Dialer).DialContext(ctx, tt.network, targets[name].String())
					if err != nil {
						return nil, err
					}
					_ = nc.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(16 << 10)
					if tt.wrapped {
						nc = struct{ net.Conn }{nc}
					}
					return nc, nil
				}))

			l := startLoad(t, cc, d)
			for range tt.cuts {
				l.more(20)
				relay.cutOne()
			}
			l.goOn()
			assert.NotEqual(t, connectivity.Shutdown, cc.GetState())
			l.end()
			relay.pumps.Wait()
			unknown := 0
			d.check(t, func(r *rpcRecord) bool {
				unknown++
				return !tt.exact || relay.reset[r.last]
			})
			t.Logf("of %d it is not known whether they were written", unknown)
			assert.Equal(t, attempts.begun.Load(), attempts.ended.Load(), "attempts ended")
			assert.Equal(t, tt.tls, attempts.begun.Load() >= int64(len(d.rpcs)), "%d attempts", attempts.begun.Load())
		})
	}
}

// A server that ends its connections in good order, goes away and comes back at
// the same address loses no RPC. One that does so at once may lose those that it
// had been sent, and nothing else.
func TestServerRestarts(t *testing.T) {
	ca := h2test.NewCA(t)
	secure := []grpc.ServerOption{grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example")))}
	clientTLS := credentials.NewTLS(ca.ClientConfig("backend.example"))
	for _, tt := range []struct {
		name   string
		server []grpc.ServerOption
		client credentials.TransportCredentials
		stop   func(*grpc.Server)
		loses  bool
	}{
		{"GracefulStop", nil, insecure.NewCredentials(), (*grpc.Server).GracefulStop, false},
		{"GracefulStop, TLS", secure, clientTLS, (*grpc.Server).GracefulStop, false},
		{"GracefulStop, few streams at a time", []grpc.ServerOption{grpc.MaxConcurrentStreams(4)}, insecure.NewCredentials(), (*grpc.Server).GracefulStop, false},
		{"Stop", nil, insecure.NewCredentials(), (*grpc.Server).Stop, true},
		{"Stop, TLS", secure, clientTLS, (*grpc.Server).Stop, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			d := newDiary()
			backend := startDiaryServer(t, d, tt.server...)
			cc := channelTo(t, backend.addr, tt.client, noBackoff())
			l := startLoad(t, cc, d)
			for range 20 {
				l.goOn()
				backend.stop(tt.stop)
				backend.start()
			}
			l.goOn()
			l.end()
			failed := d.check(t, func(*rpcRecord) bool { return tt.loses })
			if !tt.loses {
				assert.Zero(t, failed)
			}
		})
	}
}

// A backend that went away is found again at its old port: by RPCs that wait for it,
// and at once after ResetConnectBackoff.
func TestBackendIsFoundAgain(t *testing.T) {
	ca := h2test.NewCA(t)
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "plaintext", true: "TLS"}[secure], func(t *testing.T) {
			h2test.CheckLeaks(t)
			creds := insecure.NewCredentials()
			var opts []grpc.ServerOption
			if secure {
				creds = credentials.NewTLS(ca.ClientConfig("backend.example"))
				opts = append(opts, grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example"))))
			}
			backend := startDiaryServer(t, newDiary(), opts...)
			for _, reset := range []bool{false, true} {
				params := noBackoff()
				if reset {
					p := grpcdial.ConnectParams{MinConnectTimeout: 20 * time.Second}
					p.Backoff.BaseDelay, p.Backoff.MaxDelay, p.Backoff.Multiplier = time.Hour, time.Hour, 1
					params = grpcdial.WithConnectParams(p)
				}
				cc := channelTo(t, backend.addr, creds, params)
				for range 3 {
					awaitReady(t, cc)
					backend.stop((*grpc.Server).Stop)
					backendtest.Eventually(t, func() bool {
						_, err := backendtest.AskName(backendtest.Bounded(t), cc)
						return errors.Is(err, syscall.ECONNREFUSED)
					}, "the backend is found gone")
					backend.start()
					waiting := make(chan error)
					go func() {
						_, err := backendtest.AskName(withName(backendtest.Bounded(t)), cc, grpc.WaitForReady(true))
						waiting <- err
					}()
					if reset {
						awaitState(t, cc, connectivity.TransientFailure)
						cc.ResetConnectBackoff()
						awaitReady(t, cc)
					}
					require.NoError(t, <-waiting)
				}
				require.NoError(t, cc.Close())
			}
		})
	}
}

func withName(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "rpc-name", "again")
}

// picky is a server that does not process some requests and says so. Each of
// its connections refuses streams now and then, and after a while lets requests lie that
// its GOAWAY then leaves out.
type picky struct {
	diary *diary

	mu    sync.Mutex
	conns map[*h2test.Conn]*pickyConn // guarded by mu, and all of them
	turns int                         // guarded by mu: GOAWAYs sent
	tired bool                        // guarded by mu: no request is let lie any more
}

type pickyConn struct {
	limit, patience int    // RPCs to serve, then RPCs to let lie, until GOAWAY
	last            uint32 // the highest stream taken on
	lying           []string
	gone            bool
}

func (p *picky) handle(s *h2test.Stream) {
	if s.Reset {
		return
	}
	if s.Value == nil {
		s.Value = p.takesOn(s, s.Headers.Field("rpc-name"))
	}
	if s.Value == false {
		return
	}
	for range s.Take() {
		s.SendMessage([]byte("\x0a\x01x"))
	}
	if s.Ended {
		s.SendTrailers(codes.OK, "")
	}
}

// takesOn decides about a new request.
func (p *picky) takesOn(s *h2test.Stream, name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.conns[s.Conn()]
	if c == nil {
		c = &pickyConn{limit: 20 + rand.IntN(40), patience: rand.IntN(8)}
		p.conns[s.Conn()] = c
	}
	if c.gone {
		p.diary.note(name, func(r *rpcRecord) { r.unprocessed++ })
		return false
	}
	if p.refuses(name) {
		s.RST(http2.ErrCodeRefusedStream)
		return false
	}
	if c.limit > 0 || p.tired {
		c.limit--
		c.last = s.ID
		p.diary.note(name, func(r *rpcRecord) { r.handled++ })
		return true
	}
	if c.lying = append(c.lying, name); len(c.lying) > c.patience {
		p.goAway(s.Conn(), c)
	}
	return false
}

// refuses decides whether to refuse an RPC. None is refused twice.
func (p *picky) refuses(name string) (refused bool) {
	p.diary.note(name, func(r *rpcRecord) {
		if refused = r.unprocessed == 0 && rand.IntN(10) == 0; refused {
			r.unprocessed++
		}
	})
	return refused
}

func (p *picky) goAway(conn *h2test.Conn, c *pickyConn) {
	c.gone = true
	p.turns++
	for _, name := range c.lying {
		p.diary.note(name, func(r *rpcRecord) { r.unprocessed++ })
	}
	if rand.IntN(2) == 0 {
		conn.GoAway(1<<31-1, http2.ErrCodeNo, "soon")
	}
	conn.GoAway(c.last, http2.ErrCodeNo, "now")
}

func (p *picky) turnsTaken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.turns
}

// rest has what lies left out, and everything that comes later processed.
func (p *picky) rest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tired = true
	for conn, c := range p.conns {
		if len(c.lying) > 0 && !c.gone {
			p.goAway(conn, c)
		}
	}
}

// RPCs that a server has not processed are sent again, once at least: only those
// that were left out twice may fail.
func TestUnprocessedUnderLoad(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "plaintext", true: "TLS"}[secure], func(t *testing.T) {
			h2test.CheckLeaks(t)
			d := newDiary()
			t.Cleanup(func() { // when the server has read everything
				d.check(t, func(*rpcRecord) bool { return false })
			})
			creds := insecure.NewCredentials()
			var opts []h2test.Option
			if secure {
				opts = append(opts, h2test.WithTLS())
			}
			srv := h2test.Listen(t, opts...)
			if secure {
				creds = credentials.NewTLS(srv.ClientTLS())
			}
			p := &picky{diary: d, conns: make(map[*h2test.Conn]*pickyConn)}
			srv.Serve(p.handle)
			cc := channelTo(t, srv.Addr(), creds, noBackoff())
			l := startLoad(t, cc, d)
			backendtest.Eventually(t, func() bool { return p.turnsTaken() >= 60 }, "GOAWAYs")
			p.rest()
			l.end()
		})
	}
}

// gated is per-RPC credentials that let one attempt after the other go on.
type gated chan struct{}

func (g gated) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	select {
	case <-g:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (gated) RequireTransportSecurity() bool { return false }

// A request that waits to be written when GOAWAY comes was never on the wire: it is
// sent again, whatever happened to it before.
func TestGoAwayBeforeTheRequestIsWritten(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t, h2test.SocketBuffers(4096, 0))
	attempts := make(gated)
	cc := plain(t, "passthrough:///"+srv.Addr(), grpcdial.WithContextDialer(small), grpcdial.WithWriteBufferSize(1<<20))
	cc.Connect()
	server := srv.Accept()
	server.Handshake(h2test.InitialWindowSize(1 << 30))
	server.WindowUpdate(0, 1<<30)

	result := make(chan error, 1)
	go func() {
		result <- cc.Invoke(backendtest.Bounded(t), "/test/Once", sized(10), new(wrapperspb.BytesValue), grpc.PerRPCCredentials(attempts))
	}()
	attempts <- struct{}{}
	server.ExpectUnary()
	server.RST(1, http2.ErrCodeRefusedStream)

	// Now the server does not read any more, and more is sent than the sockets hold.
	other, err := cc.NewStream(backendtest.Bounded(t), bidi, "/test/Stream")
	require.NoError(t, err)
	require.NoError(t, other.SendMsg(sized(500_000)))
	attempts <- struct{}{}
	backendtest.Eventually(t, func() bool { return streams(cc) == 2 }, "the second attempt waits to be written")
	server.GoAway(3, http2.ErrCodeNo, "")

	close(attempts)
	server = srv.Accept()
	server.Handshake()
	server.ExpectUnary()
	server.ReplyUnary(1, nil)
	require.NoError(t, <-result)
	require.NoError(t, cc.Close())
}

// failingWriter is a connection whose writes fail when the test says so, while reads go on
// waiting.
type failingWriter struct {
	net.Conn
	broken    atomic.Bool
	deadlines bool // it has deadlines; tunnels often have not
}

func (f *failingWriter) Write(p []byte) (int, error) {
	if f.broken.Load() {
		return 0, syscall.EPIPE
	}
	return f.Conn.Write(p)
}

func (f *failingWriter) SetReadDeadline(at time.Time) error {
	if !f.deadlines {
		return errors.ErrUnsupported
	}
	return f.Conn.SetReadDeadline(at)
}

func (f *failingWriter) SetDeadline(at time.Time) error { return f.SetReadDeadline(at) }

// A connection that can be read and not written is given up: by new RPCs soon, and
// after a while by those that may still be answered on it.
func TestWritesFailAndReadsWait(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t)
	srv.Serve(h2test.Echo)
	// run returns how long an RPC took that was made when writes failed.
	run := func(t *testing.T, deadlines bool) time.Duration {
		conns := make(chan *failingWriter, 10)
		cc := plain(t, "passthrough:///"+srv.Addr(), grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			f := &failingWriter{Conn: nc, deadlines: deadlines}
			conns <- f
			return f, err
		}))
		answered, err := cc.NewStream(backendtest.Bounded(t), bidi, "/test/Echo")
		require.NoError(t, err)
		require.NoError(t, answered.SendMsg(sized(10)))
		require.NoError(t, answered.RecvMsg(new(wrapperspb.BytesValue))) // so nothing is left to be written
		(<-conns).broken.Store(true)
		begun := time.Now()
		_, err = backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		assert.NoError(t, err, "it was never written, so it goes elsewhere")
		took := time.Since(begun)
		assert.ErrorIs(t, answered.RecvMsg(new(wrapperspb.BytesValue)), syscall.EPIPE)
		awaitOne(cc)
		assert.Less(t, time.Since(begun), 20*time.Second)
		assert.NoError(t, cc.Close())
		return took
	}
	var both sync.WaitGroup
	both.Go(func() {
		backendtest.Within(t, 800*time.Millisecond, func(t *testing.T) time.Duration { return run(t, true) })
	})
	both.Go(func() { run(t, false) })
	both.Wait()
}
