package h2_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// The reader's own write fails while nothing can be read: what it owed the
// server is a PING's answer.
func TestReadersWriteFails(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t)
	nc, err := net.Dial("tcp", srv.Addr())
	require.NoError(t, err)
	ready := shake(t, nc, nil, h2.Config{})
	server := srv.Accept()
	server.Handshake()
	c := ready()
	res := c.call(context.Background(), "/test/Hang", "x")
	server.ExpectUnary()
	require.NoError(t, nc.(*net.TCPConn).CloseWrite())
	server.Ping([8]byte{1})
	await(t, c.Done(), "the failed write to be noticed")
	server.Close()
	r := await(t, res, "the end of the call")
	require.Equal(t, codes.Unavailable, r.err.Status.Code())
	await(t, c.served, "the end of Serve")
}

// A record that is not TLS makes crypto/tls answer with an alert, which it
// writes from within the reader's Read, with its lock held.
func TestAlertWhileOthersWrite(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t, h2test.WithTLS())
	for range 20 {
		nc, err := net.Dial("tcp", srv.Addr())
		require.NoError(t, err)
		ready := shake(t, nc, srv.ClientTLS(), h2.Config{})
		server := srv.Accept()
		server.Handshake()
		c := ready()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for c.unary(context.Background(), req("/test/Echo"), "x").failure() == nil {
				}
			})
		}
		raw := server.NetConn().(interface{ NetConn() net.Conn }).NetConn()
		n := 0
		server.Go(func(server *h2test.Conn) {
			server.Loop(func(s *h2test.Stream) {
				h2test.Echo(s)
				if n++; n == 200 {
					raw.Write([]byte("\x17\x03\x03\x00\x20 this is thirty-two bytes long...."))
					server.EndLoop() // the alert would fail it
				}
			})
		})
		await(t, c.served, "the end of Serve")
		wg.Wait()
	}
}

// gate is a connection whose writes fail, and whose reads wait, when the test
// says so.
type gate struct {
	net.Conn
	broken atomic.Bool
	by     error // what writes fail with; nil: errBroken
	read   sync.RWMutex
}

var errBroken = errors.New("broken")

// windowsReset is syscall.WSAECONNRESET, which is not syscall.ECONNRESET.
const windowsReset = syscall.Errno(10054)

func (g *gate) Write(p []byte) (int, error) {
	if g.broken.Load() {
		return 0, cmp.Or(g.by, errBroken)
	}
	return g.Conn.Write(p)
}

func (g *gate) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.read.RLock()
	defer g.read.RUnlock()
	return n, err
}

// A server that ends a connection says first how far it got. A write that fails meanwhile
// does not keep this side from hearing it: the replies that had come count, and what
// GOAWAY refused may be sent again. So may what was never written, at once.
func TestLastWordsAreHeard(t *testing.T) {
	for _, end := range []string{"closed", "silent"} {
		t.Run(end, func(t *testing.T) {
			h2test.CheckLeaks(t)
			nc, server := h2test.Pipe(t)
			g := &gate{Conn: nc}
			ready := shake(t, g, nil, h2.Config{})
			server.Handshake()
			c := ready()
			one := c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()
			three := c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()

			g.read.Lock()
			server.GoAway(1, http2.ErrCodeNo, "")
			server.ReplyUnary(1, []byte("one"))
			if end == "closed" {
				server.Close()
			}
			g.broken.Store(true)
			five := c.call(context.Background(), "/test/More", "x")
			await(t, c.Done(), "the failed write to be noticed")
			g.read.Unlock()

			r := await(t, one, "stream 1")
			require.Nil(t, r.failure())
			require.Equal(t, "one", r.reply)
			require.True(t, await(t, three, "stream 3").failure().Unprocessed)
			require.True(t, await(t, five, "stream 5").failure().Unsent)
			require.ErrorAs(t, await(t, c.served, "the end of Serve"), new(http2.GoAwayError))
			require.ErrorAs(t, await(t, c.drained, "onDrain"), new(http2.GoAwayError))
		})
	}
}

