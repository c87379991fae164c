// Package bytepool keeps byte slices for reuse, in classes of size of which each is
// at most a quarter larger than the one before: a slice is never much larger than
// asked for. Slices are not cleared.
package bytepool

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

const (
	smallest = 8  // the first class has 2^8 bytes
	largest  = 24 // the last has 2^24, 16 MiB; longer slices are made and dropped
	steps    = 4  // classes for each doubling

	classes = (largest-smallest)*steps + 1
)

// Pool is a [mem.BufferPool], so that its slices can travel through codecs that
// take a mem.Buffer. It is safe for concurrent use, and holds bytes alone.
type Pool struct {
	class [classes]sync.Pool
}

// Messages holds what messages are encoded into and received in.
var Messages = new(Pool)

var _ mem.BufferPool = (*Pool)(nil)

// Get returns a slice of length n, with whatever it held before. Its capacity is that
// of its class.
func (p *Pool) Get(n int) *[]byte {
	if b := p.Kept(n); b != nil {
		return b
	}
	c, size := classOf(n)
	if c >= classes {
		size = n
	}
	b := make([]byte, n, size)
	return &b
}

// Kept is Get of a slice that is kept for reuse; nil if there is none.
func (p *Pool) Kept(n int) *[]byte {
	if c, _ := classOf(n); c < classes {
		if b, ok := p.class[c].Get().(*[]byte); ok {
			*b = (*b)[:n]
			return b
		}
	}
	return nil
}

// Put takes back a slice that Get returned. Others are dropped.
func (p *Pool) Put(b *[]byte) {
	n := cap(*b)
	if c, size := classOf(n); c < classes && n == size {
		p.class[c].Put(b)
	}
}

// classOf is the smallest class that holds n bytes, and its size.
func classOf(n int) (class, size int) {
	if n <= 1<<smallest {
		return 0, 1 << smallest
	}
	below := bits.Len(uint(n-1)) - 1 // 1<<below < n, and twice that is enough
	step := 1 << below / steps
	k := (n - 1<<below + step - 1) / step
	return (below-smallest)*steps + k, 1<<below + k*step
}
