package h2_test

import (
	"context"
	"encoding/binary"
	"io"
	"strings"
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

// A server that lowers INITIAL_WINDOW_SIZE below what a stream has sent makes
// its window negative: credit counts from there.
func TestNegativeWindow(t *testing.T) {
	for _, kind := range []string{"unary", "stream"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(100))
				msg := h2test.PutMessage(false, make([]byte, 150))
				var res <-chan result
				sent := make(chan error, 1)
				if kind == "unary" {
					res = c.call(context.Background(), "/test/Big", string(msg[5:]))
				} else {
					s, err := c.Open(context.Background(), req("/test/Big"))
					require.NoError(t, err)
					go func() { sent <- s.Send(msg, true) }()
				}
				server.Skip(h2test.WindowUpdates, h2test.SettingsAcks)
				server.ExpectHeaders()
				require.Len(t, server.ExpectData(1).Data, 100)
				server.Settings(h2test.InitialWindowSize(30)) // window -70
				server.ExpectSettingsAck()
				server.WindowUpdate(1, 70) // 0
				server.ExpectSilence(time.Second)
				server.WindowUpdate(1, 1)
				require.Len(t, server.ExpectData(1).Data, 1)
				server.Settings(h2test.InitialWindowSize(0)) // -30
				server.ExpectSettingsAck()
				server.Settings(h2test.InitialWindowSize(30)) // 0
				server.ExpectSettingsAck()
				server.ExpectSilence(time.Second)
				server.Settings(h2test.InitialWindowSize(40))
				require.Len(t, server.ExpectData(1).Data, 10)
				server.WindowUpdate(1, 1000)
				f := server.ExpectData(1)
				require.Len(t, f.Data, 155-111)
				require.True(t, f.EndStream())
				server.ReplyUnary(1, nil)
				if kind == "unary" {
					require.Nil(t, (<-res).failure())
				} else {
					require.NoError(t, <-sent)
				}
			})
		})
	}
}

// The connection's window is shared, first come, first served.
func TestConnectionWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(1<<20))
		one := c.call(context.Background(), "/test/Big", strings.Repeat("1", 65535))
		server.ExpectHeaders()
		synctest.Wait() // it is in the line
		got := 0
		for got < 65535 {
			got += len(server.ExpectData(1).Data)
		}
		three := c.call(context.Background(), "/test/Big", strings.Repeat("3", 100))
		server.ExpectHeaders()
		synctest.Wait() // it is in the line
		ctx, cancel := context.WithCancel(context.Background())
		five := c.call(ctx, "/test/Big", "5")
		server.ExpectHeaders()
		synctest.Wait() // it is in the line
		seven := c.call(context.Background(), "/test/Big", strings.Repeat("7", 100))
		server.ExpectHeaders()
		synctest.Wait() // it is in the line
		server.ExpectSilence(time.Second)

		// A stream that sent a part goes to the end of the line.
		server.WindowUpdate(0, 4)
		require.Len(t, server.ExpectData(1).Data, 4)
		server.ExpectSilence(time.Second)
		server.WindowUpdate(0, 51)
		require.Len(t, server.ExpectData(3).Data, 51)
		synctest.Wait()
		cancel() // gives up its place
		require.Equal(t, codes.Canceled, (<-five).err.Status.Code())
		server.ExpectRST(5, http2.ErrCodeCancel)
		server.WindowUpdate(0, 10)
		require.Len(t, server.ExpectData(7).Data, 10)
		synctest.Wait()
		server.WindowUpdate(0, 1)
		f := server.ExpectData(1)
		require.Len(t, f.Data, 1)
		require.True(t, f.EndStream())
		server.WindowUpdate(0, 4)
		require.Len(t, server.ExpectData(3).Data, 4)
		synctest.Wait()
		server.RST(7, http2.ErrCodeRefusedStream)
		require.True(t, (<-seven).err.Unprocessed)
		server.WindowUpdate(0, 50)
		require.True(t, server.ExpectData(3).EndStream())
		server.WindowUpdate(0, 1<<20)
		server.ReplyUnary(1, nil)
		server.ReplyUnary(3, nil)
		require.Nil(t, (<-one).failure())
		require.Nil(t, (<-three).failure())
		alive(t, c, server)
	})
}

// An empty DATA with END_STREAM needs no window (RFC 9113 section 6.9.1).
func TestHalfCloseWithoutWindow(t *testing.T) {
	c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(0))
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	server.ExpectHeaders()
	require.NoError(t, s.CloseSend())
	server.ExpectEndStream(1)
	server.TrailersOnly(1, codes.OK, "")
	_, err = s.Recv()
	require.Equal(t, io.EOF, err)

	// Nor does a whole request without a message.
	res := make(chan error, 1)
	go func() {
		s, err := c.Unary(context.Background(), req("/test/Empty"), nil)
		if err == nil {
			if e := s.Err(); e != nil {
				err = e
			}
			s.Release()
		}
		res <- err
	}()
	require.True(t, server.ExpectHeaders().EndStream())
	server.TrailersOnly(3, codes.OK, "")
	require.NoError(t, await(t, res, "the call"))
}