// A write fails, no RPC is left, and the server's last bytes have arrived and were not read
// yet: they are why the connection ended. Only a server that says nothing leaves the error
// of the write.
func TestWhyAWriteFailed(t *testing.T) {
	for _, tt := range []struct {
		name string
		says func(server *h2test.Conn)
		why  func(t *testing.T, err error)
		by   error
	}{
		{"GOAWAY, closed", func(server *h2test.Conn) {
			server.GoAway(0, http2.ErrCodeEnhanceYourCalm, "slow down")
			server.Close()
		}, isSlowDown, nil},
		{"GOAWAY", func(server *h2test.Conn) { server.GoAway(0, http2.ErrCodeEnhanceYourCalm, "slow down") }, isSlowDown, nil},
		{"closed", func(server *h2test.Conn) { server.Close() }, func(t *testing.T, err error) { require.Equal(t, io.EOF, err) }, nil},
		// A system reports a reset once: reads end then as after a close.
		{"reset", func(server *h2test.Conn) { server.Close() }, func(t *testing.T, err error) { require.ErrorIs(t, err, syscall.ECONNRESET) }, syscall.ECONNRESET},
		{"reset on windows", func(server *h2test.Conn) { server.Close() }, func(t *testing.T, err error) { require.ErrorIs(t, err, windowsReset) }, windowsReset},
		{"nothing", func(*h2test.Conn) {}, func(t *testing.T, err error) { require.Equal(t, errBroken, err) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			nc, server := h2test.Pipe(t)
			g := &gate{Conn: nc, by: tt.by}
			ready := shake(t, g, nil, h2.Config{})
			server.Handshake()
			c := ready()
			alive(t, c, server)

			g.read.Lock()
			read := sync.OnceFunc(g.read.Unlock)
			defer read()
			g.broken.Store(true)
			call := c.call(context.Background(), "/test/More", "x")
			require.True(t, await(t, call, "the call").failure().Unsent)
			tt.says(server)
			read()

			tt.why(t, await(t, c.served, "the end of Serve"))
		})
	}
}

// The same before the handshake is through: the server's SETTINGS came, a GOAWAY with them,
// and this side's preface cannot be written.
func TestWhyThePrefaceFailed(t *testing.T) {
	const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	const goAway = "\x00\x00\x11\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0bslow down"
	for _, wire := range []string{"pipe", "tcp"} {
		t.Run(wire, func(t *testing.T) {
			h2test.CheckLeaks(t)
			var nc net.Conn
			var server *h2test.Conn
			if wire == "pipe" {
				nc, server = h2test.Pipe(t)
				g := &gate{Conn: nc}
				g.broken.Store(true)
				nc = g
			} else {
				srv := h2test.Listen(t)
				tcp, err := net.Dial("tcp", srv.Addr())
				require.NoError(t, err)
				defer tcp.Close()
				require.NoError(t, tcp.(*net.TCPConn).CloseWrite())
				nc, server = tcp, srv.Accept()
			}
			server.RawBytes([]byte(settings + goAway))
			w := h2.NewWire(nc)
			err := h2.New(w, w, h2.Config{}).Handshake(t.Context())
			require.ErrorAs(t, err, new(*h2.UnreadError))
			isSlowDown(t, err)
		})
	}
}

func isSlowDown(t *testing.T, err error) {
	var got http2.GoAwayError
	require.ErrorAs(t, err, &got)
	require.Equal(t, http2.GoAwayError{ErrCode: http2.ErrCodeEnhanceYourCalm, DebugData: "slow down"}, got)
}

// A server that says nothing more is not waited for long, and what was not written does not
// wait at all.
func TestWriteFailsInSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc, server := h2test.Pipe(t)
		g := &gate{Conn: nc}
		ready := shake(t, g, nil, h2.Config{})
		server.Handshake()
		c := ready()
		one := c.call(context.Background(), "/test/Hang", "x")
		server.ExpectUnary()
		g.broken.Store(true)
		began := time.Now()
		three := c.call(context.Background(), "/test/More", "x")
		for _, res := range []<-chan result{three, one} {
			r := await(t, res, "a call")
			require.Equal(t, codes.Unavailable, r.failure().Status.Code())
			require.ErrorIs(t, r.failure(), errBroken)
			require.False(t, r.failure().Unprocessed)
			require.Equal(t, res == three, r.failure().Unsent)
			require.Equal(t, res == three, time.Since(began) == 0)
		}
		require.Equal(t, errBroken, await(t, c.served, "the end of Serve"))
		require.Equal(t, time.Second, time.Since(began))
	})
}
