package h2_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// lastFrames returns what the client sent until it closed the connection, but for
// WINDOW_UPDATEs.
func lastFrames(server *h2test.Conn) (last []*h2test.Frame) {
	for _, f := range server.ExpectClosed() {
		if f.Type != http2.FrameWindowUpdate {
			last = append(last, f)
		}
	}
	return last
}

// readsGoAway requires that the client has sent nothing but a GOAWAY since the script
// read the latest frame, and ended the connection without a reset.
func readsGoAway(t *testing.T, server *h2test.Conn, code http2.ErrCode) {
	t.Helper()
	fr := http2.NewFramer(nil, server.NetConn())
	for seen := false; ; {
		f, err := fr.ReadFrame()
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			require.Equal(t, code, f.ErrCode)
			seen = true
		case *http2.WindowUpdateFrame:
		default:
			require.Equal(t, io.EOF, err, "%v", f)
			require.True(t, seen)
			return
		}
	}
}

// The server learns why the connection ends, if the connection takes it.
func TestGoodbye(t *testing.T) {
	for _, p := range peers {
		for name, ends := range map[string]struct {
			by   func(c *client, server *h2test.Conn)
			code http2.ErrCode
			says string
		}{
			"by a violation": {func(c *client, server *h2test.Conn) {
				server.RawFrame(http2.FramePing, 0, 1, make([]byte, 8))
				violates(t, c, http2.ErrCodeProtocol)
			}, http2.ErrCodeProtocol, "PING on stream 1"},
			"by Close": {func(c *client, _ *h2test.Conn) { c.Close(nil, nil) }, http2.ErrCodeNo, ""},
		} {
			t.Run(p.name+", "+name, func(t *testing.T) {
				c, server := p.connect(t, h2.Patient(h2.Config{}))
				ends.by(c, server)
				last := lastFrames(server)
				require.Len(t, last, 1)
				require.Equal(t, http2.FrameGoAway, last[0].Type)
				require.Equal(t, ends.code, last[0].Code)
				require.Zero(t, last[0].LastStreamID)
				require.Equal(t, ends.says, string(last[0].Data))
			})
		}
	}
}

// halfWritten is a connection with a request of which the server has taken only the
// beginning.
func halfWritten(t *testing.T) (*client, *h2test.Conn, <-chan result) {
	c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(1<<20))
	alive(t, c, server)
	server.SetPipeBuffer(100, 1<<20)
	res := c.call(context.Background(), "/test/Big", string(make([]byte, 5000)))
	synctest.Wait()
	return c, server, res
}

// Close while a write is under way: GOAWAY follows what is being written, which the
// RPCs wait for if it decides whether they were sent.
func TestGoodbyeAfterAWrite(t *testing.T) {
	for _, st := range []*status.Status{nil, status.New(codes.Canceled, "closing")} {
		synctest.Test(t, func(t *testing.T) {
			c, server, res := halfWritten(t)
			c.Close(errors.New("boom"), st)
			if st != nil {
				require.Equal(t, codes.Canceled, (<-res).failure().Status.Code())
			}
			last := lastFrames(server)
			require.Len(t, last, 3)
			require.True(t, last[1].EndStream())
			require.Equal(t, http2.FrameGoAway, last[2].Type)
			require.Equal(t, http2.ErrCodeNo, last[2].Code)
			if st == nil {
				e := (<-res).failure()
				require.Equal(t, codes.Unavailable, e.Status.Code())
				require.False(t, e.Unsent)
			}
			require.EqualError(t, <-c.served, "boom")
		})
	}
}

// A server that takes nothing is not waited for long.
func TestGoodbyeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, res := halfWritten(t)
		began := time.Now()
		c.Close(nil, nil)
		require.True(t, (<-res).failure().Unsent)
		require.Equal(t, h2.ErrClosed, <-c.served)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
	})
}

// A violation is answered with a GOAWAY that arrives although the server has sent more
// than is read of it: a socket that is closed with something left in it resets the
// connection.
func TestGoodbyeDespiteUnreadInput(t *testing.T) {
	for _, p := range peers[1:] {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Patient(h2.Config{}))
			server.Batch(func() {
				server.RawFrame(http2.FramePing, 0, 1, make([]byte, 8))
				for range 200 {
					server.RawFrame(http2.FrameData, 0, 1, make([]byte, 1000))
				}
			})
			var violation *h2.ConnError
			require.ErrorAs(t, await(t, c.drained, "onDrain"), &violation) // before Serve ends
			violates(t, c, http2.ErrCodeProtocol)
			readsGoAway(t, server, http2.ErrCodeProtocol)
		})
	}
}

