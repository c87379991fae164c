package grpcdial

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/text"
)

// reason is why a channel is not READY, as it was known at one moment. RPCs that fail
// share it: it refers to the failed attempts, and what users see of them is made when an
// error is read. So an RPC that is refused costs about the same however many backends
// are down.
type reason struct {
	// Set by newReason and only read after that.
	target  string
	state   connectivity.State
	since   time.Time    // when the channel came to be in state; zero if it never left IDLE
	failed  failure.List // the latest failures, oldest first
	omitted int          // failures besides
	running inProgress
	changes uint64 // of the log, when this was made

	// Made once, when they are asked for.
	firstOnce sync.Once
	first     attemptText // of the first of failed: often there is room for no more
	textsOnce sync.Once
	texts     []attemptText // of failed
	headOnce  sync.Once
	head      string                        // of texts, without the time in the state
	shared    [2]atomic.Pointer[sharedText] // the latest short text, and the latest long one
}

// sharedText is the text of a reason for RPCs whose pickers say nothing besides.
type sharedText struct {
	text string
	most int // bytes
	// RPCs that end within this time of at share it: in the text, durations have three digits.
	at     time.Time
	within time.Duration
}

var _ call.Reason = (*reason)(nil)

// explain returns why RPCs find no connection now; nil if nothing was tried. It is the
// same as long as nothing has changed.
func (cc *ClientConn) explain() call.Reason {
	if r := cc.reason(); len(r.failed) > 0 || len(r.running.attempts) > 0 {
		return r
	}
	return nil
}

// reason returns why the channel is not READY now.
//
// The changes are counted before what they change is looked at, and incremented after it
// was changed. So a reason that misses a change has a count that is out of date, and is
// not used for longer than it takes to count.
func (cc *ClientConn) reason() *reason {
	changes := cc.attempts.Changes.Load()
	if r := cc.latestReason.Load(); r != nil && r.changes == changes {
		return r
	}
	r := cc.newReason(cc.state.latest(), cc.inProgress())
	r.changes = changes
	cc.latestReason.Store(r)
	return r
}

// explainAs returns why the policy fails RPCs from now on, nil if nothing is known of
// that, and what becomes the cause of the transition to state. Policy queue only.
func (cc *ClientConn) explainAs(state connectivity.State) (call.Reason, error) {
	cc.policyQueue.AssertOn()
	before, at := cc.state.latest(), time.Now()
	r := cc.newReason(StateChange{Time: at, To: state}, inProgress{})
	switch {
	case len(r.failed) == 0 && cc.published.lastDisconnect == nil:
		return nil, errPolicyFailed
	case len(r.failed) == 0:
		return lastDisconnect{cc.published.lastDisconnect}, cc.published.lastDisconnect
	case before.To == state: // there will be no transition
		return r, nil
	}
	return r, r.dialError(at, at.Sub(before.Time), nil)
}

// newReason returns why the channel is in the state that a transition led to. now is
// what goes on besides what the log has of failures.
func (cc *ClientConn) newReason(c StateChange, now inProgress) *reason {
	failed, omitted := cc.attempts.Latest()
	r := &reason{target: cc.shownTarget(), state: c.To, since: c.Time, failed: failed, omitted: omitted, running: now}
	return r
}

// Err returns the reason as a *DialError.
func (r *reason) Err(at time.Time, elapsed time.Duration) error { return r.dialError(at, elapsed, nil) }

// dialError returns the reason as the error of a wait that took elapsed, until at, and
// that ended because of ended.
func (r *reason) dialError(at time.Time, elapsed time.Duration, ended error) *DialError {
	e := &DialError{Target: r.target, State: r.state, Elapsed: elapsed, InState: r.inState(at), Err: ended, Omitted: r.omitted + r.running.omitted}
	if n := len(r.failed) + len(r.running.attempts); n > 0 {
		e.Attempts = make([]Attempt, 0, n)
	}
	for _, a := range r.failed {
		e.Attempts = append(e.Attempts, publicAttempt(a))
	}
	for _, a := range r.running.attempts {
		e.Attempts = append(e.Attempts, a.until(at))
	}
	e.later = r.later(at)
	return e.capped()
}

