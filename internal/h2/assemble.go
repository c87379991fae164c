package h2

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/bytepool"
)

const (
	firstBuffer  = 4 << 10 // what a message of its own buffer begins with
	bufferGrowth = 8       // how many times what has come of it the buffer may be
)

// partial is a message that has not come whole. It is written into the last slab of the
// stream's inbox, behind its end; if it is large the prefix alone is, and the message into
// a buffer of its own.
//
// The reader alone changes it while the stream runs, with the stream's mu held; and writes
// to the buffer while it reads from the socket, for which it holds no lock. So the goroutine
// that ends the stream forgets the buffer, and does not give it back for reuse.
type partial struct {
	prefix [prefixLen]byte
	open   bool    // the slab is being written to
	large  bool    // it has a buffer of its own
	n      int     // bytes of the prefix that came; 0: there is no message
	left   int     // bytes of the message that have yet to come, once the prefix is whole
	fill   int     // where the next byte goes in it
	own    *[]byte // that buffer, of its capacity's length; nil: nothing has come
	have   int     // bytes in own
}

// assemble takes what came of the stream's messages. mu is held.
func (s *Stream) assemble(p []byte) *Error {
	m := &s.part
	for len(p) > 0 {
		if m.n < prefixLen {
			n := copy(m.prefix[m.n:], p)
			p = p[n:]
			s.came += int64(n)
			if m.n += n; m.n < prefixLen {
				break
			}
			if err := s.beginMessage(); err != nil {
				return err
			}
		}
		n := min(len(p), m.left)
		switch {
		case n == 0: // there was no more than the prefix
		case m.large:
			s.grow(n)
			copy((*m.own)[m.have:], p[:n])
		default:
			copy((*s.in.tail().buf)[m.fill:], p[:n])
		}
		p = p[n:]
		if err := s.advance(n); err != nil {
			return err
		}
	}
	s.awaited()
	return nil
}

// awaited gives back a message that the program waits for, as soon as its length is known:
// then a message larger than the window flows, and without a WINDOW_UPDATE for each part.
// It is the first of what the server has yet to send, so its other messages get no
// more room. mu is held.
func (s *Stream) awaited() {
	if s.unary || s.waiting {
		s.consume(s.came + min(int64(s.part.left), maxGrownWindow, maxWindow-s.size))
	}
}

// beginMessage looks at a whole prefix.
func (s *Stream) beginMessage() *Error {
	m := &s.part
	size := binary.BigEndian.Uint32(m.prefix[1:])
	if m.prefix[0] > 1 || int64(size) > int64(s.maxRecv) {
		return s.badPrefix(m.prefix[0], size)
	}
	m.left = int(size)
	room := prefixLen
	if m.large = isLarge(m.left); !m.large {
		room += m.left
	}
	at := s.in.tailFor(room)
	m.open, m.fill = true, at.end+copy((*at.buf)[at.end:], m.prefix[:])
	return nil
}

//go:noinline
func (s *Stream) badPrefix(flags byte, size uint32) *Error {
	if flags > 1 {
		return internal(fmt.Sprintf("the server sent a message with flags %#02x; want 0 or 1 (not a gRPC message?)", flags))
	}
	return &Error{Status: status.New(codes.ResourceExhausted, fmt.Sprintf("grpc: received message larger than max (%d vs. %d)", size, s.maxRecv)), Local: true}
}

// advance notes that n bytes of the message were written where they belong. One that is
// whole goes to the inbox.
func (s *Stream) advance(n int) *Error {
	m := &s.part
	s.came += int64(n)
	if m.large {
		m.have += n
	} else {
		m.fill += n
	}
	if m.left -= n; m.left > 0 {
		return nil
	}
	if m.large {
		s.in.large = append(s.in.large, m.own)
		s.largest = max(s.largest, m.have)
	}
	at := s.in.tail()
	s.in.held += m.fill - at.end
	s.in.whole++
	at.end = m.fill
	m.n, m.open, m.large, m.own, m.have = 0, false, false, nil, 0
	s.messages++
	s.c.received.Add(1)
	s.awaited()
	if s.waiting {
		s.waiting = false
		s.c.rd.wakes(s)
	}
	if s.unary && s.messages > 1 {
		return internal("cardinality violation: the server sent more than one response message, want one")
	}
	return nil
}

// grow makes room for n more bytes of a message in its own buffer. Its announced length is
// not trusted with memory: the buffer grows with what comes, within the window unless the
// program waits for the message. But a buffer for the whole message that lies in the pool is
// no new memory, and spares the copies: it is taken if the message is no larger than two windows.
// So is a new one if the message is no larger than the window and one that came whole before it.
func (s *Stream) grow(n int) {
	m := &s.part
	have := m.have + n
	if m.own != nil && have <= len(*m.own) {
		return
	}
	size := bufferGrowth * have
	if !s.unary && !s.waiting {
		size = max(min(size, int(s.size)), 2*have)
	}
	full := m.have + m.left
	var b *[]byte
	if size < full && full <= 2*int(s.size) {
		b = keptBuffer(full)
	}
	if full <= min(s.largest, int(s.size)) {
		size = full
	}
	if b == nil {
		b = getBuffer(min(full, max(size, firstBuffer)))
	}
	if m.own != nil {
		copy(*b, (*m.own)[:m.have])
		bytepool.Messages.Put(m.own)
	}
	m.own = b
}

// room returns where the next bytes of a message go that has a buffer of its own, and whether
// all of them do; nil if there is no such message. mu is held.
func (s *Stream) room() (p []byte, whole bool) {
	m := &s.part
	if m.n < prefixLen || !m.large || s.notGRPC != nil || s.httpErr != nil {
		return nil, false
	}
	if m.own == nil || m.have == len(*m.own) {
		s.grow(1)
	}
	n := min(m.left, len(*m.own)-m.have)
	return (*m.own)[m.have : m.have+n], n == m.left
}
