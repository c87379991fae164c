package h2

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// parseSettings returns the parameters of a SETTINGS frame's payload (RFC 9113 section
// 6.5.1), in order.
func parseSettings(p []byte) []http2.Setting {
	var all []http2.Setting
	for ; len(p) >= 6; p = p[6:] {
		all = append(all, http2.Setting{ID: http2.SettingID(binary.BigEndian.Uint16(p)), Val: binary.BigEndian.Uint32(p[2:])})
	}
	return all
}

// applySettings applies the server's SETTINGS and acknowledges it before anything
// else is queued.
func (r *reader) applySettings(p []byte) error {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateClosed {
		return nil
	}
	for ; len(p) >= 6; p = p[6:] {
		id, v := http2.SettingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])
		switch id {
		case http2.SettingHeaderTableSize:
			c.encoder().setTableSize(v)
		case http2.SettingEnablePush:
			if v != 0 {
				return connErrorf(http2.ErrCodeProtocol, "a server's SETTINGS_ENABLE_PUSH must be 0, not %d", v)
			}
		case http2.SettingMaxConcurrentStreams:
			c.slots.add(int64(v) - c.maxOpen)
			c.maxOpen = int64(v)
			c.serveQueue()
		case http2.SettingInitialWindowSize:
			if v > maxWindow {
				return connErrorf(http2.ErrCodeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE %d is larger than 2^31-1", v)
			}
			delta := int64(v) - c.streamW
			c.streamW = int64(v)
			for _, s := range c.streams {
				if s.sendWindow+delta > maxWindow {
					return connErrorf(http2.ErrCodeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE %d makes a stream's window larger than 2^31-1", v)
				}
				s.widen(delta)
			}
		case http2.SettingMaxFrameSize:
			if v < maxFrameSize || v > 1<<24-1 {
				return connErrorf(http2.ErrCodeProtocol, "SETTINGS_MAX_FRAME_SIZE %d is not within 16384 and 2^24-1", v)
			}
			c.maxSend = min(int(v), turn)
		case http2.SettingMaxHeaderListSize:
			c.maxList = uint64(v)
		}
	}
	b := c.pending()
	b.b = appendSettingsAck(b.b)
	return r.answered()
}
