package h2

import (
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wakeAfter is how many bytes may be worked on before a receiver is woken that waits
// for what was among them.
const wakeAfter = 32 << 10

// data reads a DATA frame, piece by piece as it arrives, and those that a read of
// its payload brought with it.
//
// What is called for a small message has to fit in a small stack (see Serve), so errors are
// made in functions of their own here: their frames then do not count.
func (r *reader) data(f frameHeader) error {
	var p piece
	p.frameHeader, p.first = f, true
	if err := r.padding(&p); err != nil {
		return err
	}
	for {
		if err := r.payload(&p); err != nil {
			return err
		}
		if p.flags.Has(http2.FlagDataEndStream) {
			r.endOfData(p.id)
		}
		if !r.parts.next(r, &p) {
			return nil
		}
	}
}

// padding reads the pad length of a DATA frame, if it has one.
//
//go:noinline
func (r *reader) padding(p *piece) error {
	if p.id == 0 {
		return connErrorf(http2.ErrCodeProtocol, "DATA on stream 0")
	}
	if !p.flags.Has(http2.FlagDataPadded) {
		return nil
	}
	if p.length == 0 {
		return connErrorf(http2.ErrCodeFrameSize, "padded DATA without a pad length")
	}
	b, err := r.peek(1)
	if err != nil {
		return err
	}
	r.start++
	if p.padding = int(b[0]) + 1; p.padding > p.length {
		return connErrorf(http2.ErrCodeProtocol, "DATA with more padding than payload")
	}
	return nil
}

// piece is a part of a DATA frame.
type piece struct {
	frameHeader
	first   bool   // the frame begins with it
	padding int    // of the frame, the octet with its length included
	bytes   []byte // of the payload
	placed  int    // or so many bytes that are where they belong already
}

// payload reads what a DATA frame holds. p is its first piece as far as that is known, and
// then those that follow.
func (r *reader) payload(p *piece) error {
	if err := r.account(p.length); err != nil {
		return err
	}
	s := r.stream(p.id)
	if s == nil {
		if err := r.known(p.frameHeader); err != nil {
			return err
		}
	}
	left := p.length - p.padding
	if p.placed == 0 {
		p.bytes = r.pass(left)
	}
	r.deliver(s, p)
	left -= len(p.bytes) + p.placed
	p.first, p.placed = false, 0
	for left > 0 {
		if r.start == r.end {
			n, err := r.direct(s, p.frameHeader, left)
			if err != nil {
				return err
			}
			if left -= n; n > 0 {
				continue
			}
			if _, err := r.peek(1); err != nil {
				return err
			}
		}
		p.bytes = r.pass(left)
		r.deliver(s, p)
		left -= len(p.bytes)
	}
	for left = p.padding - 1; left > 0; {
		if _, err := r.peek(1); err != nil {
			return err
		}
		left -= len(r.pass(left))
	}
	return nil
}

// pass returns the next n bytes, or those of them that are there, and passes over them. They
// are valid until the next read.
func (r *reader) pass(n int) []byte {
	at := r.start
	r.start += min(n, r.end-at)
	return r.bytes()[at:r.start]
}

// deliver gives a piece of a frame to s, which is the frame's stream if it was open when the
// frame began; else nil.
func (r *reader) deliver(s *Stream, p *piece) {
	if s == nil {
		return
	}
	s.mu.Lock()
	if s.id != p.id {
		s.mu.Unlock()
		return
	}
	var v verdict
	switch {
	case p.first && !s.admit(p.length, p.padding):
		v = beyondWindow()
	case p.placed > 0:
		v = s.onPlaced(p.placed)
	case len(p.bytes) == 0:
	case s.isPlain():
		if err := s.assemble(p.bytes); err != nil {
			v = over(err, http2.ErrCodeCancel)
		}
	default:
		v = s.onData(p.bytes)
	}
	var credit int64
	if !v.over {
		credit = s.grant()
	}
	s.mu.Unlock()
	r.serves(s)
	if r.behind += int32(len(p.bytes) + p.placed); r.behind > wakeAfter {
		r.notify()
	}
	switch {
	case v.over:
		r.over(s, p.id, v, false)
	case credit > 0:
		r.queueWindowUpdate(p.id, credit)
	}
}

//go:noinline
func beyondWindow() verdict {
	return over(&Error{Status: status.New(codes.Internal, "the server sent DATA beyond the stream's window"), Local: true}, http2.ErrCodeFlowControl)
}
