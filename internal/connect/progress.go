package connect

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grpcdial/grpcdial/internal/failure"
)

// Progress is how far one attempt has come at each address that it tries. The zero
// value is ready. Its methods may be called from any goroutine; those that record
// something do nothing on a nil pointer.
type Progress struct {
	// Changes is incremented after each change of how far the attempt is. Set before use.
	// nil: changes are not counted.
	Changes *atomic.Uint64

	mu    sync.Mutex
	all   []AddressProgress  // guarded by mu: in the order in which they were begun
	first [1]AddressProgress // guarded by mu: room for the usual case
}

// AddressProgress is how far an attempt is at one address, or how it failed there. One that
// has the name counts the name's addresses that have not been tried yet.
type AddressProgress struct {
	Phase       failure.Phase    // the one that began last
	Addr, Proxy string           // as in Step
	Start       time.Time        // when the address came to be tried
	Hint        string           // what it means that the phase has not ended
	Failed      *failure.Attempt // not nil: it has, so
}

// Addresses returns how far the attempt is at each address, in the order in which
// they came to be tried. There is none before the first phase.
func (p *Progress) Addresses() []AddressProgress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all)
}

// begun notes that the phase of step has begun.
func (p *Progress) begun(step *Step) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.atLocked(step.Addr)
	if s == nil || s.Failed != nil {
		p.forgetLocked(step.Addr)
		if p.all == nil {
			p.all = p.first[:0]
		}
		p.all = append(p.all, AddressProgress{Addr: step.Addr, Start: time.Now()})
		s = &p.all[len(p.all)-1]
	}
	s.Phase, s.Proxy = step.Phase, step.Proxy
	s.Hint = failure.Pending(step.Phase, step.Proxy != "", step.withinTLS)
	p.changedLocked()
}

// failed notes the end at one address.
func (p *Progress) failed(a *failure.Attempt) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.atLocked(a.Addr); s != nil {
		s.Failed = a
		p.changedLocked()
	}
}

// forget notes that addr is not tried any more.
func (p *Progress) forget(addr string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(addr)
	p.changedLocked()
}

// waiting notes that n of the addresses of a name, as many as of, have not been tried
// yet. The attempt began at start.
func (p *Progress) waiting(name string, start time.Time, n, of int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(name)
	if n > 0 {
		hint := fmt.Sprintf("%d of its %d addresses have not been tried yet", n, of)
		p.all = append(p.all, AddressProgress{Phase: failure.Dial, Addr: name, Start: start, Hint: hint})
	}
	p.changedLocked()
}

func (p *Progress) changedLocked() {
	if p.Changes != nil {
		p.Changes.Add(1)
	}
}

func (p *Progress) atLocked(addr string) *AddressProgress {
	for i := range p.all {
		if p.all[i].Addr == addr {
			return &p.all[i]
		}
	}
	return nil
}

func (p *Progress) forgetLocked(addr string) {
	p.all = slices.DeleteFunc(p.all, func(s AddressProgress) bool { return s.Addr == addr })
}