// So does that of Close.
func TestGoodbyeOfCloseDespiteUnreadInput(t *testing.T) {
	for _, useTLS := range []bool{false, true} {
		var opts []h2test.Option
		var cfg *tls.Config
		if useTLS {
			opts = append(opts, h2test.WithTLS())
		}
		srv := h2test.Listen(t, opts...)
		if useTLS {
			cfg = srv.ClientTLS()
		}
		nc, err := net.Dial("tcp", srv.Addr())
		require.NoError(t, err)
		reading, resume := make(chan struct{}), make(chan struct{})
		ready := shakeHands(t, nc, cfg, h2.Patient(h2.Config{}))
		server := srv.Accept()
		server.Handshake()
		c := ready()
		served := make(chan error, 1)
		go func() {
			served <- c.Serve(func(error) {
				close(reading)
				<-resume // the reader reads no more
			})
		}()
		res := make(chan error, 1)
		go func() {
			s, err := c.Unary(context.Background(), req("/test/Hang"), h2test.PutMessage(false, nil))
			if err == nil {
				err = s.Err()
				s.Release()
			}
			res <- err
		}()
		server.ExpectUnary()
		server.GoAway(1, http2.ErrCodeNo, "")
		await(t, reading, "the GOAWAY to be read")
		server.Ping([8]byte{1})
		server.RawFrame(0xbe, 0, 1, make([]byte, 16000))
		c.Close(errors.New("boom"), status.New(codes.Canceled, "closing"))
		require.Equal(t, codes.Canceled, status.Code(await(t, res, "the call")))
		readsGoAway(t, server, http2.ErrCodeNo)
		close(resume)
		require.EqualError(t, await(t, served, "the end of Serve"), "boom")
	}
}

// RPCs that end because of what the server sent are reset before their program, which may
// close the connection at once, learns of it.
func TestAnswersBeforeGoodbye(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			for range 20 {
				c, server := p.connect(t, h2.Patient(h2.Config{}))
				res := c.call(context.Background(), "/test/Call", "x")
				server.ExpectUnary()
				server.Batch(func() {
					server.Ping([8]byte{1})
					server.Settings()
					server.WindowUpdate(1, 1<<31-1)
				})
				require.Equal(t, codes.Internal, await(t, res, "the call").err.Status.Code())
				c.Close(nil, nil)
				last := lastFrames(server)
				require.Len(t, last, 4)
				for i, typ := range []http2.FrameType{http2.FramePing, http2.FrameSettings, http2.FrameRSTStream, http2.FrameGoAway} {
					require.Equal(t, typ, last[i].Type)
				}
				require.Equal(t, http2.ErrCodeFlowControl, last[2].Code)
			}
		})
	}
}

// A request that was not written is not sent with the GOAWAY, nor is its reset.
func TestNoRequestBeforeGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server, one := halfWritten(t)
		ctx, cancel := context.WithCancel(context.Background())
		two := c.call(ctx, "/test/Reset", "x")
		three := c.call(context.Background(), "/test/Small", "x")
		synctest.Wait()
		cancel()
		require.Equal(t, codes.Canceled, (<-two).err.Status.Code())
		c.Close(nil, nil)
		last := lastFrames(server)
		require.Len(t, last, 3)
		require.True(t, last[1].EndStream())
		require.Equal(t, http2.FrameGoAway, last[2].Type)
		require.False(t, (<-one).failure().Unsent)
		require.True(t, (<-three).failure().Unsent)
	})
}

// Serve waits for the server to close its side after a violation, and no longer than
// for a moment; RPCs and the owner learn of the end before.
func TestViolationLingers(t *testing.T) {
	for _, closes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c, server := peered(t, h2.Config{})
			res := c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()
			began := time.Now()
			server.RawFrame(http2.FramePing, 0, 1, make([]byte, 8))
			require.Equal(t, codes.Unavailable, (<-res).failure().Status.Code())
			require.ErrorAs(t, <-c.drained, new(*h2.ConnError))
			server.ExpectGoAway(http2.ErrCodeProtocol)
			require.Empty(t, server.ExpectClosed()) // the client's side
			require.Zero(t, time.Since(began))
			if closes {
				time.Sleep(10 * time.Millisecond)
				server.Close()
			}
			require.ErrorAs(t, <-c.served, new(*h2.ConnError))
			require.Equal(t, map[bool]time.Duration{true: 10 * time.Millisecond, false: 100 * time.Millisecond}[closes], time.Since(began))
		})
	}
}

// A connection that the dialer made over TLS does not keep the end of it waiting for a
// server that does not read its closing alert.
func TestDialersTLSIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := h2test.NewCA(t)
		nc, server := h2test.Pipe(t, h2test.WithTLSConfig(ca.ServerConfig("localhost")))
		ready := shake(t, tls.Client(nc, ca.ClientConfig("localhost")), nil, h2.Config{})
		server.Handshake()
		c := ready()
		alive(t, c, server)
		server.SetPipeBuffer(1, 1<<20)
		began := time.Now()
		server.CloseWrite()
		require.Equal(t, io.EOF, <-c.served)
		require.Zero(t, time.Since(began))
	})
}
