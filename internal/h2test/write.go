package h2test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Each method below sends its frames in one Write, unless it is called in Batch.
// None checks that what it sends is legal. Header fields are given as pairs:
// name, value, name, value.

// Credit returns the flow-control credit of a DATA frame, to the connection and,
// unless the frame ended it, to the stream.
func (c *Conn) Credit(f *Frame) {
	c.t.Helper()
	if f.Length == 0 {
		return
	}
	c.Batch(func() {
		c.WindowUpdate(0, uint32(f.Length))
		if !f.EndStream() {
			c.WindowUpdate(f.StreamID, uint32(f.Length))
		}
	})
}

// send lets compose fill wbuf and writes it out. It fails the test when the
// client does not take the bytes within the bound.
func (c *Conn) send(what string, compose func()) {
	c.t.Helper()
	c.wsem <- struct{}{}
	compose()
	var err error
	if c.corked == 0 {
		err = c.flushHeld()
	}
	<-c.wsem
	if err != nil {
		c.writeFailed(what, err)
	}
}

func (c *Conn) flushHeld() error {
	if c.wbuf.Len() == 0 {
		return nil
	}
	defer c.wbuf.Reset()
	if err := c.nc.SetWriteDeadline(c.deadline()); err != nil {
		return err
	}
	_, err := c.nc.Write(c.wbuf.Bytes())
	return err
}

// writeFailed fails the test, unless Loop is reading: then the reader is about
// to see the end of the connection too, which is a regular end of Loop.
func (c *Conn) writeFailed(what string, err error) {
	c.t.Helper()
	c.mu.Lock()
	quiet := c.looping && isClosed(err)
	c.mu.Unlock()
	if quiet {
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.fatalf("sending %s: the client did not take the bytes within %v", what, time.Duration(c.bound.Load()))
	}
	c.failed("sending "+what, err)
}

// Batch sends everything that f writes in one Write.
func (c *Conn) Batch(f func()) {
	c.t.Helper()
	c.send("a batch", func() { c.corked++ })
	func() {
		defer c.uncork()
		f()
	}()
	c.send("a batch", func() {})
}

func (c *Conn) uncork() {
	c.wsem <- struct{}{}
	c.corked--
	<-c.wsem
}

func (c *Conn) sendFrame(f *Frame, compose func() error) {
	c.t.Helper()
	what := f.String()
	c.send(what, func() {
		c.log.server(what)
		c.rules.server(f)
		if err := compose(); err != nil {
			panic(fmt.Sprintf("h2test: composing %s: %v", what, err)) // only an impossible length
		}
	})
}

// Settings sends SETTINGS.
func (c *Conn) Settings(settings ...http2.Setting) {
	c.t.Helper()
	f := &Frame{Type: http2.FrameSettings, Settings: settings}
	c.sendFrame(f, func() error { return c.wfr.WriteSettings(settings...) })
}

// SettingsAck acknowledges the client's SETTINGS.
func (c *Conn) SettingsAck() {
	c.t.Helper()
	c.sendFrame(&Frame{Type: http2.FrameSettings, Flags: http2.FlagSettingsAck}, c.wfr.WriteSettingsAck)
}

// Headers sends a header block: HEADERS, and CONTINUATION frames if the block is
// longer than the client's SETTINGS_MAX_FRAME_SIZE.
func (c *Conn) Headers(streamID uint32, endStream bool, pairs ...string) {
	c.t.Helper()
	c.headers(streamID, endStream, 0, pairs)
}

// HeadersSplit sends a header block in HEADERS and n CONTINUATION frames, the
// last of which may be empty.
func (c *Conn) HeadersSplit(streamID uint32, endStream bool, n int, pairs ...string) {
	c.t.Helper()
	c.headers(streamID, endStream, n, pairs)
}

func (c *Conn) headers(streamID uint32, endStream bool, continuations int, pairs []string) {
	c.t.Helper()
	fields := c.fields(pairs)
	f := &Frame{Type: http2.FrameHeaders, StreamID: streamID, Fields: fields}
	if endStream {
		f.Flags |= http2.FlagHeadersEndStream
	}
	c.send(f.String(), func() {
		fragments := c.fragments(c.encode(fields), continuations)
		f.Continuations = len(fragments) - 1
		c.log.server(f.String())
		c.rules.server(f)
		_ = c.wfr.WriteHeaders(http2.HeadersFrameParam{
			StreamID:      streamID,
			BlockFragment: fragments[0],
			EndStream:     endStream,
			EndHeaders:    len(fragments) == 1,
		})
		c.continuations(streamID, fragments[1:])
	})
}

