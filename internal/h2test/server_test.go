package h2test_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

func dial(t testing.TB, srv *h2test.Server, network string) net.Conn {
	t.Helper()
	nc, err := net.Dial(network, srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

func TestAcceptIsBounded(t *testing.T) {
	failsWith(t, func(tb testing.TB) {
		h2test.Listen(tb, h2test.Bound(20*time.Millisecond)).Accept()
	}, "waiting for a connection: no client dialed 127.0.0.1:", "for 20ms")
}

func TestServerCloses(t *testing.T) {
	srv := h2test.Listen(t)
	addr := srv.Addr()
	first, second := dial(t, srv, "tcp"), dial(t, srv, "tcp")
	srv.Accept() // the other connection is never taken
	srv.Close()
	srv.Close()
	for _, nc := range []net.Conn{first, second} {
		noError(t, nc.SetDeadline(time.Now().Add(time.Minute)))
		_, err := nc.Read(make([]byte, 1))
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection is open: %v", err)
		}
	}
	_, err := net.Dial("tcp", addr)
	equal(t, true, errors.Is(err, syscall.ECONNREFUSED))

	// A backend that comes back at its address.
	again := h2test.Listen(t, h2test.At(addr))
	equal(t, addr, again.Addr())
	dial(t, again, "tcp")
	again.Accept()
}

func TestCloseListenerKeepsConnections(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Serve(h2test.Echo)
	nc := dial(t, srv, "tcp")
	client := newFramerClient(t, nc)
	client.open()
	client.read()
	srv.CloseListener()
	_, err := net.Dial("tcp", srv.Addr())
	equal(t, true, errors.Is(err, syscall.ECONNREFUSED))
	client.read()
	client.must(client.WritePing(false, [8]byte{}))
	client.read()
}

func TestRefusedAddr(t *testing.T) {
	_, err := net.Dial("tcp", h2test.RefusedAddr(t))
	equal(t, true, errors.Is(err, syscall.ECONNREFUSED))
}

func TestCloseHardResets(t *testing.T) {
	for name, opts := range map[string][]h2test.Option{"plaintext": nil, "tls": {h2test.WithTLS()}} {
		t.Run(name, func(t *testing.T) {
			srv := h2test.Listen(t, opts...)
			nc := dial(t, srv, "tcp")
			handshake := make(chan error, 1)
			conn := nc
			if opts != nil {
				tc := tlsClient(nc, srv.ClientTLS())
				go func() { handshake <- tc.Handshake() }()
				conn = tc
			} else {
				handshake <- nil
			}
			peer := srv.Accept()
			noError(t, <-handshake)
			peer.CloseHard()
			_, err := conn.Read(make([]byte, 1))
			equal(t, true, errors.Is(err, syscall.ECONNRESET))
		})
	}
}

func TestCloseWriteHalfCloses(t *testing.T) {
	for name, opts := range map[string][]h2test.Option{"tcp": nil, "unix": {h2test.Unix()}} {
		t.Run(name, func(t *testing.T) {
			srv := h2test.Listen(t, opts...)
			nc := dial(t, srv, name)
			conn := srv.Accept()
			conn.CloseWrite()
			_, err := nc.Read(make([]byte, 1))
			equal(t, io.EOF, err)
			newFramerClient(t, nc).open()
			conn.ExpectPreface()
		})
	}
}

// A peer that does not read and has small buffers soon stops a writer.
func TestSocketBuffersFillUp(t *testing.T) {
	srv := h2test.Listen(t, h2test.SocketBuffers(4096, 4096))
	nc := dial(t, srv, "tcp")
	noError(t, nc.(*net.TCPConn).SetWriteBuffer(4096))
	srv.Accept()
	noError(t, nc.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
	n, err := nc.Write(make([]byte, 1<<20))
	equal(t, true, errors.Is(err, os.ErrDeadlineExceeded))
	if n > 256<<10 {
		t.Errorf("%d bytes fitted", n)
	}
}

func TestStopReading(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t, h2test.SocketBuffers(4096, 4096))
	srv.Script(func(c *h2test.Conn) {
		c.Handshake()
		c.StopReading()
	})
	nc := dial(t, srv, "tcp")
	newFramerClient(t, nc).open()
	noError(t, nc.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
	_, err := nc.Write(make([]byte, 64<<20))
	equal(t, true, errors.Is(err, os.ErrDeadlineExceeded))
	equal(t, 1, srv.Connections())
}

func TestFailedTestShowsItsLastConnectionsAbridged(t *testing.T) {
	r := record(t, func(tb testing.TB) {
		srv := h2test.Listen(tb)
		for range 12 {
			client := newFramerClient(tb, dial(t, srv, "tcp"))
			client.open()
			conn := srv.Accept()
			conn.Handshake()
			for range 400 {
				client.must(client.WritePing(false, [8]byte{}))
				conn.ExpectPing()
			}
		}
		tb.Error("something")
	})
	equal(t, 10, len(r.logs))
	contains(t, r.logs[0], "connection 3 of 12 to 127.0.0.1:")
	contains(t, r.logs[0], "- 105 lines left out\n")
	equal(t, 302, strings.Count(r.logs[0], "\n"))
}

func TestScriptFailsTheTestFromItsOwnGoroutine(t *testing.T) {
	failsWith(t, func(tb testing.TB) {
		srv := h2test.Listen(tb, h2test.Bound(50*time.Millisecond))
		started := make(chan struct{})
		srv.Script(func(c *h2test.Conn) {
			close(started)
			c.ExpectPreface()
		})
		dial(t, srv, "tcp")
		<-started
		// The test ends here; the script keeps its bound.
	}, "waiting for the client preface: nothing happened for 50ms")
}

func TestScriptThatIsServedWhenTheTestEndsIsCut(t *testing.T) {
	r := record(t, func(tb testing.TB) {
		srv := h2test.Listen(tb)
		srv.Serve(h2test.Echo)
		dial(t, srv, "tcp") // sends no preface
		client := newFramerClient(tb, dial(t, srv, "tcp"))
		client.open()
		client.read()
	})
	equal(t, 0, len(r.failures))
}

func TestTLSHandshakeErrorIsReturned(t *testing.T) {
	srv := h2test.Listen(t, h2test.WithTLS())
	nc := dial(t, srv, "tcp")
	other := h2test.NewCA(t)
	done := make(chan error, 1)
	go func() {
		done <- tlsClient(nc, other.ClientConfig("localhost")).HandshakeContext(context.Background())
	}()
	_, err := srv.TryAccept()
	contains(t, err.Error(), "TLS handshake with the client: remote error: tls: bad certificate")
	contains(t, (<-done).Error(), "certificate signed by unknown authority")
}
