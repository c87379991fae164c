package h2_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// What a request says, and in which order.
func TestRequestHeaders(t *testing.T) {
	c, server := peered(t, h2.Config{})
	r := &h2.Request{
		Method:           "/pkg.Service/Method",
		Authority:        "example.com:443",
		ContentSubtype:   "json",
		Encoding:         "gzip",
		AcceptEncoding:   "gzip,identity",
		PreviousAttempts: 2,
		Metadata: metadata.MD{
			"k": {"v1", "v2"}, "bytes-bin": {"\x00\xff", ""},
			"content-type": {"text/html"}, "user-agent": {"mine"}, "grpc-timeout": {"1S"}, ":path": {"/x"}, "te": {"no"}, "": {"empty"},
		},
		Extra:   []string{"extra", "e", "extra-bin", "\x01", "grpc-encoding", "x"},
		MaxRecv: 100,
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 4 { // as they come to be indexed
		go c.unary(ctx, r, "x")
		h, _ := server.ExpectUnary()
		require.Equal(t, []string{":method", ":scheme", ":path", ":authority", "content-type", "user-agent", "te", "grpc-encoding", "grpc-accept-encoding",
			"grpc-previous-rpc-attempts", "grpc-timeout"}, h.Names()[:11])
		for name, want := range map[string][]string{
			":method": {"POST"}, ":scheme": {"http"}, ":path": {"/pkg.Service/Method"}, ":authority": {"example.com:443"},
			"content-type": {"application/grpc+json"}, "user-agent": {"h2_test/1"}, "te": {"trailers"},
			"grpc-encoding": {"gzip"}, "grpc-accept-encoding": {"gzip,identity"}, "grpc-previous-rpc-attempts": {"2"},
			"k": {"v1", "v2"}, "bytes-bin": {"AP8", ""}, "extra": {"e"}, "extra-bin": {"AQ"}, "": nil,
		} {
			require.Equal(t, want, h.Values(name), name)
		}
		require.Regexp(t, `^\d{1,8}[munSMH]$`, h.Field("grpc-timeout"))
		require.Len(t, h.Fields, 11+6)
		server.TrailersOnly(h.StreamID, codes.OK, "")
	}
	go c.unary(context.Background(), req("/m"), "x")
	h, _ := server.ExpectUnary()
	require.Equal(t, []string{":method", ":scheme", ":path", ":authority", "content-type", "user-agent", "te"}, h.Names())
	require.Equal(t, "application/grpc", h.Field("content-type"))
	server.TrailersOnly(h.StreamID, codes.OK, "")
}

// Metadata larger than a frame travels in CONTINUATION frames.
func TestLargeMetadata(t *testing.T) {
	c, server := peered(t, h2.Config{})
	r := req("/test/Large")
	want := strings.Repeat("\u0394x!", 20000) // does not compress
	r.Metadata = metadata.Pairs("large-bin", want, "after", "v")
	for range 2 {
		go c.unary(context.Background(), r, "x")
		h, _ := server.ExpectUnary()
		require.GreaterOrEqual(t, h.Continuations, 5)
		got, err := base64.RawStdEncoding.DecodeString(h.Field("large-bin"))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
		require.Equal(t, "v", h.Field("after"))
		server.TrailersOnly(h.StreamID, codes.OK, "")
	}
	// A whole request in one HEADERS frame too large.
	go func() {
		if s, err := c.Unary(context.Background(), r, nil); err == nil {
			s.Release()
		}
	}()
	h := server.ExpectHeaders()
	require.True(t, h.EndStream())
	require.GreaterOrEqual(t, h.Continuations, 5)
	server.TrailersOnly(h.StreamID, codes.OK, "")
	alive(t, c, server)
}

// The limit on what the server may send holds for the stream alone, and HPACK's state
// survives it.
func TestHeaderListFromServerTooLarge(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(s *h2test.Conn, id uint32)
		code codes.Code
	}{
		{"many fields", func(s *h2test.Conn, id uint32) {
			var pairs []string
			for i := range 100 {
				pairs = append(pairs, fmt.Sprintf("k%d", i), "vvvvvvvvvv")
			}
			s.ReplyHeaders(id, pairs...)
		}, codes.Internal},
		{"a long value", func(s *h2test.Conn, id uint32) { s.ReplyHeaders(id, "k", strings.Repeat("v", 1500)) }, codes.Internal},
		{"a long name", func(s *h2test.Conn, id uint32) { s.ReplyHeaders(id, strings.Repeat("k", 1500), "v") }, codes.Internal},
		{"in trailers", func(s *h2test.Conn, id uint32) {
			s.ReplyHeaders(id)
			s.ReplyTrailers(id, codes.OK, "", "k", strings.Repeat("v", 3000))
		}, codes.Internal},
		{"one index many times", func(s *h2test.Conn, id uint32) {
			s.ReplyHeaders(id)
			b := s.Encode("k", strings.Repeat("v", 500))
			index := s.Encode("k", strings.Repeat("v", 500))
			for range 1000 {
				b = append(b, index...)
			}
			s.RawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, id, b)
		}, codes.Internal},
		{"in pieces", func(s *h2test.Conn, id uint32) {
			s.HeadersSplit(id, false, 40, ":status", "200", "content-type", "application/grpc", "k", strings.Repeat("v", 2000))
		}, codes.Internal},
		{"of an HTTP error", func(s *h2test.Conn, id uint32) {
			s.Headers(id, false, ":status", "503", "content-type", "text/html", "k", strings.Repeat("v", 2000))
		}, codes.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := peeredTCP(t, h2.Config{MaxHeaderListSize: 1000})
			server.Skip(h2test.WindowUpdates, h2test.RSTs)
			beside := c.call(context.Background(), "/test/Beside", "x")
			server.ExpectUnary()
			res := c.call(context.Background(), "/test/Large", "x")
			server.ExpectUnary()
			tt.send(server, 3)
			r := await(t, res, "the call")
			require.Equal(t, tt.code, r.err.Status.Code())
			require.Contains(t, r.err.Status.Message(), "header list size exceeded")
			server.ReplyUnary(1, []byte("fine"))
			r = await(t, beside, "the call beside it")
			require.Nil(t, r.failure())
			require.Equal(t, "fine", r.reply)
			alive(t, c, server)
		})
	}
	t.Run("to the brim", func(t *testing.T) {
		c, server := peeredTCP(t, h2.Config{MaxHeaderListSize: 1000})
		res := c.call(context.Background(), "/test/Large", "x")
		server.ExpectUnary()
		size := len(":status200") + 32 + len("content-typeapplication/grpc") + 32 + len("k") + 32
		server.ReplyHeaders(1, "k", strings.Repeat("v", 1000-size))
		server.ReplyTrailers(1, codes.OK, "")
		require.Nil(t, await(t, res, "the call").failure())
	})
}

