package subchannel

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/text"
)

// What the steps of a connection loop do to its subchannel. Each takes the subchannel's
// lock for a moment and does nothing to a subchannel that the loop has left.

// belongsLocked reports whether the loop may change the subchannel. One whose loop the
// channel has cut stays as it is: the policy is being closed.
func (l *loop) belongsLocked() bool {
	return l.cutBy == nil && (l.sc.connecting == l || slices.Contains(l.sc.conns, l))
}

// use puts the connection in use: the subchannel becomes READY, unless it is already, or
// that depends on the backend's health. It reports false if the loop has left the
// subchannel, and whether other connections were in use, and returns those in whose place
// this one came.
func (l *loop) use(conn *h2.Conn) (used, more bool, replaced []*loop) {
	sc := l.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	l.stopLocked()
	if !l.belongsLocked() {
		return false, false, nil
	}
	l.conn, l.since = conn, time.Now()
	l.transport = NewTransport(conn, l.addr, sc.host.ServerName(l.addr), l.dialing.perRPC)
	l.transport.Backend = sc
	l.took = l.since.Sub(l.dialing.begun)
	l.dialing = nil
	sc.connecting = nil
	sc.conns = append(sc.conns, l)
	sc.scaleLocked()
	l.limitAgeLocked()
	if more = len(sc.conns) > 1; more {
		surplus := sc.surplusLocked()
		replaced = sc.takeLocked(func(other *loop) bool { return other == surplus })
	} else if sc.checkLocked() {
		sc.extraLocked()
		return true, false, nil
	}
	sc.publishLocked()
	sc.watchUseLocked()
	if sc.check == nil {
		sc.setLocked(connectivity.Ready, nil)
	}
	sc.extraLocked()
	return true, more, replaced
}

// failed begins the back-off, and makes the transition to TRANSIENT_FAILURE if there is no
// connection in use. It returns when the back-off ends and a channel that ResetBackoff
// closes; nil if the loop has left the subchannel.
func (l *loop) failed(why error) (retry <-chan struct{}, until time.Time) {
	sc := l.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if !l.belongsLocked() {
		l.stopLocked()
		return nil, until
	}
	d := l.dialing
	if d.refused == nil {
		sc.record.failed()
	}
	sc.g.cfg.Log.End(d.running)
	d.addrs, d.running, d.retry, d.until = nil, nil, make(chan struct{}), d.begun.Add(d.backoff)
	d.failure = why
	sc.notRenewedLocked(failuresOf(why))
	if len(sc.conns) == 0 {
		sc.setLocked(connectivity.TransientFailure, why)
	}
	return d.retry, d.until
}

// release ends the back-off, with the transition from TRANSIENT_FAILURE to IDLE if there
// is no connection in use.
func (l *loop) release() {
	sc := l.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	l.stopLocked()
	if !l.belongsLocked() {
		return
	}
	sc.connecting = nil
	if len(sc.conns) == 0 {
		sc.setLocked(connectivity.Idle, nil)
	}
	sc.extraLocked()
}

// giveBack takes the connection out of use. Without another one the subchannel is in the
// state of the loop that makes one, IDLE if there is none. It returns the description of a
// connection that ended in good order before it had served, if that is not the first in a
// row and no other is in use, and the failed attempts because of which the subchannel is in
// TRANSIENT_FAILURE now. given is false if the loop had left the subchannel.
//
// How a connection ended on which RPCs run is noted when it has ended: GOAWAY may promise
// to serve them. The next attempt does not wait for that.
func (l *loop) giveBack(conn *h2.Conn, why error) (given bool, unserved *failure.Attempt, next failure.List) {
	sc := l.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if !l.belongsLocked() {
		return false, nil, nil
	}
	sc.takeLocked(func(other *loop) bool { return other == l })
	if l.unnoted = conn.Serving() && !conn.Answered(); !l.unnoted {
		how, a := l.noteEndLocked(conn, why)
		if how == endOrderly && sc.record.unserved.count > 1 && len(sc.conns) == 0 {
			unserved = a
		}
	}
	if len(sc.conns) > 0 {
		sc.extraLocked()
		return true, nil, nil
	}
	if l := sc.connecting; l == nil {
		sc.setLocked(connectivity.Idle, why)
	} else {
		next = sc.inheritLocked(l, why)
	}
	return true, unserved, next
}

// inheritLocked makes the extra loop l the one that the subchannel connects by: the last
// connection is gone, because of why. An extra loop knows the address of one connection only.
// If the subchannel has others, another loop takes its place, which tries all of them, but for
// the address from which l is backing off; without others the back-off counts (gRFC A105).
// It returns the failed attempts of a loop that backs off.
func (sc *Subchannel) inheritLocked(l *loop, why error) (failed failure.List) {
	backingOff := l.dialing.failure != nil
	if backingOff {
		failed = failuresOf(l.dialing.failure)
	}
	others := slices.DeleteFunc(slices.Clone(sc.addrs), func(a resolver.Address) bool { return sameAddress(a, l.addr) })
	if len(others) > 0 {
		l.stopLocked() // it has left; its goroutine finds that out
		if sc.connecting = nil; !backingOff {
			others = sc.addrs
		}
		if sc.startLocked(others) {
			sc.setLocked(connectivity.Connecting, why)
		}
		return failed
	}
	if backingOff {
		sc.setLocked(connectivity.TransientFailure, l.dialing.failure)
	} else {
		sc.setLocked(connectivity.Connecting, why)
	}
	return failed
}

// drained notes how a connection ended, if that was not done when it left the subchannel.
func (l *loop) drained(conn *h2.Conn, why error) {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	if l.unnoted && l.cutBy == nil {
		l.noteEndLocked(conn, why)
	}
}

// noteEndLocked notes in the record how the connection ended. It describes the connection
// if that has not served.
func (l *loop) noteEndLocked(conn *h2.Conn, why error) (how ending, a *failure.Attempt) {
	lasted := time.Since(l.since)
	how = endingOf(lasted, conn.Answered(), conn.Harmed(), why)
	if how != endServed {
		a = l.shortLife(lasted, why)
	}
	l.sc.record.ended(how, lasted, l.since.Add(-l.took), a)
	return how, a
}

// shortLife describes a connection that ended before it had served.
func (l *loop) shortLife(lasted time.Duration, why error) *failure.Attempt {
	a := &failure.Attempt{Addr: l.addr.Addr, Phase: failure.HTTP2, Start: l.since, Elapsed: lasted,
		Err:  fmt.Errorf("connection lost %v after it was set up: %w", text.Round(lasted), why),
		Hint: "the server accepts connections and ends them before an RPC is served; its log may say why"}
	if name := l.sc.host.ServerName(l.addr); name != a.Addr {
		a.ServerName = name
	}
	return a
}

// stopLocked frees what only connecting and backing off need.
func (l *loop) stopLocked() {
	d := l.dialing
	if d.cancel != nil {
		d.cancel()
	}
	l.sc.g.cfg.Log.End(d.running)
	d.cancel, d.addrs, d.retry, d.running, d.failure = nil, nil, nil, nil, nil
}
