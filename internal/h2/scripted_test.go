package h2_test

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// client is a connection under test whose Serve runs.
type client struct {
	*h2.Conn
	drained chan error // what onDrain received

	served chan error // what Serve returned
}

// shake makes a connection of nc and shakes hands in the background, while the
// test plays the server. The function it returns waits for the end of that and starts Serve.
func shake(t testing.TB, nc net.Conn, tlsCfg *tls.Config, cfg h2.Config) func() *client {
	t.Helper()
	shaken := shakeHands(t, nc, tlsCfg, cfg)
	return func() *client {
		t.Helper()
		c := &client{Conn: shaken(), drained: make(chan error, 2), served: make(chan error, 1)}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.served <- c.Serve(func(cause error) { c.drained <- cause })
		}()
		t.Cleanup(func() {
			c.Close(nil, nil)
			<-ended
		})
		return c
	}
}

// shakeHands is shake, and leaves Serve to the caller.
func shakeHands(t testing.TB, nc net.Conn, tlsCfg *tls.Config, cfg h2.Config) func() *h2.Conn {
	t.Helper()
	type outcome struct {
		c   *h2.Conn
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		w := h2.NewWire(nc)
		var conn net.Conn = w
		if tlsCfg != nil {
			cfg.Scheme = "https"
			tc, info, err := credentials.NewTLS(tlsCfg).ClientHandshake(ctx, "localhost", w)
			if err != nil {
				done <- outcome{err: err}
				return
			}
			conn, cfg.AuthInfo = tc, info
		}
		cfg.UserAgent = "h2_test/1"
		c := h2.New(w, conn, cfg)
		done <- outcome{c, c.Handshake(ctx)}
	}()
	return func() *h2.Conn {
		t.Helper()
		o := <-done
		require.NoError(t, o.err)
		return o.c
	}
}

// peered connects a client to a scripted server in memory. The handshake is done.
func peered(t testing.TB, cfg h2.Config, settings ...http2.Setting) (*client, *h2test.Conn) {
	t.Helper()
	nc, server := h2test.Pipe(t)
	ready := shake(t, nc, nil, cfg)
	server.Handshake(settings...)
	return ready(), server
}

// peeredTCP is peered over a socket, whose writes and reads do not block.
func peeredTCP(t testing.TB, cfg h2.Config, settings ...http2.Setting) (*client, *h2test.Conn) {
	t.Helper()
	srv := h2test.Listen(t)
	return peeredAt(t, srv, nil, bare, cfg, settings...)
}

// peeredTLS is peered over a socket and TLS.
func peeredTLS(t testing.TB, cfg h2.Config, settings ...http2.Setting) (*client, *h2test.Conn) {
	t.Helper()
	srv := h2test.Listen(t, h2test.WithTLS())
	return peeredAt(t, srv, srv.ClientTLS(), bare, cfg, settings...)
}

// peeredWrapped is peeredTCP on a connection that is not known to be a socket, which
// takes the path of systems without non-blocking attempts.
func peeredWrapped(t testing.TB, cfg h2.Config, settings ...http2.Setting) (*client, *h2test.Conn) {
	t.Helper()
	srv := h2test.Listen(t)
	return peeredAt(t, srv, nil, wrap, cfg, settings...)
}

// peeredWrappedTLS is peeredTLS on such a connection.
func peeredWrappedTLS(t testing.TB, cfg h2.Config, settings ...http2.Setting) (*client, *h2test.Conn) {
	t.Helper()
	srv := h2test.Listen(t, h2test.WithTLS())
	return peeredAt(t, srv, srv.ClientTLS(), wrap, cfg, settings...)
}

func bare(nc net.Conn) net.Conn { return nc }

// wrap hides what a connection is.
func wrap(nc net.Conn) net.Conn { return struct{ net.Conn }{nc} }

// peeredUnix is peered over a unix socket.
func peeredUnix(t testing.TB, cfg h2.Config, settings ...http2.Setting) (*client, *h2test.Conn) {
	t.Helper()
	return peeredAt(t, h2test.Listen(t, h2test.Unix()), nil, bare, cfg, settings...)
}

func peeredAt(t testing.TB, srv *h2test.Server, tlsCfg *tls.Config, wrapped func(net.Conn) net.Conn, cfg h2.Config, settings ...http2.Setting) (*client, *h2test.Conn) {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(srv.Target(), "unix:") {
		network = "unix"
	}
	nc, err := net.Dial(network, srv.Addr())
	require.NoError(t, err)
	ready := shake(t, wrapped(nc), tlsCfg, cfg)
	server := srv.Accept()
	server.Handshake(settings...)
	return ready(), server
}

// peers are the ways to be connected to a scripted server: each has a write
// path of its own.
var peers = []struct {
	name    string
	connect func(t testing.TB, cfg h2.Config, settings ...http2.Setting) (*client, *h2test.Conn)
}{
	{"pipe", peered},
	{"tcp", peeredTCP},
	{"TLS", peeredTLS},
	{"unix", peeredUnix},
	{"wrapped", peeredWrapped},
	{"wrapped TLS", peeredWrappedTLS},
}

// result is what a caller of a unary RPC sees.
type result struct {
	refused         error     // no stream was opened
	err             *h2.Error // nil: status OK
	reply           string
	compressed      bool
	messages        int
	header, trailer metadata.MD
	hasHeader       bool
	received        bool
}

// failure is how the call failed, whether or not a stream was opened.
func (r result) failure() *h2.Error {
	if r.refused != nil {
		return r.refused.(*h2.Error)
	}
	return r.err
}

// unary makes a call and waits for its end.
func (c *client) unary(ctx context.Context, r *h2.Request, payload string) result {
	s, err := c.Unary(ctx, r, h2test.PutMessage(false, []byte(payload)))
	if err != nil {
		return result{refused: err}
	}
	out := result{
		err:       s.Err(),
		messages:  s.Messages(),
		header:    s.HeaderMD(),
		trailer:   s.Trailer(),
		hasHeader: s.HasHeader(),
		received:  s.BytesReceived(),
	}
	if m, ok := s.Message(); ok {
		out.reply, out.compressed = string(m.Data), m.Compressed
	}
	s.Release()
	return out
}

// call makes a unary call in the background.
func (c *client) call(ctx context.Context, method, payload string) <-chan result {
	done := make(chan result, 1)
	go func() { done <- c.unary(ctx, req(method), payload) }()
	return done
}

// await takes a value from ch, or fails the test after a while.
func await[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		t.Fatalf("waiting for %s", what)
		panic("unreachable")
	}
}

// alive shows that the connection still serves.
func alive(t testing.TB, c *client, server *h2test.Conn) {
	t.Helper()
	res := c.call(context.Background(), "/test/Alive", "ping")
	headers, payload := server.ExpectUnary()
	require.Equal(t, "/test/Alive", headers.Field(":path"))
	server.ReplyUnary(headers.StreamID, payload)
	r := await(t, res, "a call on a connection that should be well")
	require.Nil(t, r.failure())
	require.Equal(t, "ping", r.reply)
}
