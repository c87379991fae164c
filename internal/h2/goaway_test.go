package h2_test

import (
	"context"
	"io"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func isDone(c *client) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// A server that goes away in order says so twice: first with the largest id,
// then, when no more requests can be under way, with the last it will serve.
func TestGoAwayTwice(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			c, server := p.connect(t, h2.Config{})
			var results []<-chan result
			for range 3 {
				results = append(results, c.call(context.Background(), "/test/Hang", "x"))
				server.ExpectUnary()
			}
			require.False(t, isDone(c))

			server.GoAway(math.MaxInt32, http2.ErrCodeNo, "later")
			cause := await(t, c.drained, "onDrain")
			var got http2.GoAwayError
			require.ErrorAs(t, cause, &got)
			require.Equal(t, http2.GoAwayError{LastStreamID: math.MaxInt32, DebugData: "later"}, got)
			require.True(t, isDone(c))
			require.Equal(t, 3, c.Streams(), "running streams go on")
			r := c.unary(context.Background(), req("/test/More"), "x")
			require.Error(t, r.refused)
			require.True(t, r.failure().Unsent)
			require.False(t, r.failure().Unprocessed)
			require.Equal(t, codes.Unavailable, r.failure().Status.Code())

			server.GoAway(3, http2.ErrCodeNo, "now")
			r = await(t, results[2], "the stream above the last id")
			require.True(t, r.err.Unprocessed)
			require.False(t, r.err.Unsent)
			require.Equal(t, codes.Unavailable, r.err.Status.Code())
			require.Equal(t, 2, c.Streams())

			server.ReplyUnary(3, []byte("three"))
			r = await(t, results[1], "stream 3")
			require.Nil(t, r.failure())
			require.Equal(t, "three", r.reply)
			server.ReplyUnary(1, []byte("one"))
			r = await(t, results[0], "stream 1")
			require.Nil(t, r.failure())
			require.Equal(t, "one", r.reply)

			require.ErrorAs(t, await(t, c.served, "the end of Serve"), new(http2.GoAwayError))
			server.ExpectClosed()
			require.Empty(t, c.drained, "onDrain is called once")
		})
	}
}

func TestGoAwayIdle(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{})
			server.GoAway(0, http2.ErrCodeNo, "")
			require.ErrorAs(t, await(t, c.drained, "onDrain"), new(http2.GoAwayError))
			require.ErrorAs(t, await(t, c.served, "the end of Serve"), new(http2.GoAwayError))
			server.ExpectClosed()
		})
	}
}

// The first GOAWAY may name the real id at once.
func TestGoAwayUnprocessed(t *testing.T) {
	c, server := peered(t, h2.Config{})
	one := c.call(context.Background(), "/test/Hang", "x")
	server.ExpectUnary()
	three := c.call(context.Background(), "/test/Hang", "x")
	server.ExpectUnary()
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	server.ExpectHeaders()

	server.GoAway(1, http2.ErrCodeEnhanceYourCalm, "too_many_pings")
	r := await(t, three, "stream 3")
	require.True(t, r.err.Unprocessed)
	require.Contains(t, r.err.Status.Message(), "too_many_pings")
	_, err = s.Recv()
	require.ErrorAs(t, err, new(*h2.Error))
	require.True(t, err.(*h2.Error).Unprocessed)
	require.Equal(t, io.EOF, s.Send(frame(nil), false))
	require.True(t, c.TooManyPings())
	server.ReplyUnary(1, nil)
	require.Nil(t, await(t, one, "stream 1").failure())
}

// A loss after GOAWAY is a loss for the streams that GOAWAY did not refuse; its text
// still has what the server said.
func TestLossAfterGoAway(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{})
			res := c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()
			server.GoAway(1, http2.ErrCodeInternal, "going down")
			server.Close()
			r := await(t, res, "the call")
			require.Equal(t, codes.Unavailable, r.err.Status.Code())
			require.False(t, r.err.Unprocessed)
			require.False(t, r.err.Unsent)
			require.Contains(t, r.err.Status.Message(), "going down")
			await(t, c.served, "the end of Serve")
		})
	}
}

