package h2_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
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

// RST_STREAM codes map to statuses as gRPC's PROTOCOL-HTTP2 document says.
func TestResetCodes(t *testing.T) {
	want := map[http2.ErrCode]codes.Code{
		http2.ErrCodeNo:                 codes.Internal,
		http2.ErrCodeProtocol:           codes.Internal,
		http2.ErrCodeInternal:           codes.Internal,
		http2.ErrCodeFlowControl:        codes.ResourceExhausted,
		http2.ErrCodeSettingsTimeout:    codes.Internal,
		http2.ErrCodeStreamClosed:       codes.Internal,
		http2.ErrCodeFrameSize:          codes.Internal,
		http2.ErrCodeRefusedStream:      codes.Unavailable,
		http2.ErrCodeCancel:             codes.Canceled,
		http2.ErrCodeCompression:        codes.Internal,
		http2.ErrCodeConnect:            codes.Internal,
		http2.ErrCodeEnhanceYourCalm:    codes.ResourceExhausted,
		http2.ErrCodeInadequateSecurity: codes.PermissionDenied,
		http2.ErrCodeHTTP11Required:     codes.Internal,
		http2.ErrCode(0xbeef):           codes.Unknown,
	}
	c, server := peered(t, h2.Config{})
	for code, st := range want {
		res := c.call(context.Background(), "/test/Reset", "x")
		h, _ := server.ExpectUnary()
		server.RST(h.StreamID, code)
		r := await(t, res, "the call")
		require.Equal(t, st, r.err.Status.Code(), code)
		require.Contains(t, r.err.Status.Message(), code.String())
		require.Equal(t, code == http2.ErrCodeRefusedStream, r.err.Unprocessed)
		require.False(t, r.err.Unsent)
		require.False(t, r.err.Local)
		require.False(t, r.hasHeader)
	}
	require.Zero(t, c.Streams())
}

// What came before a reset can still be received.
func TestResetAfterMessages(t *testing.T) {
	c, server := peered(t, h2.Config{})
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	server.ExpectHeaders()
	server.ReplyHeaders(1, "k", "v")
	server.ReplyMessage(1, []byte("one"))
	server.ReplyMessage(1, []byte("two"))
	server.RST(1, http2.ErrCodeInternal)
	await(t, s.Finished(), "the end")
	for _, want := range []string{"one", "two"} {
		m, err := s.Recv()
		require.NoError(t, err)
		require.Equal(t, want, string(m.Data))
		m.Free()
	}
	_, err = s.Recv()
	require.Equal(t, codes.Internal, status.Code(err))
	md, ok := s.Header(context.Background())
	require.True(t, ok)
	require.Equal(t, []string{"v"}, md["k"])
}

// RST_STREAM NO_ERROR after the trailers asks a client to stop sending, and is no
// failure (RFC 9113 section 8.1). Other late frames mean nothing either.
func TestResetAfterTrailers(t *testing.T) {
	for _, half := range []bool{true, false} {
		t.Run(fmt.Sprintf("half-closed %v", half), func(t *testing.T) {
			c, server := peered(t, h2.Config{})
			s, err := c.Open(context.Background(), req("/test/Stream"))
			require.NoError(t, err)
			server.ExpectHeaders()
			if half {
				require.NoError(t, s.CloseSend())
				server.ExpectEndStream(1)
			}
			server.Batch(func() {
				server.ReplyHeaders(1)
				server.ReplyMessage(1, []byte("m"))
				server.ReplyTrailers(1, codes.OK, "")
				server.RST(1, http2.ErrCodeNo)
				server.RST(1, http2.ErrCodeCancel)
				server.WindowUpdate(1, 10)
				server.Data(1, true, []byte("late"))
				server.ReplyTrailers(1, codes.Internal, "late")
			})
			m, err := s.Recv()
			require.NoError(t, err)
			require.Equal(t, "m", string(m.Data))
			_, err = s.Recv()
			require.Equal(t, io.EOF, err)
			require.Nil(t, s.Err())
			if !half {
				server.ExpectRST(1, http2.ErrCodeNo)
			}
			alive(t, c, server)
		})
	}
}

