package h2_test

import (
	"context"
	"encoding/base64"
	"io"
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

// response is the whole of what the server sends, and what the caller sees.
type response struct {
	name    string
	send    func(s *h2test.Conn, id uint32)
	code    codes.Code
	message string // contained
	rst     bool   // the client cuts the stream
	check   func(t *testing.T, r result)
}

// play has a unary call get the response, and a stream, which sees the same. A fresh call
// works after it.
func (tt response) play(t *testing.T) {
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
}

// Responses, right and wrong ones.
func TestResponses(t *testing.T) {
	b64 := base64.RawStdEncoding.EncodeToString
	grpcOK := []string{":status", "200", "content-type", "application/grpc"}
	for _, tt := range []response{
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
		t.Run(tt.name, tt.play)
	}
}
