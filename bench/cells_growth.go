package main

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
)

// growthCells show what becomes of a load that grows in one direction. Channels and
// addresses grow in processes of their own: see processCells.
func growthCells() []cell {
	var cells []cell
	add := func(c cell, name, axis string, at int) {
		c.name, c.axis, c.at = name, axis, float64(at)
		if c.share == 0 {
			c.share = 0.5
		}
		cells = append(cells, c)
	}
	for _, n := range []int{1, 4, 16, 64, 256, 1024, 4096} {
		c := unaryCell(n, 0)
		c.large = n > 1024
		add(c, fmt.Sprintf("grow-callers/c=%d", n), "callers", n)
	}
	for _, n := range []int{1, 10, 100, 1000, 10_000} {
		c := pingPongCell(n, 0)
		c.floor, c.large = nil, n > 1000
		if n > 1000 {
			c.connect = nil // a goroutine of net/http and a pipe for each stream
		}
		add(c, fmt.Sprintf("grow-streams/s=%d", n), "streams", n)
	}
	for _, n := range []int{64, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20, 15 << 20} {
		c := unaryCell(1, n)
		c.work = unary(n, grpc.MaxCallRecvMsgSize(maxMessage))
		if n > 1<<20 {
			c.share = 1
		}
		add(c, fmt.Sprintf("grow-size/B=%d", n), "bytes", n)
	}
	for _, trip := range roundTrips {
		ms := int(trip / time.Millisecond)
		for _, c := range []struct {
			name string
			cell
		}{
			{"rtt-unary", unaryCell(64, 0)},
			{"rtt-down-64kB", downCell(1, 64<<10, 1)},
			{"rtt-upload-64kB", uploadCell(1, 64<<10)},
		} {
			c.cell.roundTrip, c.cell.connect, c.cell.floor = trip, nil, nil
			if trip > time.Millisecond { // windows grow by the round trip
				c.cell.share = 0.5 + trip.Seconds()*40
			}
			add(c.cell, fmt.Sprintf("%s/ms=%d", c.name, ms), "ms", ms)
		}
	}
	return cells
}

// maxMessage is the largest message that the server takes and the cells of growing
// messages do: the default is 4 MiB.
const maxMessage = 16 << 20

// roundTrips are those of the relays in the server process; 0: no relay.
var roundTrips = []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond}