// A server that ends the stream before the client has half-closed has the last
// word, and the client cuts its own half.
func TestServerEndsEarly(t *testing.T) {
	t.Run("stream", func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(10))
		s, err := c.Open(context.Background(), req("/test/Stream"))
		require.NoError(t, err)
		server.ExpectHeaders()
		sent := make(chan error, 1)
		go func() { sent <- s.Send(make([]byte, 100), false) }()
		server.ExpectData(1)
		server.TrailersOnly(1, codes.PermissionDenied, "no")
		server.ExpectRST(1, http2.ErrCodeNo)
		require.Equal(t, io.EOF, await(t, sent, "Send"))
		_, err = s.Recv()
		require.Equal(t, codes.PermissionDenied, status.Code(err))
		require.Equal(t, io.EOF, s.CloseSend())
		alive(t, c, server)
	})
	t.Run("unary", func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(10))
		res := c.call(context.Background(), "/test/Big", strings.Repeat("x", 100))
		server.ExpectHeaders()
		server.ExpectData(1)
		server.ReplyUnary(1, []byte("enough"))
		server.ExpectRST(1, http2.ErrCodeNo)
		r := await(t, res, "the call")
		require.Nil(t, r.failure())
		require.Equal(t, "enough", r.reply)
		alive(t, c, server)
	})
}

// late is a context whose deadline has passed and whose end is not noticed.
type late struct {
	context.Context
	deadline time.Time
}

func (l late) Deadline() (time.Time, bool) { return l.deadline, true }

// A server that cancels after the deadline does so because of it.
func TestCancelAfterDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{})
		res := c.call(late{context.Background(), time.Now().Add(time.Second)}, "/test/Hang", "x")
		server.ExpectUnary()
		time.Sleep(999 * time.Millisecond)
		server.RST(1, http2.ErrCodeCancel)
		require.Equal(t, codes.Canceled, (<-res).err.Status.Code())
		res = c.call(late{context.Background(), time.Now().Add(time.Second)}, "/test/Hang", "x")
		server.ExpectUnary()
		time.Sleep(time.Second)
		server.RST(3, http2.ErrCodeCancel)
		require.Equal(t, codes.DeadlineExceeded, (<-res).err.Status.Code())
	})
}

// This side's deadline and cancellation end the stream in time and reset it.
func TestDeadlineIsToTheMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{})
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
		defer cancel()
		res := c.call(ctx, "/test/Hang", "x")
		h, _ := server.ExpectUnary()
		require.Equal(t, "1500m", h.Field("grpc-timeout"))
		s, err := c.Open(ctx, req("/test/Stream"))
		require.NoError(t, err)
		require.Equal(t, "1500m", server.ExpectHeaders().Field("grpc-timeout"))
		server.ReplyHeaders(3)
		server.ReplyMessage(3, []byte("kept"))
		synctest.Wait()
		r := <-res
		require.Equal(t, codes.DeadlineExceeded, r.err.Status.Code())
		require.True(t, r.err.Local)
		require.Equal(t, 1500*time.Millisecond, time.Since(began))
		synctest.Wait()
		m, err := s.Recv()
		require.NoError(t, err, "what came before is received")
		require.Equal(t, "kept", string(m.Data))
		m.Free()
		_, err = s.Recv()
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		resets := map[uint32]bool{}
		for range 2 {
			f := server.ReadFrame()
			for f.Type == http2.FrameWindowUpdate {
				f = server.ReadFrame()
			}
			require.Equal(t, http2.FrameRSTStream, f.Type)
			require.Equal(t, http2.ErrCodeCancel, f.Code)
			resets[f.StreamID] = true
		}
		require.Len(t, resets, 2)

		// Its own deadline, not the server's word that follows.
		server.RST(1, http2.ErrCodeInternal)
		alive(t, c, server)
	})
}

