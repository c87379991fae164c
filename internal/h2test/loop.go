package h2test

import (
	"encoding/binary"
	"slices"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// Stream is one stream in Loop. It belongs to the handler, which Loop calls in
// its own goroutine each time the client sent HEADERS, DATA or RST_STREAM on it.
//
// Its Send methods and those built on them obey the client's flow control: data that
// does not fit is kept and sent as the client grants credit. All that a handler
// writes during one call leaves in one Write.
type Stream struct {
	ID      uint32
	Headers *Frame // the request's headers
	Frame   *Frame // what the client sent just now
	Ended   bool   // the client sent END_STREAM
	Reset   bool   // the client sent RST_STREAM
	Value   any    // the handler's own

	conn     *Conn
	loop     *loop
	partial  []byte    // of the next message
	arrived  []Message // complete, not taken
	replied  bool      // response headers were sent
	finished bool      // trailers or RST_STREAM were sent or wait behind out

	out      []byte   // waits for credit
	trailers []string // wait behind out; nil if there are none
}

// Conn returns the connection, for what Stream has no method for.
func (s *Stream) Conn() *Conn { return s.conn }

// Method returns the request's :path.
func (s *Stream) Method() string { return s.Headers.Field(":path") }

// Take returns the messages that have arrived since it was last called.
func (s *Stream) Take() []Message {
	m := s.arrived
	s.arrived = nil
	return m
}

// SendHeaders sends gRPC response headers with extra pairs.
func (s *Stream) SendHeaders(extra ...string) {
	s.replied = true
	s.conn.ReplyHeaders(s.ID, extra...)
}

// SendMessage sends one message, after plain response headers if none were sent.
func (s *Stream) SendMessage(payload []byte) {
	if !s.replied {
		s.SendHeaders()
	}
	s.out = append(s.out, PutMessage(false, payload)...)
	s.loop.drain(s)
}

// SendTrailers ends the stream with a status and extra pairs; if no headers were
// sent, as a trailers-only response.
func (s *Stream) SendTrailers(code codes.Code, message string, extra ...string) {
	pairs := append(statusFields(code, message), extra...)
	if !s.replied {
		pairs = responseHeaders(pairs)
	}
	s.finished = true
	s.trailers = pairs
	s.loop.drain(s)
}

// Reply sends a whole successful unary reply.
func (s *Stream) Reply(payload []byte) {
	s.SendMessage(payload)
	s.SendTrailers(codes.OK, "")
}

// RST resets the stream and drops what waits for credit.
func (s *Stream) RST(code http2.ErrCode) {
	s.conn.RST(s.ID, code)
	s.loop.forget(s)
}

// Echo is a handler that answers each message with itself and, once the client
// has half-closed, ends with status OK.
func Echo(s *Stream) {
	if s.Reset {
		return
	}
	for _, m := range s.Take() {
		s.SendMessage(m.Payload)
	}
	if s.Ended {
		s.SendTrailers(codes.OK, "")
	}
}

// Loop reads until the connection ends, the test ends or a handler has called
// EndLoop. It acknowledges SETTINGS and PING, returns credit for DATA as it
// comes, and calls handler for HEADERS, DATA and RST_STREAM. Call Handshake
// first. It ignores streams whose HEADERS were read before it.
//
// A client that breaks the protocol fails the test; one that closes does not.
func (c *Conn) Loop(handler func(*Stream)) {
	c.t.Helper()
	if !c.enterLoop() {
		return
	}
	defer c.leaveLoop()
	c.stopLoop = false
	l := &loop{c: c, handler: handler, streams: make(map[uint32]*Stream)}
	for !c.stopLoop {
		f, err := c.next(time.Time{})
		if err != nil {
			if isClosed(err) {
				return
			}
			c.fatalf("in Loop: %s", c.explain(err))
		}
		c.Batch(func() { l.step(f) })
	}
}

// enterLoop says that the end of the test may cut the connection from now on; it
// is false when the test has ended.
func (c *Conn) enterLoop() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looping = !c.closing
	return c.looping
}

func (c *Conn) leaveLoop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looping = false
}

// EndLoop makes Loop return after the handler that calls it; the script may then
// go on by single steps.
func (c *Conn) EndLoop() { c.stopLoop = true }

// loop is one run of Loop; its goroutine owns it.
type loop struct {
	c       *Conn
	handler func(*Stream)
	streams map[uint32]*Stream
	waiting []*Stream // have bytes for which credit lacks, in the order they came to lack it
}

func (l *loop) step(f *Frame) {
	l.c.t.Helper()
	switch f.Type {
	case http2.FrameSettings:
		if !f.Ack() {
			l.c.SettingsAck()
		}
		l.retry()
	case http2.FrameWindowUpdate:
		l.retry()
	case http2.FramePing:
		if !f.Ack() {
			l.c.PingAck(f.Data)
		}
	case http2.FrameHeaders:
		s := l.streams[f.StreamID]
		if s == nil {
			s = &Stream{ID: f.StreamID, Headers: f, conn: l.c, loop: l}
			l.streams[f.StreamID] = s
		}
		l.call(s, f)
	case http2.FrameData:
		l.c.Credit(f)
		if s := l.streams[f.StreamID]; s != nil {
			s.receive(f.Data)
			l.call(s, f)
		}
	case http2.FrameRSTStream:
		if s := l.streams[f.StreamID]; s != nil {
			s.Reset = true
			l.call(s, f)
			l.forget(s)
		}
	}
}

func (l *loop) call(s *Stream, f *Frame) {
	s.Frame = f
	s.Ended = s.Ended || f.EndStream()
	if !s.finished {
		l.handler(s)
	}
}

// forget drops a stream on which nothing more is sent.
func (l *loop) forget(s *Stream) {
	s.out, s.trailers, s.finished = nil, nil, true
	delete(l.streams, s.ID)
}

// drain sends what the client's windows admit, and the trailers after it.
func (l *loop) drain(s *Stream) {
	if l.streams[s.ID] != s {
		return // reset: what the handler still sends goes nowhere
	}
	for len(s.out) > 0 {
		n := min(len(s.out), maxReplyFrame, l.c.rules.sendable(s.ID))
		if n == 0 {
			if !slices.Contains(l.waiting, s) {
				l.waiting = append(l.waiting, s)
			}
			return
		}
		l.c.Data(s.ID, false, s.out[:n])
		s.out = s.out[n:]
	}
	if s.trailers != nil {
		l.c.Headers(s.ID, true, s.trailers...)
		l.forget(s)
	}
}

// retry drains the streams that wait, now that there may be credit.
func (l *loop) retry() {
	waiting := l.waiting
	l.waiting = nil
	for _, s := range waiting {
		l.drain(s)
	}
}

// receive cuts complete messages out of what has come.
func (s *Stream) receive(p []byte) {
	s.partial = append(s.partial, p...)
	for len(s.partial) >= 5 {
		n := 5 + int(binary.BigEndian.Uint32(s.partial[1:5]))
		if len(s.partial) < n {
			return
		}
		s.arrived = append(s.arrived, Message{Compressed: s.partial[0] == 1, Payload: s.partial[5:n:n]})
		s.partial = append([]byte(nil), s.partial[n:]...)
	}
}
