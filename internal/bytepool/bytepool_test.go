package bytepool

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSizes(t *testing.T) {
	for _, tc := range []struct{ n, capacity int }{
		{0, 256}, {1, 256}, {256, 256}, {257, 320}, {320, 320}, {321, 384}, {449, 512}, {512, 512}, {513, 640},
		{1 << 20, 1 << 20}, {1<<20 + 1, 5 << 18}, {16 << 20, 16 << 20}, {16<<20 + 1, 16<<20 + 1},
	} {
		p := new(Pool)
		b := p.Get(tc.n)
		require.Len(t, *b, tc.n)
		require.Equal(t, tc.capacity, cap(*b), tc.n)
		p.Put(b)
		*b = (*b)[:cap(*b)]
	}
}

// Each size has one class, and the classes lie close to each other.
func TestClasses(t *testing.T) {
	last, lastSize := -1, 0
	for n := range 1<<16 + 1 {
		c, size := classOf(n)
		require.GreaterOrEqual(t, size, n)
		if c != last {
			require.Equal(t, last+1, c)
			require.Equal(t, lastSize+1, max(n, 1), "the class before ends where this one begins")
			if last >= 0 {
				require.LessOrEqual(t, 4*size, 5*lastSize)
			}
		}
		last, lastSize = c, size
	}
	c, size := classOf(1 << largest)
	require.Equal(t, classes-1, c)
	require.Equal(t, 1<<largest, size)
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

// Kept makes nothing.
func TestKept(t *testing.T) {
	p := new(Pool)
	for _, n := range []int{0, 300, 1 << 20, 16<<20 + 1} {
		require.Nil(t, p.Kept(n))
	}
	for { // a sync.Pool may drop what it is given
		p.Put(p.Get(310))
		if b := p.Kept(300); b != nil {
			require.Len(t, *b, 300)
			require.Equal(t, 320, cap(*b))
			break
		}
	}
	b := p.Get(16<<20 + 1)
	p.Put(b)
	require.Nil(t, p.Kept(16<<20+1), "no class is that large")
}

func BenchmarkGetPut(b *testing.B) {
	p := new(Pool)
	b.ReportAllocs()
	for b.Loop() {
		p.Put(p.Get(1000))
	}
}
