package subchannel

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// A loop that makes a connection beside those in use is an extra one. There are two reasons
// for it: RPCs wait for a stream on any of them (gRFC A105), or one of them is stale, which
// is to be replaced (renew.go). There is one loop at a time, and the record and the back-off
// are those of all attempts; the subchannel stays READY meanwhile.

// Why a subchannel gives up a connection, besides ErrShutDown and ErrAddressRemoved.
var (
	ErrReplaced = errors.New("grpcdial: a new connection took the place of this one")
	ErrUnused   = errors.New("grpcdial: the subchannel does not need so many connections any more")
)

// unusedAfter is how often extra connections are looked at: one without RPCs between two
// looks goes.
const unusedAfter = 30 * time.Second

// extraLocked starts an extra loop if there is a reason for one.
func (sc *Subchannel) extraLocked() {
	if sc.connecting != nil || len(sc.conns) == 0 {
		return
	}
	i := slices.IndexFunc(sc.conns, func(l *loop) bool { return l.stale })
	if i < 0 && !sc.needsMoreLocked() {
		return
	}
	addr := sc.conns[max(i, 0)].addr
	if !sc.startLocked([]resolver.Address{addr}) {
		return
	}
	sc.connecting.addr = addr
	if d := sc.connecting.dialing; d.retry != nil { // it pauses: RPCs wait, or the program has asked
		d.until = d.wanted
	}
}

// needsMoreLocked reports whether RPCs wait for a stream and there may be more connections.
func (sc *Subchannel) needsMoreLocked() bool {
	return sc.queue != nil && sc.queue.Waiting() > 0 && len(sc.conns) < sc.host.MaxConnections()
}

// wanted is called when an RPC has begun to wait for a stream on any of the connections.
func (sc *Subchannel) wanted() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.extraLocked()
}

// scaleLocked makes RPCs wait for a stream on any of the connections, if there may be
// several, and those that wait on one move over.
func (sc *Subchannel) scaleLocked() {
	if sc.queue == nil {
		if sc.host.MaxConnections() < 2 {
			return
		}
		sc.queue = h2.NewSlotQueue(sc.wanted)
	}
	for _, l := range sc.conns {
		sc.queue.Join(l.conn)
	}
}

// Rescale is called when Host.MaxConnections may return something else than before.
func (g *Group) Rescale() {
	for _, sc := range g.known() {
		sc.mu.Lock()
		sc.scaleLocked()
		sc.extraLocked()
		sc.mu.Unlock()
	}
}

// surplusLocked returns the connection whose place the latest takes: the oldest stale one,
// or the oldest if there are more than there may be. nil: it is one more.
func (sc *Subchannel) surplusLocked() *loop {
	if len(sc.conns) < 2 {
		return nil
	}
	older := sc.conns[:len(sc.conns)-1]
	if i := slices.IndexFunc(older, func(l *loop) bool { return l.stale }); i >= 0 {
		return older[i]
	}
	if len(sc.conns) > sc.host.MaxConnections() {
		return older[0]
	}
	return nil
}

// watchUseLocked looks at the extra connections from now on, as long as there are any.
func (sc *Subchannel) watchUseLocked() {
	switch {
	case len(sc.conns) < 2:
		if sc.useTimer != nil {
			sc.useTimer.Stop()
			sc.useTimer = nil
		}
	case sc.useTimer == nil:
		sc.useTimer = time.AfterFunc(unusedAfter, sc.dropUnused)
	}
}

// dropUnused gives up extra connections that had no RPC since the look before; a health
// check or load report that goes on is none, and moves to another connection. RPCs prefer
// the oldest connections, so the latest are those that go.
//
// It runs on a timer's goroutine, which Close waits for: metrics are recorded there.
func (sc *Subchannel) dropUnused() {
	if !sc.g.enter() {
		return
	}
	defer sc.g.running.Done()
	sc.mu.Lock()
	old := sc.takeLocked(func(l *loop) bool {
		if l == sc.conns[0] {
			return false
		}
		before := l.opened
		l.opened = l.conn.Counts().Started
		return l.opened == before && !l.conn.Serving()
	})
	sc.useTimer = nil
	sc.watchUseLocked()
	sc.extraLocked() // RPCs wait if the server allowed no stream on one that goes
	sc.mu.Unlock()
	if len(old) > 0 {
		sc.repick()
	}
	drain(old, ErrUnused)
}

// limitAgeLocked makes the connection of l stale when it is old (Config.Age).
func (l *loop) limitAgeLocked() {
	age := l.sc.g.cfg.Age.Max
	if age <= 0 {
		return
	}
	if jitter := l.sc.g.cfg.Age.Jitter; jitter > 0 {
		age -= rand.N(jitter)
	}
	l.ageTimer = time.AfterFunc(age, func() {
		l.sc.mu.Lock()
		defer l.sc.mu.Unlock()
		if slices.Contains(l.sc.conns, l) && l.cutBy == nil {
			l.stale, l.old = true, true
			l.sc.extraLocked()
		}
	})
}

// failuresOf returns the attempts that err, why a loop is backing off, is made of.
func failuresOf(err error) failure.List {
	switch err := err.(type) {
	case failure.List:
		return err
	case *failure.Attempt:
		return failure.List{err}
	}
	return nil
}
