package h2

import (
	"encoding/binary"

	"github.com/grpcdial/grpcdial/internal/bytepool"
)

const (
	// prefixLen is the length of a message's prefix: a flag byte and the length
	// (gRPC's PROTOCOL-HTTP2, "Length-Prefixed-Message").
	prefixLen = 5
	// maxRecord is the largest message, with its prefix, that shares a slab with others.
	maxRecord = 2 << 10

	minSlab = 256 // bytes; no pooled slice is smaller
	maxSlab = 16 << 10

	keptList = 64 // an empty list that has room for more is not kept
)

// Message is one received message.
type Message struct {
	// Data is valid until Free, and no longer than until the stream's next Recv,
	// Discard or Release.
	Data       []byte
	Compressed bool

	own *[]byte // Data's buffer, if it is no part of a slab
}

// Free gives the bytes back; Data must not be used after. A zero Message may
// be freed.
func (m *Message) Free() {
	if m.own != nil {
		bytepool.Messages.Put(m.own)
	}
	*m = Message{}
}

// Take hands Data's buffer over, of which Data is the beginning; nil if Data is a part
// of a buffer that others use too. The message is not freed then: the caller gives
// the buffer to bytepool.Messages, or leaves it to the garbage collector.
func (m *Message) Take() *[]byte {
	b := m.own
	m.own = nil
	return b
}

// inbox is a queue of messages that came whole. They lie there as they came, with their
// prefixes, one after the other in slabs; but of a message that does not fit in there the
// slab has the prefix alone, and its bytes are in a buffer of its own. So all take little
// more room than they took of the window.
//
// It is not safe for concurrent use.
type inbox struct {
	slabs      []slab
	first      int       // slabs before it were received
	large      []*[]byte // messages that have buffers of their own
	firstLarge int       // those before it were received
	whole      int       // messages
	held       int       // bytes in slabs
}

// slab is a pooled buffer of messages, or an earlier part of one that another slab has too.
type slab struct {
	buf        *[]byte // of its capacity's length, which does not change
	start, end int     // the messages that were not received yet
	lent       bool    // a later slab has the same buffer and gives it back
}

// isLarge reports whether a message of n bytes has a buffer of its own.
func isLarge(n int) bool { return n > maxRecord-prefixLen }

// getBuffer returns a pooled buffer for n bytes or more, with the length of its capacity.
func getBuffer(n int) *[]byte {
	b := bytepool.Messages.Get(n)
	*b = (*b)[:cap(*b)]
	return b
}

// keptBuffer is getBuffer if the pool has one; else nil.
func keptBuffer(n int) *[]byte {
	b := bytepool.Messages.Kept(n)
	if b != nil {
		*b = (*b)[:cap(*b)]
	}
	return b
}

// tail is the last slab. There must be one.
func (in *inbox) tail() *slab { return &in.slabs[len(in.slabs)-1] }

// tailFor returns the last slab, if it has room for n more bytes, else a new one. The
// more there is already, the larger that is.
func (in *inbox) tailFor(n int) *slab {
	if len(in.slabs) > in.first {
		if s := in.tail(); len(*s.buf)-s.end >= n {
			return s
		}
	}
	in.slabs = append(in.slabs, slab{buf: getBuffer(max(n, min(max(in.held/2, minSlab), maxSlab)))})
	return in.tail()
}

// take moves all messages to out, which has none. With open, the last slab is being
// written to behind its end, and stays.
func (in *inbox) take(out *inbox, open bool) {
	out.release()
	*in, *out = *out, *in
	if open {
		s := out.tail()
		in.slabs = append(in.slabs, slab{buf: s.buf, start: s.end, end: s.end})
		s.lent = true
	}
}

// next removes and returns the next message, and what it took of the window. There
// must be one.
func (in *inbox) next() (m Message, n int) {
	s := &in.slabs[in.first]
	for s.start == s.end {
		s.free()
		in.first++
		s = &in.slabs[in.first]
	}
	m, used := in.at(s)
	if m.own != nil {
		in.large[in.firstLarge] = nil
		in.firstLarge++
	}
	s.start += used
	in.held -= used
	in.whole--
	return m, prefixLen + len(m.Data)
}

// peek returns the next message, which stays. There must be one, of one slab.
func (in *inbox) peek() Message {
	m, _ := in.at(&in.slabs[in.first])
	m.own = nil
	return m
}

// at is the message at the beginning of s, which has used bytes there.
func (in *inbox) at(s *slab) (m Message, used int) {
	b := (*s.buf)[s.start:s.end]
	n := int(binary.BigEndian.Uint32(b[1:]))
	m.Compressed = b[0] == 1
	if isLarge(n) {
		m.own = in.large[in.firstLarge]
		m.Data = (*m.own)[:n:n]
		return m, prefixLen
	}
	m.Data = b[prefixLen : prefixLen+n : prefixLen+n]
	return m, prefixLen + n
}

// release gives everything back. Nothing of it may be in use.
func (in *inbox) release() {
	for i := in.first; i < len(in.slabs); i++ {
		in.slabs[i].free()
	}
	for _, b := range in.large[in.firstLarge:] {
		bytepool.Messages.Put(b)
	}
	clear(in.large)
	*in = inbox{slabs: kept(in.slabs), large: kept(in.large)}
}

// kept is an empty list for s to go on with.
func kept[T any](s []T) []T {
	if cap(s) > keptList {
		return nil
	}
	return s[:0]
}

func (s *slab) free() {
	if !s.lent {
		bytepool.Messages.Put(s.buf)
	}
	*s = slab{}
}