func TestWindowUpdateMalformed(t *testing.T) {
	increment := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	for _, tt := range []struct {
		name   string
		id     uint32
		data   []byte
		code   http2.ErrCode
		stream bool // ends the stream only
	}{
		{"overflow", 0, increment(1<<31 - 65535), http2.ErrCodeFlowControl, false},
		{"zero", 0, increment(0), http2.ErrCodeProtocol, false},
		{"short", 0, make([]byte, 3), http2.ErrCodeFrameSize, false},
		{"idle stream", 5, increment(1), http2.ErrCodeProtocol, false},
		{"even stream", 2, increment(1), http2.ErrCodeProtocol, false},
		{"stream overflow", 1, increment(1<<31 - 65535), http2.ErrCodeFlowControl, true},
		{"stream zero", 1, increment(0), http2.ErrCodeProtocol, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := peeredTCP(t, h2.Config{})
			s, err := c.Open(context.Background(), req("/test/Stream"))
			require.NoError(t, err)
			server.ExpectHeaders()
			server.Lenient()
			server.RawFrame(http2.FrameWindowUpdate, 0, tt.id, tt.data)
			_, err = s.Recv()
			var e *h2.Error
			require.ErrorAs(t, err, &e)
			if !tt.stream {
				violates(t, c, tt.code)
				return
			}
			require.Equal(t, codes.Internal, e.Status.Code())
			require.Equal(t, io.EOF, s.Send(frame(nil), false))
			server.ExpectRST(1, tt.code)
			server.WindowUpdate(1, 1) // late: ignored
			alive(t, c, server)
		})
	}
	t.Run("to the brim", func(t *testing.T) {
		c, server := peeredTCP(t, h2.Config{})
		server.WindowUpdate(0, 1<<31-1-65535)
		s, err := c.Open(context.Background(), req("/test/Stream"))
		require.NoError(t, err)
		server.ExpectHeaders()
		server.WindowUpdate(1, 1<<31-1-65535)
		alive(t, c, server)
		s.Cancel(nil)
	})
	t.Run("by SETTINGS", func(t *testing.T) {
		c, server := peeredTCP(t, h2.Config{})
		_, err := c.Open(context.Background(), req("/test/Stream"))
		require.NoError(t, err)
		server.ExpectHeaders()
		server.WindowUpdate(1, 10)
		server.Settings(h2test.InitialWindowSize(1<<31 - 1))
		violates(t, c, http2.ErrCodeFlowControl)
	})
}

// What is larger than all windows flows, both ways.
func TestLargerThanWindows(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{StreamWindow: 65535, ConnWindow: 65535}, h2test.InitialWindowSize(1000))
			server.Go(func(server *h2test.Conn) { server.Loop(h2test.Echo) })
			payload := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
			r := c.unary(context.Background(), req("/test/Echo"), payload)
			require.Nil(t, r.failure())
			require.Equal(t, payload, r.reply)

			s, err := c.Open(context.Background(), req("/test/Echo"))
			require.NoError(t, err)
			var wg sync.WaitGroup
			wg.Go(func() { s.Send(h2test.PutMessage(false, []byte(payload)), true) })
			m, err := s.Recv()
			require.NoError(t, err)
			require.Equal(t, payload, string(m.Data))
			m.Free()
			wg.Wait()
			_, err = s.Recv()
			require.Equal(t, io.EOF, err)
		})
	}
}

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

// Senders of large messages that wait for the socket take turns.
func TestLargeSendersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(1<<30))
		server.WindowUpdate(0, 1<<30)
		alive(t, c, server)
		server.SetPipeBuffer(10000, 1<<20)
		const size = 1 << 20
		var results []<-chan result
		for range 4 {
			results = append(results, c.call(context.Background(), "/test/Big", string(make([]byte, size))))
			synctest.Wait()
		}
		got := map[uint32]int{}
		for ended := 0; ended < 4; {
			f := server.ReadFrame()
			synctest.Wait() // streams that can send have done so; the others wait
			if f.Type != http2.FrameData {
				continue
			}
			if got[f.StreamID] += len(f.Data); f.EndStream() {
				if ended++; ended == 1 {
					require.Len(t, got, 4)
					for id, n := range got {
						require.Greater(t, n, size-4*(64<<10), "stream %d, when stream %d is through", id, f.StreamID)
					}
				}
				server.TrailersOnly(f.StreamID, codes.OK, "")
			}
		}
		for _, res := range results {
			require.Nil(t, (<-res).failure())
		}
	})
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
