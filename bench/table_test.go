package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTableShowsMediansAndRatios(t *testing.T) {
	load := func(ops int, latency time.Duration) sample {
		h := &histogram{}
		for range ops {
			h.record(latency)
		}
		return sample{
			ops: ops, elapsed: time.Second, cpu: time.Duration(ops) * 5 * time.Microsecond,
			mallocs: uint64(ops) * 20, bytes: uint64(ops) * 1000, latency: h,
		}
	}
	c := cell{name: "unary/c=1", noun: "call"}
	head := cellReport{Name: c.name}
	for _, f := range figuresOf(c, map[string][]sample{
		ours.name:   {load(100, 200), load(300, 200), load(200, 200)},
		grpcGo.name: {load(100, 100), load(100, 100), load(100, 100)},
		floorName:   {load(400, 100), load(400, 100), load(400, 100)},
	})[:3] {
		head.Figures = append(head.Figures, f.report())
	}
	var out strings.Builder
	printHeader(&out)
	printCell(&out, head)
	require.Equal(t, `
cell                       figure                    grpcdial      grpc-go   ratio     in rounds   connect-go        floor
unary/c=1                  calls/s                        200          100    2.00     1.00-3.00                       400
unary/c=1                  p50 µs                        0.20         0.10    2.00     2.00-2.00                      0.10
unary/c=1                  p99 µs                        0.20         0.10    2.00     2.00-2.00                      0.10
`, "\n"+out.String())
}

func TestTableOfOneClientHasNoRatio(t *testing.T) {
	head := cellReport{Name: "channels/ready"}
	for _, f := range figuresOfRest(10, map[string][]held{
		ours.name: {{Ready: rest{Heap: 50_000, Stack: 20_000, Goroutines: 20}}},
	}, func(h held) rest { return h.Ready }) {
		head.Figures = append(head.Figures, f.report())
	}
	var out strings.Builder
	printCell(&out, head)
	require.Equal(t, `
channels/ready             heap B/channel                5000
channels/ready             stack B/channel               2000
channels/ready             heap+stack B/channel          7000
channels/ready             goroutines/channel            2.00
`, "\n"+out.String())
}

// Without getrusage both CPU figures are 0 and have no ratio.
func TestTableRatioOfZeros(t *testing.T) {
	zero := func(int) float64 { return 0 }
	f := newFigure("f", "f", less, map[string][]int{ours.name: {1, 2}, grpcGo.name: {1, 2}}, zero)
	var out strings.Builder
	printCell(&out, cellReport{Name: "c", Figures: []figureReport{f.report()}})
	require.Equal(t, []string{"c", "f", "0.00", "0.00", "-"}, strings.Fields(out.String()))
}
