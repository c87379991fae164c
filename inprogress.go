package grpcdial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/text"
)

// inProgress is what a channel waits for at some moment, besides what the log of its
// attempts has of failures.
type inProgress struct {
	attempts []Attempt // in progress at addresses where none has failed yet; their Err is ErrUnfinished
	omitted  int       // of these, beyond those listed
	later    []Attempt // in progress at addresses where one has failed before
}

// aWhile is how long an attempt has to be in progress to be mentioned beside the failure
// of the one before it: most fail at once, in the same way.
const aWhile = 100 * time.Millisecond

// inProgress returns what the channel waits for now: the resolver, attempts in progress
// with the phases that they are in, and the answers of backends' health services.
func (cc *ClientConn) inProgress() inProgress {
	now, connecting := cc.beforeConnecting(), cc.connecting()
	now.attempts = append(now.attempts, connecting.attempts...)
	now.omitted = connecting.omitted
	slices.SortStableFunc(now.attempts, func(a, b Attempt) int { return a.Start.Compare(b.Start) })
	return now
}

// beforeConnecting is inProgress but for the first attempts at addresses.
func (cc *ClientConn) beforeConnecting() inProgress {
	_, _, again := cc.attempts.InProgress()
	return inProgress{attempts: append(cc.unresolved(), cc.unjudged()...), later: progressOf(again)}
}

// unresolved returns the resolver's wait as an attempt, if it has not reported
// anything since the channel left idle.
func (cc *ClientConn) unresolved() []Attempt {
	now := cc.state.latest()
	if now.To != connectivity.Connecting || cc.resolution.answered.Load() {
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
	unknown := func(a resolver.Address) bool { return !cc.attempts.Knows(a.Addr) }
	for _, e := range cc.subchannels.Connected(maxAttempts, unknown) {
		all = append(all, unfinished(e.Addr.Addr, e.ServerName, PhaseHealth, e.Since, failure.Pending(failure.Health, false, false)))
	}
	return all
}

// connecting returns the attempts in progress at addresses where none has failed.
func (cc *ClientConn) connecting() inProgress {
	first, more, _ := cc.attempts.InProgress()
	return inProgress{attempts: progressOf(first), omitted: more}
}

func progressOf(running []*attempts.Running) (all []Attempt) {
	for _, r := range running {
		all = appendProgress(all, r)
	}
	return all
}

// appendProgress appends how far the attempt is at each address that it tries.
func appendProgress(to []Attempt, r *attempts.Running) []Attempt {
	standings := r.Progress.Standings()
	if len(standings) == 0 {
		return append(to, unfinishedOf(r, r.Addr, "", r.Since, ""))
	}
	for _, s := range standings {
		if s.Failed != nil {
			failed := publicAttempt(withPublicCause(s.Failed))
			failed.AttemptID = r.ID
			to = append(to, failed)
			continue
		}
		a := unfinishedOf(r, s.Addr, Phase(s.Phase), s.Start, s.Hint)
		a.Proxy = s.Proxy
		to = append(to, a)
	}
	return to
}

// unfinishedOf is unfinished for an address of an attempt.
func unfinishedOf(r *attempts.Running, addr string, phase Phase, start time.Time, hint string) Attempt {
	a := unfinished(addr, r.ServerName, phase, start, hint)
	a.AttemptID = r.ID
	return a
}

// unfinished is the attempt at addr that has been in progress since start and is in
// phase. until sets its Elapsed.
func unfinished(addr, serverName string, phase Phase, start time.Time, hint string) Attempt {
	return Attempt{Addr: text.Target(addr), ServerName: text.Target(serverName), Phase: phase, Start: start, Err: ErrUnfinished, Hint: hint}
}

// until returns the attempt with its Elapsed at a time, if it was in progress then.
func (a Attempt) until(at time.Time) Attempt {
	if a.Err == ErrUnfinished {
		a.Elapsed = max(at.Sub(a.Start), 0)
	}
	return a
}

// interrupted returns a copy of list in which those that ended because ctx
// was cancelled say so in the words of those who waited for them.
func interrupted(list failure.List) failure.List {
	out := make(failure.List, len(list))
	for i, a := range list {
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
