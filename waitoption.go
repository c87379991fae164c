package grpcdial

import (
	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/failure"
)

// WaitOption ends one wait of [ClientConn.AwaitReady] before its context does.
// [FailFast] and [GiveUpOn] make them.
type WaitOption interface {
	applyToWait(*waitEnds)
}

// FailFast ends the wait at the first failure that will not heal by itself, once no other
// address may still succeed, as [FailOnNonTempDialError] does for all waits of a channel.
func FailFast() WaitOption {
	return waitOptionFunc(func(p *waitEnds) { p.failFast = true })
}

// GiveUpOn ends the wait once f has returned true for the latest attempt at every
// address, as [WithGiveUp] says for all waits of a channel. nil means that no failure ends
// the wait.
func GiveUpOn(f func(Attempt) bool) WaitOption {
	return waitOptionFunc(func(p *waitEnds) { p.giveUp = f })
}

type waitOptionFunc func(*waitEnds)

func (f waitOptionFunc) applyToWait(p *waitEnds) { f(p) }

// waitEnds are the failures that end a wait for READY.
type waitEnds struct {
	failFast bool               // failures that do not heal
	giveUp   func(Attempt) bool // those that the program names; nil: none
}

// gives reports whether any failure may end the wait.
func (p waitEnds) gives() bool { return p.failFast || p.giveUp != nil }

// waitEnds returns those that the dial options name.
func (cc *ClientConn) waitEnds() waitEnds {
	return waitEnds{cc.opts.failOnNonTempDialError, cc.opts.giveUp}
}

// verdict returns what judges a wait that p ends.
func (cc *ClientConn) verdict(p waitEnds) *attempts.Verdict {
	ends := attempts.Ends{FailFast: p.failFast}
	if p.giveUp != nil {
		ends.GiveUp = func(a *failure.Attempt) bool { return p.giveUp(publicAttempt(a)) }
	}
	return attempts.NewVerdict(&cc.attempts, ends, cc.subchannels.Untried)
}

// recheckWaits makes waits for READY look at the attempts again.
func (cc *ClientConn) recheckWaits() {
	if cc.impatient.Load() > 0 {
		cc.state.poke()
	}
}
