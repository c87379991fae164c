package h2

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// Frames are appended to the pending buffer as bytes; RFC 9113 section 4.1.

func appendFrameHeader(b []byte, length int, t http2.FrameType, flags http2.Flags, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags),
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// putFrameLength fills in the length of the frame that begins at b[at].
func putFrameLength(b []byte, at, length int) {
	b[at], b[at+1], b[at+2] = byte(length>>16), byte(length>>8), byte(length)
}

// putFrameFlags sets the flags of the frame that begins at b[at].
func putFrameFlags(b []byte, at int, flags http2.Flags) { b[at+4] = byte(flags) }

func appendRST(b []byte, id uint32, code http2.ErrCode) []byte {
	b = appendFrameHeader(b, 4, http2.FrameRSTStream, 0, id)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendWindowUpdate(b []byte, id uint32, n uint32) []byte {
	b = appendFrameHeader(b, 4, http2.FrameWindowUpdate, 0, id)
	return binary.BigEndian.AppendUint32(b, n)
}

func appendPing(b []byte, ack bool, data [8]byte) []byte {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	b = appendFrameHeader(b, 8, http2.FramePing, flags, 0)
	return append(b, data[:]...)
}

func appendGoAway(b []byte, code http2.ErrCode, debug string) []byte {
	b = appendFrameHeader(b, 8+len(debug), http2.FrameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, 0) // we process no streams of the server's
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, debug...)
}

func appendSettingsAck(b []byte) []byte {
	return appendFrameHeader(b, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
}

// appendSettings appends a SETTINGS frame that says the window of streams.
func appendSettings(b []byte, window uint32) []byte {
	b = appendFrameHeader(b, 6, http2.FrameSettings, 0, 0)
	return appendSetting(b, http2.SettingInitialWindowSize, window)
}

func appendSetting(b []byte, id http2.SettingID, v uint32) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(id))
	return binary.BigEndian.AppendUint32(b, v)
}
