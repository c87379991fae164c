package main

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets whose width is at most 1/128 of their
// value, so that a percentile is within 1% of the exact one and recording
// allocates nothing. Several goroutines may record at the same time; what is recorded is
// read afterwards.
type histogram struct {
	n      uint64 // first, so that it is aligned for atomic use on 32-bit machines
	counts [exact + (64-exactBits)*half]uint32
}

const (
	exactBits = 8
	exact     = 1 << exactBits // durations below this many ns have a bucket each
	half      = exact / 2      // buckets for each power of two above
)

func (h *histogram) record(d time.Duration) {
	atomic.AddUint32(&h.counts[bucket(uint64(max(d, 0)))], 1)
	atomic.AddUint64(&h.n, 1)
}

func (h *histogram) add(other *histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.n += other.n
}

// percentile is the duration that the fraction q of all recorded ones does not
// exceed, 0 if none was recorded.
func (h *histogram) percentile(q float64) time.Duration {
	rank := max(uint64(math.Ceil(q*float64(h.n))), 1)
	var seen uint64
	for i, c := range h.counts {
		if seen += uint64(c); seen >= rank {
			return middle(i)
		}
	}
	return 0
}

func bucket(v uint64) int {
	if v < exact {
		return int(v)
	}
	shift := bits.Len64(v) - exactBits // at least 1; v>>shift is in [half, exact)
	return exact + (shift-1)*half + int(v>>shift) - half
}

// middle is the middle of a bucket.
func middle(i int) time.Duration {
	if i < exact {
		return time.Duration(i)
	}
	shift := (i-exact)/half + 1
	low := uint64((i-exact)%half+half) << shift
	return time.Duration(low + 1<<shift/2)
}
