package h2_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// pausing is a connection each of whose reads is preceded by some that return nothing,
// which an io.Reader may do.
type pausing struct {
	net.Conn
	pauses atomic.Int64
	left   int64 // the reader's own
}

func (p *pausing) Read(b []byte) (int, error) {
	if p.left > 0 {
		p.left--
		return 0, nil
	}
	p.left = p.pauses.Load()
	return p.Conn.Read(b)
}

// A read that returns nothing is no end of the connection.
func TestReadsOfNothing(t *testing.T) {
	for _, useTLS := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", useTLS), func(t *testing.T) {
			var opts []h2test.Option
			var tlsCfg *tls.Config
			if useTLS {
				opts = append(opts, h2test.WithTLS())
				tlsCfg = h2test.DefaultCA().ClientConfig("localhost")
			}
			srv := h2test.Listen(t, opts...)
			srv.Serve(h2test.Echo)
			nc, err := net.Dial("tcp", srv.Addr())
			require.NoError(t, err)
			p := &pausing{Conn: nc}
			p.pauses.Store(50)
			c := shake(t, p, tlsCfg, h2.Config{})()
			for range 20 {
				r := c.unary(context.Background(), req("/test/Echo"), "hello")
				require.Nil(t, r.failure())
				require.Equal(t, "hello", r.reply)
			}
		})
	}
}

// One that goes on returning nothing does not make the reader spin.
func TestReadsOfNothingWithoutEnd(t *testing.T) {
	nc, server := h2test.Pipe(t)
	p := &pausing{Conn: nc}
	ready := shake(t, p, nil, h2.Config{})
	server.Handshake()
	p.pauses.Store(1 << 60)
	c := ready()
	res := c.call(context.Background(), "/test/Hang", "x")
	server.Lenient()
	server.Ping([8]byte{1}) // ends the read that waits, if one does
	require.Equal(t, codes.Unavailable, await(t, res, "the call").failure().Status.Code())
	require.Equal(t, io.ErrNoProgress, await(t, c.served, "the end of Serve"))
}
