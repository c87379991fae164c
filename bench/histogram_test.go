package main

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHistogramPercentiles(t *testing.T) {
	var h histogram
	require.Zero(t, h.percentile(0.5), "of nothing")

	// 1 µs to 10 ms in steps of 1 µs, in two histograms.
	var odd histogram
	for i := 1; i <= 10_000; i++ {
		d := time.Duration(i) * time.Microsecond
		if i%2 == 0 {
			h.record(d)
		} else {
			odd.record(d)
		}
	}
	h.add(&odd)
	for _, q := range []float64{0.001, 0.01, 0.5, 0.9, 0.99, 1} {
		require.InEpsilon(t, q*float64(10*time.Millisecond), float64(h.percentile(q)), 0.01, "q=%v", q)
	}
}

func TestHistogramBucketsAreWithinOnePercent(t *testing.T) {
	for _, v := range []uint64{0, 1, 127, 128, 255, 256, 257, 511, 512, 1000, 1 << 20, 1<<40 + 12345, math.MaxInt64} {
		i := bucket(v)
		require.Less(t, i, len(histogram{}.counts), "v=%d", v)
		require.InDelta(t, float64(v), float64(middle(i)), float64(v)/128, "v=%d", v)
	}
	var h histogram
	h.record(-time.Second) // a clock that steps back is not a crash
	require.Zero(t, h.percentile(1))
}
