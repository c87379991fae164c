package h2test

import (
	"fmt"
	"math"
	"sync"

	"golang.org/x/net/http2"
)

// rules holds the client to RFC 9113 as far as a server can see it: windows,
// stream identifiers and states, the number of open streams, frame sizes. A
// value that this side announces binds the client once it has acknowledged it;
// until then it may use the old or the new one, whichever is larger.
//
// It also keeps how much the client allows this side to send, which Loop obeys.
// mu guards all; it is held for the bookkeeping only.
type rules struct {
	mu      sync.Mutex
	lenient bool

	acked   map[http2.SettingID]uint32 // in force
	pending [][]http2.Setting          // sent, not acknowledged

	recvConn int64 // what the client may still send on the connection
	sendConn int64 // what this side may still send
	sendInit int64 // the client's SETTINGS_INITIAL_WINDOW_SIZE

	lastID  uint32                 // highest stream that the client opened
	open    int                    // streams that count against MAX_CONCURRENT_STREAMS
	streams map[uint32]*streamRule // those in which the client's half, or both, are open
}

type streamRule struct {
	recv, send  int64
	clientEnded bool
	serverEnded bool
	serverReset bool // the client may not know it yet
}

const initialWindow = 65535 // RFC 9113 §6.9.2

func newRules() *rules {
	return &rules{
		acked: map[http2.SettingID]uint32{
			http2.SettingHeaderTableSize:      initialTableSize,
			http2.SettingInitialWindowSize:    initialWindow,
			http2.SettingMaxFrameSize:         minMaxFrameSize,
			http2.SettingMaxConcurrentStreams: math.MaxUint32,
		},
		recvConn: initialWindow,
		sendConn: initialWindow,
		sendInit: initialWindow,
		streams:  make(map[uint32]*streamRule),
	}
}

// Lenient stops checking the client against flow-control windows, stream states
// and the announced limits. RawBytes does so too, since what it sends is not
// accounted for.
func (c *Conn) Lenient() {
	c.rules.mu.Lock()
	c.rules.lenient = true
	c.rules.mu.Unlock()
}

// allowed returns the most that the client may take id to be. The caller holds mu.
func (r *rules) allowed(id http2.SettingID) int64 {
	v := r.acked[id]
	for _, settings := range r.pending {
		for _, s := range settings {
			if s.ID == id {
				v = max(v, s.Val)
			}
		}
	}
	return int64(v)
}

// limit is allowed with the lock taken; lenient rules allow all.
func (r *rules) limit(id http2.SettingID) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lenient {
		return math.MaxUint32
	}
	return r.allowed(id)
}

// client accounts for a frame that the client sent and says which rule it broke.
func (r *rules) client(f *Frame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.account(f)
	if r.lenient || err == nil {
		return nil
	}
	return fmt.Errorf("the client broke the protocol: %s: %w", f, err)
}

func (r *rules) account(f *Frame) error {
	s := r.streams[f.StreamID]
	// Even streams are pushed ones, which the client may refuse.
	if f.StreamID%2 == 1 && f.StreamID > r.lastID && f.Type != http2.FrameHeaders && f.Type != http2.FramePriority {
		return fmt.Errorf("the stream is idle, the last one opened is %d", r.lastID)
	}
	switch f.Type {
	case http2.FrameHeaders:
		return r.clientHeaders(f, s)
	case http2.FrameData:
		return r.clientData(f, s)
	case http2.FrameRSTStream:
		if s != nil {
			r.leave(f.StreamID, s)
		}
	case http2.FrameWindowUpdate:
		return r.clientWindow(f, s)
	case http2.FrameSettings:
		if f.Ack() {
			return r.ack()
		}
		if v, ok := f.Setting(http2.SettingInitialWindowSize); ok {
			for _, s := range r.streams {
				s.send += int64(v) - r.sendInit
			}
			r.sendInit = int64(v)
		}
	}
	return nil
}

func (r *rules) clientHeaders(f *Frame, s *streamRule) error {
	if s == nil {
		if f.StreamID%2 == 0 {
			return fmt.Errorf("a client's stream has an odd identifier")
		}
		if f.StreamID <= r.lastID {
			return fmt.Errorf("the stream is closed, or lower than the last one opened, %d", r.lastID)
		}
		r.lastID = f.StreamID
		s = &streamRule{recv: int64(r.acked[http2.SettingInitialWindowSize]), send: r.sendInit}
		r.streams[f.StreamID] = s
		r.open++
		if limit := r.allowed(http2.SettingMaxConcurrentStreams); int64(r.open) > limit {
			return fmt.Errorf("%d streams are open, SETTINGS_MAX_CONCURRENT_STREAMS is %d", r.open, limit)
		}
	} else if s.clientEnded {
		return fmt.Errorf("the client has ended the stream")
	}
	if f.EndStream() {
		r.clientEnd(f.StreamID, s)
	}
	return nil
}

