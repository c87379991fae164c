package connect

import (
	"context"
	"net"
	"time"
)

// stagger is how long an address has before the next one is tried beside it
// (RFC 8305 §5).
const stagger = 250 * time.Millisecond

// outcome is how a race ended.
type outcome struct {
	endpoint           // the first that was connected
	conn     net.Conn  // its connection; nil if none was
	start    time.Time // when it was dialed

	lost []loss     // those that failed before that
	rest []endpoint // those about which nothing is known: not dialed, or called off
}

// loss is one endpoint that failed.
type loss struct {
	endpoint
	start time.Time
	err   error
}

// race dials the endpoints, of which there is at least one, in their order:
// the next one when the last has failed or has had its time. The first
// connection wins; the other dials are called off, and race returns when they
// have. It never returns without a connection and without a loss.
func race(ctx context.Context, endpoints []endpoint, dial func(context.Context, endpoint) (net.Conn, error)) outcome {
	if len(endpoints) == 1 {
		e, start := endpoints[0], time.Now()
		nc, err := dial(ctx, e)
		if err != nil {
			return outcome{lost: []loss{{e, start, err}}}
		}
		return outcome{endpoint: e, conn: nc, start: start}
	}

	type result struct {
		i     int
		start time.Time
		conn  net.Conn
		err   error
	}
	dialCtx, callOff := context.WithCancel(ctx)
	defer callOff()
	results := make(chan result) // every dial's result is received below
	timer := time.NewTimer(stagger)
	defer timer.Stop()

	var out outcome
	next, running := 0, 0
	known := make([]bool, len(endpoints)) // won or lost
	begin := func() {
		i, start := next, time.Now()
		next++
		running++
		timer.Reset(stagger)
		go func() {
			nc, err := dial(dialCtx, endpoints[i])
			results <- result{i, start, nc, err}
		}()
	}
	more := func() bool { return next < len(endpoints) && out.conn == nil && !over(ctx) }

	begin()
	for running > 0 {
		select {
		case <-timer.C:
			if more() {
				begin()
			}
		case r := <-results:
			running--
			switch {
			case r.err != nil && out.conn == nil:
				known[r.i] = true
				out.lost = append(out.lost, loss{endpoints[r.i], r.start, r.err})
				if more() {
					begin()
				}
			case r.err != nil: // called off, most likely
			case out.conn == nil:
				known[r.i] = true
				out.endpoint, out.conn, out.start = endpoints[r.i], r.conn, r.start
				callOff()
			default: // connected a moment too late
				_ = r.conn.Close()
			}
		}
	}
	for i, e := range endpoints {
		if !known[i] {
			out.rest = append(out.rest, e)
		}
	}
	return out
}
