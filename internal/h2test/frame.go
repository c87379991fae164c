package h2test

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Frame is one frame as it was on the wire, decoded. A header block that was
// spread over CONTINUATION frames appears as the one HEADERS frame it makes.
// Which fields are set depends on Type. A Frame owns its memory.
type Frame struct {
	Type     http2.FrameType
	Flags    http2.Flags
	StreamID uint32
	// Length is the payload's length on the wire in bytes, padding and
	// CONTINUATION payloads included.
	Length int

	Fields        []hpack.HeaderField // HEADERS, PUSH_PROMISE
	Block         []byte              // their encoded header block
	Continuations int                 // how many CONTINUATION frames followed

	Data    []byte // DATA without padding; PING; debug data of GOAWAY; payload of an unknown frame
	Padding int    // DATA, HEADERS: bytes of padding

	Code         http2.ErrCode // RST_STREAM, GOAWAY
	LastStreamID uint32        // GOAWAY
	PromiseID    uint32        // PUSH_PROMISE
	Increment    uint32        // WINDOW_UPDATE
	Settings     []http2.Setting
}

// EndStream reports whether the frame ends its sender's half of the stream.
func (f *Frame) EndStream() bool {
	switch f.Type {
	case http2.FrameData, http2.FrameHeaders:
		return f.Flags.Has(http2.FlagDataEndStream)
	}
	return false
}

// Ack reports whether the frame is a SETTINGS or PING with the ACK flag.
func (f *Frame) Ack() bool {
	switch f.Type {
	case http2.FrameSettings, http2.FramePing:
		return f.Flags.Has(http2.FlagPingAck)
	}
	return false
}

// Field returns the first value of the named header field, or "".
func (f *Frame) Field(name string) string {
	for _, hf := range f.Fields {
		if hf.Name == name {
			return hf.Value
		}
	}
	return ""
}

// Values returns all values of the named header field, in wire order.
func (f *Frame) Values(name string) []string {
	var vs []string
	for _, hf := range f.Fields {
		if hf.Name == name {
			vs = append(vs, hf.Value)
		}
	}
	return vs
}

// Names returns the names of the header fields, in wire order.
func (f *Frame) Names() []string {
	ns := make([]string, len(f.Fields))
	for i, hf := range f.Fields {
		ns[i] = hf.Name
	}
	return ns
}

// Setting returns the last value that a SETTINGS frame gives for id.
func (f *Frame) Setting(id http2.SettingID) (v uint32, ok bool) {
	for _, s := range f.Settings {
		if s.ID == id {
			v, ok = s.Val, true
		}
	}
	return v, ok
}

// shownBytes is how much of a DATA, PING or GOAWAY payload String shows.
const shownBytes = 48

// String renders the frame on one line, as the log does:
//
//	HEADERS stream=1 :method=POST :path=/pkg.Service/Method
//	DATA stream=1 END_STREAM len=7 "\x00\x00\x00\x00\x02hi"
//	GOAWAY last=1 code=ENHANCE_YOUR_CALM "too_many_pings"
func (f *Frame) String() string {
	var b strings.Builder
	b.WriteString(typeName(f.Type))
	switch f.Type {
	case http2.FrameSettings, http2.FramePing, http2.FrameGoAway:
		if f.StreamID != 0 {
			fmt.Fprintf(&b, " stream=%d", f.StreamID)
		}
	default:
		fmt.Fprintf(&b, " stream=%d", f.StreamID)
	}
	if f.EndStream() {
		b.WriteString(" END_STREAM")
	}
	if f.Ack() {
		b.WriteString(" ACK")
	}
	if f.Continuations > 0 {
		fmt.Fprintf(&b, " +%d CONTINUATION", f.Continuations)
	}
	if f.Padding > 0 {
		fmt.Fprintf(&b, " padding=%d", f.Padding)
	}
	switch f.Type {
	case http2.FrameHeaders:
		writeFields(&b, f.Fields)
	case http2.FramePushPromise:
		fmt.Fprintf(&b, " promised=%d", f.PromiseID)
		writeFields(&b, f.Fields)
	case http2.FrameData:
		fmt.Fprintf(&b, " len=%d", len(f.Data))
		b.WriteString(quoted(f.Data))
	case http2.FramePing:
		b.WriteString(quoted(f.Data))
	case http2.FrameRSTStream:
		fmt.Fprintf(&b, " code=%s", f.Code)
	case http2.FrameGoAway:
		fmt.Fprintf(&b, " last=%d code=%s", f.LastStreamID, f.Code)
		b.WriteString(quoted(f.Data))
	case http2.FrameWindowUpdate:
		fmt.Fprintf(&b, " +%d", f.Increment)
	case http2.FrameSettings:
		for _, s := range f.Settings {
			fmt.Fprintf(&b, " %s=%d", s.ID, s.Val)
		}
	case http2.FramePriority:
	default:
		fmt.Fprintf(&b, " flags=%#x len=%d", uint8(f.Flags), len(f.Data))
		b.WriteString(quoted(f.Data))
	}
	return b.String()
}

func typeName(t http2.FrameType) string {
	if t <= http2.FrameContinuation {
		return t.String()
	}
	return fmt.Sprintf("FRAME(%#x)", uint8(t))
}

func writeFields(b *strings.Builder, fields []hpack.HeaderField) {
	for _, f := range fields {
		b.WriteByte(' ')
		b.WriteString(f.Name)
		b.WriteByte('=')
		if q := strconv.Quote(f.Value); f.Value == "" || len(q) != len(f.Value)+2 || strings.Contains(f.Value, " ") {
			b.WriteString(q)
		} else {
			b.WriteString(f.Value)
		}
	}
}

// quoted renders the beginning of p, with a space before it.
func quoted(p []byte) string {
	switch {
	case len(p) == 0:
		return ""
	case len(p) > shownBytes:
		return " " + strconv.Quote(string(p[:shownBytes])) + "..."
	}
	return " " + strconv.Quote(string(p))
}

// Settings for Handshake and Settings, by name (RFC 9113 §6.5.2).

// HeaderTableSize is SETTINGS_HEADER_TABLE_SIZE, in bytes.
func HeaderTableSize(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingHeaderTableSize, Val: n}
}

// MaxConcurrentStreams is SETTINGS_MAX_CONCURRENT_STREAMS.
func MaxConcurrentStreams(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n}
}

// InitialWindowSize is SETTINGS_INITIAL_WINDOW_SIZE, in bytes.
func InitialWindowSize(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
}

// MaxFrameSize is SETTINGS_MAX_FRAME_SIZE, in bytes.
func MaxFrameSize(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxFrameSize, Val: n}
}

// MaxHeaderListSize is SETTINGS_MAX_HEADER_LIST_SIZE, in bytes.
func MaxHeaderListSize(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: n}
}