// RPCs that wait for a stream slot (MAX_CONCURRENT_STREAMS) fail at once.
func TestGoAwayEndsWaiting(t *testing.T) {
	c, server := peered(t, h2.Config{}, h2test.MaxConcurrentStreams(1))
	one := c.call(context.Background(), "/test/Hang", "x")
	server.ExpectUnary()
	waiting := c.call(context.Background(), "/test/Waits", "x")
	opening := make(chan error, 1)
	go func() {
		_, err := c.Open(context.Background(), req("/test/Waits"))
		opening <- err
	}()
	server.GoAway(1, http2.ErrCodeNo, "")
	r := await(t, waiting, "the call that waits")
	require.Error(t, r.refused)
	require.True(t, r.failure().Unsent)
	var e *h2.Error
	require.ErrorAs(t, await(t, opening, "the stream that waits"), &e)
	require.True(t, e.Unsent)
	server.ReplyUnary(1, nil)
	require.Nil(t, await(t, one, "stream 1").failure())
	await(t, c.served, "the end of Serve")
}

// A sender that waits for flow control on a stream that GOAWAY ends is let go.
func TestGoAwayEndsBlockedSender(t *testing.T) {
	c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(10))
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	server.ExpectHeaders()
	sent := make(chan error, 1)
	go func() { sent <- s.Send(make([]byte, 100), false) }()
	server.ExpectData(1)
	big := c.call(context.Background(), "/test/Big", string(make([]byte, 100)))
	server.ExpectHeaders()
	server.ExpectData(3)
	server.GoAway(0, http2.ErrCodeNo, "")
	require.Equal(t, io.EOF, await(t, sent, "Send"))
	_, err = s.Recv()
	require.True(t, err.(*h2.Error).Unprocessed)
	r := await(t, big, "the call")
	require.True(t, r.err.Unprocessed)
}

func TestGoAwayMalformed(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(*h2test.Conn)
		code http2.ErrCode
	}{
		{"raised", func(s *h2test.Conn) {
			s.GoAway(1, http2.ErrCodeNo, "")
			s.GoAway(3, http2.ErrCodeNo, "")
		}, http2.ErrCodeProtocol},
		{"even", func(s *h2test.Conn) { s.GoAway(2, http2.ErrCodeNo, "") }, http2.ErrCodeProtocol},
		{"on a stream", func(s *h2test.Conn) { s.RawFrame(http2.FrameGoAway, 0, 1, make([]byte, 8)) }, http2.ErrCodeProtocol},
		{"short", func(s *h2test.Conn) { s.RawFrame(http2.FrameGoAway, 0, 0, make([]byte, 7)) }, http2.ErrCodeFrameSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := peeredTCP(t, h2.Config{})
			res := c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()
			tt.send(server)
			violates(t, c, tt.code)
			r := await(t, res, "the call")
			require.Equal(t, codes.Unavailable, r.err.Status.Code())
			require.False(t, r.err.Unprocessed)
			require.False(t, r.err.Unsent)
		})
	}
}

// violates shows that the connection ends because of what the server sent.
func violates(t testing.TB, c *client, code http2.ErrCode) {
	t.Helper()
	var ce *h2.ConnError
	require.ErrorAs(t, await(t, c.served, "the end of Serve"), &ce)
	require.Equal(t, code, ce.Code, ce.Error())
	require.ErrorIs(t, ce, http2.ConnectionError(code))
}

// Drain ends the connection when its last stream has ended.
func TestDrain(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			c, server := p.connect(t, h2.Config{})
			one := c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()
			ctx, cancel := context.WithCancel(context.Background())
			three := c.call(ctx, "/test/Hang", "x")
			server.ExpectUnary()
			s, err := c.Open(context.Background(), req("/test/Stream"))
			require.NoError(t, err)
			server.ExpectHeaders()
			c.Drain(io.ErrNoProgress)
			require.True(t, isDone(c))
			c.Drain(io.ErrShortBuffer) // the first counts
			r := c.unary(context.Background(), req("/test/More"), "x")
			require.True(t, r.failure().Unsent)
			require.Error(t, r.refused)

			server.ReplyUnary(1, nil)
			require.Nil(t, await(t, one, "stream 1").failure())
			cancel()
			require.Equal(t, codes.Canceled, await(t, three, "stream 3").err.Status.Code())
			server.ExpectRST(3, http2.ErrCodeCancel)
			require.Equal(t, 1, c.Streams())
			require.NoError(t, s.Send(frame(nil), true))
			server.ExpectMessage(5)
			server.TrailersOnly(5, codes.OK, "")
			_, err = s.Recv()
			require.Equal(t, io.EOF, err)
			require.Equal(t, io.ErrNoProgress, await(t, c.served, "the end of Serve"))
			server.ExpectClosed()
			require.Empty(t, c.drained)
		})
	}
	t.Run("idle", func(t *testing.T) {
		c, server := peered(t, h2.Config{})
		c.Drain(nil)
		require.Equal(t, h2.ErrClosed, await(t, c.served, "the end of Serve"))
		server.ExpectClosed()
	})
}
