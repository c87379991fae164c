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

// A small message that waits for the connection's window behind large ones waits for one
// frame of each, not for all that each may send in a turn.
func TestSmallMessageBehindLargeOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(1<<30))
		large := strings.Repeat("x", 1<<20)
		call := func(msg string) <-chan result {
			res := c.call(context.Background(), "/test/Send", msg)
			synctest.Wait() // it is in the line
			return res
		}
		one := call(large)
		server.ExpectHeaders()
		for got := 0; got < 65535; {
			got += len(server.ExpectData(1).Data)
		}
		three := call(large)
		server.ExpectHeaders()
		small := call("s")
		server.ExpectHeaders()

		send := func(window int) map[uint32]int {
			server.WindowUpdate(0, uint32(window))
			got := map[uint32]int{}
			for window > 0 {
				f := server.ReadFrame()
				require.Equal(t, http2.FrameData, f.Type)
				got[f.StreamID] += len(f.Data)
				window -= len(f.Data)
			}
			return got
		}
		require.Equal(t, map[uint32]int{1: 1 << 14, 3: 1 << 14, 5: 6}, send(2<<14+6))
		server.ReplyUnary(5, nil)
		require.Nil(t, (<-small).failure())
		synctest.Wait() // both are in the line again
		require.Len(t, send(40000), 1, "without a small one, a turn is longer than a frame")
		server.RST(1, http2.ErrCodeCancel)
		server.RST(3, http2.ErrCodeCancel)
		require.Equal(t, codes.Canceled, (<-one).failure().Status.Code())
		require.Equal(t, codes.Canceled, (<-three).failure().Status.Code())
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
