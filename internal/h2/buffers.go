package h2

import "sync"

const (
	// maxKeptBuffer is the largest buffer that a connection with the default
	// WriteBufferSize gives back for reuse.
	maxKeptBuffer = 256 << 10
	// pendingSize is what a pending buffer starts with.
	pendingSize = 8 << 10
	// usualHeaders is what HEADERS, or the headers of a turn's frames, take at most as a rule.
	usualHeaders = 512
)

// buffer is a pooled byte slice; the pointer travels with the bytes, so that
// putting it back allocates nothing.
type buffer struct{ b []byte }

// Package-level pools hold bytes and nothing else: an object with a channel or a
// timer belongs to the connection that made it. Connections that let more than usual wait
// share large buffers among themselves, so that no other goroutine holds one.
var pendingBuffers, largeBuffers sync.Pool

// bufferPool is where a connection's pending buffers, and their TLS records, come from
// and go to.
type bufferPool struct {
	pool *sync.Pool
	most int // what is larger than this is dropped
}

// pendingPool is the pool for a WriteBufferSize. The bytes that wait exceed that by a turn
// and some headers, and a slice that grows has a quarter more than it needs.
func pendingPool(writeBuffer int) *bufferPool {
	if most := (min(writeBuffer, 1<<30) + 2*turn) / 4 * 5; most > maxKeptBuffer {
		return &bufferPool{&largeBuffers, most}
	}
	return usualPool
}

var usualPool = &bufferPool{&pendingBuffers, maxKeptBuffer}

// get returns an empty buffer.
func (p *bufferPool) get() *buffer {
	if b, ok := p.pool.Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, 0, pendingSize)}
}

func (p *bufferPool) put(b *buffer) {
	if p.keeps(b) {
		b.b = b.b[:0]
		p.pool.Put(b)
	}
}

func (p *bufferPool) keeps(b *buffer) bool { return cap(b.b) <= p.most }

// reserve makes room for n more bytes. A slice that is appended to piece by piece would be
// copied time and again; a buffer of this pool grows in few steps to the most it keeps.
func (p *bufferPool) reserve(b *buffer, n int) {
	need := len(b.b) + n
	if need <= cap(b.b) {
		return
	}
	size := max(need, 4*cap(b.b))
	if size > p.most/4 {
		size = max(need, p.most)
	}
	b.b = append(make([]byte, 0, size), b.b...)
}