// PushPromise sends PUSH_PROMISE on streamID.
func (c *Conn) PushPromise(streamID, promised uint32, pairs ...string) {
	c.t.Helper()
	fields := c.fields(pairs)
	f := &Frame{Type: http2.FramePushPromise, StreamID: streamID, PromiseID: promised, Fields: fields}
	c.sendFrame(f, func() error {
		fragments := c.fragments(c.encode(fields), 0)
		err := c.wfr.WritePushPromise(http2.PushPromiseParam{
			StreamID:      streamID,
			PromiseID:     promised,
			BlockFragment: fragments[0],
			EndHeaders:    len(fragments) == 1,
		})
		c.continuations(streamID, fragments[1:])
		return err
	})
}

// continuations writes the rest of a header block. The caller holds wsem.
func (c *Conn) continuations(streamID uint32, fragments [][]byte) {
	for i, p := range fragments {
		_ = c.wfr.WriteContinuation(streamID, i == len(fragments)-1, p)
	}
}

// fragments cuts a block for HEADERS and at least n CONTINUATION frames.
func (c *Conn) fragments(block []byte, n int) [][]byte {
	size := int(c.maxFrame.Load())
	if n > 0 {
		size = min(size, max(1, (len(block)+n)/(n+1)))
	}
	var out [][]byte
	for len(block) > size && (n == 0 || len(out) < n || len(block) > int(c.maxFrame.Load())) {
		out, block = append(out, block[:size]), block[size:]
	}
	out = append(out, block)
	for len(out) < n+1 {
		out = append(out, nil)
	}
	return out
}

// Encode returns the header block of the fields as it must be sent next: the
// encoder's table has advanced. It is for RawFrame.
func (c *Conn) Encode(pairs ...string) []byte {
	c.t.Helper()
	fields := c.fields(pairs)
	c.wsem <- struct{}{}
	defer func() { <-c.wsem }()
	return append([]byte(nil), c.encode(fields)...)
}

// encode makes a header block; wire order is encode order. The caller holds
// wsem. The result is valid until the next call.
func (c *Conn) encode(fields []hpack.HeaderField) []byte {
	if v := c.clientTable.Swap(-1); v >= 0 {
		c.enc.SetMaxDynamicTableSizeLimit(uint32(v))
	}
	c.hbuf.Reset()
	for _, f := range fields {
		_ = c.enc.WriteField(f) // a bytes.Buffer takes everything
	}
	return c.hbuf.Bytes()
}

// SetEncoderTableSize makes the next header block begin with a dynamic table
// size update to n bytes, if n differs from the size in use and the client's
// SETTINGS_HEADER_TABLE_SIZE allows it.
func (c *Conn) SetEncoderTableSize(n uint32) {
	c.wsem <- struct{}{}
	c.enc.SetMaxDynamicTableSize(n)
	<-c.wsem
}

