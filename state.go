package grpcdial

import (
	"context"
	"iter"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/text"
)

// StateChange is one transition of a channel's connectivity state. It may get more
// fields, and cannot be compared with ==.
type StateChange struct {
	_ [0]func()

	Seq      uint64             // 1 for a channel's first transition, and one more for each that follows
	Time     time.Time          // when it happened
	From, To connectivity.State // never equal, except in the first element of Watch

	// Cause is why the channel left READY, why it failed to connect, or ErrIdle; nil for
	// a transition that needs no reason.
	Cause error
}

// keptTransitions is how many transitions a channel keeps for Watch.
const keptTransitions = 1024

// stateMachine is the connectivity state of one channel and its recent past.
// The zero value is IDLE.
//
//	          left idle, or the policy              a backend answered
//	  IDLE ───────────────────────────▶ CONNECTING ─────────────────▶ READY
//	   ▲                                 ▲      │                       │
//	   │                      retried    │      │ nothing answered      │
//	   │                                 │      ▼                       │
//	   │                            TRANSIENT_FAILURE                   │
//	   └────────────────────────────────────────────────────────────────┘
//	     no RPC for a while, or the policy after a loss
//
//	Close leads from each of them to SHUTDOWN, which is final.
//
// The policy may ask for any transition between the first four; the drawing
// shows those that pick_first and round_robin make. Functions on the policy queue
// change the state, and Close does. A transition closes the Go channel that now
// returns, which wakes the goroutines that wait for it.
type stateMachine struct {
	mu      sync.Mutex
	seq     uint64        // guarded by mu: the latest transition's
	log     []keptChange  // guarded by mu: transition n is at (n-1) % keptTransitions; grows to that length
	changed chan struct{} // guarded by mu: closed at the next transition; nil while no goroutine waits
	pokes   uint64        // guarded by mu: how often poke was called
}

// set makes the transition to state to, and returns the transition before. It
// reports false if it did not: if the channel is in that state already, or in
// SHUTDOWN, which nothing leads out of.
//
// also, unless it is nil, is called in either case, with mu held: its effects and the
// new state become visible together. It must not wait.
func (m *stateMachine) set(to connectivity.State, cause error, also func()) (before StateChange, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if also != nil {
		also()
	}
	before = m.lastLocked()
	if before.To == to || before.To == connectivity.Shutdown {
		return before, false
	}
	m.seq++
	c := keptChange{at: time.Now(), cause: cause, from: uint8(before.To), to: uint8(to)}
	if i := int((m.seq - 1) % keptTransitions); i < len(m.log) {
		m.log[i] = c
	} else {
		if m.log == nil {
			m.log = make([]keptChange, 0, 2) // CONNECTING and READY, of most channels
		}
		m.log = append(m.log, c)
	}
	m.wakeLocked()
	return before, true
}

// poke wakes the waiting goroutines without a transition: another condition of theirs
// has changed.
func (m *stateMachine) poke() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pokes++
	m.wakeLocked()
}

// keptChange is what is kept of a StateChange.
type keptChange struct {
	at       time.Time
	cause    error
	from, to uint8 // connectivity.State
}

// changeLocked returns transition seq, which is one of those kept.
func (m *stateMachine) changeLocked(seq uint64) StateChange {
	c := &m.log[(seq-1)%keptTransitions]
	return StateChange{Seq: seq, Time: c.at, From: connectivity.State(c.from), To: connectivity.State(c.to), Cause: c.cause}
}

// lastLocked returns the latest transition, whose To is the state.
func (m *stateMachine) lastLocked() StateChange {
	if m.seq == 0 {
		return StateChange{}
	}
	return m.changeLocked(m.seq)
}

func (m *stateMachine) wakeLocked() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// now returns the latest transition, and a channel that is closed at the next
// one. No transition falls between the two.
func (m *stateMachine) now() (StateChange, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastLocked(), m.changedLocked()
}

// look returns the latest transition, and a number for since.
func (m *stateMachine) look() (now StateChange, pokes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastLocked(), m.pokes
}

// since returns a channel that is closed at the first transition or poke after those that
// look returned; nil if there was one already.
func (m *stateMachine) since(now StateChange, pokes uint64) (changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seq != now.Seq || m.pokes != pokes {
		return nil
	}
	return m.changedLocked()
}

// latest returns the latest transition.
func (m *stateMachine) latest() StateChange {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastLocked()
}

// state returns the current state.
func (m *stateMachine) state() connectivity.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastLocked().To
}