// later returns the attempts in progress at a time, at addresses where one has failed,
// that are to be mentioned.
func (r *reason) later(at time.Time) (all []Attempt) {
	for _, a := range r.running.later {
		if a = a.until(at); a.Elapsed >= aWhile {
			all = append(all, a)
		}
	}
	return all
}

// inState is how long the channel had been in the state at a time.
func (r *reason) inState(at time.Time) time.Duration {
	if r.since.IsZero() {
		return 0
	}
	return max(at.Sub(r.since), 0)
}

// Text returns the state and as many attempts as there is room for, the first one at least.
func (r *reason) Text(failed error, at time.Time, most int) string {
	most -= most % 32 // what an RPC says before it differs by a few bytes
	said := r.besides(failed)
	if said != "" {
		return r.text(said, at, most)
	}
	slot := &r.shared[0]
	if most > call.MaxStatusText {
		slot = &r.shared[1]
	}
	if t := slot.Load(); t != nil && t.most == most && at.Sub(t.at).Abs() <= t.within {
		return t.text
	}
	t := &sharedText{text: r.text("", at, most), most: most, at: at, within: r.staysFor(at)}
	slot.Store(t)
	return t.text
}

// staysFor is how long the durations in the text for an RPC that ended at a time are about the same.
func (r *reason) staysFor(at time.Time) time.Duration {
	within := time.Duration(math.MaxInt64)
	if d := r.inState(at); d > 0 {
		within = d / 1000
	}
	for _, running := range [][]Attempt{r.running.attempts, r.running.later} {
		for i := range running {
			within = min(within, at.Sub(running[i].Start)/1000)
		}
	}
	return within
}

// text is Text for an RPC whose picker said something besides; empty: it did not.
func (r *reason) text(said string, at time.Time, most int) string {
	r.headOnce.Do(func() { r.head = headline(text.Cut(r.target, maxShownTarget), 0, r.state, 0, "") })
	head := r.head
	if d := r.inState(at); d > 0 {
		head += " for " + text.Round(d).String()
	}
	if said != "" {
		head = text.Cut(said, most/2) + ": " + head
	}
	if len(r.failed)+len(r.running.attempts) == 0 {
		return text.Cut(head, most)
	}
	head = text.Cut(head, most*3/4) + ": "
	later := r.later(at)
	line := func(i int) attemptText {
		if i < len(r.failed) {
			a := publicAttempt(r.failed[i])
			return r.textOf(i).and(next(&a, later))
		}
		a := r.running.attempts[i-len(r.failed)].until(at).internal()
		return textOf(&a)
	}
	return head + listAttempts(line, len(r.failed)+len(r.running.attempts), r.omitted+r.running.omitted, most-len(head))
}

// textOf is the text of failure i, without what is in progress.
func (r *reason) textOf(i int) attemptText {
	if i == 0 {
		r.firstOnce.Do(func() { r.first = textOf(r.failed[0]) })
		return r.first
	}
	r.textsOnce.Do(func() {
		for _, a := range r.failed {
			r.texts = append(r.texts, textOf(a))
		}
	})
	return r.texts[i]
}

// besides returns on one line what a picker's error says that is not in the reason.
// Policies return the errors of connections as they are, or as part of a text.
func (r *reason) besides(failed error) string {
	if failed == nil || r.names(failed) {
		return ""
	}
	said := oneLine(failed)
	for i := range r.failed {
		line := r.textOf(i)
		if strings.Contains(said, line.full) || strings.Contains(line.full, said) {
			return ""
		}
		if err := r.failed[i].Err; err != nil {
			if cause := oneLine(err); strings.Contains(said, cause) && strings.Contains(line.full, cause) {
				return ""
			}
		}
	}
	return said
}

// names reports whether a picker's error is that of attempts at an address whose failures
// are in the reason, or may be among those that it only counts. On a channel that is READY
// by other backends they may be in neither.
func (r *reason) names(failed error) bool {
	var all failure.List
	if !errors.As(failed, &all) {
		var one *failure.Attempt
		if !errors.As(failed, &one) {
			return false
		}
		all = failure.List{one}
	}
	return r.omitted > 0 || slices.ContainsFunc(all, func(a *failure.Attempt) bool {
		return slices.ContainsFunc(r.failed, func(b *failure.Attempt) bool { return a == b || a.Addr == b.Addr })
	})
}

