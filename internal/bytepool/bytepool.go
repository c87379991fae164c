// Package bytepool keeps byte slices for reuse, in classes of doubling size.
// What it hands out is not cleared.
package bytepool

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

const (
	smallest = 8  // 256 B
	largest  = 24 // 16 MiB; longer slices are made and dropped
)

// Pool is a [mem.BufferPool], so that its slices can travel through codecs that
// take a mem.Buffer. It is safe for concurrent use, and holds bytes alone.
type Pool struct {
	class [largest - smallest + 1]sync.Pool
}

// Messages holds what messages are encoded into and received in.
var Messages = new(Pool)

var _ mem.BufferPool = (*Pool)(nil)

// Get returns a slice of length n, with whatever it held before.
func (p *Pool) Get(n int) *[]byte {
	c := classOf(n)
	if c > largest {
		b := make([]byte, n)
		return &b
	}
	if b, ok := p.class[c-smallest].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<c)
	return &b
}

// Put takes back a slice that Get returned. Others are dropped.
func (p *Pool) Put(b *[]byte) {
	n := cap(*b)
	if c := classOf(n); c <= largest && n == 1<<c {
		p.class[c-smallest].Put(b)
	}
}

// classOf is the binary logarithm of the smallest class that holds n bytes.
func classOf(n int) int {
	if n <= 1<<smallest {
		return smallest
	}
	return bits.Len(uint(n - 1))
}
