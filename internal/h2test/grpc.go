package h2test

import (
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
)

// maxReplyFrame is the payload of one DATA frame that ReplyMessage makes: a
// client that raises no SETTINGS_MAX_FRAME_SIZE takes no longer one.
const maxReplyFrame = minMaxFrameSize

// ReplyHeaders sends gRPC response headers: :status 200, content-type
// application/grpc, and the extra pairs.
func (c *Conn) ReplyHeaders(streamID uint32, extra ...string) {
	c.t.Helper()
	c.Headers(streamID, false, responseHeaders(extra)...)
}

// ReplyMessage sends one uncompressed gRPC message, in DATA frames of 16 kB at
// most. It does not look at the client's windows.
func (c *Conn) ReplyMessage(streamID uint32, payload []byte) {
	c.t.Helper()
	c.replyBytes(streamID, PutMessage(false, payload))
}

// ReplyCompressed sends payload as one gRPC message with the compressed flag
// set. It does not compress.
func (c *Conn) ReplyCompressed(streamID uint32, payload []byte) {
	c.t.Helper()
	c.replyBytes(streamID, PutMessage(true, payload))
}

func (c *Conn) replyBytes(streamID uint32, p []byte) {
	c.t.Helper()
	c.Batch(func() {
		for len(p) > maxReplyFrame {
			c.Data(streamID, false, p[:maxReplyFrame])
			p = p[maxReplyFrame:]
		}
		c.Data(streamID, false, p)
	})
}

// ReplyTrailers ends the stream with a status and the extra pairs. An empty
// message sends no grpc-message.
func (c *Conn) ReplyTrailers(streamID uint32, code codes.Code, message string, extra ...string) {
	c.t.Helper()
	c.Headers(streamID, true, append(statusFields(code, message), extra...)...)
}

// TrailersOnly answers with the one header block that is both response headers
// and trailers.
func (c *Conn) TrailersOnly(streamID uint32, code codes.Code, message string, extra ...string) {
	c.t.Helper()
	c.Headers(streamID, true, responseHeaders(append(statusFields(code, message), extra...))...)
}

// ReplyUnary sends a whole successful unary reply in one write: headers, the
// message, trailers with status OK and the extra pairs.
func (c *Conn) ReplyUnary(streamID uint32, payload []byte, trailers ...string) {
	c.t.Helper()
	c.Batch(func() {
		c.ReplyHeaders(streamID)
		c.ReplyMessage(streamID, payload)
		c.ReplyTrailers(streamID, codes.OK, "", trailers...)
	})
}

func responseHeaders(extra []string) []string {
	return append([]string{":status", "200", "content-type", "application/grpc"}, extra...)
}

func statusFields(code codes.Code, message string) []string {
	fields := []string{"grpc-status", strconv.Itoa(int(code))}
	if message != "" {
		fields = append(fields, "grpc-message", percentEncode(message))
	}
	return fields
}

// percentEncode encodes a status message as the gRPC over HTTP/2 document
// demands: bytes outside the printable ASCII range, and '%', as %XX.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if ch := s[i]; ch >= ' ' && ch <= '~' && ch != '%' {
			b.WriteByte(ch)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[ch>>4])
			b.WriteByte(hex[ch&15])
		}
	}
	return b.String()
}
