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
func (r *reader) data(f frameHeader) error {
	if f.id == 0 {
		return connErrorf(http2.ErrCodeProtocol, "DATA on stream 0")
	}
	p := piece{first: true}
	if f.flags.Has(http2.FlagDataPadded) {
		if f.length == 0 {
			return connErrorf(http2.ErrCodeFrameSize, "padded DATA without a pad length")
		}
		b, err := r.peek(1)
		if err != nil {
			return err
		}
		r.start++
		if p.padding = int(b[0]) + 1; p.padding > f.length {
			return connErrorf(http2.ErrCodeProtocol, "DATA with more padding than payload")
		}
	}
	for {
		if err := r.payload(f, p); err != nil {
			return err
		}
		if f.flags.Has(http2.FlagDataEndStream) {
			r.endOfData(f.id)
		}
		placed, more := 0, false
		if f, placed, more = r.parts.next(r, f); !more {
			return nil
		}
		p = piece{first: true, placed: placed}
	}
}

// piece is a part of a DATA frame.
type piece struct {
	first   bool   // the frame begins with it
	padding int    // of the frame, the octet with its length included
	bytes   []byte // of the payload
	placed  int    // or so many bytes that are where they belong already
}

// payload reads what a DATA frame holds. p is its first piece as far as that is known.
func (r *reader) payload(f frameHeader, p piece) error {
	if err := r.account(f); err != nil {
		return err
	}
	s := r.stream(f.id)
	if s == nil {
		if err := r.known(f); err != nil {
			return err
		}
	}
	left := f.length - p.padding
	if p.placed == 0 {
		n := min(left, r.end-r.start)
		p.bytes = r.bytes()[r.start : r.start+n]
		r.start += n
	}
	r.deliver(s, f, p)
	left -= len(p.bytes) + p.placed
	for left > 0 {
		if r.start == r.end {
			n, err := r.direct(s, f, left)
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
		n := min(left, r.end-r.start)
		r.deliver(s, f, piece{bytes: r.bytes()[r.start : r.start+n]})
		r.start += n
		left -= n
	}
	for padding := p.padding - 1; padding > 0; {
		if _, err := r.peek(1); err != nil {
			return err
		}
		n := min(padding, r.end-r.start)
		r.start += n
		padding -= n
	}
	return nil
}

// deliver gives a piece of f to s, which is the frame's stream if it was open when the
// frame began; else nil.
func (r *reader) deliver(s *Stream, f frameHeader, p piece) {
	if s == nil {
		return
	}
	s.mu.Lock()
	if s.id != f.id {
		s.mu.Unlock()
		return
	}
	var v verdict
	switch {
	case p.first && !s.admit(f.length, p.padding):
		v = over(&Error{Status: status.New(codes.Internal, "the server sent DATA beyond the stream's window"), Local: true}, http2.ErrCodeFlowControl)
	case p.placed > 0:
		v = s.onPlaced(p.placed)
	case len(p.bytes) > 0:
		v = s.onData(p.bytes)
	}
	var credit int64
	if !v.over {
		credit = s.grant()
	}
	s.mu.Unlock()
	r.serves(s)
	if r.behind += len(p.bytes) + p.placed; r.behind > wakeAfter {
		r.notify()
	}
	switch {
	case v.over:
		r.over(s, f.id, v, false)
	case credit > 0:
		r.queueWindowUpdate(f.id, credit)
	}
}