// A call that is over before it begins costs the server nothing.
func TestOverBeforeItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{})
		expired, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		time.Sleep(time.Second)
		canceled, cancel := context.WithCancel(context.Background())
		cancel()
		for _, tt := range []struct {
			ctx  context.Context
			code codes.Code
		}{
			{expired, codes.DeadlineExceeded},
			{late{context.Background(), time.Now()}, codes.DeadlineExceeded},
			{canceled, codes.Canceled},
		} {
			r := c.unary(tt.ctx, req("/test/Never"), "x")
			require.Error(t, r.refused)
			require.Equal(t, tt.code, r.failure().Status.Code())
			require.True(t, r.failure().Unsent)
			require.True(t, r.failure().Local)
			_, err := c.Open(tt.ctx, req("/test/Never"))
			require.Equal(t, tt.code, status.Code(err))
		}
		server.ExpectSilence(time.Second)
		alive(t, c, server)
		require.Zero(t, c.Streams())
	})
}

// A cancellation and the server's trailers cross: one of them wins, once.
func TestCancelAgainstTrailers(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			c, server := p.connect(t, h2.Config{})
			server.Go(func(server *h2test.Conn) {
				server.Loop(func(s *h2test.Stream) {
					if s.Ended && !s.Reset {
						s.SendMessage([]byte("well"))
						s.SendTrailers(codes.OK, "", "t", "1")
					}
				})
			})
			outcomes := map[codes.Code]int{}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range 250 {
						ctx, cancel := context.WithCancel(context.Background())
						time.AfterFunc(time.Duration((i*7+g*13)%200)*time.Microsecond, cancel)
						r := c.unary(ctx, req("/test/Race"), "x")
						cancel()
						code := codes.OK
						if e := r.failure(); e != nil {
							code = e.Status.Code()
							// The reply may have come before the trailers.
							if len(r.trailer) > 0 || r.reply != "" && r.reply != "well" {
								t.Errorf("a cancelled call with the reply %q and the trailers %v", r.reply, r.trailer)
							}
						} else if r.reply != "well" || r.messages != 1 || r.trailer.Get("t") == nil {
							t.Errorf("reply %q of %d messages, trailers %v", r.reply, r.messages, r.trailer)
						}
						mu.Lock()
						outcomes[code]++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			require.Zero(t, c.Streams())
			require.Equal(t, 1000, outcomes[codes.OK]+outcomes[codes.Canceled], outcomes)
			r := c.unary(context.Background(), req("/test/Race"), "x")
			require.Nil(t, r.failure())
		})
	}
}

// A stream may be cancelled from anywhere, any number of times.
func TestStreamCancelRaces(t *testing.T) {
	h2test.CheckLeaks(t)
	c, server := peeredTCP(t, h2.Config{})
	server.Go(func(server *h2test.Conn) { server.Loop(h2test.Echo) })
	for i := range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		s, err := c.Open(ctx, req("/test/Echo"))
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			for s.Send(h2test.PutMessage(false, []byte("m")), false) == nil {
			}
		})
		wg.Go(func() {
			for {
				m, err := s.Recv()
				if err != nil {
					if status.Code(err) != codes.Canceled {
						t.Errorf("Recv: %v", err)
					}
					return
				}
				m.Free()
			}
		})
		wg.Go(func() { time.Sleep(time.Duration(i%20) * 10 * time.Microsecond); cancel() })
		wg.Go(func() { s.Cancel(status.New(codes.Canceled, "by hand")) })
		wg.Wait()
		await(t, s.Finished(), "the end")
		require.Equal(t, codes.Canceled, s.Err().Status.Code())
		cancel()
	}
	require.Zero(t, c.Streams())
}
