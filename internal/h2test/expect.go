package h2test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/net/http2"
)

// Handshake does the whole polite opening: it reads the client's preface and
// SETTINGS, sends a SETTINGS with the given values, acknowledges the client's,
// and reads the acknowledgement of its own. Other frames that the client sends
// before that acknowledgement are kept for the next reads. It returns the
// client's SETTINGS.
func (c *Conn) Handshake(settings ...http2.Setting) *Frame {
	c.t.Helper()
	c.ExpectPreface()
	client := c.ExpectSettings()
	c.Batch(func() {
		c.Settings(settings...)
		c.SettingsAck()
	})
	var kept []*Frame
	deadline := c.deadline()
	for {
		f := c.mustRead(deadline, "SETTINGS ACK (in the handshake)")
		if f.Type == http2.FrameSettings && f.Ack() {
			break
		}
		kept = append(kept, f)
	}
	c.pending = append(kept, c.pending...)
	return client
}

// ExpectPreface reads the client's connection preface (RFC 9113 §3.4).
func (c *Conn) ExpectPreface() {
	c.t.Helper()
	got := make([]byte, len(http2.ClientPreface))
	if err := c.nc.SetReadDeadline(c.deadline()); err != nil {
		c.failed("waiting for the client preface", err)
	}
	n, err := io.ReadFull(c.br, got)
	if err != nil {
		doing := "waiting for the client preface"
		if n > 0 {
			doing += fmt.Sprintf(", after %q", got[:n])
		}
		c.failed(doing, err)
	}
	if string(got) != http2.ClientPreface {
		c.fatalf("waiting for the client preface: got %q", got)
	}
	c.log.client("PREFACE")
}

// expect reads until match accepts a frame. Frames of skipped kinds are passed
// over; any other fails the test.
func (c *Conn) expect(what string, match func(*Frame) bool) *Frame {
	c.t.Helper()
	deadline := c.deadline()
	for {
		f := c.mustRead(deadline, what)
		if match(f) {
			return f
		}
		if !c.skipped(f) {
			c.fatalf("waiting for %s: got %s", what, f)
		}
	}
}

// skipped reports whether f may be passed over, and acknowledges it if due.
func (c *Conn) skipped(f *Frame) bool {
	c.t.Helper()
	k := kindOf(f)
	if c.skip&k == 0 {
		return false
	}
	switch k {
	case Pings:
		c.PingAck(f.Data)
	case SettingsFrames:
		c.SettingsAck()
	}
	return true
}

func kindOf(f *Frame) Kind {
	switch f.Type {
	case http2.FrameWindowUpdate:
		return WindowUpdates
	case http2.FramePing:
		if f.Ack() {
			return PingAcks
		}
		return Pings
	case http2.FrameSettings:
		if f.Ack() {
			return SettingsAcks
		}
		return SettingsFrames
	case http2.FramePriority:
		return Priorities
	case http2.FrameRSTStream:
		return RSTs
	case http2.FrameData:
		return DataFrames
	case http2.FrameHeaders:
		return HeadersFrames
	case http2.FrameGoAway:
		return GoAways
	}
	return otherFrames
}

// ExpectHeaders waits for a header block, CONTINUATION frames joined.
func (c *Conn) ExpectHeaders() *Frame {
	c.t.Helper()
	return c.expect("HEADERS", func(f *Frame) bool { return f.Type == http2.FrameHeaders })
}

// ExpectData waits for a DATA frame of the stream, of any length.
func (c *Conn) ExpectData(streamID uint32) *Frame {
	c.t.Helper()
	return c.expect(fmt.Sprintf("DATA stream=%d", streamID), func(f *Frame) bool {
		return f.Type == http2.FrameData && f.StreamID == streamID
	})
}

// ExpectEndStream waits for an empty DATA frame with END_STREAM: the client's
// half-close after its last message was sent.
func (c *Conn) ExpectEndStream(streamID uint32) {
	c.t.Helper()
	c.expect(fmt.Sprintf("DATA stream=%d END_STREAM len=0", streamID), func(f *Frame) bool {
		return f.Type == http2.FrameData && f.StreamID == streamID && f.EndStream() && len(f.Data) == 0
	})
}

// ExpectRST waits for RST_STREAM with the code.
func (c *Conn) ExpectRST(streamID uint32, code http2.ErrCode) {
	c.t.Helper()
	c.expect(fmt.Sprintf("RST_STREAM stream=%d code=%s", streamID, code), func(f *Frame) bool {
		return f.Type == http2.FrameRSTStream && f.StreamID == streamID && f.Code == code
	})
}

// ExpectPing waits for a PING that is not an acknowledgement. It does not
// acknowledge it: PingAck(f.Data) does.
func (c *Conn) ExpectPing() *Frame {
	c.t.Helper()
	return c.expect("PING", func(f *Frame) bool { return f.Type == http2.FramePing && !f.Ack() })
}

