package h2test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Server listens for clients under test. Its connections are driven by the test
// (Accept) or by a function of their own goroutine (Script, Serve).
type Server struct {
	t  testing.TB
	o  options
	ln net.Listener

	accepted chan net.Conn  // from the accepting goroutine to Accept or Script
	done     chan struct{}  // closed when the server stops listening
	wg       sync.WaitGroup // the accepting goroutine

	scripts sync.WaitGroup // goroutines that Script started

	stop sync.Once // closes done and the listener

	mu     sync.Mutex
	closed bool               // by Close or the end of the test: new connections are cut
	raws   map[net.Conn]*Conn // every accepted connection; nil before its Conn is made
	conns  []*Conn            // in the order in which they were made
}

// Option configures Listen and Pipe.
type Option func(*options)

type options struct {
	bound        time.Duration
	pipeBuffer   int
	unix         bool
	addr         string
	tls          *tls.Config
	ca           *CA
	recv, sendTo int
}

func newOptions(opts []Option) options {
	o := options{bound: DefaultBound, pipeBuffer: 1 << 20, addr: "127.0.0.1:0"}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// Bound replaces DefaultBound.
func Bound(d time.Duration) Option { return func(o *options) { o.bound = d } }

// PipeBuffer sets how many bytes each direction of a Pipe holds before a write
// waits. The default is 1 MiB.
func PipeBuffer(n int) Option { return func(o *options) { o.pipeBuffer = n } }

// Unix makes the server listen on a unix socket in a directory of its own.
func Unix() Option { return func(o *options) { o.unix = true } }

// At makes the server listen on a given address, such as that of a server that
// was closed before. The default is a free port of 127.0.0.1.
func At(addr string) Option { return func(o *options) { o.addr = addr } }

// WithTLS makes the server speak TLS with ALPN h2 and a certificate for
// localhost, 127.0.0.1 and ::1 from DefaultCA.
func WithTLS() Option {
	return func(o *options) {
		o.ca = DefaultCA()
		o.tls = o.ca.ServerConfig("localhost", "127.0.0.1", "::1")
	}
}

// WithTLSConfig makes the server speak TLS as cfg says, NextProtos included.
func WithTLSConfig(cfg *tls.Config) Option { return func(o *options) { o.tls = cfg } }

// SocketBuffers asks for small kernel buffers, in bytes, on the server's side of
// each connection, so that a client that writes to a server which does not read
// soon fills them. The kernel may give more, Linux doubles; 0 leaves a buffer as
// it is. The client's own send buffer is for its dialer to set.
func SocketBuffers(receive, send int) Option {
	return func(o *options) { o.recv, o.sendTo = receive, send }
}

// Listen starts a server. At the end of t it closes the listener and all
// connections and waits for its goroutines; if t has failed, it logs the frames
// of every connection.
func Listen(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := &Server{
		t:        t,
		o:        newOptions(opts),
		accepted: make(chan net.Conn, 4096),
		done:     make(chan struct{}),
		raws:     make(map[net.Conn]*Conn),
	}
	network, addr := "tcp", s.o.addr
	if s.o.unix {
		dir, err := os.MkdirTemp("", "h2test") // t.TempDir can be too long for a socket's path
		if err != nil {
			t.Fatalf("h2test: %v", err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		network, addr = "unix", filepath.Join(dir, "s")
	}
	lc := net.ListenConfig{Control: listenBuffers(s.o.recv, s.o.sendTo)}
	ln, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		t.Fatalf("h2test: %v", err)
	}
	s.ln = ln
	s.wg.Add(1)
	go s.acceptLoop()
	t.Cleanup(s.cleanUp)
	return s
}

// Addr returns the address that the server listens on: host:port, or the path of
// a unix socket.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Target returns the address as a gRPC target: host:port, or unix:path.
func (s *Server) Target() string {
	if s.o.unix {
		return "unix:" + s.Addr()
	}
	return s.Addr()
}

// ClientTLS returns a client's configuration that trusts the server started with
// WithTLS, for the server name localhost and ALPN h2.
func (s *Server) ClientTLS() *tls.Config {
	s.t.Helper()
	if s.o.ca == nil {
		s.t.Fatal("h2test: ClientTLS: the server was not started with WithTLS")
	}
	return s.o.ca.ClientConfig("localhost")
}

// Connections returns how many connections have been accepted so far, whether or
// not a script has taken them.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.raws)
}

func (s *Server) acceptLoop() {
	defer s.wg.Done()
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = nc.Close()
			return
		}
		s.raws[nc] = nil
		s.mu.Unlock()
		select {
		case s.accepted <- nc:
		case <-s.done:
			return
		}
	}
}

