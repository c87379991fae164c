package connect

import (
	"context"
	"time"

	"github.com/grpcdial/grpcdial/internal/failure"
)

// stagger is how long an address has for a phase before the next address is tried
// beside it (RFC 8305 §5): a phase is a round trip or two, and a server that is far
// away needs one for each. It is less if there would not be time for all addresses,
// but not below leastStagger (RFC 8305 §8).
const (
	stagger      = 250 * time.Millisecond
	leastStagger = 10 * time.Millisecond
)

// outcome is how a race ended.
type outcome[T any] struct {
	won     bool
	first   T            // the first that succeeded, if one did
	lost    failure.List // those that failed before that, as they ended
	untried int          // those for which no time was left; 0 if one succeeded
}

// runner is what a race does with its endpoints. Its functions are called with no
// lock held; waiting and drop on the goroutine of race, try on one for each
// endpoint.
type runner[T any] struct {
	try     func(context.Context, endpoint) (T, *failure.Attempt) // heeds its context
	drop    func(T)                                               // gets what succeeded too late
	waiting func(n int)                                           // gets the number of endpoints not tried yet
}

// race tries the endpoints, of which there is at least one, in their order: the
// next one when the last has failed or has had its time, which begins anew when it
// ends a phase (endpoint.phaseDone). The first success wins; the others are called
// off, and race returns when they have ended. Without a success there is a loss.
func race[T any](ctx context.Context, endpoints []endpoint, run runner[T]) outcome[T] {
	type result struct {
		v      T
		failed *failure.Attempt
	}
	raceCtx, callOff := context.WithCancel(ctx)
	defer callOff()
	results := make(chan result) // every result is received below
	timer := time.NewTimer(stagger)
	defer timer.Stop()

	var out outcome[T]
	next, running := 0, 0
	var phases chan struct{} // of the last one begun; sends on earlier ones are not received
	begin := func() {
		e := endpoints[next]
		phases = make(chan struct{}, 1)
		e.phases = phases
		next++
		running++
		run.waiting(len(endpoints) - next)
		timer.Reset(pace(ctx, len(endpoints)-next))
		go func() {
			v, failed := run.try(raceCtx, e)
			results <- result{v, failed}
		}()
	}
	more := func() bool { return next < len(endpoints) && !out.won && !over(ctx) }

	begin()
	for running > 0 {
		select {
		case <-phases:
			timer.Reset(pace(ctx, len(endpoints)-next))
		case <-timer.C:
			if len(phases) == 0 && more() { // else there is news, and the timer is set above
				begin()
			}
		case r := <-results:
			running--
			switch {
			case r.failed != nil && !out.won:
				out.lost = append(out.lost, r.failed)
				if more() {
					begin()
				}
			case r.failed != nil: // called off, most likely
			case !out.won:
				out.won, out.first = true, r.v
				callOff()
			default:
				run.drop(r.v)
			}
		}
	}
	if !out.won {
		out.untried = len(endpoints) - next
	}
	return out
}

// pace is how long to wait for an endpoint before the next of those that have not
// been tried: so that each of them, the last too, has its part of the time left.
func pace(ctx context.Context, untried int) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return stagger
	}
	part := time.Until(deadline) / time.Duration(untried+1)
	return min(stagger, max(leastStagger, part))
}