// after returns the oldest transition known that came after the one with
// number seq. If there is none, ok is false and the channel is closed once there
// is.
func (m *stateMachine) after(seq uint64) (c StateChange, ok bool, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if seq >= m.seq {
		return StateChange{}, false, m.changedLocked()
	}
	next := max(seq+1, m.seq-uint64(len(m.log))+1)
	return m.changeLocked(next), true, nil
}

// recent returns the latest transitions, at most n, oldest first.
func (m *stateMachine) recent(n int) []StateChange {
	m.mu.Lock()
	defer m.mu.Unlock()
	n = min(n, len(m.log))
	all := make([]StateChange, 0, n)
	for next := m.seq - uint64(n) + 1; next <= m.seq; next++ {
		all = append(all, m.changeLocked(next))
	}
	return all
}

// wasReady reports whether one of the transitions after the one with number seq led
// to READY. It looks at those that are kept.
func (m *stateMachine) wasReady(seq uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for next := max(seq+1, m.seq-uint64(len(m.log))+1); next <= m.seq; next++ {
		if m.changeLocked(next).To == connectivity.Ready {
			return true
		}
	}
	return false
}

func (m *stateMachine) changedLocked() <-chan struct{} {
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.changed
}

// setState is stateMachine.set, with the records and reports of the transition: channelz, so that
// a goroutine that waits for the state finds it there too; then the mirrors and the observer.
// stateMachine does not make them because it holds its lock, and the text of cause and trace
// hooks may be user code. Policy queue only, but for SHUTDOWN, after which channelz has nothing
// of the channel.
func (cc *ClientConn) setState(to connectivity.State, cause error, also func()) {
	cause = fitCause(cause)
	if from := cc.state.state(); to != from && to != connectivity.Shutdown && from != connectivity.Shutdown {
		cc.channelz.State(to, cause)
	}
	before, ok := cc.state.set(to, cause, func() {
		cc.attempts.Changes.Add(1) // before the picker that fails RPCs in the new state
		if also != nil {
			also()
		}
	})
	if !ok {
		return
	}
	cc.mirrors.catchUp()
	if cc.observer.idle() {
		return
	}
	e := DialEvent{Kind: EventState, From: before.To, To: to, Cause: cause}
	if before.Seq > 0 {
		e.Elapsed = time.Since(before.Time)
	}
	cc.observer.report(e)
}

// fitCause returns cause with a text that is fit to leave the library. That of a
// *DialError is, and has several lines, and so is that of errClosing. It may call code of the program's.
func fitCause(cause error) error {
	if _, ours := cause.(*DialError); ours || cause == errClosing {
		return cause
	}
	return text.Error(cause)
}

// GetState returns the channel's connectivity state.
func (cc *ClientConn) GetState() connectivity.State { return cc.state.state() }

func (cc *ClientConn) isReady() bool { return cc.state.state() == connectivity.Ready }

// WaitForStateChange waits until the state differs from source, or has differed
// since the call, and returns true; or until ctx ends, and returns false. A
// state that was left and entered again in the meantime is a change.
func (cc *ClientConn) WaitForStateChange(ctx context.Context, source connectivity.State) bool {
	defer cc.mirrors.catchUp()
	first, changed := cc.state.now()
	if first.To != source {
		return true
	}
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
		var now StateChange
		if now, changed = cc.state.now(); now.Seq != first.Seq {
			return true
		}
	}
}

// Watch returns the channel's transitions as they happen: first an element whose
// From and To are both the current state, with the number, time and cause of the
// transition that led there (number 0 and no time for a channel that never left
// IDLE), then every transition that follows, in order. The sequence ends when
// ctx does, and after the transition to SHUTDOWN.
//
// A loop body that is slow loses nothing as long as it is not more than 1,024
// transitions behind; if it is, Seq jumps. The body runs on the goroutine that
// ranges, with no lock held. Any number of goroutines may watch.
func (cc *ClientConn) Watch(ctx context.Context) iter.Seq[StateChange] {
	return func(yield func(StateChange) bool) {
		c := cc.state.latest()
		c.From = c.To
		cc.mirrors.catchUp()
		for yield(c) && c.To != connectivity.Shutdown {
			next, ok, changed := cc.state.after(c.Seq)
			for !ok {
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
				next, ok, changed = cc.state.after(c.Seq)
			}
			if ctx.Err() != nil {
				return
			}
			cc.mirrors.catchUp()
			c = next
		}
	}
}