// A header list just under the limit is taken, however many frames it needs, and one just
// above ends its stream only.
func TestHeaderListUpToTheLimit(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit uint32
		value int // bytes of each field's value
		frame int // bytes of a fragment
	}{
		{"default, one field", 0, 16<<20 - 1000, 16384},
		{"default, in small frames", 0, 1 << 20, 1024},
		{"large", 24 << 20, 4 << 20, 16384},
		{"small, in tiny frames", 64 << 10, 4 << 10, 70},
	} {
		for _, beyond := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, beyond), func(t *testing.T) {
				c, server := peeredTCP(t, h2.Config{MaxHeaderListSize: tt.limit})
				limit := int(cmp.Or(tt.limit, 16<<20))
				pairs := []string{":status", "200", "content-type", "application/grpc", "grpc-status", "0"}
				size := len(strings.Join(pairs, "")) + 3*32
				value := strings.Repeat("X", tt.value) // as long Huffman-coded
				for size+len("k")+len(value)+32 <= limit {
					pairs = append(pairs, "k", value)
					size += len("k") + len(value) + 32
				}
				if left := limit - size - len("k") - 32; left >= 0 {
					pairs = append(pairs, "k", value[:left])
				}
				if beyond {
					pairs = append(pairs, "k", "v")
				}
				res := c.call(context.Background(), "/test/Large", "x")
				server.ExpectUnary()
				server.Batch(func() {
					typ, flags := http2.FrameHeaders, http2.FlagHeadersEndStream
					for block := server.Encode(pairs...); len(block) > 0; {
						n := min(len(block), tt.frame)
						if n == len(block) {
							flags |= http2.FlagHeadersEndHeaders
						}
						server.RawFrame(typ, flags, 1, block[:n])
						typ, flags, block = http2.FrameContinuation, 0, block[n:]
					}
				})
				r := await(t, res, "the call")
				if beyond {
					require.Equal(t, codes.Internal, r.failure().Status.Code())
				} else {
					require.Nil(t, r.failure())
					require.Len(t, r.trailer["k"], len(pairs)/2-3)
				}
				alive(t, c, server)
			})
		}
	}
}