func (r *rules) clientData(f *Frame, s *streamRule) error {
	r.recvConn -= int64(f.Length)
	if r.recvConn < 0 && f.Length > 0 {
		return fmt.Errorf("it overruns the connection's window by %d bytes", -r.recvConn)
	}
	if s == nil || s.clientEnded {
		return fmt.Errorf("the client has ended the stream")
	}
	s.recv -= int64(f.Length)
	slack := r.allowed(http2.SettingInitialWindowSize) - int64(r.acked[http2.SettingInitialWindowSize])
	if s.recv+slack < 0 && f.Length > 0 {
		return fmt.Errorf("it overruns the stream's window by %d bytes", -(s.recv + slack))
	}
	if f.EndStream() {
		r.clientEnd(f.StreamID, s)
	}
	return nil
}

func (r *rules) clientWindow(f *Frame, s *streamRule) error {
	window := &r.sendConn
	if f.StreamID != 0 {
		if s == nil {
			return nil
		}
		window = &s.send
	}
	*window += int64(f.Increment)
	if *window > math.MaxInt32 {
		return fmt.Errorf("it makes the window %d bytes", *window)
	}
	return nil
}

// ack puts the oldest unacknowledged settings in force.
func (r *rules) ack() error {
	if len(r.pending) == 0 {
		return fmt.Errorf("no SETTINGS wait for an acknowledgement")
	}
	for _, set := range r.pending[0] {
		if set.ID == http2.SettingInitialWindowSize {
			for _, s := range r.streams {
				s.recv += int64(set.Val) - int64(r.acked[set.ID])
			}
		}
		r.acked[set.ID] = set.Val
	}
	r.pending = r.pending[1:]
	return nil
}

func (r *rules) clientEnd(id uint32, s *streamRule) {
	s.clientEnded = true
	if s.serverEnded || s.serverReset {
		r.leave(id, s)
	}
}

func (r *rules) serverEnd(id uint32, s *streamRule) {
	s.serverEnded = true
	if s.clientEnded {
		r.leave(id, s)
	}
}

// leave forgets a stream that both sides have closed.
func (r *rules) leave(id uint32, s *streamRule) {
	if !s.serverReset {
		r.open--
	}
	delete(r.streams, id)
}

// server accounts for a frame that this side sends, legal or not.
func (r *rules) server(f *Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.streams[f.StreamID]
	switch f.Type {
	case http2.FrameSettings:
		if !f.Ack() {
			r.pending = append(r.pending, f.Settings)
		}
	case http2.FrameWindowUpdate:
		if f.StreamID == 0 {
			r.recvConn += int64(f.Increment)
		} else if s != nil {
			s.recv += int64(f.Increment)
		}
	case http2.FrameData:
		r.sendConn -= int64(len(f.Data) + f.Padding)
		if s != nil {
			s.send -= int64(len(f.Data) + f.Padding)
		}
	case http2.FrameRSTStream:
		if s != nil && !s.serverReset {
			if s.clientEnded {
				r.leave(f.StreamID, s)
			} else {
				s.serverReset = true
				r.open--
			}
		}
	}
	if s != nil && f.EndStream() {
		r.serverEnd(f.StreamID, s)
	}
}

// sendable returns how many bytes of DATA the client takes on the stream now.
func (r *rules) sendable(id uint32) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.streams[id]
	if s == nil {
		return 0
	}
	return int(max(0, min(s.send, r.sendConn)))
}

// OpenStreams returns how many streams the client has open, as this side sees it.
func (c *Conn) OpenStreams() int {
	c.rules.mu.Lock()
	defer c.rules.mu.Unlock()
	return c.rules.open
}

// ReceiveWindow returns how many bytes of DATA the client may still send on the
// stream, 0 being the connection; 0 for a stream it has closed or not opened.
func (c *Conn) ReceiveWindow(streamID uint32) int {
	c.rules.mu.Lock()
	defer c.rules.mu.Unlock()
	if streamID == 0 {
		return int(c.rules.recvConn)
	}
	if s := c.rules.streams[streamID]; s != nil {
		return int(s.recv)
	}
	return 0
}

// SendWindow returns how many bytes of DATA the client takes on the stream, 0
// being the connection; 0 for a stream that is closed or not opened.
func (c *Conn) SendWindow(streamID uint32) int {
	c.rules.mu.Lock()
	defer c.rules.mu.Unlock()
	if streamID == 0 {
		return int(c.rules.sendConn)
	}
	if s := c.rules.streams[streamID]; s != nil {
		return int(s.send)
	}
	return 0
}
