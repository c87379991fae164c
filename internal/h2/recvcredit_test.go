package h2_test

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A stream whose receiver does not receive holds no more than its window, and does not
// hold up others.
func TestSlowReceiver(t *testing.T) {
	c, server := peered(t, h2.Config{StreamWindow: 100 << 10, ConnWindow: 200 << 10})
	s, err := c.Open(context.Background(), req("/test/Slow"))
	require.NoError(t, err)
	server.ExpectHeaders()
	server.ReplyHeaders(1)
	sent := 0
	for server.SendWindow(1) >= 1005 {
		server.ReplyMessage(1, make([]byte, 1000))
		sent++
	}
	require.GreaterOrEqual(t, sent, 100)
	// Ten times the connection's window passes by.
	large := make([]byte, 90<<10)
	for range 22 {
		res := c.call(context.Background(), "/test/Fast", "x")
		h, _ := server.ExpectUnary()
		server.ReplyUnary(h.StreamID, large)
		r := await(t, res, "a call beside the slow one")
		require.Nil(t, r.failure())
		require.Len(t, r.reply, len(large))
	}
	before := server.SendWindow(1)
	require.Less(t, before, 1005)
	for range sent {
		m, err := s.Recv()
		require.NoError(t, err)
		require.Len(t, m.Data, 1000)
		m.Free()
	}
	server.ExpectWindowUpdate(1)
	require.Greater(t, server.SendWindow(1), before)
	server.ReplyTrailers(1, codes.OK, "")
	_, err = s.Recv()
	require.Equal(t, io.EOF, err)
}

// Padding counts against both windows and is given back, also in frames that
// hold nothing else.
func TestPaddingCounts(t *testing.T) {
	for _, data := range []string{"", "x"} {
		for _, receiving := range []bool{true, false} {
			t.Run(map[bool]string{true: "receiving ", false: "not receiving "}[receiving]+data, func(t *testing.T) {
				c, server := peered(t, h2.Config{StreamWindow: 70000, ConnWindow: 70000})
				s, err := c.Open(context.Background(), req("/test/Stream"))
				require.NoError(t, err)
				server.ExpectHeaders()
				server.ReplyHeaders(1)
				_, ok := s.Header(context.Background())
				require.True(t, ok)
				n := 0
				server.Data(1, false, []byte{0, 0, 0, 0xff, 0xff}) // a message that does not end
				if receiving {
					go s.Recv()
				}
				for n < 300<<10 {
					for server.SendWindow(1) < 257 || server.SendWindow(0) < 257 {
						f := server.ReadFrame() // a window that never opens fails the test
						require.Equal(t, http2.FrameWindowUpdate, f.Type)
					}
					server.DataPadded(1, false, []byte(data), 255)
					n += 256
				}
				s.Cancel(nil)
				server.ExpectRST(1, http2.ErrCodeCancel)
			})
		}
	}
}

// The server may not send more than it was allowed to.
func TestServerExceedsWindow(t *testing.T) {
	c, server := peered(t, h2.Config{StreamWindow: 65535, ConnWindow: 1 << 20})
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	server.ExpectHeaders()
	server.ReplyHeaders(1)
	server.Batch(func() {
		for range 4 {
			server.Data(1, false, make([]byte, 16384))
		}
	})
	server.ExpectRST(1, http2.ErrCodeFlowControl)
	for err = nil; err == nil; {
		_, err = s.Recv()
	}
	require.Equal(t, codes.Internal, err.(*h2.Error).Status.Code())
	alive(t, c, server)
}

// DATA for a stream that has ended counts on the connection, and is given back.
func TestLateDataIsCredited(t *testing.T) {
	c, server := peered(t, h2.Config{StreamWindow: 1 << 20, ConnWindow: 1 << 20})
	ctx, cancel := context.WithCancel(context.Background())
	res := c.call(ctx, "/test/Hang", "x")
	server.ExpectUnary()
	cancel()
	require.Equal(t, codes.Canceled, await(t, res, "the call").err.Status.Code())
	server.ExpectRST(1, http2.ErrCodeCancel)
	server.Lenient()
	credited := 0
	for sent := 0; sent < 3<<20; sent += 16384 {
		for server.SendWindow(0) < 16384 {
			f := server.ReadFrame()
			require.Equal(t, http2.FrameWindowUpdate, f.Type)
			require.Zero(t, f.StreamID)
			credited += int(f.Increment)
		}
		server.Data(1, false, make([]byte, 16384))
	}
	require.NotZero(t, credited)
	alive(t, c, server)
}

