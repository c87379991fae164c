package h2

import "golang.org/x/net/http2"

const (
	// leastDirect is what is worth a read into a message's own buffer.
	leastDirect = 4 << 10
	// maxDirect is how many frames one such read is for: those of a message of 64 KiB,
	// whose prefix makes a fifth.
	maxDirect = 5
	maxPlaces = 2 * maxDirect
)

// scatter is a read of payload straight into the message that it belongs to.
//
// On a socket it is for several frames. A server sends a large message in frames of
// the same length, so the payload of each is put where that of the one before ends, and
// the frame's header, which comes between, beside. What came is looked at afterwards; from where
// it is something else on, it goes to the reader's buffer.
//
// Behind the end of a message there is a place for what the next one begins with, a frame's
// header and the message's prefix: so the read that follows can be for that message again.
type scatter struct {
	places  [maxPlaces][]byte // payload, header, payload, header and so on
	headers [maxDirect][frameHeaderLen]byte
	ahead   [frameHeaderLen + prefixLen]byte
	n       int // places
	at      int // the place that is to be looked at next, a header
	rest    int // bytes in it and those that follow
}

// plan chooses the places: for the rest of a frame, which is left long, and for frames
// of the length given after it, if it is not 0. room is for the next bytes of the
// message, for all of them if whole is set.
func (c *scatter) plan(room []byte, whole bool, left, length int) {
	c.n = 0
	for n := left; len(room) > 0 && c.n < maxPlaces; n = length {
		if n > len(room) && c.n > 0 {
			if !whole {
				return
			}
			n = len(room) // the last frame of a message is shorter
		}
		ends := n <= len(room)
		n = min(n, len(room))
		c.places[c.n] = room[:n]
		c.n++
		if room = room[n:]; !ends || length == 0 {
			return
		}
		if c.places[c.n] = c.headers[c.n/2][:]; len(room) == 0 && whole {
			c.places[c.n] = c.ahead[:]
		}
		c.n++
	}
}

// next makes p the beginning of the frame after p's, if the read brought it and it is as
// expected; the bytes of it that came are where they belong already. What else was read is in the
// reader's buffer then.
func (c *scatter) next(r *reader, p *piece) bool {
	if c == nil {
		return false
	}
	if c.rest >= frameHeaderLen && c.at+1 < c.n {
		next, payload := parseFrameHeader(c.places[c.at]), c.places[c.at+1]
		if next.typ == http2.FrameData && next.id == p.id && next.flags == 0 && next.length == len(payload) {
			placed := min(c.rest-frameHeaderLen, len(payload))
			c.rest -= frameHeaderLen + placed
			c.at += 2
			*p = piece{frameHeader: next, first: true, placed: placed}
			return true
		}
	}
	if c.rest > 0 {
		r.keep(c.places[c.at:c.n], c.rest)
	}
	clear(c.places[:c.n])
	c.n, c.rest = 0, 0
	return false
}

// direct reads payload of f, of which left bytes are to come, straight into the message
// of s that it belongs to, and delivers it. It returns how many bytes of f that were; 0 if
// it is not worth while. More frames may have come: see scatter.next.
//
// From crypto/tls a read is a copy out of a record that it has decrypted, without a system
// call as long as that lasts. The records of a large message begin anywhere in its frames, so
// there the last few bytes of a frame are read with the next frame's header alone: else the rest
// of the record would come along into the reader's buffer.
//
// The buffer is the reader's, so it is written to without the lock. If the stream ends
// meanwhile, it forgets the buffer.
func (r *reader) direct(s *Stream, f frameHeader, left int) (n int, err error) {
	several := canScatter && r.c.onSocket() && r.settings && f.flags == 0
	if s == nil || left < leastDirect && !several && !r.c.layered {
		return 0, nil
	}
	s.mu.Lock()
	var room []byte
	whole := false
	if s.id == f.id {
		room, whole = s.room()
	}
	s.mu.Unlock()
	if len(room) < leastDirect {
		return 0, nil
	}
	if left < leastDirect && !several {
		switch ends := whole && left >= len(room); {
		case ends:
			return 0, nil
		case left+frameHeaderLen <= smallRead:
			r.narrow = left + frameHeaderLen
			return 0, nil
		}
	}
	if r.parts == nil {
		r.parts = new(scatter)
	}
	c := r.parts
	if several {
		c.plan(room, whole, left, f.length)
	} else {
		c.plan(room[:min(len(room), r.size())], false, left, 0)
	}
	if n, err = r.readInto(c.places[:c.n]); err != nil {
		return 0, err
	}
	placed := min(n, len(c.places[0]))
	c.at, c.rest = 1, n-placed
	r.deliver(s, &piece{frameHeader: f, placed: placed})
	// If no more has come and the message goes on, the next read is of a frame's header alone.
	if goesOn := !whole || placed < len(room); goesOn && placed == left && c.rest == 0 {
		r.narrow = frameHeaderLen
	}
	return placed, nil
}