func (s *Server) acceptNet() (net.Conn, error) {
	timer := time.NewTimer(s.o.bound)
	defer timer.Stop()
	return s.nextConn(timer.C)
}

// nextConn takes an accepted connection, also one that was accepted before the
// server stopped listening.
func (s *Server) nextConn(expired <-chan time.Time) (net.Conn, error) {
	select {
	case nc := <-s.accepted:
		return nc, nil
	case <-s.done:
		select {
		case nc := <-s.accepted:
			return nc, nil
		default:
			return nil, errors.New("waiting for a connection: the server does not listen any more")
		}
	case <-expired:
		return nil, fmt.Errorf("waiting for a connection: no client dialed %s for %v", s.Addr(), s.o.bound)
	}
}

// Accept returns the next connection, after the TLS handshake if the server
// speaks TLS. The HTTP/2 preface has not been read.
func (s *Server) Accept() *Conn {
	s.t.Helper()
	c, err := s.TryAccept()
	if err != nil {
		s.t.Fatalf("h2test: %v", err)
	}
	return c
}

// TryAccept is Accept for tests in which the TLS handshake may fail; it returns
// the handshake's error.
func (s *Server) TryAccept() (*Conn, error) {
	s.t.Helper()
	nc, err := s.acceptNet()
	if err != nil {
		return nil, err
	}
	return s.start(nc, false)
}

// start makes the Conn of an accepted connection.
func (s *Server) start(raw net.Conn, script bool) (*Conn, error) {
	nc := raw
	if s.o.tls != nil {
		tc := tls.Server(raw, s.o.tls)
		ctx, cancel := context.WithTimeout(context.Background(), s.o.bound)
		defer cancel()
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, fmt.Errorf("TLS handshake with the client: %w", err)
		}
		nc = tc
	}
	c := newConn(s.t, nc, raw, s.o.bound, script)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	s.raws[raw] = c
	if s.closed {
		c.markClosing()
	}
	return c, nil
}

// Close stops listening and closes all connections, so that a client finds the
// server gone. It may be called from any goroutine, and more than once.
func (s *Server) Close() {
	s.stopListening()
	for raw, c := range s.cut() {
		if c != nil {
			c.markClosing()
		}
		_ = raw.Close()
	}
}

// CloseListener stops listening: connections stay, new ones are refused.
func (s *Server) CloseListener() { s.stopListening() }

func (s *Server) stopListening() {
	s.stop.Do(func() {
		close(s.done)
		_ = s.ln.Close()
	})
	s.wg.Wait()
}

// cut marks the server closed and returns its connections, to which none is
// added any more.
func (s *Server) cut() map[net.Conn]*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return maps.Clone(s.raws)
}

// maxShownConns bounds how many connections, the last ones, a failed test shows.
const maxShownConns = 10

func (s *Server) cleanUp() {
	s.stopListening()
	for raw, c := range s.cut() {
		if c == nil {
			_ = raw.Close()
		} else {
			c.end()
		}
	}
	waitForScripts(s.t, &s.scripts, s.o.bound)
	s.mu.Lock()
	conns := s.conns
	s.mu.Unlock()
	for _, c := range conns {
		waitForScripts(s.t, &c.scripts, s.o.bound)
	}
	s.Close()
	if !s.t.Failed() {
		return
	}
	first := max(0, len(conns)-maxShownConns)
	for i, c := range conns[first:] {
		s.t.Logf("h2test: connection %d of %d to %s, C client, S server:\n%s", first+i+1, len(conns), s.Addr(), c.log.text(true))
	}
}

// RefusedAddr returns a loopback address without a listener until the test
// ends: it is the client's end of a connection that stays open, so the port is
// given to no other test.
func RefusedAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("h2test: %v", err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatalf("h2test: %v", err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client.LocalAddr().String()
}