// A header block without end, or of frames without end, costs the server its
// connection.
func TestHeaderFlood(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(s *h2test.Conn)
	}{
		{"empty CONTINUATION frames", func(s *h2test.Conn) {
			for range 1001 {
				s.RawFrame(http2.FrameContinuation, 0, 1, nil)
			}
		}},
		{"small CONTINUATION frames", func(s *h2test.Conn) {
			for range 1001 {
				s.RawFrame(http2.FrameContinuation, 0, 1, []byte{0x88})
			}
		}},
		{"a string without end", func(s *h2test.Conn) {
			s.RawFrame(http2.FrameContinuation, 0, 1, []byte{0x00, 0x7f, 0xff, 0xff, 0xff, 0x7f})
			for range 20 {
				s.RawFrame(http2.FrameContinuation, 0, 1, make([]byte, 16384))
			}
		}},
		{"indices without end", func(s *h2test.Conn) {
			for range 20 {
				s.RawFrame(http2.FrameContinuation, 0, 1, []byte(strings.Repeat("\x88", 16384)))
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := peeredTCP(t, h2.Config{MaxHeaderListSize: 64 << 10})
			res := c.call(context.Background(), "/test/Hang", "x")
			server.ExpectUnary()
			server.RawFrame(http2.FrameHeaders, 0, 1, nil)
			server.Batch(func() { tt.send(server) })
			var ce *h2.ConnError
			require.ErrorAs(t, await(t, c.served, "the end of Serve"), &ce)
			require.Contains(t, []http2.ErrCode{http2.ErrCodeEnhanceYourCalm, http2.ErrCodeCompression}, ce.Code)
			require.Equal(t, codes.Unavailable, await(t, res, "the call").err.Status.Code())
		})
	}
}

// A request larger than the server accepts is not sent. The limit counts what is
// sent, no more.
func TestHeaderListToServerTooLarge(t *testing.T) {
	size := func(pairs ...string) (n int) {
		for i := 0; i < len(pairs); i += 2 {
			n += len(pairs[i]) + len(pairs[i+1]) + 32
		}
		return n
	}
	plain := size(":method", "POST", ":scheme", "http", ":path", "/test/M", ":authority", "localhost",
		"content-type", "application/grpc", "user-agent", "h2_test/1", "te", "trailers")
	full := size(":method", "POST", ":scheme", "http", ":path", "/test/M", ":authority", "localhost",
		"content-type", "application/grpc+proto", "user-agent", "h2_test/1", "te", "trailers",
		"grpc-encoding", "gzip", "grpc-accept-encoding", "gzip", "grpc-previous-rpc-attempts", "10", "k-bin", "AAEC", "extra", "e")
	for _, tt := range []struct {
		name string
		req  h2.Request
		size int
	}{
		{"plain", h2.Request{Method: "/test/M", Authority: "localhost"}, plain},
		{"reserved", h2.Request{Method: "/test/M", Authority: "localhost", Metadata: metadata.Pairs("user-agent", "x"), Extra: []string{"te", "x"}}, plain},
		{"full", h2.Request{Method: "/test/M", Authority: "localhost", ContentSubtype: "proto", Encoding: "gzip", AcceptEncoding: "gzip", PreviousAttempts: 10,
			Metadata: metadata.Pairs("k-bin", "\x00\x01\x02"), Extra: []string{"extra", "e"}}, full},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := peered(t, h2.Config{}, h2test.MaxHeaderListSize(uint32(tt.size)))
			done := make(chan result, 1)
			go func() { done <- c.unary(context.Background(), &tt.req, "x") }()
			h, _ := server.ExpectUnary()
			var sent int
			for _, f := range h.Fields {
				sent += int(f.Size())
			}
			require.Equal(t, tt.size, sent)
			server.TrailersOnly(h.StreamID, codes.OK, "")
			require.Nil(t, await(t, done, "the call").failure())

			server.Settings(h2test.MaxHeaderListSize(uint32(tt.size - 1)))
			server.ExpectSettingsAck()
			r := c.unary(context.Background(), &tt.req, "x")
			require.Error(t, r.refused)
			require.Equal(t, codes.Internal, r.failure().Status.Code())
			require.True(t, r.failure().Local)
			require.Contains(t, r.failure().Status.Message(), fmt.Sprint(tt.size-1))
			require.Zero(t, c.Streams())
			server.Settings(h2test.MaxHeaderListSize(0)) // none, not any number
			server.ExpectSettingsAck()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			r = c.unary(ctx, &tt.req, "x")
			require.ErrorContains(t, r.refused, "(0 bytes)")
			server.Settings(h2test.MaxHeaderListSize(1<<20), h2test.MaxConcurrentStreams(1))
			server.ExpectSettingsAck()
			alive(t, c, server)
		})
	}
}
