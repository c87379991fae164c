package h2_test

import (
	"context"
	"encoding/base64"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

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
