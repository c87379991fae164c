package grpcdial

import (
	linked "container/list"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/text"
)

// toldAttempts is how many attempts one DialError tells of.
const toldAttempts = 16

// attemptLog is the latest failure of each address of one channel, and of the
// resolver: the answer to why the channel is not READY.
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
}

// triedAddr is an address as the resolver gave it, and how the latest attempt
// there failed: several times, if it is a host name that has several addresses.
type triedAddr struct {
	addr     string
	attempts failure.List // empty: it is connected
}

// failed notes that the attempt to connect to addr failed.
func (l *attemptLog) failed(addr string, attempts failure.List) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked(addr)
	l.addLocked(addr, attempts)
}

func (l *attemptLog) addLocked(addr string, attempts failure.List) {
	if l.places == nil {
		l.places = make(map[string]*linked.Element)
	}
	l.places[addr] = l.tried.PushBack(&triedAddr{addr, attempts})
	l.count += len(attempts)
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
	defer l.mu.Unlock()
	if !l.knowsLocked(addr) {
		l.addLocked(addr, attempts)
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
	defer l.mu.Unlock()
	if place, ok := l.places[addr]; ok {
		t := place.Value.(*triedAddr)
		l.count -= len(t.attempts)
		t.attempts = nil
	}
}

// unresolved notes that the resolver failed.
func (l *attemptLog) unresolved(a *failure.Attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	defer l.mu.Unlock()
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
	defer l.mu.Unlock()
	for t := range l.allLocked() {
		if len(t.attempts) == 0 || t.attempts[0].Phase != failure.Health {
			l.forgetLocked(t.addr)
		}
	}
}

// clear forgets everything: the channel is IDLE.
func (l *attemptLog) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried.Init()
	l.resolve, l.places, l.count = nil, nil, 0
}

// latest returns the last toldAttempts of the failures known, oldest first, and how
// many there are besides.
func (l *attemptLog) latest() (attempts []Attempt, more int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	latest := make(failure.List, 0, toldAttempts) // the latest first
	for place := l.tried.Back(); place != nil && len(latest) < toldAttempts; place = place.Prev() {
		of := slices.Clone(place.Value.(*triedAddr).attempts)
		slices.Reverse(of)
		latest = append(latest, of[:min(len(of), toldAttempts-len(latest))]...)
	}
	more = l.count - len(latest)
	switch {
	case l.resolve == nil:
	case len(latest) < toldAttempts:
		latest = append(latest, l.resolve)
	default:
		more++
	}
	for _, a := range slices.Backward(latest) {
		attempts = append(attempts, publicAttempt(a))
	}
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
func asAttempts(err error, addr string, start time.Time) failure.List {
	var list failure.List
	if errors.As(err, &list) {
		public := make(failure.List, len(list))
		for i, a := range list {
			public[i] = withPublicCause(a)
		}
		return public
	}
	var one *failure.Attempt
	if errors.As(err, &one) {
		return failure.List{withPublicCause(one)}
	}
	return failure.List{{Addr: text.Target(addr), Phase: failure.Dial, Start: start, Elapsed: time.Since(start), Err: publicCause(err)}}
}

func withPublicCause(a *failure.Attempt) *failure.Attempt {
	public := *a
	public.Err = publicCause(a.Err)
	return &public
}

// newDialError tells why the channel is in state. now is what goes on besides what is
// in the log. ended is what ended the wait.
func (cc *ClientConn) newDialError(state connectivity.State, elapsed time.Duration, now pending, ended error) *DialError {
	attempts, more := cc.attempts.latest()
	attempts = append(attempts, now.attempts...)
	if n := len(attempts) - toldAttempts; n > 0 {
		attempts, more = attempts[n:], more+n
	}
	return &DialError{
		Target:   cc.shownTarget(),
		State:    state,
		Elapsed:  elapsed,
		Attempts: attempts,
		Err:      ended,
		more:     more,
		later:    now.later,
	}
}

// explain returns the channel's *DialError for an RPC that found no connection,
// or nil if nothing was tried.
func (cc *ClientConn) explain() error {
	now := cc.state.latest()
	if e := cc.newDialError(now.To, time.Since(now.Time), cc.pending(), nil); len(e.Attempts) > 0 {
		return e
	}
	return nil
}

// explainAs returns the *DialError that is the cause of the transition to state.
// It returns otherwise if nothing is known to have failed.
func (cc *ClientConn) explainAs(state connectivity.State, otherwise error) error {
	now := cc.state.latest()
	if e := cc.newDialError(state, time.Since(now.Time), pending{}, nil); len(e.Attempts) > 0 {
		return e
	}
	return otherwise
}

// noteFailure keeps the attempts at addr that failed.
func (cc *ClientConn) noteFailure(addr string, attempts failure.List) {
	cc.attempts.failed(addr, attempts)
	cc.askWhetherHopeless()
}
