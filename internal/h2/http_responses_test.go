package h2_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// Responses that are HTTP's and not gRPC's, or may be: of a proxy, of a server that speaks
// something else.
func TestHTTPResponses(t *testing.T) {
	for _, tt := range []response{
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
	} {
		t.Run(tt.name, tt.play)
	}
}