func (c *Conn) fields(pairs []string) []hpack.HeaderField {
	c.t.Helper()
	if len(pairs)%2 != 0 {
		c.fatalf("header fields come in pairs, got %d strings: %q", len(pairs), pairs)
	}
	fields := make([]hpack.HeaderField, 0, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		fields = append(fields, hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return fields
}

// Data sends one DATA frame, whatever the length of p.
func (c *Conn) Data(streamID uint32, endStream bool, p []byte) {
	c.t.Helper()
	f := &Frame{Type: http2.FrameData, StreamID: streamID, Data: p}
	if endStream {
		f.Flags |= http2.FlagDataEndStream
	}
	c.sendFrame(f, func() error { return c.wfr.WriteData(streamID, endStream, p) })
}

// DataPadded sends one DATA frame with padding bytes of padding (at most 255),
// which count against the window together with the byte that holds their number.
func (c *Conn) DataPadded(streamID uint32, endStream bool, p []byte, padding int) {
	c.t.Helper()
	f := &Frame{Type: http2.FrameData, StreamID: streamID, Data: p, Padding: padding + 1}
	if endStream {
		f.Flags |= http2.FlagDataEndStream
	}
	c.sendFrame(f, func() error { return c.wfr.WriteDataPadded(streamID, endStream, p, make([]byte, padding)) })
}

// RST sends RST_STREAM.
func (c *Conn) RST(streamID uint32, code http2.ErrCode) {
	c.t.Helper()
	f := &Frame{Type: http2.FrameRSTStream, StreamID: streamID, Code: code}
	c.sendFrame(f, func() error { return c.wfr.WriteRSTStream(streamID, code) })
}

// GoAway sends GOAWAY; lastStreamID is the last stream that will be processed.
func (c *Conn) GoAway(lastStreamID uint32, code http2.ErrCode, debug string) {
	c.t.Helper()
	f := &Frame{Type: http2.FrameGoAway, LastStreamID: lastStreamID, Code: code, Data: []byte(debug)}
	c.sendFrame(f, func() error { return c.wfr.WriteGoAway(lastStreamID, code, []byte(debug)) })
}

// Ping sends PING.
func (c *Conn) Ping(data [8]byte) {
	c.t.Helper()
	f := &Frame{Type: http2.FramePing, Data: data[:]}
	c.sendFrame(f, func() error { return c.wfr.WritePing(false, data) })
}

// PingAck acknowledges a PING that carried data.
func (c *Conn) PingAck(data []byte) {
	c.t.Helper()
	f := &Frame{Type: http2.FramePing, Flags: http2.FlagPingAck, Data: data}
	c.sendFrame(f, func() error { return c.wfr.WritePing(true, [8]byte(data)) })
}

// WindowUpdate grants the client n more bytes on the stream, 0 being the
// connection.
func (c *Conn) WindowUpdate(streamID, n uint32) {
	c.t.Helper()
	f := &Frame{Type: http2.FrameWindowUpdate, StreamID: streamID, Increment: n}
	c.sendFrame(f, func() error { return c.wfr.WriteWindowUpdate(streamID, n) })
}

// RawFrame sends a frame of any type with any flags and payload.
func (c *Conn) RawFrame(t http2.FrameType, flags http2.Flags, streamID uint32, payload []byte) {
	c.t.Helper()
	what := fmt.Sprintf("raw %s stream=%d flags=%#x len=%d", typeName(t), streamID, uint8(flags), len(payload))
	c.send(what, func() {
		c.log.server(what)
		c.rules.server(parseRaw(t, flags, streamID, payload))
		_ = c.wfr.WriteRawFrame(t, flags, streamID, payload)
	})
}

// parseRaw reads what the bookkeeping needs out of a frame made by hand.
func parseRaw(t http2.FrameType, flags http2.Flags, streamID uint32, payload []byte) *Frame {
	f := &Frame{Type: t, Flags: flags, StreamID: streamID, Length: len(payload)}
	switch t {
	case http2.FrameData:
		f.Data = payload
	case http2.FrameWindowUpdate:
		if len(payload) == 4 {
			f.Increment = binary.BigEndian.Uint32(payload) & (1<<31 - 1)
		}
	case http2.FrameSettings:
		for ; len(payload) >= 6; payload = payload[6:] {
			f.Settings = append(f.Settings, http2.Setting{
				ID:  http2.SettingID(binary.BigEndian.Uint16(payload)),
				Val: binary.BigEndian.Uint32(payload[2:]),
			})
		}
	}
	return f
}

// RawBytes sends p as it is. The client is no longer checked: see Lenient.
func (c *Conn) RawBytes(p []byte) {
	c.t.Helper()
	c.Lenient()
	c.send("raw bytes", func() {
		c.log.server(fmt.Sprintf("raw bytes len=%d%s", len(p), quoted(p)))
		c.wbuf.Write(p)
	})
}

// PutMessage returns the gRPC length-prefixed message of payload.
func PutMessage(compressed bool, payload []byte) []byte {
	b := make([]byte, 5, 5+len(payload))
	if compressed {
		b[0] = 1
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	return append(b, payload...)
}
