package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"
)

// sample is what one load of one side showed, of this process alone: the
// server has its own.
type sample struct {
	ops      int
	elapsed  time.Duration
	cpu      time.Duration // user and system time
	mallocs  uint64        // objects allocated
	bytes    uint64        // bytes allocated
	syscalls int64         // calls of read and write and of their like; 0: they are not known
	wire     traffic
	latency  *histogram
}

// budget says how long a load lasts: it is asked before each operation, by all
// workers at the same time, and start is called when they are about to begin.
type budget struct {
	start func()
	more  func() bool
}

// forDuration lasts for d.
func forDuration(d time.Duration) budget {
	var over atomic.Bool
	return budget{
		start: func() { time.AfterFunc(d, func() { over.Store(true) }) },
		more:  func() bool { return !over.Load() },
	}
}

// forOps lasts for n operations of all workers together.
func forOps(n int) budget {
	var left atomic.Int64
	left.Store(int64(n))
	return budget{start: func() {}, more: func() bool { return left.Add(-1) >= 0 }}
}

// put runs the cell's workers on what a side opened until the budget is used up. What
// they need is made before the measurement starts and ended after it stops.
// The first error ends the load.
func put(c cell, o opened, b budget) (sample, error) {
	var s sample
	var err error
	// The labels distinguish the sides in a CPU profile.
	pprof.Do(context.Background(), pprof.Labels("client", o.side, "cell", c.name), func(context.Context) {
		s, err = putLabelled(c, o, b)
	})
	if err != nil {
		return sample{}, fmt.Errorf("%s with %s: %w", c.name, o.side, err)
	}
	return s, nil
}

// shards bounds the histograms of a load, which are 30 kB each.
const shards = 64

func putLabelled(c cell, o opened, b budget) (sample, error) {
	workers := make([]worker, c.workers)
	latencies := make([]histogram, min(c.workers, shards))
	failures := make([]error, c.workers) // each written by its worker
	for i := range workers {
		var err error
		if workers[i], err = o.worker(c); err != nil {
			return sample{}, err
		}
	}

	sent, err := trafficNow(o.at.Counts)
	if err != nil {
		return sample{}, err
	}
	var failed atomic.Bool
	var running sync.WaitGroup
	start := make(chan struct{})
	for i := range workers {
		running.Go(func() {
			latency := &latencies[i%shards]
			<-start
			for !failed.Load() && b.more() {
				began := time.Now()
				if err := workers[i].op(); err != nil {
					failures[i] = err
					failed.Store(true)
					return
				}
				latency.record(time.Since(began))
			}
			if flush := workers[i].flush; flush != nil && !failed.Load() {
				if failures[i] = flush(); failures[i] != nil {
					failed.Store(true)
				}
			}
		})
	}

	var before, after runtime.MemStats
	runtime.GC() // one round does not pay for the garbage of the one before
	runtime.ReadMemStats(&before)
	calls := systemCalls()
	cpu := cpuTime()
	began := time.Now()
	b.start()
	close(start)
	running.Wait()
	s := sample{elapsed: time.Since(began), cpu: cpuTime() - cpu, latency: &histogram{}}
	s.syscalls = systemCalls() - calls
	runtime.ReadMemStats(&after)
	now, err := trafficNow(o.at.Counts)
	if err != nil {
		return sample{}, err
	}

	for i, w := range workers {
		if w.done != nil && !failed.Load() {
			running.Go(func() { failures[i] = w.done() })
		}
	}
	running.Wait()
	for i := range latencies {
		s.latency.add(&latencies[i])
	}
	s.ops = int(s.latency.n) * max(workers[0].batch, 1)
	s.wire = now.minus(sent)
	s.mallocs = after.Mallocs - before.Mallocs
	s.bytes = after.TotalAlloc - before.TotalAlloc
	if err := errors.Join(failures...); err != nil {
		return sample{}, err
	}
	if s.ops == 0 {
		return sample{}, errors.New("no operation ended in the time given")
	}
	return s, nil
}
