package grpcdial

import (
	linked "container/list"
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/text"
)

// maxAttempts is how many attempts one DialError has at most.
const maxAttempts = 16

// attemptLog is the latest failure of each address of one channel, and of the
// resolver, and the attempts in progress: the answer to why the channel is not READY.
//
// All addresses are remembered, because one that was forgotten may be the one that
// may still succeed. There are no more of them than the resolver gave last, and
// those that a policy made up since then; each has a subchannel, which takes more.
//
// The zero value is ready to use. Its methods may be called from any goroutine;
// they call nothing and hold mu for a moment only.
type attemptLog struct {
	mu      sync.Mutex
	resolve *failure.Attempt           // guarded by mu: the resolver's failure, nil once it gave addresses
	tried   linked.List                // guarded by mu: a *triedAddr for each address, the latest at the end
	places  map[string]*linked.Element // guarded by mu: of each address in tried; nil if that is empty
	count   int                        // guarded by mu: attempts in tried
	running linked.List                // guarded by mu: *runningAttempt, the latest at the end
	fresh   int                        // guarded by mu: those in running that began at an address without a failure

	// changes is incremented by everything that changes what reason reports: by the
	// methods below before they unlock mu, and by others.
	changes atomic.Uint64
}

// triedAddr is an address as the resolver gave it, and how the latest attempt
// there failed: several times, if it is a host name that has several addresses.
type triedAddr struct {
	addr     string
	attempts failure.List // empty: it is connected
	ended    bool         // attempts is the end of a connection that had been READY
}

// runningAttempt is an attempt to connect to addr that has not ended.
type runningAttempt struct {
	id               uint64
	addr, serverName string
	since            time.Time
	progress         connect.Progress // of no phase yet: nothing to be seen
	place            *linked.Element  // guarded by the log's mu: nil once it has ended
	fresh            bool             // set once: no attempt at addr had failed when this one began
}

// maxRunning is how many of the attempts in progress are looked at, the latest first.
// A channel may have thousands of them.
const maxRunning = 4 * maxAttempts

// begun notes an attempt at addr that begins.
func (l *attemptLog) begun(id uint64, addr, serverName string, since time.Time) *runningAttempt {
	r := &runningAttempt{id: id, addr: addr, serverName: serverName, since: since}
	r.progress.Changes = &l.changes
	l.mu.Lock()
	defer l.unlock()
	if r.fresh = !l.knowsLocked(addr); r.fresh {
		l.fresh++
	}
	r.place = l.running.PushBack(r)
	return r
}

// ended notes that an attempt is not in progress any more. r may be nil.
func (l *attemptLog) ended(r *runningAttempt) {
	if r == nil {
		return
	}
	l.mu.Lock()
	defer l.unlock()
	if r.place == nil {
		return
	}
	l.running.Remove(r.place)
	if r.place = nil; r.fresh {
		l.fresh--
	}
}

// inProgress returns the latest attempts in progress, the latest first: those at
// addresses where none has failed, how many of these there are besides, and those at
// other addresses.
func (l *attemptLog) inProgress() (first []*runningAttempt, more int, again []*runningAttempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	looked := 0
	for e := l.running.Back(); e != nil && looked < maxRunning && len(first) < maxAttempts; e = e.Prev() {
		looked++
		if r := e.Value.(*runningAttempt); l.knowsLocked(r.addr) {
			again = append(again, r)
		} else {
			first = append(first, r)
		}
	}
	if looked < l.running.Len() {
		more = max(l.fresh-len(first), 0)
	}
	return first, more, again
}

// unlock unlocks mu after a change.
func (l *attemptLog) unlock() {
	l.changes.Add(1)
	l.mu.Unlock()
}

// failed notes that the attempt to connect to addr failed.
func (l *attemptLog) failed(addr string, attempts failure.List) {
	l.mu.Lock()
	defer l.unlock()
	l.forgetLocked(addr)
	l.addLocked(&triedAddr{addr: addr, attempts: attempts})
}

// disconnected notes the end of a connection to a.Addr that had been READY. The channel
// may become READY after this by what it was before: ready does not forget it.
func (l *attemptLog) disconnected(a *failure.Attempt) {
	l.mu.Lock()
	defer l.unlock()
	l.forgetLocked(a.Addr)
	l.addLocked(&triedAddr{addr: a.Addr, attempts: failure.List{a}, ended: true})
}

func (l *attemptLog) addLocked(t *triedAddr) {
	if l.places == nil {
		l.places = make(map[string]*linked.Element)
	}
	l.places[t.addr] = l.tried.PushBack(t)
	l.count += len(t.attempts)
}

func (l *attemptLog) forgetLocked(addr string) {
	place, ok := l.places[addr]
	if !ok {
		return
	}
	l.count -= len(l.tried.Remove(place).(*triedAddr).attempts)
	if delete(l.places, addr); len(l.places) == 0 {
		l.places = nil // a channel at rest keeps nothing
	}
}

// allLocked yields the addresses, the latest at the end. The one yielded may be
// forgotten within the loop.
func (l *attemptLog) allLocked() iter.Seq[*triedAddr] {
	return func(yield func(*triedAddr) bool) {
		for place := l.tried.Front(); place != nil; {
			t := place.Value.(*triedAddr)
			place = place.Next() // before t is forgotten
			if !yield(t) {
				return
			}
		}
	}
}

