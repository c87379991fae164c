package dns

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
	grpcsc "google.golang.org/grpc/serviceconfig"

	"github.com/grpcdial/grpcdial/internal/backoff"
	"github.com/grpcdial/grpcdial/internal/lookup"
)

// hostResolver resolves one host name, now and again. Its methods may be called
// from any goroutine, but Close not from within a call that the resolver makes
// of its resolver.ClientConn.
//
// There is never more than one resolution: it is made by the goroutine of the
// timer that was armed for it, and a timer is armed only while none runs. What
// a resolution leaves for the next it hands over through mu.
type hostResolver struct {
	// Set once before start.
	cfg         Config
	host, port  string
	source      lookup.Source
	cc          resolver.ClientConn
	wantsConfig bool      // service configs are looked up
	seed        [2]uint64 // of the dice for A2's percentages: one fall for the resolver's life
	ctx         context.Context
	cancel      context.CancelFunc

	wg sync.WaitGroup // one for an armed timer or the resolution it became; added to under mu, never once closed

	mu       sync.Mutex
	closed   bool        // guarded by mu
	running  bool        // guarded by mu: a resolution is going on
	again    bool        // guarded by mu: ResolveNow was called while running
	earliest time.Time   // guarded by mu: no resolution starts before
	timer    *time.Timer // guarded by mu: starts the next resolution; nil if none is due
	due      time.Time   // guarded by mu: when timer fires

	// Of the resolution that runs.
	failures  int                 // in a row
	complete  bool                // an update was made that is not pending
	config    *grpcsc.ParseResult // of the last TXT answer; nil: none
	configKey string              // identifies config, so that the same text is not parsed again
}

// ResolveNow has the host resolved again as soon as MinInterval allows. It does
// not wait. While a resolution is due anyway it changes nothing.
func (r *hostResolver) ResolveNow(resolver.ResolveNowOptions) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running {
		r.again = true // the look-up in progress may return the addresses that the caller found outdated
		return
	}
	r.schedule(r.earliest)
}

// Close ends the resolver: it cancels look-ups and returns when no call of the
// resolver.ClientConn is running nor will be made. Look-ups that the system makes
// for Go and does not let be interrupted may end later.
func (r *hostResolver) Close() {
	r.mu.Lock()
	r.closed = true
	if r.timer != nil && r.timer.Stop() {
		r.wg.Done()
	}
	r.timer = nil
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// start makes the first resolution.
func (r *hostResolver) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.schedule(time.Now())
}

// schedule arms the timer for at, unless it is armed for an earlier time. It is
// called with mu held and while no resolution runs.
func (r *hostResolver) schedule(at time.Time) {
	if r.closed {
		return
	}
	if r.timer != nil {
		if !at.Before(r.due) || !r.timer.Stop() {
			return // earlier anyway, or in run already, waiting for mu
		}
		r.wg.Done()
	}
	r.wg.Add(1)
	r.due = at
	r.timer = time.AfterFunc(time.Until(at), r.run)
}

// run is the timer's goroutine.
func (r *hostResolver) run() {
	defer r.wg.Done()
	if !r.begin() {
		return
	}
	r.end(r.resolve() == nil)
}

func (r *hostResolver) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer = nil
	r.running = !r.closed
	return r.running
}

// end settles when the next resolution is.
func (r *hostResolver) end(succeeded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.running = false
	again := r.again
	r.again = false
	switch {
	case !succeeded:
		r.failures++
		r.earliest = now.Add(backoff.Delay(r.cfg.Backoff, r.failures, rand.Float64()))
		r.schedule(r.earliest)
		return
	case again:
		r.earliest = now.Add(r.cfg.MinInterval)
		r.schedule(r.earliest)
	default:
		r.earliest = now.Add(r.cfg.MinInterval)
		if r.cfg.Refresh > 0 {
			r.schedule(now.Add(r.cfg.Refresh))
		}
	}
	r.failures = 0
}
