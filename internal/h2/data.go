package h2

import (
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// leastDirect is what is worth a read into a message's own buffer.
	leastDirect = 4 << 10
	// wakeAfter is how many bytes may be worked on before a receiver is woken that waits
	// for what was among them.
	wakeAfter = 32 << 10
)

// data reads a DATA frame, piece by piece as it arrives.
func (r *reader) data(f frameHeader) error {
	if f.id == 0 {
		return connErrorf(http2.ErrCodeProtocol, "DATA on stream 0")
	}
	left, pad := f.length, 0
	if f.flags.Has(http2.FlagDataPadded) {
		if left == 0 {
			return connErrorf(http2.ErrCodeFrameSize, "padded DATA without a pad length")
		}
		p, err := r.peek(1)
		if err != nil {
			return err
		}
		pad = int(p[0])
		r.start++
		left--
		if pad > left {
			return connErrorf(http2.ErrCodeProtocol, "DATA with more padding than payload")
		}
	}
	if err := r.account(f); err != nil {
		return err
	}
	s := r.stream(f.id)
	if s == nil {
		if err := r.known(f); err != nil {
			return err
		}
	}
	left -= pad
	for first := true; first || left > 0; first = false {
		if !first && r.start == r.end {
			n, err := r.direct(s, f.id, left)
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
		r.deliver(s, f, piece{first: first, pad: pad, bytes: r.bytes()[r.start : r.start+n]})
		r.start += n
		left -= n
	}
	for pad > 0 {
		if _, err := r.peek(1); err != nil {
			return err
		}
		n := min(pad, r.end-r.start)
		r.start += n
		pad -= n
	}
	if f.flags.Has(http2.FlagDataEndStream) {
		r.endOfData(f.id)
	}
	return nil
}

// piece is a part of a DATA frame.
type piece struct {
	first  bool   // the frame begins with it
	pad    int    // padding of the frame
	bytes  []byte // of the payload
	placed int    // or so many bytes that are where they belong already
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
	case p.first && !s.admit(f, p.pad):
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

// direct reads payload of a DATA frame, of which left bytes are to come, straight into the
// message that it belongs to. It returns 0 if that is not worth while.
//
// The buffer is the reader's, so it is written to without the lock. If the stream ends
// meanwhile, it forgets the buffer.
func (r *reader) direct(s *Stream, id uint32, left int) (n int, err error) {
	if s == nil || left < leastDirect {
		return 0, nil
	}
	s.mu.Lock()
	var room []byte
	if s.id == id {
		room = s.room(min(left, r.size()))
	}
	s.mu.Unlock()
	if len(room) < leastDirect {
		return 0, nil
	}
	if n, err = r.readInto(room); err != nil {
		return 0, err
	}
	r.narrow = n == left
	r.deliver(s, frameHeader{id: id}, piece{placed: n})
	return n, nil
}
