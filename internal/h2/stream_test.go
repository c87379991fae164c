package h2_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// What a stream returns about its response, before and after its end.
func TestStreamFacts(t *testing.T) {
	c, server := peeredTCP(t, h2.Config{})
	require.Equal(t, server.NetConn().LocalAddr().String(), c.Peer().Addr.String())
	require.Equal(t, server.NetConn().RemoteAddr().String(), c.Peer().LocalAddr.String())
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	h := server.ExpectHeaders()
	ready := s.HeadersReady()
	select {
	case <-ready:
		t.Fatal("headers before the server sent any")
	default:
	}
	require.False(t, s.BytesReceived())
	require.Nil(t, s.Err())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	md, ok := s.Header(ctx)
	require.False(t, ok)
	require.Nil(t, md)

	server.Headers(1, false, ":status", "200", "content-type", "application/grpc+json", "grpc-encoding", "gzip", "k", "v")
	await(t, ready, "headers")
	require.Nil(t, s.HeadersReady())
	md, ok = s.Header(context.Background())
	require.True(t, ok)
	md["k"][0] = "mine"
	require.Equal(t, []string{"v"}, s.HeaderMD()["k"], "a map is its caller's own")
	require.Equal(t, "gzip", s.RecvEncoding())
	require.True(t, s.HasHeader())
	require.True(t, s.BytesReceived())
	require.NoError(t, s.CloseSend())
	require.NoError(t, s.CloseSend(), "a second time is nothing")
	server.ExpectEndStream(1)
	server.ReplyTrailers(1, codes.Aborted, "no", "a", "1", "a", "2")
	await(t, s.Finished(), "the end")
	require.Equal(t, []string{"1", "2"}, s.TrailerValues("a"))
	require.Empty(t, s.TrailerValues("b"))
	out, in, trailer := s.WireLengths()
	require.Equal(t, len(h.Block)+9, out)
	require.NotZero(t, in)
	require.NotZero(t, trailer)
	require.Equal(t, "no", s.Err().Error())
	require.Equal(t, codes.Aborted, s.Err().GRPCStatus().Code())
	server.ExpectSilence(0)
}

// Statuses of HTTP map as gRPC's http-grpc-status-mapping document says.
func TestHTTPStatuses(t *testing.T) {
	want := map[int]codes.Code{
		http.StatusBadRequest: codes.Internal, http.StatusUnauthorized: codes.Unauthenticated, http.StatusForbidden: codes.PermissionDenied,
		http.StatusNotFound: codes.Unimplemented, http.StatusTooManyRequests: codes.Unavailable, http.StatusBadGateway: codes.Unavailable,
		http.StatusServiceUnavailable: codes.Unavailable, http.StatusGatewayTimeout: codes.Unavailable,
		http.StatusOK: codes.Unknown, http.StatusNoContent: codes.Unknown, http.StatusFound: codes.Unknown, http.StatusInternalServerError: codes.Unknown, 999: codes.Unknown,
	}
	c, server := peered(t, h2.Config{})
	for code, st := range want {
		for _, body := range []bool{true, false} {
			res := c.call(context.Background(), "/test/HTTP", "x")
			h, _ := server.ExpectUnary()
			server.Headers(h.StreamID, !body, ":status", fmt.Sprint(code), "content-type", "text/plain")
			if body {
				server.Data(h.StreamID, true, []byte("why"))
			}
			r := await(t, res, "the call")
			require.Equal(t, st, r.err.Status.Code(), code)
			require.Equal(t, body, strings.Contains(r.err.Status.Message(), "why"))
			require.Equal(t, code != 200, strings.Contains(r.err.Status.Message(), fmt.Sprint(code)))
		}
	}
}

// A unary call has one reply; a server that sends another is not listened to for longer.
func TestSecondReply(t *testing.T) {
	c, server := peered(t, h2.Config{})
	res := c.call(context.Background(), "/test/Unary", "x")
	server.ExpectUnary()
	server.ReplyHeaders(1)
	server.ReplyMessage(1, []byte("one"))
	server.ReplyMessage(1, []byte("two"))
	r := await(t, res, "the call")
	require.Equal(t, codes.Internal, r.err.Status.Code())
	require.Equal(t, 2, r.messages)
	server.ExpectRST(1, http2.ErrCodeCancel)
	alive(t, c, server)
}

// Buffers of any size do.
func TestBufferSizes(t *testing.T) {
	for _, p := range peers {
		for _, size := range []int{1, 600, 20000, 1 << 20} {
			t.Run(fmt.Sprint(p.name, " ", size), func(t *testing.T) {
				c, server := p.connect(t, h2.Config{ReadBufferSize: size, WriteBufferSize: size})
				server.Go(func(server *h2test.Conn) { server.Loop(h2test.Echo) })
				var wg sync.WaitGroup
				for g := range 8 {
					wg.Go(func() {
						for i := range 10 {
							payload := strings.Repeat(string(rune('a'+g)), []int{0, 10, 507, 16379, 16384, 70000}[i%6])
							if r := c.unary(context.Background(), req("/test/Echo"), payload); r.failure() != nil || r.reply != payload {
								t.Errorf("call %d/%d: %v, %d bytes", g, i, r.failure(), len(r.reply))
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// Many small messages that are not received take little more room than large ones within
// the same window.
func TestSmallMessagesWaiting(t *testing.T) {
	c, server := peeredTCP(t, h2.Config{})
	s, err := c.Open(context.Background(), req("/test/Small"))
	require.NoError(t, err)
	server.ExpectHeaders()
	server.ReplyHeaders(1)
	const n = 80000
	one := h2test.PutMessage(false, []byte("m"))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range n / 2000 {
		server.Data(1, false, []byte(strings.Repeat(string(one), 2000)))
	}
	server.ReplyTrailers(1, codes.OK, "")
	await(t, s.Finished(), "the end")
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(12<<20))
	for range n {
		m, err := s.Recv()
		require.NoError(t, err)
		require.Equal(t, "m", string(m.Data))
		m.Free()
	}
	_, err = s.Recv()
	require.Equal(t, io.EOF, err)
}

// Cancel with a status of the caller's.
func TestCancelWithStatus(t *testing.T) {
	c, server := peered(t, h2.Config{})
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	server.ExpectHeaders()
	s.Cancel(status.New(codes.ResourceExhausted, "too much"))
	s.Cancel(status.New(codes.Canceled, "late"))
	server.ExpectRST(1, http2.ErrCodeCancel)
	_, err = s.Recv()
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	_, ok := s.Header(context.Background())
	require.False(t, ok)
}

// A message that is announced and does not come holds next to nothing.
func TestAnnouncedMessage(t *testing.T) {
	const streams = 1000
	c, server := peered(t, h2.Config{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range streams {
		s, err := c.Open(ctx, req("/test/Announced"))
		require.NoError(t, err)
		h := server.ExpectHeaders()
		server.ReplyHeaders(h.StreamID)
		server.Data(h.StreamID, false, []byte{0, 0, 64, 0, 0, 1})
		if i == streams-1 {
			server.Ping([8]byte{})
			server.ExpectPingAck([8]byte{}) // so all has been read
		}
		defer s.Cancel(nil)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(streams*20<<10))
}
