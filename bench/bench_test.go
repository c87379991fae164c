package main

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	childMain()
	os.Exit(m.Run())
}

// BenchmarkCells runs the cells over plaintext that do not grow, each with every side that
// has it, one after the other; an operation is a call, a message, a round trip or a dial.
// For a comparison use the program: it lets the sides take turns.
func BenchmarkCells(b *testing.B) {
	at, stop, err := startServer(serving{})
	if err != nil {
		b.Fatal(err)
	}
	defer stop()
	for _, c := range plainCells {
		for _, side := range sides {
			if !side.has(c) {
				continue
			}
			b.Run(c.name+"/"+side.name, func(b *testing.B) {
				o, err := side.open(c, at.Plain)
				if err != nil {
					b.Fatal(err)
				}
				defer o.close()
				s, err := put(c, o, forOps(b.N))
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs() // shows the two figures of allocation below
				ops := float64(s.ops)
				b.ReportMetric(float64(s.elapsed.Nanoseconds())/ops, "ns/op")
				b.ReportMetric(float64(s.cpu.Nanoseconds())/ops, "cpu-ns/op")
				b.ReportMetric(float64(s.latency.percentile(0.50).Nanoseconds()), "p50-ns")
				b.ReportMetric(float64(s.latency.percentile(0.99).Nanoseconds()), "p99-ns")
				b.ReportMetric(float64(s.mallocs)/ops, "allocs/op")
				b.ReportMetric(float64(s.bytes)/ops, "B/op")
			})
		}
	}
}

// BenchmarkChannels holds 100 READY channels in a process of its own; an
// operation is such a process.
func BenchmarkChannels(b *testing.B) {
	const channels = 100
	at, stop, err := startServer(serving{})
	if err != nil {
		b.Fatal(err)
	}
	defer stop()
	for _, cl := range []client{ours, grpcGo} {
		b.Run(cl.name, func(b *testing.B) {
			var h held
			for b.Loop() {
				if h, err = measureChannels(cl, at.Plain, channels); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(h.Ready.Heap+h.Ready.Stack)/channels, "B/channel")
			b.ReportMetric(float64(h.Ready.Goroutines)/channels, "goroutines/channel")
		})
	}
}
