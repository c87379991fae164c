package live

import (
	"slices"
	"sync"
	"time"
)

// Bounds of what is kept for one channel.
const (
	maxDials    = 64 // endpoints: those dialed last
	maxSteps    = 24 // of a dial
	maxFailures = 4  // of an endpoint: a name may have several addresses
)

// Dials keeps the latest dial and the latest failure of each endpoint of one channel. The
// zero value is ready to use, from any goroutine. Its methods call nothing.
type Dials struct {
	mu  sync.Mutex
	all []*endpoint // guarded by mu, with what they point to: in the order in which they were dialed last
}

// endpoint is what is known of one address.
type endpoint struct {
	addr     string
	dial     Dial
	failures []Failure
	failed   uint64 // the attempt that failures are of; 0: none
}

// Begin notes that an attempt at the endpoint with this address begins.
func (d *Dials) Begin(attempt uint64, addr string, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.takeLocked(addr)
	e.dial = Dial{Attempt: attempt, Addr: addr, Start: now}
	d.all = append(d.all, e)
}

// takeLocked takes the endpoint out of the list, or makes one in the place of the oldest.
func (d *Dials) takeLocked(addr string) *endpoint {
	i := slices.IndexFunc(d.all, func(e *endpoint) bool { return e.addr == addr })
	if i >= 0 {
		e := d.all[i]
		d.all = slices.Delete(d.all, i, i+1)
		return e
	}
	if len(d.all) >= maxDials {
		d.all = slices.Delete(d.all, 0, 1)
	}
	return &endpoint{addr: addr}
}

// Step notes the beginning of a step, or with End set its end.
func (d *Dials) Step(attempt uint64, s Step) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.attemptLocked(attempt)
	if e == nil {
		return
	}
	steps := e.dial.Steps
	i := slices.IndexFunc(steps, func(b Step) bool { return b.Phase == s.Phase && b.Addr == s.Addr && b.End.IsZero() })
	switch {
	case !s.End.IsZero() && i >= 0:
		s.Start = steps[i].Start
		steps[i] = s
	case !s.End.IsZero(): // its beginning was omitted
	case len(steps) == maxSteps:
		e.dial.Omitted++
	default:
		e.dial.Steps = append(steps, s)
	}
}

// Ready notes that the attempt led to a connection.
func (d *Dials) Ready(attempt uint64, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.attemptLocked(attempt); e != nil {
		e.dial.End, e.dial.Ready = now, true
	}
}

// Failed notes that the attempt failed, once for each address that it tried. An attempt
// of number 0 was not made, or is over: f.Addr is the endpoint's address then.
func (d *Dials) Failed(attempt uint64, f Failure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.attemptLocked(attempt)
	if attempt == 0 {
		if e = d.addrLocked(f.Addr); e == nil {
			e = d.takeLocked(f.Addr)
			d.all = append(d.all, e)
		}
	}
	if e == nil {
		return
	}
	if attempt != 0 {
		e.dial.End = f.Time
	}
	if attempt == 0 || e.failed != attempt {
		e.failures, e.failed = nil, attempt
	}
	if len(e.failures) < maxFailures {
		e.failures = append(e.failures, f)
	}
}

// Lost notes the end of the connection to the endpoint that an attempt led to.
func (d *Dials) Lost(f Failure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.addrLocked(f.Addr); e != nil {
		e.failures, e.failed = []Failure{f}, 0
	}
}

// Of returns the latest dial of the endpoint, nil if it is not known, and its latest
// failures. The caller owns them.
func (d *Dials) Of(addr string) (*Dial, []Failure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.addrLocked(addr)
	if e == nil {
		return nil, nil
	}
	failures := slices.Clone(e.failures)
	if e.dial.Attempt == 0 {
		return nil, failures
	}
	dial := e.dial
	dial.Steps = slices.Clone(dial.Steps)
	return &dial, failures
}

func (d *Dials) attemptLocked(attempt uint64) *endpoint {
	for _, e := range slices.Backward(d.all) {
		if e.dial.Attempt == attempt && attempt != 0 {
			return e
		}
	}
	return nil
}

func (d *Dials) addrLocked(addr string) *endpoint {
	for _, e := range d.all {
		if e.addr == addr {
			return e
		}
	}
	return nil
}
