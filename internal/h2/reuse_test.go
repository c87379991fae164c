package h2_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// Objects of unary calls serve again. Frames for calls that are over, which the server sends
// while later calls run, reach none of those.
func TestLateFramesReachNoStream(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			c, server := p.connect(t, h2.Config{})
			server.Go(func(server *h2test.Conn) {
				var stale []uint32
				server.Loop(func(s *h2test.Stream) {
					if s.Reset {
						stale = append(stale, s.ID)
						return
					}
					if !s.Ended {
						return
					}
					haunt := func() {
						for i, id := range stale[max(0, len(stale)-4):] {
							switch (int(s.ID/2) + i) % 6 {
							case 0:
								server.ReplyHeaders(id, "ghost", fmt.Sprint(id))
							case 1:
								server.ReplyMessage(id, []byte("ghost"))
							case 2:
								server.ReplyTrailers(id, codes.DataLoss, "ghost")
							case 3:
								server.RST(id, http2.ErrCodeInternal)
							case 4:
								server.WindowUpdate(id, 1<<20)
							case 5:
								server.DataPadded(id, true, []byte("ghost"), 9)
							}
						}
					}
					for _, m := range s.Take() {
						haunt()
						if s.Method() == "/test/Slow" {
							s.SendHeaders() // and no more before it is reset
							return
						}
						s.SendHeaders("call", string(m.Payload))
						haunt()
						s.SendMessage(m.Payload)
						haunt()
						s.SendTrailers(codes.OK, "", "call", string(m.Payload))
						stale = append(stale, s.ID)
					}
				})
			})
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					for i := range 150 {
						if (g+i)%3 == 0 {
							ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%5)*100*time.Microsecond)
							if r := c.unary(ctx, req("/test/Slow"), "slow"); r.failure() == nil || r.failure().Status.Code() != codes.DeadlineExceeded {
								t.Errorf("slow call: %v", r.failure())
							}
							cancel()
							continue
						}
						name := fmt.Sprintf("%d/%d", g, i)
						r := c.unary(context.Background(), req("/test/Call"), name)
						if r.failure() != nil {
							t.Errorf("call %s: %v", name, r.failure())
							return
						}
						if r.reply != name || r.messages != 1 || len(r.header["ghost"]) > 0 ||
							fmt.Sprint(r.header["call"], r.trailer["call"]) != fmt.Sprintf("[%s] [%s]", name, name) {
							t.Errorf("call %s got reply %q, %d messages, header %v, trailer %v", name, r.reply, r.messages, r.header, r.trailer)
							return
						}
					}
				})
			}
			wg.Wait()
			require.Zero(t, c.Streams())
		})
	}
}

// Everything a call has seen is forgotten when its object serves the next, which may
// see nothing at all.
func TestNothingIsLeftOver(t *testing.T) {
	c, server := peered(t, h2.Config{})
	full := func() {
		res := c.call(context.Background(), "/test/Full", "x")
		h, _ := server.ExpectUnary()
		server.ReplyHeaders(h.StreamID, "k", "v", "grpc-encoding", "gzip")
		server.ReplyCompressed(h.StreamID, []byte("reply"))
		server.ReplyTrailers(h.StreamID, codes.DataLoss, "bad", "k", "v")
		require.Equal(t, codes.DataLoss, await(t, res, "the call").err.Status.Code())
	}
	for name, end := range map[string]func(id uint32){
		"reset":         func(id uint32) { server.RST(id, http2.ErrCodeInternal) },
		"trailers only": func(id uint32) { server.TrailersOnly(id, codes.Aborted, "") },
		"not gRPC":      func(id uint32) { server.Headers(id, true, ":status", "404") },
		"half a message": func(id uint32) {
			server.ReplyHeaders(id)
			server.Data(id, false, []byte{0, 0, 0, 0, 9, 'x'})
			server.RST(id, http2.ErrCodeInternal)
		},
	} {
		full()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s, err := c.Unary(context.Background(), req("/test/Bare"), h2test.PutMessage(false, nil))
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Release()
			if _, ok := s.Message(); ok || s.Messages() != 0 || s.Err() == nil || s.RecvEncoding() != "" {
				t.Errorf("%s: left over: message %v, %d messages, error %v, encoding %q", name, ok, s.Messages(), s.Err(), s.RecvEncoding())
			}
			if name != "half a message" && (s.HasHeader() || s.HeaderMD() != nil) {
				t.Errorf("%s: left over: header %v", name, s.HeaderMD())
			}
			if len(s.Trailer()["k"]) > 0 {
				t.Errorf("%s: left over: trailer %v", name, s.Trailer())
			}
			if name == "reset" && s.BytesReceived() {
				t.Errorf("%s: left over: bytes received", name)
			}
		}()
		h, _ := server.ExpectUnary()
		end(h.StreamID)
		await(t, done, "the call")
		alive(t, c, server)
	}
}

// An object that was used for an upload that failed half-way is whole again.
func TestReuseAfterBlockedSend(t *testing.T) {
	c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(10))
	for i := range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		res := c.call(ctx, "/test/Big", string(make([]byte, 100)))
		h := server.ExpectHeaders()
		server.ExpectData(h.StreamID)
		want := codes.Canceled
		switch i % 3 {
		case 0:
			cancel()
			require.Equal(t, want, await(t, res, "the call").err.Status.Code())
			server.ExpectRST(h.StreamID, http2.ErrCodeCancel)
		case 1:
			server.RST(h.StreamID, http2.ErrCodeInternal)
			require.Equal(t, codes.Internal, await(t, res, "the call").err.Status.Code())
		case 2:
			server.WindowUpdate(h.StreamID, 100)
			server.RST(h.StreamID, http2.ErrCodeInternal)
			require.Equal(t, codes.Internal, await(t, res, "the call").err.Status.Code())
			server.Skip(h2test.WindowUpdates, h2test.DataFrames)
		}
		cancel()
		// The next call waits for credit just once it has to.
		next := c.call(context.Background(), "/test/Big", "0123456789")
		h = server.ExpectHeaders()
		server.Skip(h2test.WindowUpdates)
		require.Len(t, server.ExpectData(h.StreamID).Data, 10)
		server.WindowUpdate(h.StreamID, 5)
		require.True(t, server.ExpectData(h.StreamID).EndStream())
		server.ReplyUnary(h.StreamID, nil)
		require.Nil(t, await(t, next, "the next call").failure())
	}
}