// ExpectPingAck waits for the acknowledgement of Ping(data).
func (c *Conn) ExpectPingAck(data [8]byte) {
	c.t.Helper()
	c.expect(fmt.Sprintf("PING ACK %q", data[:]), func(f *Frame) bool {
		return f.Type == http2.FramePing && f.Ack() && bytes.Equal(f.Data, data[:])
	})
}

// ExpectGoAway waits for a GOAWAY with the code.
func (c *Conn) ExpectGoAway(code http2.ErrCode) *Frame {
	c.t.Helper()
	return c.expect(fmt.Sprintf("GOAWAY code=%s", code), func(f *Frame) bool {
		return f.Type == http2.FrameGoAway && f.Code == code
	})
}

// ExpectWindowUpdate waits for a WINDOW_UPDATE of the stream, 0 being the
// connection, and returns its increment in bytes.
func (c *Conn) ExpectWindowUpdate(streamID uint32) uint32 {
	c.t.Helper()
	return c.expect(fmt.Sprintf("WINDOW_UPDATE stream=%d", streamID), func(f *Frame) bool {
		return f.Type == http2.FrameWindowUpdate && f.StreamID == streamID
	}).Increment
}

// ExpectSettings waits for a SETTINGS that is not an acknowledgement. It does
// not acknowledge it.
func (c *Conn) ExpectSettings() *Frame {
	c.t.Helper()
	return c.expect("SETTINGS", func(f *Frame) bool { return f.Type == http2.FrameSettings && !f.Ack() })
}

// ExpectSettingsAck waits for the acknowledgement of Settings.
func (c *Conn) ExpectSettingsAck() {
	c.t.Helper()
	c.expect("SETTINGS ACK", func(f *Frame) bool { return f.Type == http2.FrameSettings && f.Ack() })
}

// ExpectClosed waits until the client closes its end and returns the frames it
// sent before that.
func (c *Conn) ExpectClosed() []*Frame {
	c.t.Helper()
	var sent []*Frame
	deadline := c.deadline()
	for {
		f, err := c.next(deadline)
		switch {
		case err == nil:
			sent = append(sent, f)
		case isClosed(err):
			return sent
		default:
			doing := "waiting for the client to close the connection"
			if len(sent) > 0 {
				doing += fmt.Sprintf(", after %d more frames, the last %s", len(sent), sent[len(sent)-1])
			}
			c.failed(doing, err)
		}
	}
}

// ExpectSilence fails the test when a frame that is not skipped comes, or the
// connection ends, within d.
func (c *Conn) ExpectSilence(d time.Duration) {
	c.t.Helper()
	deadline := time.Now().Add(d)
	for {
		if len(c.pending) == 0 {
			// Wait for a first byte only: a time-out then leaves no half-read frame.
			if err := c.nc.SetReadDeadline(deadline); err != nil {
				c.failed("expecting silence", err)
			}
			if _, err := c.br.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
				return
			} else if err != nil {
				c.failed(fmt.Sprintf("expecting silence for %v", d), err)
			}
		}
		if f := c.mustRead(c.deadline(), "the rest of a frame"); !c.skipped(f) {
			c.fatalf("expecting silence for %v: got %s", d, f)
		}
	}
}

// Message is one gRPC message as it came: a length-prefixed message of the gRPC
// over HTTP/2 document.
type Message struct {
	Compressed bool
	Payload    []byte
	EndStream  bool // its last DATA frame ended the stream
}

// ExpectMessage joins DATA frames of the stream into one gRPC message. It sends
// no WINDOW_UPDATE. What follows the message in its last frame is a DATA frame for the next read.
func (c *Conn) ExpectMessage(streamID uint32) Message {
	c.t.Helper()
	var buf []byte
	for {
		f := c.ExpectData(streamID)
		buf = append(buf, f.Data...)
		if len(buf) >= 5 {
			n := int(binary.BigEndian.Uint32(buf[1:5])) + 5
			if len(buf) > n {
				rest := *f
				rest.Data, rest.Length, rest.Padding = buf[n:], len(buf)-n, 0
				c.pending = append([]*Frame{&rest}, c.pending...)
			}
			if len(buf) >= n {
				return Message{Compressed: buf[0] == 1, Payload: buf[5:n:n], EndStream: len(buf) == n && f.EndStream()}
			}
		}
		if f.EndStream() {
			c.fatalf("waiting for a message on stream %d: END_STREAM after %d bytes: %q", streamID, len(buf), buf)
		}
	}
}

// ExpectUnary waits for one whole unary request: HEADERS, one message, and
// END_STREAM, with the message's last DATA frame or after it.
func (c *Conn) ExpectUnary() (headers *Frame, payload []byte) {
	c.t.Helper()
	headers = c.ExpectHeaders()
	if headers.EndStream() {
		c.fatalf("waiting for a unary request: got %s", headers)
	}
	m := c.ExpectMessage(headers.StreamID)
	if !m.EndStream {
		c.ExpectEndStream(headers.StreamID)
	}
	return headers, m.Payload
}