// A receiver that has read all there is keeps no more than a quarter of the window from
// the server.
func TestWindowIsGivenBack(t *testing.T) {
	const window, message = 100 << 10, 1000
	c, server := peered(t, h2.Config{StreamWindow: window})
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	server.ExpectHeaders()
	server.ReplyHeaders(1)
	sent := 0
	for sent+5+message <= window {
		server.ReplyMessage(1, make([]byte, message))
		sent += 5 + message
	}
	for range sent / (5 + message) {
		m, err := s.Recv()
		require.NoError(t, err)
		m.Free()
	}
	for left := window - sent; left <= window*3/4; {
		left += int(server.ExpectWindowUpdate(1))
	}
}

// Nor does one that waited for the first messages and found the others there.
func TestWindowIsGivenBackAfterWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window, message, waited = 100 << 10, 1000, 25
		c, server := peered(t, h2.Config{StreamWindow: window})
		s, err := c.Open(context.Background(), req("/test/Stream"))
		require.NoError(t, err)
		server.ExpectHeaders()
		server.ReplyHeaders(1)
		receive := func() {
			m, err := s.Recv()
			if err != nil || len(m.Data) != message {
				t.Errorf("%v, %d bytes", err, len(m.Data))
			}
			m.Free()
		}
		sent := 0
		for range waited {
			var got sync.WaitGroup
			got.Go(receive)
			synctest.Wait() // for the message
			server.ReplyMessage(1, make([]byte, message))
			sent += 5 + message
			got.Wait()
		}
		for n := waited; n > 1; n-- {
			server.ReplyMessage(1, make([]byte, message))
			sent += 5 + message
		}
		synctest.Wait()
		for n := waited; n > 1; n-- {
			receive()
		}
		for left := window - sent; left <= window*3/4; {
			left += int(server.ExpectWindowUpdate(1))
		}
	})
}

// A message that the program waits for has room when its length is known, however large
// it is; those behind it get no more than the window.
func TestAwaitedMessageHasRoomAtOnce(t *testing.T) {
	for _, kind := range []string{"unary", "stream"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const window, size = 512 << 10, 3 << 20
				c, server := peered(t, h2.Config{StreamWindow: window})
				done := make(chan int, 1)
				if kind == "unary" {
					go func() { done <- len(c.unary(context.Background(), req("/test/Large"), "x").reply) }()
					server.ExpectUnary()
				} else {
					s, err := c.Open(context.Background(), req("/test/Large"))
					require.NoError(t, err)
					server.ExpectHeaders()
					go func() {
						m, _ := s.Recv()
						done <- len(m.Data)
					}()
				}
				synctest.Wait()
				server.ReplyHeaders(1)
				p := h2test.PutMessage(false, make([]byte, size))
				server.Data(1, false, p[:1000])
				update := int(server.ExpectWindowUpdate(1))
				require.Equal(t, size+5, update, "all of the message at once")
				require.Equal(t, window+size+5-1000, server.SendWindow(1))
				for p = p[1000:]; len(p) > 0; {
					for server.SendWindow(0) < 16384 {
						require.Zero(t, server.ReadFrame().StreamID, "no more for the stream")
					}
					n := min(16384, len(p))
					server.Data(1, false, p[:n])
					p = p[n:]
				}
				require.Equal(t, window, server.SendWindow(1))
				server.ReplyTrailers(1, codes.OK, "")
				require.Equal(t, size, <-done)
			})
		})
	}
}

// A window that is as large as it may be does not grow with what is awaited.
func TestAwaitedMessageBehindTheLargestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{StreamWindow: 1<<31 - 1})
		res := c.call(context.Background(), "/test/Large", "x")
		server.ExpectUnary()
		server.ReplyHeaders(1)
		server.Data(1, false, h2test.PutMessage(false, make([]byte, 1<<20))[:1000])
		server.ExpectSilence(time.Second)
		server.Data(1, false, make([]byte, 5))
		server.RST(1, http2.ErrCodeInternal)
		<-res
	})
}
