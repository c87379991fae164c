// Package attempts has what is known of a channel's attempts to connect: the latest
// failure of each address and of the resolver, the attempts in progress, and the verdict
// on whether a wait for the channel can still succeed.
package attempts

import (
	linked "container/list"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
)

// Max is how many attempts are named at once, in one error, at most.
const Max = 16

// Log is the latest failure of each address of one channel, and of the
// resolver, and the attempts in progress: the answer to why the channel is not READY.
//
// All addresses are remembered, because one that was forgotten may be the one that
// may still succeed. There are no more of them than the latest update gave, or the policy
// had then if it has them from elsewhere, and those that a policy made up since then; each
// has a subchannel, which takes more.
//
// The zero value is ready to use. Its methods may be called from any goroutine;
// they call nothing and hold mu for a moment only.
type Log struct {
	mu      sync.Mutex
	resolve *failure.Attempt           // guarded by mu: the resolver's failure, nil once it gave addresses
	tried   *linked.List               // guarded by mu: a *triedAddr for each address, the latest at the end; nil if there is none
	places  map[string]*linked.Element // guarded by mu: of each address in tried; nil with that
	count   int                        // guarded by mu: attempts in tried
	latest  *Running                   // guarded by mu: the attempt in progress that began last, before which are the others; nil: there is none
	running int                        // guarded by mu: how many are in progress
	fresh   int                        // guarded by mu: of them, those that began at an address without a failure

	// Changes is incremented by everything that changes why the channel is not READY: by
	// the methods below before they unlock mu, and by others.
	Changes atomic.Uint64
}

// triedAddr is an address as the resolver gave it, and how the latest attempt
// there failed: several times, if it is a host name that has several addresses.
type triedAddr struct {
	addr     string
	attempts failure.List // empty: it is connected
	ended    bool         // attempts is the end of a connection that had been READY
}

// Running is an attempt to connect to Addr that has not ended.
type Running struct {
	// Set by Begin and only read after that.
	ID               uint64
	Addr, ServerName string
	Since            time.Time
	fresh            bool // no attempt at Addr had failed when this one began

	Progress connect.Progress // of no phase yet: nothing to be seen

	// Guarded by the log's mu.
	before, after *Running // in the log's list
	ended         bool
}

// maxRunning is how many of the attempts in progress are looked at, the latest first.
// A channel may have thousands of them.
const maxRunning = 4 * Max

// Begin notes that an attempt at addr begins.
func (l *Log) Begin(id uint64, addr, serverName string, since time.Time) *Running {
	r := &Running{ID: id, Addr: addr, ServerName: serverName, Since: since}
	r.Progress.Changes = &l.Changes
	l.mu.Lock()
	defer l.unlock()
	if r.fresh = !l.knowsLocked(addr); r.fresh {
		l.fresh++
	}
	if r.before = l.latest; r.before != nil {
		r.before.after = r
	}
	l.latest = r
	l.running++
	return r
}

// End notes that an attempt is not in progress any more. r may be nil.
func (l *Log) End(r *Running) {
	if r == nil {
		return
	}
	l.mu.Lock()
	defer l.unlock()
	if r.ended {
		return
	}
	if r.before != nil {
		r.before.after = r.after
	}
	if r.after != nil {
		r.after.before = r.before
	} else {
		l.latest = r.before
	}
	r.before, r.after, r.ended = nil, nil, true
	l.running--
	if r.fresh {
		l.fresh--
	}
}

// InProgress returns the latest attempts in progress, the latest first: those at
// addresses where none has failed, how many of these there are besides, and those at
// other addresses.
func (l *Log) InProgress() (first []*Running, more int, again []*Running) {
	l.mu.Lock()
	defer l.mu.Unlock()
	looked := 0
	for r := l.latest; r != nil && looked < maxRunning && len(first) < Max; r = r.before {
		looked++
		if l.knowsLocked(r.Addr) {
			again = append(again, r)
		} else {
			first = append(first, r)
		}
	}
	if looked < l.running {
		more = max(l.fresh-len(first), 0)
	}
	return first, more, again
}

// unlock unlocks mu after a change.
func (l *Log) unlock() {
	l.Changes.Add(1)
	l.mu.Unlock()
}

// Failed notes that the attempt to connect to addr failed.
func (l *Log) Failed(addr string, attempts failure.List) {
	l.mu.Lock()
	defer l.unlock()
	l.forgetLocked(addr)
	l.addLocked(&triedAddr{addr: addr, attempts: attempts})
}

// Disconnected notes the end of a connection to a.Addr that had been READY. The channel
// may become READY after this by what it was before: Ready does not forget it.
func (l *Log) Disconnected(a *failure.Attempt) {
	l.mu.Lock()
	defer l.unlock()
	l.forgetLocked(a.Addr)
	l.addLocked(&triedAddr{addr: a.Addr, attempts: failure.List{a}, ended: true})
}

