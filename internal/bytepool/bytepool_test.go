package bytepool

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSizes(t *testing.T) {
	for _, tc := range []struct{ n, capacity int }{
		{0, 256}, {1, 256}, {256, 256}, {257, 512}, {1 << 20, 1 << 20}, {1<<20 + 1, 2 << 20}, {16 << 20, 16 << 20}, {16<<20 + 1, 16<<20 + 1},
	} {
		p := new(Pool)
		b := p.Get(tc.n)
		require.Len(t, *b, tc.n)
		require.GreaterOrEqual(t, cap(*b), tc.capacity)
		p.Put(b)
		*b = (*b)[:cap(*b)]
	}
}

func TestForeignSlicesAreDropped(t *testing.T) {
	p := new(Pool)
	for _, n := range []int{0, 100, 300, 5000} {
		b := make([]byte, n)
		p.Put(&b)
	}
	for range 10 {
		require.GreaterOrEqual(t, cap(*p.Get(300)), 300)
	}
}

func BenchmarkGetPut(b *testing.B) {
	p := new(Pool)
	b.ReportAllocs()
	for b.Loop() {
		p.Put(p.Get(1000))
	}
}
