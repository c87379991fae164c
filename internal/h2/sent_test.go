package h2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A request that was written to its end may have run, however the connection ends.
func TestLossIsNotUnprocessed(t *testing.T) {
	for _, p := range peers {
		for _, how := range []struct {
			name string
			end  func(*h2test.Conn)
		}{
			{"closed", (*h2test.Conn).Close},
			{"reset", (*h2test.Conn).CloseHard},
		} {
			t.Run(p.name+" "+how.name, func(t *testing.T) {
				h2test.CheckLeaks(t)
				c, server := p.connect(t, h2.Config{})
				res := c.call(context.Background(), "/test/Hang", "x")
				server.ExpectUnary()
				s, err := c.Open(context.Background(), req("/test/Stream"))
				require.NoError(t, err)
				server.ExpectHeaders()
				how.end(server)
				r := await(t, res, "the call")
				require.Equal(t, codes.Unavailable, r.err.Status.Code())
				require.False(t, r.err.Unsent)
				require.False(t, r.err.Unprocessed)
				require.False(t, r.err.Local)
				require.Error(t, r.err.Cause)
				_, err = s.Recv()
				var e *h2.Error
				require.ErrorAs(t, err, &e)
				require.False(t, e.Unsent, "a stream's handler may run once it has the headers")
				cause := await(t, c.served, "the end of Serve")
				require.Equal(t, cause, e.Cause)
				require.True(t, isDone(c))
				r = c.unary(context.Background(), req("/test/More"), "x")
				require.True(t, r.failure().Unsent)
				require.Equal(t, codes.Unavailable, r.failure().Status.Code())
			})
		}
	}
}

// A unary request whose end waits for flow control was never sent.
func TestLossOfHalfARequest(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{}, h2test.InitialWindowSize(100))
			half := c.call(context.Background(), "/test/Big", strings.Repeat("x", 200))
			server.ExpectHeaders()
			require.Len(t, server.ExpectData(1).Data, 100)
			whole := c.call(context.Background(), "/test/Small", strings.Repeat("x", 95))
			server.ExpectUnary()
			server.CloseHard()
			r := await(t, half, "the call")
			require.Equal(t, codes.Unavailable, r.err.Status.Code())
			require.True(t, r.err.Unsent)
			require.False(t, await(t, whole, "the other call").err.Unsent)
		})
	}
}

// With a status given to Close, streams end with it, and are not to be sent
// again.
func TestCloseWithStatus(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{}, h2test.InitialWindowSize(10))
			res := c.call(context.Background(), "/test/Big", strings.Repeat("x", 200))
			server.ExpectHeaders()
			boom := errors.New("boom")
			c.Close(boom, status.New(codes.Canceled, "closing"))
			r := await(t, res, "the call")
			require.Equal(t, codes.Canceled, r.err.Status.Code())
			require.True(t, r.err.Local)
			require.False(t, r.err.Unsent)
			require.ErrorIs(t, r.err, boom)
			r = c.unary(context.Background(), req("/test/More"), "x")
			require.Equal(t, codes.Canceled, r.failure().Status.Code())
			require.Equal(t, boom, await(t, c.served, "the end of Serve"))
		})
	}
}

func TestRefusedStream(t *testing.T) {
	c, server := peered(t, h2.Config{})
	res := c.call(context.Background(), "/test/Refused", "x")
	server.ExpectUnary()
	server.RST(1, http2.ErrCodeRefusedStream)
	r := await(t, res, "the call")
	require.True(t, r.err.Unprocessed)
	require.False(t, r.err.Unsent)
	require.Equal(t, codes.Unavailable, r.err.Status.Code())
	alive(t, c, server)
}

// What a stalled server has not got is known to the byte over plaintext, and
// never claimed wrongly over TLS: each call that reports Unsent is one whose request
// the server cannot have whole, and over plaintext each other call's request
// arrives.
func TestUnsentIsTrue(t *testing.T) {
	for _, run := range []struct {
		name, wire string
		odd        int // how much larger every other message is
	}{{"tcp", "tcp", 1}, {"TLS", "TLS", 1}, {"tcp large", "tcp", 10}, {"TLS large", "TLS", 10}} {
		t.Run(run.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			wire := run.wire
			opts := []h2test.Option{h2test.SocketBuffers(32768, 0)}
			if wire == "TLS" {
				opts = append(opts, h2test.WithTLS())
			}
			srv := h2test.Listen(t, opts...)
			nc, err := net.Dial("tcp", srv.Addr())
			require.NoError(t, err)
			require.NoError(t, nc.(*net.TCPConn).SetWriteBuffer(4096))
			var ready func() *client
			if wire == "TLS" {
				ready = shake(t, nc, srv.ClientTLS(), h2.Config{})
			} else {
				ready = shake(t, nc, nil, h2.Config{})
			}
			server := srv.Accept()
			server.Lenient()
			server.Handshake(h2test.InitialWindowSize(1 << 30))
			server.WindowUpdate(0, 1<<30)
			c := ready()
			alive(t, c, server) // so that the windows are open

			const calls = 40
			var wg sync.WaitGroup
			results := make([]result, calls)
			var first *h2test.Frame
			for i := range calls {
				wg.Go(func() {
					size := 997 * (1 + i%16)
					if i%2 == 1 {
						size *= run.odd
					}
					results[i] = c.unary(context.Background(), req(fmt.Sprintf("/test/%d", i)), strings.Repeat("x", size))
				})
				if i == 0 {
					first = server.ExpectHeaders() // this one leaves whole
				}
			}
			stalled(t, c, calls+1)
			c.Close(io.ErrClosedPipe, nil)
			wg.Wait()
			whole := map[string]bool{}
			methods := map[uint32]string{first.StreamID: first.Field(":path")}
			for _, f := range server.ExpectClosed() {
				switch f.Type {
				case http2.FrameHeaders:
					methods[f.StreamID] = f.Field(":path")
				case http2.FrameData:
					if f.EndStream() {
						whole[methods[f.StreamID]] = true
					}
				}
			}
			unsent := 0
			for i, r := range results {
				e := r.failure()
				require.Equal(t, codes.Unavailable, e.Status.Code())
				got := whole[fmt.Sprintf("/test/%d", i)]
				if e.Unsent {
					unsent++
					require.False(t, got, "call %d is said to be unsent and was received", i)
				} else if wire == "tcp" {
					require.True(t, got, "call %d is said to be sent and was not received", i)
				}
			}
			require.NotZero(t, unsent)
			require.NotZero(t, calls-unsent)
		})
	}
}

// stalled waits until a call waits for room: one more with a short deadline does not
// open a stream.
func stalled(t testing.TB, c *client, most int) {
	t.Helper()
	waits := func(limit time.Duration) bool {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		return c.unary(ctx, req("/test/Probe"), strings.Repeat("x", 16000)).refused != nil
	}
	for i := 0; !waits(20*time.Millisecond) || !waits(time.Second); i++ { // the first may just be slow
		require.Less(t, i, 200, "the connection does not stall")
	}
}
