package call

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

// prefixLen is the length of a message's prefix: a flag byte and the length
// (gRPC's PROTOCOL-HTTP2 document, "Length-Prefixed-Message").
const prefixLen = 5

// frame is one message with its prefix, in a pooled buffer. The zero frame has none.
type frame struct {
	buf *[]byte // the bytes; its owner gives it back with free
	// uncompressed is the message's length before compression.
	uncompressed int
}

func (f *frame) bytes() []byte { return *f.buf }

// payload is the message's length as it is sent, without the prefix.
func (f *frame) payload() int { return len(*f.buf) - prefixLen }

func (f *frame) free() {
	if f.buf != nil {
		putBytes(f.buf)
		f.buf = nil
	}
}

// seal writes the prefix of the message that follows it in b.
func seal(b []byte, compressed bool) {
	b[0] = 0
	if compressed {
		b[0] = 1
	}
	binary.BigEndian.PutUint32(b[1:prefixLen], uint32(len(b)-prefixLen))
}

// Buffers of 256 bytes to 1 MiB are pooled, one pool for each power of two.
// They come back dirty: whoever gets one writes before it reads. (The pool
// of grpc-go's mem package clears a buffer's whole tier each time.)
const (
	minPooled = 8
	maxPooled = 20
)

var bytePools [maxPooled - minPooled + 1]sync.Pool

// getBytes returns a buffer of length 0 that has room for n bytes.
func getBytes(n int) *[]byte {
	class := max(bits.Len(uint(max(n, 1)-1)), minPooled)
	if class > maxPooled {
		b := make([]byte, 0, n)
		return &b
	}
	if b, ok := bytePools[class-minPooled].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, 1<<class)
	return &b
}

// putBytes gives a buffer back. It may have grown since.
func putBytes(b *[]byte) {
	class := bits.Len(uint(cap(*b))) - 1 // rounded down: the pool promises its size
	if class < minPooled || class > maxPooled {
		return
	}
	*b = (*b)[:0]
	bytePools[class-minPooled].Put(b)
}

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
