package main

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/grpcdial/grpcdial/internal/text"
)

// latencies is a histogram of durations in buckets that are 2 % wide, from a microsecond to
// some hours. It may be added to from any goroutine.
type latencies struct {
	buckets [1300]atomic.Int64
	sum     atomic.Int64 // nanoseconds
	min     atomic.Int64 // nanoseconds, plus 1; 0: none
	max     atomic.Int64
}

const bucketWidth = 1.02

func bucketOf(d time.Duration) int {
	if d <= time.Microsecond {
		return 0
	}
	return min(int(math.Log(float64(d)/float64(time.Microsecond))/math.Log(bucketWidth)), 1299)
}

// startOf is the least duration of a bucket.
func startOf(bucket int) time.Duration {
	return time.Duration(float64(time.Microsecond) * math.Pow(bucketWidth, float64(bucket)))
}

func (l *latencies) add(d time.Duration) {
	l.buckets[bucketOf(d)].Add(1)
	l.sum.Add(int64(d))
	for least := l.min.Load(); (least == 0 || int64(d)+1 < least) && !l.min.CompareAndSwap(least, int64(d)+1); least = l.min.Load() {
	}
	for most := l.max.Load(); int64(d) > most && !l.max.CompareAndSwap(most, int64(d)); most = l.max.Load() {
	}
}

func (l *latencies) count() (n int64) {
	for i := range l.buckets {
		n += l.buckets[i].Load()
	}
	return n
}

func (l *latencies) fastest() time.Duration { return time.Duration(l.min.Load() - 1) }
func (l *latencies) slowest() time.Duration { return time.Duration(l.max.Load()) }
func (l *latencies) mean() time.Duration    { return time.Duration(l.sum.Load() / max(l.count(), 1)) }

// quantile is the duration that the part q of all do not exceed, to 2 %.
func (l *latencies) quantile(q float64) time.Duration {
	rank := int64(math.Ceil(q * float64(l.count())))
	seen := int64(0)
	for i := range l.buckets {
		if seen += l.buckets[i].Load(); seen >= rank {
			return min(max(startOf(i+1), l.fastest()), l.slowest())
		}
	}
	return l.slowest()
}

// histogramRows is how many lines the drawing has.
const histogramRows = 10

// row is a line of the drawing.
type row struct {
	from, to time.Duration
	n        int64
}

// rows divides the range of the durations into parts that are equally wide on a
// logarithmic scale.
func (l *latencies) rows() []row {
	first, last := bucketOf(l.fastest()), bucketOf(l.slowest())
	n := min(histogramRows, last-first+1)
	all := make([]row, n)
	edge := func(i int) int { return first + i*(last+1-first)/n }
	for i := range all {
		all[i] = row{from: startOf(edge(i)), to: startOf(edge(i + 1))}
		for b := edge(i); b < edge(i+1); b++ {
			all[i].n += l.buckets[b].Load()
		}
	}
	return all
}

// text draws the histogram.
func (l *latencies) text(p paint) string {
	var b strings.Builder
	fmt.Fprintf(&b, "latency of those that are OK: fastest %v, mean %v, slowest %v\n  50%% %v, 90%% %v, 99%% %v\n\n",
		text.Round(l.fastest()), text.Round(l.mean()), text.Round(l.slowest()),
		text.Round(l.quantile(0.5)), text.Round(l.quantile(0.9)), text.Round(l.quantile(0.99)))
	rows, most := l.rows(), int64(1)
	for _, r := range rows {
		most = max(most, r.n)
	}
	for _, r := range rows {
		width := int(math.Round(float64(r.n) / float64(most) * barWidth))
		if r.n > 0 {
			width = max(width, 1)
		}
		fmt.Fprintf(&b, "  %s - %s  %7d  %s\n", padLeft(text.Round(r.from).String(), 7), pad(text.Round(r.to).String(), 7), r.n, p.blue(strings.Repeat("█", width)))
	}
	return b.String()
}
