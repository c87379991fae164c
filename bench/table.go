package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figure is one line of the table: what each client showed in each round.
type figure struct {
	name   string
	rounds map[string][]float64 // by the client's name, one value a round
}

// figuresOf turns the samples of a cell, by client and one a round, into
// figures.
func figuresOf(c cell, samples map[string][]sample) []figure {
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return []figure{
		newFigure(c.noun+"s/s", samples, func(s sample) float64 { return float64(s.ops) / s.elapsed.Seconds() }),
		newFigure("p50 µs", samples, func(s sample) float64 { return micros(s.latency.percentile(0.50)) }),
		newFigure("p99 µs", samples, func(s sample) float64 { return micros(s.latency.percentile(0.99)) }),
		newFigure("CPU µs/"+c.noun, samples, func(s sample) float64 { return micros(s.cpu) / float64(s.ops) }),
		newFigure("allocs/"+c.noun, samples, func(s sample) float64 { return float64(s.mallocs) / float64(s.ops) }),
		newFigure("B/"+c.noun, samples, func(s sample) float64 { return float64(s.bytes) / float64(s.ops) }),
		newFigure("B up/"+c.noun, samples, func(s sample) float64 { return float64(s.wire.Up) / float64(s.ops) }),
		newFigure("B down/"+c.noun, samples, func(s sample) float64 { return float64(s.wire.Down) / float64(s.ops) }),
	}
}

// figuresOfRest turns what processes of n channels held into figures for each
// channel.
func figuresOfRest(n int, processes map[string][]held, of func(held) rest) []figure {
	each := func(total uint64) float64 { return float64(total) / float64(n) }
	return []figure{
		newFigure("heap B/channel", processes, func(h held) float64 { return each(of(h).Heap) }),
		newFigure("stack B/channel", processes, func(h held) float64 { return each(of(h).Stack) }),
		newFigure("heap+stack B/channel", processes, func(h held) float64 { return each(of(h).Heap + of(h).Stack) }),
		newFigure("goroutines/channel", processes, func(h held) float64 { return float64(of(h).Goroutines) / float64(n) }),
	}
}

func newFigure[T any](name string, measured map[string][]T, value func(T) float64) figure {
	f := figure{name, map[string][]float64{}}
	for client, rounds := range measured {
		for _, m := range rounds {
			f.rounds[client] = append(f.rounds[client], value(m))
		}
	}
	return f
}

const rowFormat = "%-18s %-21s %12s %12s %7s %13s"

func printHeader(w io.Writer) {
	printRow(w, "cell", "figure", ours.name, grpcGo.name, "ratio", "in rounds")
}

// printFigures writes a line for each figure: the medians of each client's
// rounds, their ratio, and the lowest and highest ratio of two rounds that
// followed each other.
func printFigures(w io.Writer, cellName string, figures []figure) {
	for _, f := range figures {
		a, b := f.rounds[ours.name], f.rounds[grpcGo.name]
		ratio, span := "", ""
		if len(a) > 0 && len(a) == len(b) {
			ratio = formatRatio(median(a) / median(b))
			low, high := math.Inf(1), math.Inf(-1)
			for i := range a {
				low, high = min(low, a[i]/b[i]), max(high, a[i]/b[i])
			}
			if len(a) > 1 {
				span = formatRatio(low) + "-" + formatRatio(high)
			}
		}
		printRow(w, cellName, f.name, formatMedian(a), formatMedian(b), ratio, span)
	}
}

func printRow(w io.Writer, columns ...any) {
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf(rowFormat, columns...), " "))
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

// formatMedian shows three significant digits or whole numbers.
func formatMedian(values []float64) string {
	v := median(values)
	switch {
	case math.IsNaN(v):
		return "-"
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
}

func formatRatio(r float64) string {
	if math.IsNaN(r) || math.IsInf(r, 0) { // a figure of 0
		return "-"
	}
	return strconv.FormatFloat(r, 'f', 2, 64)
}
