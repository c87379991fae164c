package h2

import "sync"

const (
	// maxKeptBuffer is the largest buffer that goes back to a pool.
	maxKeptBuffer = 256 << 10
	// pendingSize is what a pending buffer starts with.
	pendingSize = 8 << 10
)

// buffer is a pooled byte slice; the pointer travels with the bytes, so that
// putting it back allocates nothing.
type buffer struct{ b []byte }

// bytePool holds buffers of one starting size. Package-level pools hold bytes
// and nothing else: an object with a channel or a timer belongs to the
// connection that made it.
type bytePool struct {
	size int
	pool sync.Pool
}

var (
	pendingPool = &bytePool{size: pendingSize}
	readPool    = &bytePool{size: defaultReadBuffer}
)

// get returns an empty buffer.
func (p *bytePool) get() *buffer {
	if b, ok := p.pool.Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, 0, p.size)}
}

func (p *bytePool) put(b *buffer) {
	if cap(b.b) < p.size || cap(b.b) > maxKeptBuffer {
		return
	}
	b.b = b.b[:0]
	p.pool.Put(b)
}
