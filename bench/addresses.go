package main

import (
	"context"
	"fmt"
	"net"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// reached is what one channel with many addresses showed.
type reached struct {
	Ready time.Duration // from Connect to the channel's first READY
	All   time.Duration // until the last address has a network connection
	CPU   time.Duration // of the process, until all is at rest
	Peak  uint64        // of the heap, above what it was before; 0 with few addresses
	Rest  rest
}

// reachDeadline is how long all addresses may take.
const reachDeadline = 2 * time.Minute

// watchFrom is the number of addresses from which on the heap is watched: the CPU for that
// is much for a few.
const watchFrom = 30

// holdAddresses makes a channel with round_robin over n addresses, which are all one
// server's: the dialer ignores which one it is. So there are as many connections as
// addresses.
func holdAddresses(c client, at endpoint, n int) (reached, error) {
	creds, err := at.credentials()
	if err != nil {
		return reached{}, err
	}
	var dialed atomic.Int64
	all := make(chan time.Time, 1)
	dialer := func(ctx context.Context, _ string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", at.Target)
		if err == nil && dialed.Add(1) == int64(n) {
			all <- time.Now()
		}
		return nc, err
	}
	r := manual.NewBuilderWithScheme("many")
	addrs := make([]resolver.Address, n)
	for i := range addrs {
		addrs[i].Addr = fmt.Sprintf("10.%d.%d.%d:443", i>>16, i>>8&0xff, i&0xff)
	}
	r.InitialState(resolver.State{Addresses: addrs})

	before := settle()
	peak := func() uint64 { return 0 }
	if n >= watchFrom {
		peak = watchHeap()
	}
	cpu, began := cpuTime(), time.Now()
	channel, err := c.resolved(r, "round_robin", creds, dialer)
	if err != nil {
		return reached{}, err
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(context.Background(), reachDeadline)
	defer cancel()
	if err := awaitState(ctx, channel, connectivity.Ready); err != nil {
		return reached{}, fmt.Errorf("%d addresses: %w", n, err)
	}
	found := reached{Ready: time.Since(began)}
	select {
	case last := <-all:
		found.All = last.Sub(began)
	case <-ctx.Done():
		return reached{}, fmt.Errorf("%d of %d addresses have a connection after %v", dialed.Load(), n, reachDeadline)
	}
	found.CPU = awaitRest() - cpu
	highest := peak()
	found.Peak = highest - min(highest, before.Heap)
	found.Rest = settle().minus(before)
	return found, nil
}

// awaitRest returns when the process has done hardly anything for a tenth of a second, or
// after five seconds, and says what CPU it has used so far.
func awaitRest() time.Duration {
	used := cpuTime()
	for range 50 {
		time.Sleep(100 * time.Millisecond)
		now := cpuTime()
		if now-used < 10*time.Millisecond { // watchHeap takes some
			return used
		}
		used = now
	}
	return used
}

// watchHeap looks at the size of the heap every two milliseconds, until the function that it
// returns is called; that is the largest it has seen.
func watchHeap() func() uint64 {
	stop, result := make(chan struct{}), make(chan uint64)
	go func() {
		heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		var highest uint64
		for {
			metrics.Read(heap)
			highest = max(highest, heap[0].Value.Uint64())
			select {
			case <-tick.C:
			case <-stop:
				result <- highest
				return
			}
		}
	}()
	return func() uint64 { close(stop); return <-result }
}
