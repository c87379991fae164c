package h2_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

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

func details(t *testing.T, code codes.Code, msg string) string {
	st, err := status.New(code, msg).WithDetails(wrapperspb.String("why"))
	require.NoError(t, err)
	b, err := proto.Marshal(st.Proto())
	require.NoError(t, err)
	return string(b)
}

// Responses, right and wrong ones. Each is the whole of what the server sends, and
// says what the caller sees. A fresh call works after each.
func TestResponses(t *testing.T) {
	b64 := base64.RawStdEncoding.EncodeToString
	grpcOK := []string{":status", "200", "content-type", "application/grpc"}
	for _, tt := range []struct {
		name    string
		send    func(s *h2test.Conn, id uint32)
		code    codes.Code
		message string // contained
		rst     bool   // the client cuts the stream
		check   func(t *testing.T, r result)
	}{
		{name: "trailers only", code: codes.NotFound, message: "no such",
			send: func(s *h2test.Conn, id uint32) { s.TrailersOnly(id, codes.NotFound, "no such", "k", "v") },
			check: func(t *testing.T, r result) {
				require.False(t, r.hasHeader)
				require.Nil(t, r.header)
				require.Equal(t, []string{"v"}, r.trailer["k"])
				require.Zero(t, r.messages)
				require.True(t, r.received)
			}},
		{name: "trailers only OK", code: codes.OK,
			send:  func(s *h2test.Conn, id uint32) { s.TrailersOnly(id, codes.OK, "") },
			check: func(t *testing.T, r result) { require.Zero(t, r.messages) }},
		{name: "trailers only without content-type", code: codes.Aborted,
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, ":status", "200", "grpc-status", "10") }},
		{name: "headers and trailers", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id, "k", "v1", "k", "v2", "b-bin", b64([]byte("\x00\x01")))
				s.ReplyMessage(id, []byte("m"))
				s.ReplyTrailers(id, codes.OK, "", "t", "w", "b-bin", "AQ==")
			},
			check: func(t *testing.T, r result) {
				require.Equal(t, "m", r.reply)
				require.Equal(t, []string{"v1", "v2"}, r.header["k"])
				require.Equal(t, []string{"\x00\x01"}, r.header["b-bin"])
				require.Equal(t, []string{"w"}, r.trailer["t"])
				require.Equal(t, []string{"\x01"}, r.trailer["b-bin"])
				require.NotContains(t, r.trailer, "grpc-status")
				require.NotContains(t, r.header, ":status")
			}},
		{name: "an empty message", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) { s.ReplyUnary(id, nil) },
			check: func(t *testing.T, r result) {
				require.Equal(t, 1, r.messages)
				require.Empty(t, r.reply)
			}},
		{name: "a compressed message", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id, "grpc-encoding", "x")
				s.ReplyCompressed(id, []byte("zip"))
				s.ReplyTrailers(id, codes.OK, "")
			},
			check: func(t *testing.T, r result) {
				require.True(t, r.compressed)
				require.Equal(t, "zip", r.reply)
			}},
		{name: "a message byte by byte", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id)
				for _, b := range h2test.PutMessage(false, []byte("piecemeal")) {
					s.Data(id, false, nil)
					s.DataPadded(id, false, []byte{b}, int(b))
				}
				s.ReplyTrailers(id, codes.OK, "")
			},
			check: func(t *testing.T, r result) { require.Equal(t, "piecemeal", r.reply) }},
		{name: "padding and priority", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				p := append([]byte{3, 0, 0, 0, 0, 7}, s.Encode(grpcOK...)...)
				s.RawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersPadded|http2.FlagHeadersPriority, id, append(p, 0, 0, 0))
				s.DataPadded(id, false, h2test.PutMessage(false, []byte("padded")), 255)
				s.ReplyTrailers(id, codes.OK, "")
			},
			check: func(t *testing.T, r result) { require.Equal(t, "padded", r.reply) }},
		{name: "a priority alone in HEADERS", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.RawFrame(http2.FrameHeaders, http2.FlagHeadersPriority|http2.FlagHeadersEndStream, id, make([]byte, 5))
				s.RawFrame(http2.FrameContinuation, http2.FlagContinuationEndHeaders, id, s.Encode(append(grpcOK, "grpc-status", "0")...))
			}},
		{name: "headers in pieces", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.HeadersSplit(id, false, 30, append(grpcOK, "k", "v")...)
				s.HeadersSplit(id, true, 10, "grpc-status", "0")
			},
			check: func(t *testing.T, r result) { require.Equal(t, []string{"v"}, r.header["k"]) }},
		{name: "1xx", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "100")
				s.Headers(id, false, ":status", "103", "link", "x")
				s.ReplyUnary(id, []byte("after"))
			},
			check: func(t *testing.T, r result) {
				require.Equal(t, "after", r.reply)
				require.NotContains(t, r.header, "link")
			}},
		{name: "1xx at the end", code: codes.Internal, message: "103",
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, ":status", "103") }},
		{name: "content-type with parameter", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, ":status", "200", "content-type", "application/grpc;charset=utf-8", "grpc-status", "0")
			}},
		{name: "content-type with subtype", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, ":status", "200", "content-type", "Application/grpc+proto", "grpc-status", "0")
			}},
		{name: "grpc-status of a non-200", code: codes.AlreadyExists,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, ":status", "503", "content-type", "application/grpc", "grpc-status", "6")
			}},
		{name: "not gRPC", code: codes.Unknown, message: `content-type "text/html"; body: "<h1>hello</h1>"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "200", "content-type", "text/html")
				s.Data(id, false, []byte("<h1>"))
				s.Data(id, true, []byte("hello</h1>"))
			}},
		{name: "not gRPC, with trailers", code: codes.Unauthenticated, message: `body: "who?"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "401", "content-type", "text/plain")
				s.Data(id, false, []byte("who?"))
				s.Headers(id, true, "x", "y")
			}},
		{name: "not gRPC without a body", code: codes.Unimplemented, message: "404 (Not Found)",
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, ":status", "404", "content-type", "text/html") }},
		{name: "not gRPC, an empty body", code: codes.PermissionDenied, message: "403 (Forbidden)",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "403", "content-type", "text/html")
				s.Headers(id, false, "odd", "one")
				s.Data(id, true, nil)
			}},
		{name: "a non-200 of gRPC's type without grpc-status", code: codes.Unavailable, message: "503 (Service Unavailable)",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, ":status", "503", "content-type", "application/grpc")
			}},
		{name: "a non-200 of gRPC's type, a body of text", code: codes.Unavailable, message: `503 (Service Unavailable); body: "upstream connect error"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
				s.Data(id, false, []byte("upst"))
				s.Data(id, true, []byte("ream connect error"))
			}},
		{name: "a non-200 of gRPC's type, little text", code: codes.PermissionDenied, message: `403 (Forbidden); body: "no"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "403", "content-type", "application/grpc")
				s.Data(id, true, []byte("no"))
			}},
		{name: "a non-200 of gRPC's type, a long text", code: codes.Unavailable, message: `body: "` + strings.Repeat("a", 1024) + `"`, rst: true,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
				s.Data(id, false, []byte(strings.Repeat("a", 3000)))
			}},
		{name: "a non-200 of gRPC's type, trailers without grpc-status", code: codes.Unavailable, message: "503 (Service Unavailable)",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
				s.Headers(id, true, "k", "v")
			},
			check: func(t *testing.T, r result) { require.Equal(t, []string{"v"}, r.trailer["k"]) }},
		{name: "a non-200 of gRPC's type, text and a grpc-status", code: codes.NotFound, message: "nope",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
				s.Data(id, false, []byte("upstream"))
				s.Headers(id, true, "grpc-status", "5", "grpc-message", "nope")
			}},
		{name: "a non-200 of gRPC's type, text and status OK", code: codes.Unavailable, message: `body: "upstream"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
				s.Data(id, false, []byte("upstream"))
				s.Headers(id, true, "grpc-status", "0")
			}},
		{name: "a non-200 of gRPC's type, a message and status OK", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "500", "content-type", "application/grpc")
				s.ReplyMessage(id, []byte(strings.Repeat("m", 5000)))
				s.Headers(id, true, "grpc-status", "0")
			},
			check: func(t *testing.T, r result) { require.Len(t, r.reply, 5000) }},
		{name: "a long body", code: codes.Unavailable, message: "502 (Bad Gateway)", rst: true,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "502", "content-type", "text/html")
				s.Data(id, false, []byte(strings.Repeat("a", 1000)))
				s.Data(id, false, []byte(strings.Repeat("b", 1000)))
			},
			check: func(t *testing.T, r result) {
				require.Contains(t, r.err.Status.Message(), strings.Repeat("a", 1000)+strings.Repeat("b", 24)+`"`)
				require.NotContains(t, r.err.Status.Message(), strings.Repeat("b", 25))
			}},
		{name: "no content-type, no grpc-status", code: codes.Unknown, message: "no content-type",
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, ":status", "200") }},
		{name: "content-type like gRPC's", code: codes.Unknown, message: "application/grpcweb",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, ":status", "200", "content-type", "application/grpcweb", "grpc-status", "0")
			}},
		{name: "no :status", code: codes.Internal, message: ":status",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, "content-type", "application/grpc", "grpc-status", "0")
			}},
		{name: "malformed :status", code: codes.Internal, message: ":status", rst: true,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "2OO", "content-type", "application/grpc")
			}},
		{name: "two :status", code: codes.Internal, message: "second :status",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, ":status", "200", ":status", "200", "content-type", "application/grpc", "grpc-status", "0")
			}},
		{name: "late :status", code: codes.Internal, message: "after a regular field",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, "content-type", "application/grpc", ":status", "200", "grpc-status", "0")
			}},
		{name: "a request's pseudo-header", code: codes.Internal, message: `":path"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, ":status", "200", ":path", "/", "content-type", "application/grpc", "grpc-status", "0")
			}},
		{name: "upper case", code: codes.Internal, message: `"X-Up"`, rst: true,
			send: func(s *h2test.Conn, id uint32) { s.ReplyHeaders(id, "X-Up", "v") }},
		{name: "a blank in a name", code: codes.Internal, message: `"a b"`, rst: true,
			send: func(s *h2test.Conn, id uint32) { s.ReplyHeaders(id, "a b", "v") }},
		{name: "an empty name", code: codes.Internal, message: `""`, rst: true,
			send: func(s *h2test.Conn, id uint32) { s.ReplyHeaders(id, "", "v") }},
		{name: "a line break in a value", code: codes.Internal, message: `"k"`, rst: true,
			send: func(s *h2test.Conn, id uint32) { s.ReplyHeaders(id, "k", "a\nb") }},
		{name: "malformed -bin", code: codes.Internal, message: "k-bin", rst: true,
			send: func(s *h2test.Conn, id uint32) { s.ReplyHeaders(id, "k-bin", "!") }},
		{name: "malformed -bin in trailers", code: codes.Internal, message: "k-bin",
			send: func(s *h2test.Conn, id uint32) { s.ReplyHeaders(id); s.ReplyTrailers(id, codes.OK, "", "k-bin", "!") }},
		{name: "malformed -bin in an informational response", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "103", "k-bin", "!")
				s.TrailersOnly(id, codes.OK, "")
			}},
		{name: "malformed -bin, not gRPC", code: codes.Unknown, message: `body: "hello"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "200", "content-type", "text/html", "k-bin", "!")
				s.Data(id, true, []byte("hello"))
			}},
		{name: "a non-200, malformed -bin", code: codes.Unavailable, message: `503 (Service Unavailable); unexpected content-type "text/html"; body: "later"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "text/html", "k-bin", "!")
				s.Data(id, true, []byte("later"))
			}},
		{name: "a non-200 without a body, malformed -bin", code: codes.Unauthenticated, message: "401 (Unauthorized)",
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, ":status", "401", "k-bin", "!") }},
		{name: "a non-200, malformed -bin in trailers", code: codes.Unavailable, message: `429 (Too Many Requests); unexpected content-type "text/html"; body: "slow down"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "429", "content-type", "text/html")
				s.Data(id, false, []byte("slow down"))
				s.Headers(id, true, "k-bin", "!")
			}},
		{name: "a non-200, upper case", code: codes.Unavailable, message: `503 (Service Unavailable); unexpected content-type "text/html"; malformed response headers: invalid field name "X-Up"`, rst: true,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "text/html", "X-Up", "v")
			}},
		{name: "a non-200, upper case in trailers", code: codes.Unimplemented, message: `404 (Not Found)`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "404", "content-type", "text/html")
				s.Headers(id, true, "X-Up", "v")
			}},
		{name: "a non-200, a pseudo-header in trailers", code: codes.Unimplemented, message: `404 (Not Found)`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "404", "content-type", "text/html")
				s.Headers(id, true, ":path", "v")
			}},
		{name: "a non-200 that comes twice", code: codes.Internal, message: "second :status",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, ":status", "503", ":status", "503", "content-type", "text/html")
			}},
		{name: "a non-200, malformed grpc-status", code: codes.Unavailable, message: "503 (Service Unavailable)",
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, ":status", "503", "grpc-status", "5x") }},
		{name: "a non-200 of gRPC's type, malformed grpc-status", code: codes.Unavailable, message: "503 (Service Unavailable)",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, ":status", "503", "content-type", "application/grpc", "grpc-status", "-5")
			}},
		{name: "a non-200 of gRPC's type, malformed -bin", code: codes.PermissionDenied, message: `403 (Forbidden); malformed response headers: k-bin: illegal base64 data at input byte 0; body: "no"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "403", "content-type", "application/grpc", "k-bin", "!")
				s.Data(id, false, []byte("no"))
				s.Headers(id, true, "grpc-status", "0")
			}},
		{name: "a non-200 of gRPC's type, malformed -bin in trailers", code: codes.Unavailable, message: "503 (Service Unavailable)",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
				s.Headers(id, true, "grpc-status", "0", "k-bin", "!")
			}},
		{name: "a non-200 of gRPC's type, text and malformed trailers", code: codes.Unavailable, message: `503 (Service Unavailable); body: "text"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
				s.Data(id, false, []byte("text"))
				s.Headers(id, true, "grpc-status", "5", "k-bin", "!")
			}},
		{name: "a non-200 of gRPC's type, HEADERS in the middle", code: codes.Unavailable, message: "503 (Service Unavailable)", rst: true,
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
			}},
		{name: "-bin in all forms", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.TrailersOnly(id, codes.OK, "", "k-bin", "YQ", "k-bin", "YQ==", "k-bin", "YWI=,YWJj, YWJjZA", "k-bin", "")
			},
			check: func(t *testing.T, r result) {
				require.Equal(t, []string{"a", "a", "ab", "abc", "abcd", ""}, r.trailer["k-bin"])
			}},
		{name: "no grpc-status", code: codes.Unknown, message: "without grpc-status",
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id)
				s.ReplyMessage(id, nil)
				s.Headers(id, true, "k", "v")
			},
			check: func(t *testing.T, r result) { require.Equal(t, []string{"v"}, r.trailer["k"]) }},
		{name: "grpc-message without grpc-status", code: codes.Unknown, message: `without grpc-status, with grpc-message "why"`,
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, append(grpcOK, "grpc-message", "why")...) }},
		{name: "bad grpc-status", code: codes.Unknown, message: `malformed grpc-status "1x"`,
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, append(grpcOK, "grpc-status", "1x")...) }},
		{name: "negative grpc-status", code: codes.Unknown, message: `"-1"`,
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, append(grpcOK, "grpc-status", "-1")...) }},
		{name: "huge grpc-status", code: codes.Unknown, message: `"99999999999"`,
			send: func(s *h2test.Conn, id uint32) { s.Headers(id, true, append(grpcOK, "grpc-status", "99999999999")...) }},
		{name: "a grpc-status of the future", code: codes.Code(4711), message: "new",
			send: func(s *h2test.Conn, id uint32) { s.TrailersOnly(id, codes.Code(4711), "new") }},
		{name: "grpc-message encoded", code: codes.Aborted, message: "100% \u00e9\n",
			send: func(s *h2test.Conn, id uint32) { s.TrailersOnly(id, codes.Aborted, "100% \u00e9\n") }},
		{name: "grpc-message badly encoded", code: codes.Aborted, message: "%zz %4 \u00e9face%",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, append(grpcOK, "grpc-status", "10", "grpc-message", "%zz %4 %C3%a9face%")...)
			}},
		{name: "grpc-message not UTF-8", code: codes.Aborted, message: "\uFFFD!",
			send: func(s *h2test.Conn, id uint32) {
				s.Headers(id, true, append(grpcOK, "grpc-status", "10", "grpc-message", "%ff!")...)
			}},
		{name: "status details", code: codes.DataLoss, message: "msg",
			send: func(s *h2test.Conn, id uint32) {
				s.TrailersOnly(id, codes.DataLoss, "other", "grpc-status-details-bin", b64([]byte(details(t, codes.DataLoss, "msg"))))
			},
			check: func(t *testing.T, r result) { require.Len(t, r.err.Status.Details(), 1) }},
		{name: "status details mismatch", code: codes.Internal, message: "grpc-status-details-bin",
			send: func(s *h2test.Conn, id uint32) {
				s.TrailersOnly(id, codes.DataLoss, "msg", "grpc-status-details-bin", b64([]byte(details(t, codes.NotFound, "msg"))))
			}},
		{name: "status details no proto", code: codes.DataLoss, message: "msg",
			send: func(s *h2test.Conn, id uint32) {
				s.TrailersOnly(id, codes.DataLoss, "msg", "grpc-status-details-bin", b64([]byte("\xff\xff")))
			},
			check: func(t *testing.T, r result) { require.Empty(t, r.err.Status.Details()) }},
		{name: "status details twice", code: codes.DataLoss, message: "msg",
			send: func(s *h2test.Conn, id uint32) {
				d := b64([]byte(details(t, codes.DataLoss, "msg")))
				s.TrailersOnly(id, codes.DataLoss, "msg", "grpc-status-details-bin", d, "grpc-status-details-bin", d)
			}},
		{name: "status OK with details of an error", code: codes.Internal, message: "grpc-status-details-bin",
			send: func(s *h2test.Conn, id uint32) {
				s.TrailersOnly(id, codes.OK, "", "grpc-status-details-bin", b64([]byte(details(t, codes.NotFound, "msg"))))
			}},
		{name: "status OK with details", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.TrailersOnly(id, codes.OK, "", "grpc-status-details-bin", b64([]byte("\x12\x03msg")))
			}},
		{name: "much DATA before HEADERS", code: codes.Internal, message: "before HEADERS", rst: true,
			send: func(s *h2test.Conn, id uint32) { s.Data(id, false, make([]byte, 1025)) }},
		{name: "DATA before HEADERS, then a reset", code: codes.ResourceExhausted, message: "ENHANCE_YOUR_CALM",
			send: func(s *h2test.Conn, id uint32) {
				s.Data(id, false, make([]byte, 1024))
				s.RST(id, http2.ErrCodeEnhanceYourCalm)
			}},
		{name: "DATA before HEADERS, then its end", code: codes.Internal, message: "without sending trailers",
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyMessage(id, []byte("x"))
				s.Data(id, true, nil)
			}},
		{name: "DATA before HEADERS, then a status", code: codes.NotFound, message: "nope",
			send: func(s *h2test.Conn, id uint32) {
				s.Data(id, false, []byte("garbage"))
				s.TrailersOnly(id, codes.NotFound, "nope")
			}},
		{name: "DATA before HEADERS, then status OK", code: codes.Internal, message: "middle of a message",
			send: func(s *h2test.Conn, id uint32) {
				s.Data(id, false, []byte("garbage"))
				s.TrailersOnly(id, codes.OK, "")
			}},
		{name: "DATA before HEADERS of a page", code: codes.Unavailable, message: `503 (Service Unavailable); unexpected content-type "text/html"; body: "early and late"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Data(id, false, []byte("early"))
				s.Headers(id, false, ":status", "503", "content-type", "text/html")
				s.Data(id, true, []byte(" and late"))
			}},
		{name: "DATA before HEADERS of a non-200 of gRPC's type", code: codes.Unavailable, message: `503 (Service Unavailable); body: "early and late"`,
			send: func(s *h2test.Conn, id uint32) {
				s.Data(id, false, []byte("early"))
				s.Headers(id, false, ":status", "503", "content-type", "application/grpc")
				s.Data(id, true, []byte(" and late"))
			}},
		{name: "DATA before HEADERS of a response", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.Data(id, false, []byte{0, 0, 0, 0, 3, 'a'})
				s.ReplyHeaders(id)
				s.Data(id, false, []byte("bc"))
				s.ReplyTrailers(id, codes.OK, "")
			},
			check: func(t *testing.T, r result) { require.Equal(t, "abc", r.reply) }},
		{name: "DATA before HEADERS of trailers", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyMessage(id, []byte("abc"))
				s.TrailersOnly(id, codes.OK, "")
			},
			check: func(t *testing.T, r result) { require.Equal(t, "abc", r.reply) }},
		{name: "DATA before HEADERS of garbage", code: codes.Internal, message: "flags 0x67", rst: true,
			send: func(s *h2test.Conn, id uint32) {
				s.Data(id, false, []byte("garbage"))
				s.ReplyHeaders(id)
			}},
		{name: "HEADERS in the middle", code: codes.Internal, message: "middle", rst: true,
			send: func(s *h2test.Conn, id uint32) { s.ReplyHeaders(id); s.ReplyHeaders(id) }},
		{name: "END_STREAM without trailers", code: codes.Internal, message: "without sending trailers",
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id)
				s.Data(id, true, h2test.PutMessage(false, nil))
			}},
		{name: "END_STREAM at once", code: codes.Internal,
			send: func(s *h2test.Conn, id uint32) { s.Data(id, true, nil) }},
		{name: "status OK within a message", code: codes.Internal, message: "middle of a message",
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id)
				s.Data(id, false, []byte{0, 0, 0, 0, 3, 'a'})
				s.ReplyTrailers(id, codes.OK, "")
			}},
		{name: "status OK within a prefix", code: codes.Internal, message: "middle of a message",
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id)
				s.Data(id, false, []byte{0, 0})
				s.ReplyTrailers(id, codes.OK, "")
			}},
		{name: "another status within a message", code: codes.Aborted, message: "stop",
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id)
				s.Data(id, false, []byte{0, 0, 0, 0, 3, 'a'})
				s.ReplyTrailers(id, codes.Aborted, "stop")
			}},
		{name: "unknown message flags", code: codes.Internal, message: "0x02", rst: true,
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id)
				s.Data(id, false, []byte{2, 0, 0, 0, 0})
			}},
		{name: "too large a message", code: codes.ResourceExhausted, message: "1000001 vs. 1000000", rst: true,
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyHeaders(id)
				s.Data(id, false, []byte{0, 0, 0xf, 0x42, 0x41})
			}},
		{name: "as large a message as may be", code: codes.OK,
			send: func(s *h2test.Conn, id uint32) {
				s.ReplyUnary(id, make([]byte, 1000000))
			},
			check: func(t *testing.T, r result) { require.Len(t, r.reply, 1000000) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := peered(t, h2.Config{StreamWindow: 2 << 20})
			done := make(chan result, 1)
			r := req("/test/Response")
			r.MaxRecv = 1000000
			go func() { done <- c.unary(context.Background(), r, "x") }()
			h, _ := server.ExpectUnary()
			tt.send(server, h.StreamID)
			res := await(t, done, "the call")
			require.NoError(t, res.refused)
			if tt.code == codes.OK {
				require.Nil(t, res.err)
			} else {
				require.NotNil(t, res.err)
				require.Equal(t, tt.code, res.err.Status.Code(), res.err.Status.Message())
				require.Contains(t, res.err.Status.Message(), tt.message)
				require.False(t, res.err.Unsent || res.err.Unprocessed)
			}
			if tt.check != nil {
				tt.check(t, res)
			}
			if tt.rst {
				f := server.ReadFrame()
				for f.Type == http2.FrameWindowUpdate {
					f = server.ReadFrame()
				}
				require.Equal(t, http2.FrameRSTStream, f.Type, f.String())
				server.ReplyTrailers(h.StreamID, codes.OK, "late")
			}
			alive(t, c, server)
			require.Zero(t, c.Streams())

			// A stream sees the same.
			s, err := c.Open(context.Background(), r)
			require.NoError(t, err)
			h = server.ExpectHeaders()
			require.NoError(t, s.CloseSend())
			server.ExpectEndStream(h.StreamID)
			tt.send(server, h.StreamID)
			n := 0
			for ; err == nil; n++ {
				var m h2.Message
				m, err = s.Recv()
				m.Free()
			}
			if tt.code == codes.OK {
				require.Equal(t, io.EOF, err)
				require.Equal(t, res.messages, n-1)
			} else {
				require.Equal(t, tt.code, status.Code(err), err)
			}
			require.Equal(t, res.header, s.HeaderMD())
			require.Equal(t, res.trailer, s.Trailer())
		})
	}
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
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			r = c.unary(ctx, &tt.req, "x")
			require.ErrorContains(t, r.refused, "(0 bytes)")
			server.Settings(h2test.MaxHeaderListSize(1<<20), h2test.MaxConcurrentStreams(1))
			server.ExpectSettingsAck()
			alive(t, c, server)
		})
	}
}
