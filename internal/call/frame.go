package call

import (
	"encoding/binary"

	"github.com/grpcdial/grpcdial/internal/bytepool"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// prefixLen is the length of a message's prefix: a flag byte and the length
// (gRPC's PROTOCOL-HTTP2 document, "Length-Prefixed-Message").
const prefixLen = 5

// frame is one message with its prefix, in a pooled buffer. The zero frame has none.
type frame struct {
	buf  *[]byte // the bytes; its owner gives it back with free
	bulk *[]byte // the rest of them, where the program has it; see encodeBulk. nil: there is none
	// uncompressed is the message's length before compression.
	uncompressed int
}

// bytes is a frame without a bulk.
func (f *frame) bytes() []byte { return *f.buf }

// sendOn sends the frame on s.
func (f *frame) sendOn(s *h2.Stream, last bool) error {
	if f.bulk == nil {
		return s.Send(*f.buf, last)
	}
	return s.SendBulk(*f.buf, *f.bulk, last)
}

// payload is the message's length as it is sent, without the prefix.
func (f *frame) payload() int {
	n := len(*f.buf) - prefixLen
	if f.bulk != nil {
		n += len(*f.bulk)
	}
	return n
}

func (f *frame) free() {
	if f.buf != nil {
		putBytes(f.buf)
		f.buf, f.bulk = nil, nil
	}
}

// seal writes the prefix of the message that follows it in b, all but the last bulk bytes of it.
func seal(b []byte, bulk int, compressed bool) {
	b[0] = 0
	if compressed {
		b[0] = 1
	}
	binary.BigEndian.PutUint32(b[1:prefixLen], uint32(len(b)-prefixLen+bulk))
}

// getBytes returns a pooled buffer of length 0 that has room for n bytes.
func getBytes(n int) *[]byte {
	b := bytepool.Messages.Get(n)
	*b = (*b)[:0]
	return b
}

func putBytes(b *[]byte) { bytepool.Messages.Put(b) }

// growBytes makes room for n more bytes, in a larger buffer if need be.
func growBytes(b *[]byte, n int) *[]byte {
	if cap(*b)-len(*b) >= n {
		return b
	}
	larger := getBytes(max(len(*b)+n, 2*cap(*b)))
	*larger = append(*larger, *b...)
	putBytes(b)
	return larger
}