// interrupted notes attempts at addr that were ended because the channel was.
// They say less than an attempt that failed by itself.
func (l *attemptLog) interrupted(addr string, attempts failure.List) {
	l.mu.Lock()
	defer l.unlock()
	if !l.knowsLocked(addr) {
		l.addLocked(&triedAddr{addr: addr, attempts: attempts})
	}
}

// knows reports whether an attempt at addr is in the log.
func (l *attemptLog) knows(addr string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.knowsLocked(addr)
}

func (l *attemptLog) knowsLocked(addr string) bool {
	_, ok := l.places[addr]
	return ok
}

// connected forgets why attempts at addr failed. Its place stays until the channel
// is READY, which it is about to be: there is hope as long as it is there.
func (l *attemptLog) connected(addr string) {
	l.mu.Lock()
	defer l.unlock()
	if place, ok := l.places[addr]; ok {
		t := place.Value.(*triedAddr)
		l.count -= len(t.attempts)
		t.attempts, t.ended = nil, false
	}
}

// unresolved notes that the resolver failed.
func (l *attemptLog) unresolved(a *failure.Attempt) {
	l.mu.Lock()
	defer l.unlock()
	l.resolve = a
}

// resolveFailure returns how the resolver failed; nil if it gave addresses.
func (l *attemptLog) resolveFailure() *failure.Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.resolve
}

// resolveError returns why the resolver failed; nil if it gave addresses.
func (l *attemptLog) resolveError() error {
	if a := l.resolveFailure(); a != nil {
		return a.Err
	}
	return nil
}

// resolved forgets what failed at addresses that the resolver gives no more,
// and that it failed.
func (l *attemptLog) resolved(s resolver.State) {
	l.mu.Lock()
	defer l.unlock()
	l.resolve = nil
	if l.places == nil {
		return
	}
	given := make(map[string]bool)
	for _, a := range s.Addresses {
		given[a.Addr] = true
	}
	for _, e := range s.Endpoints {
		for _, a := range e.Addresses {
			given[a.Addr] = true
		}
	}
	for t := range l.allLocked() {
		if !given[t.addr] {
			l.forgetLocked(t.addr)
		}
	}
}

// ready forgets the attempts to connect: the channel is READY. The resolver may
// have failed nevertheless, and may do so again; and backends that are not healthy
// stay connected, so that nobody will try them again and find that out.
func (l *attemptLog) ready() {
	l.mu.Lock()
	defer l.unlock()
	for t := range l.allLocked() {
		if !t.ended && (len(t.attempts) == 0 || t.attempts[0].Phase != failure.Health) {
			l.forgetLocked(t.addr)
		}
	}
}

// clear forgets everything: the channel is IDLE.
func (l *attemptLog) clear() {
	l.mu.Lock()
	defer l.unlock()
	l.tried.Init()
	l.resolve, l.places, l.count = nil, nil, 0
}

// latest returns the last maxAttempts of the failures known, oldest first, and how
// many there are besides.
func (l *attemptLog) latest() (attempts failure.List, more int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for place := l.tried.Back(); place != nil && len(attempts) < maxAttempts; place = place.Prev() {
		of := place.Value.(*triedAddr).attempts
		for _, a := range slices.Backward(of[max(len(of)-(maxAttempts-len(attempts)), 0):]) {
			attempts = append(attempts, a)
		}
	}
	more = l.count - len(attempts)
	switch {
	case l.resolve == nil:
	case len(attempts) < maxAttempts:
		attempts = append(attempts, l.resolve)
	default:
		more++
	}
	slices.Reverse(attempts)
	return attempts, more
}

// standing returns the latest failure of the resolver, nil if it gave addresses, and
// the latest attempts at each address, none for one that is connected.
func (l *attemptLog) standing() (resolve *failure.Attempt, tried []failure.List) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t := range l.allLocked() {
		tried = append(tried, t.attempts)
	}
	return l.resolve, tried
}

// asAttempts returns err, which ended an attempt at addr, as the list of
// attempts that it is. Their causes are what programs may see.
func asAttempts(id uint64, err error, addr string, start time.Time) failure.List {
	var list failure.List
	if errors.As(err, &list) {
		public := make(failure.List, len(list))
		for i, a := range list {
			public[i] = withPublicCause(a)
			public[i].ID = max(id, a.ID)
		}
		return public
	}
	var one *failure.Attempt
	if errors.As(err, &one) {
		one = withPublicCause(one)
		one.ID = max(id, one.ID)
		return failure.List{one}
	}
	return failure.List{{ID: id, Addr: text.Target(addr), Phase: failure.Dial, Start: start, Elapsed: time.Since(start), Err: publicCause(err)}}
}

func withPublicCause(a *failure.Attempt) *failure.Attempt {
	public := *a
	public.Err = publicCause(a.Err)
	return &public
}

// noteFailure keeps the attempts at addr that failed.
func (cc *ClientConn) noteFailure(addr string, attempts failure.List) {
	cc.attempts.failed(addr, attempts)
	cc.askWhetherHopeless()
}