func (l *Log) addLocked(t *triedAddr) {
	if l.places == nil {
		l.tried, l.places = linked.New(), make(map[string]*linked.Element)
	}
	l.places[t.addr] = l.tried.PushBack(t)
	l.count += len(t.attempts)
}

func (l *Log) forgetLocked(addr string) {
	place, ok := l.places[addr]
	if !ok {
		return
	}
	l.count -= len(l.tried.Remove(place).(*triedAddr).attempts)
	if delete(l.places, addr); len(l.places) == 0 {
		l.tried, l.places = nil, nil // a channel at rest keeps nothing
	}
}

// allLocked yields the addresses, the latest at the end. The one yielded may be
// forgotten within the loop.
func (l *Log) allLocked() iter.Seq[*triedAddr] {
	return func(yield func(*triedAddr) bool) {
		if l.tried == nil {
			return
		}
		for place := l.tried.Front(); place != nil; {
			t := place.Value.(*triedAddr)
			place = place.Next() // before t is forgotten
			if !yield(t) {
				return
			}
		}
	}
}

// Interrupted notes attempts at addr that were ended because the channel was.
// They say less than an attempt that failed by itself.
func (l *Log) Interrupted(addr string, attempts failure.List) {
	l.mu.Lock()
	defer l.unlock()
	if !l.knowsLocked(addr) {
		l.addLocked(&triedAddr{addr: addr, attempts: attempts})
	}
}

// Knows reports whether an attempt at addr is in the log.
func (l *Log) Knows(addr string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.knowsLocked(addr)
}

func (l *Log) knowsLocked(addr string) bool {
	_, ok := l.places[addr]
	return ok
}

// Connected forgets why attempts at addr failed. Its place stays until the channel
// is READY, which it is about to be: as long as it is there, a wait may succeed.
func (l *Log) Connected(addr string) {
	l.mu.Lock()
	defer l.unlock()
	if place, ok := l.places[addr]; ok {
		t := place.Value.(*triedAddr)
		l.count -= len(t.attempts)
		t.attempts, t.ended = nil, false
	}
}

// Unresolved notes that the resolver failed.
func (l *Log) Unresolved(a *failure.Attempt) {
	l.mu.Lock()
	defer l.unlock()
	l.resolve = a
}

// ResolveFailure returns how the resolver failed; nil if it gave addresses.
func (l *Log) ResolveFailure() *failure.Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.resolve
}

// ResolveError returns why the resolver failed; nil if it gave addresses.
func (l *Log) ResolveError() error {
	if a := l.ResolveFailure(); a != nil {
		return a.Err
	}
	return nil
}

// Resolved forgets what failed at addresses that are not among those in use any more, and
// that the resolver failed.
func (l *Log) Resolved(addrs []string) {
	l.mu.Lock()
	defer l.unlock()
	l.resolve = nil
	if l.places == nil {
		return
	}
	given := make(map[string]bool, len(addrs))
	for _, addr := range addrs {
		given[addr] = true
	}
	for t := range l.allLocked() {
		if !given[t.addr] {
			l.forgetLocked(t.addr)
		}
	}
}

// Ready forgets the attempts to connect: the channel is READY. The resolver may
// have failed nevertheless, and may do so again; and backends that are not healthy
// stay connected, so that no new attempt at them will show it.
func (l *Log) Ready() {
	l.mu.Lock()
	defer l.unlock()
	for t := range l.allLocked() {
		if !t.ended && (len(t.attempts) == 0 || t.attempts[0].Phase != failure.Health) {
			l.forgetLocked(t.addr)
		}
	}
}

// Clear forgets everything: the channel is IDLE.
func (l *Log) Clear() {
	l.mu.Lock()
	defer l.unlock()
	l.resolve, l.tried, l.places, l.count = nil, nil, nil, 0
}

// Latest returns the last Max of the failures known, oldest first, and how
// many there are besides.
func (l *Log) Latest() (attempts failure.List, more int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var place *linked.Element
	if l.tried != nil {
		place = l.tried.Back()
	}
	for ; place != nil && len(attempts) < Max; place = place.Prev() {
		of := place.Value.(*triedAddr).attempts
		for _, a := range slices.Backward(of[max(len(of)-(Max-len(attempts)), 0):]) {
			attempts = append(attempts, a)
		}
	}
	more = l.count - len(attempts)
	switch {
	case l.resolve == nil:
	case len(attempts) < Max:
		attempts = append(attempts, l.resolve)
	default:
		more++
	}
	slices.Reverse(attempts)
	return attempts, more
}

// ByAddress returns the latest failure of the resolver, nil if it gave addresses, and
// the latest attempts at each address, none for one that is connected.
func (l *Log) ByAddress() (resolve *failure.Attempt, tried []failure.List) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t := range l.allLocked() {
		tried = append(tried, t.attempts)
	}
	return l.resolve, tried
}
