package grpcdial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/text"
)

// pending is what a channel waits for at some moment, besides what the log of its
// attempts knows.
type pending struct {
	attempts []Attempt // running, where none has failed yet; their Err is ErrUnfinished
	later    []Attempt // running for a while, where one has failed before
}

// aWhile is how long an attempt has to be running to be told of beside the failure of
// the one before it: most fail at once, in the same way.
const aWhile = 100 * time.Millisecond

// pending returns what the channel waits for now: the resolver, attempts that are
// running with the phases that they are in, and what backends' health services have
// to say.
func (cc *ClientConn) pending() pending {
	now := cc.beforeConnecting()
	now.attempts = append(now.attempts, cc.connecting()...)
	slices.SortStableFunc(now.attempts, func(a, b Attempt) int { return a.Start.Compare(b.Start) })
	return now
}

// beforeConnecting is pending but for the first attempts that are running.
func (cc *ClientConn) beforeConnecting() pending {
	return pending{append(cc.unresolved(), cc.unjudged()...), cc.connectingAgain()}
}

// unresolved returns the resolver's wait as an attempt, if it has not said
// anything since the channel left idle.
func (cc *ClientConn) unresolved() []Attempt {
	now := cc.state.latest()
	if now.To != connectivity.Connecting || cc.answered.Load() {
		return nil
	}
	hint := fmt.Sprintf("the resolver of scheme %q has not said anything yet", cc.parsed.URL.Scheme)
	if cc.parsed.URL.Scheme == schemeDNS {
		hint = failure.Pending(failure.Resolve, false, false)
	}
	return []Attempt{unfinished(cc.parsed.Endpoint(), "", PhaseResolve, now.Time, hint)}
}

// unjudged returns the waits for the health of backends that are connected.
func (cc *ClientConn) unjudged() (all []Attempt) {
	if _, asked := cc.healthService(); !asked || cc.isReady() {
		return nil
	}
	for _, l := range cc.allLinks() {
		addr, since, ok := l.connectedTo()
		if ok && !cc.attempts.knows(addr.Addr) {
			all = append(all, unfinished(addr.Addr, cc.serverName(addr), PhaseHealth, since, failure.Pending(failure.Health, false, false)))
		}
	}
	return all
}

// connecting returns the attempts that are running at addresses where none has failed.
func (cc *ClientConn) connecting() (all []Attempt) {
	for _, l := range cc.allLinks() {
		if addr, _, made := l.trying(); made != nil && !cc.attempts.knows(addr.Addr) {
			all = append(all, l.standings()...)
		}
	}
	return all
}

// connectingAgain returns the attempts that have been running for a while at addresses
// where one has failed before.
func (cc *ClientConn) connectingAgain() (all []Attempt) {
	for _, l := range cc.allLinks() {
		if addr, since, made := l.trying(); made != nil && time.Since(since) >= aWhile && cc.attempts.knows(addr.Addr) {
			all = append(all, l.standings()...)
		}
	}
	return all
}

// standings returns how far the link's attempt is at each address that it tries.
func (l *link) standings() (all []Attempt) {
	addr, since, made := l.trying()
	if made == nil {
		return nil
	}
	name, standings := l.sc.cc.serverName(addr), made.Standings()
	if len(standings) == 0 {
		return []Attempt{unfinished(addr.Addr, name, "", since, "")}
	}
	for _, s := range standings {
		if s.Failed != nil {
			all = append(all, publicAttempt(withPublicCause(s.Failed)))
			continue
		}
		a := unfinished(s.Addr, name, Phase(s.Phase), s.Start, s.Hint)
		a.Proxy = s.Proxy
		all = append(all, a)
	}
	return all
}

// unfinished is the attempt at addr that has been running since start and is in
// phase.
func unfinished(addr, serverName string, phase Phase, start time.Time, hint string) Attempt {
	return Attempt{Addr: text.Target(addr), ServerName: text.Target(serverName), Phase: phase, Start: start, Elapsed: time.Since(start), Err: ErrUnfinished, Hint: hint}
}

// interrupted returns a copy of attempts in which those that ended because ctx
// was cancelled say so in the words of those who waited for them.
func interrupted(attempts failure.List) failure.List {
	out := make(failure.List, len(attempts))
	for i, a := range attempts {
		copied := *a
		if errors.Is(a.Err, context.Canceled) {
			secure := failure.IsWithinTLS(a.Err)
			copied.Err, copied.Permanent = ErrUnfinished, false
			copied.Hint = failure.Pending(a.Phase, a.Proxy != "", secure)
		}
		out[i] = &copied
	}
	return out
}
