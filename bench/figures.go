package main

import (
	"math"
	"slices"
	"strconv"
	"time"
)

// figure is one figure of a cell: what each side showed in each round.
type figure struct {
	key    string
	name   string
	better string
	rounds map[string][]float64 // by the side's name, one value a round
}

const (
	more = "more" // is better
	less = "less"
)

// figuresOf turns the samples of a cell, by side and one a round, into
// figures.
func figuresOf(c cell, samples map[string][]sample) []figure {
	each := func(v float64, s sample) float64 { return v / float64(s.ops) }
	figures := []figure{
		newFigure("rate", c.noun+"s/s", more, samples, func(s sample) float64 { return float64(s.ops) / s.elapsed.Seconds() }),
		newFigure("p50", "p50 µs", less, samples, func(s sample) float64 { return micros(s.latency.percentile(0.50)) }),
		newFigure("p99", "p99 µs", less, samples, func(s sample) float64 { return micros(s.latency.percentile(0.99)) }),
		newFigure("cpu", "CPU µs/"+c.noun, less, samples, func(s sample) float64 { return each(micros(s.cpu), s) }),
		newFigure("allocs", "allocs/"+c.noun, less, samples, func(s sample) float64 { return each(float64(s.mallocs), s) }),
		newFigure("bytes", "B/"+c.noun, less, samples, func(s sample) float64 { return each(float64(s.bytes), s) }),
		newFigure("up", "B up/"+c.noun, less, samples, func(s sample) float64 { return each(float64(s.wire.Up), s) }),
		newFigure("down", "B down/"+c.noun, less, samples, func(s sample) float64 { return each(float64(s.wire.Down), s) }),
	}
	if systemCalls() > 0 {
		figures = append(figures, newFigure("syscalls", "syscalls/"+c.noun, less, samples,
			func(s sample) float64 { return each(float64(s.syscalls), s) }))
	}
	return figures
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// figuresOfRest turns what processes of n channels held into figures for each
// channel.
func figuresOfRest(n int, processes map[string][]held, of func(held) rest) []figure {
	each := func(total uint64) float64 { return float64(total) / float64(n) }
	return []figure{
		newFigure("heap", "heap B/channel", less, processes, func(h held) float64 { return each(of(h).Heap) }),
		newFigure("stack", "stack B/channel", less, processes, func(h held) float64 { return each(of(h).Stack) }),
		newFigure("memory", "heap+stack B/channel", less, processes, func(h held) float64 { return each(of(h).Heap + of(h).Stack) }),
		newFigure("goroutines", "goroutines/channel", less, processes, func(h held) float64 { return float64(of(h).Goroutines) / float64(n) }),
	}
}

// figuresOfReached turns what processes with a channel of n addresses showed into figures.
func figuresOfReached(n int, processes map[string][]reached) []figure {
	each := func(total float64) float64 { return total / float64(n) }
	figures := []figure{
		newFigure("ready", "first READY ms", less, processes, func(r reached) float64 { return micros(r.Ready) / 1e3 }),
		newFigure("all", "all connected ms", less, processes, func(r reached) float64 { return micros(r.All) / 1e3 }),
		newFigure("cpu", "CPU µs/address", less, processes, func(r reached) float64 { return each(micros(r.CPU)) }),
		newFigure("memory", "heap+stack B/address", less, processes, func(r reached) float64 { return each(float64(r.Rest.Heap + r.Rest.Stack)) }),
		newFigure("goroutines", "goroutines/address", less, processes, func(r reached) float64 { return each(float64(r.Rest.Goroutines)) }),
	}
	if n >= watchFrom {
		figures = append(figures, newFigure("peak", "peak heap B/address", less, processes, func(r reached) float64 { return each(float64(r.Peak)) }))
	}
	return figures
}

func newFigure[T any](key, name, better string, measured map[string][]T, value func(T) float64) figure {
	f := figure{key, name, better, map[string][]float64{}}
	for side, rounds := range measured {
		for _, m := range rounds {
			f.rounds[side] = append(f.rounds[side], rounded(value(m)))
		}
	}
	return f
}

// rounded is v with five significant digits, which is more than a figure is worth.
func rounded(v float64) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 5, 64), 64)
	if err != nil {
		return v
	}
	return r
}

// report is the figure as it is saved.
func (f figure) report() figureReport {
	r := figureReport{Key: f.key, Name: f.name, Better: f.better, Rounds: f.rounds, Median: map[string]float64{}}
	for side, values := range f.rounds {
		r.Median[side] = median(values)
	}
	a, b := f.rounds[ours.name], f.rounds[grpcGo.name]
	if len(a) == 0 || len(a) != len(b) {
		return r
	}
	r.Ratio = ratio(median(a), median(b))
	if len(a) < 2 {
		return r
	}
	for i := range a {
		in := ratio(a[i], b[i])
		if in == nil {
			continue
		}
		if r.RatioLow == nil || *in < *r.RatioLow {
			r.RatioLow = in
		}
		if r.RatioHigh == nil || *in > *r.RatioHigh {
			r.RatioHigh = in
		}
	}
	return r
}

// ratio is nil if one of the two is 0.
func ratio(a, b float64) *float64 {
	if a == 0 || b == 0 {
		return nil
	}
	r := rounded(a / b)
	return &r
}

// median of nothing is NaN.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