// lastDisconnect is why the policy fails RPCs of a channel that knows of no failed attempt: the
// latest connection that was lost, for example.
type lastDisconnect struct{ err error }

func (l lastDisconnect) Err(time.Time, time.Duration) error { return l.err }

func (l lastDisconnect) Text(failed error, _ time.Time, most int) string {
	why := oneLine(l.err)
	if failed != nil {
		if said := oneLine(failed); !strings.Contains(why, said) {
			why = said + ": " + why
		}
	}
	return text.Cut(why, most)
}

// headline is the beginning of a DialError's text, up to its attempts.
func headline(target string, elapsed time.Duration, state connectivity.State, inState time.Duration, ended string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "grpcdial: %s for %q", noConnection(state), text.Target(target))
	if elapsed > 0 {
		fmt.Fprintf(&b, " after %v", text.Round(elapsed))
	}
	fmt.Fprintf(&b, ", in %v", state)
	if inState > 0 {
		fmt.Fprintf(&b, " for %v", text.Round(inState))
	}
	if ended != "" {
		b.WriteString(" (" + ended + ")")
	}
	return b.String()
}

// maxMessage bounds the status message of a DialError, in bytes: it goes over the wire
// if a server's handler returns the error as its own.
const maxMessage = 300

// Bounds of a target and of an address in a summary, in bytes.
const (
	maxShownTarget  = 100
	maxShownAddress = 60
)

// attemptText is an attempt on one line, and the same without its hint and with a short
// address.
type attemptText struct{ full, bare string }

func textOf(a *failure.Attempt) attemptText {
	bare := *a
	bare.Addr, bare.Hint = text.Cut(a.Addr, maxShownAddress), ""
	if a.Err == ErrUnfinished {
		return attemptText{a.Unfinished(), bare.Unfinished()}
	}
	return attemptText{a.Error(), bare.Error()}
}

func (t attemptText) and(more string) attemptText { return attemptText{t.full + more, t.bare + more} }

// listAttempts is as many of n attempts as there is room for in that many bytes, and how many
// there are besides. At least the first one is there, without its hint or shortened if
// need be.
func listAttempts(line func(i int) attemptText, n, omitted, most int) string {
	var b strings.Builder
	for i := range n {
		end := ""
		if left := n - i - 1 + omitted; left > 0 {
			end = fmt.Sprintf(" | and %d more", left)
		}
		t, room := line(i), most-b.Len()-len(end)
		switch {
		case i == 0 && len(t.full) <= room:
			b.WriteString(t.full)
		case i == 0:
			b.WriteString(text.Cut(t.bare, max(room, 3)))
		case len(" | ")+len(t.full) <= room:
			b.WriteString(" | " + t.full)
		default:
			fmt.Fprintf(&b, " | and %d more", n-i+omitted)
			return b.String()
		}
	}
	if omitted > 0 {
		fmt.Fprintf(&b, " | and %d more", omitted)
	}
	return b.String()
}

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
	return inProgress{attempts: append(cc.unresolved(), cc.healthWaits()...), later: progressOf(again)}
}

// unresolved returns the resolver's wait as an attempt, if it has not reported
// anything since the channel left idle.
func (cc *ClientConn) unresolved() []Attempt {
	now := cc.state.latest()
	if now.To != connectivity.Connecting || cc.resolution.answered.Load() {
		return nil
	}
	hint := fmt.Sprintf("the resolver of scheme %q has not said anything yet", cc.parsed.scheme)
	if cc.parsed.scheme == schemeDNS {
		hint = failure.Pending(failure.Resolve, false, false)
	}
	return []Attempt{unfinished(cc.parsed.endpoint(), "", PhaseResolve, now.Time, hint)}
}

// healthWaits returns the waits for the health of backends that are connected.
func (cc *ClientConn) healthWaits() (all []Attempt) {
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
	addrs := r.Progress.Addresses()
	if len(addrs) == 0 {
		return append(to, unfinishedOf(r, r.Addr, "", r.Since, ""))
	}
	for _, s := range addrs {
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
// was cancelled have ErrUnfinished and its hint, as the wait for them had.
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
