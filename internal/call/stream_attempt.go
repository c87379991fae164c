package call

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// streamAttempt is one attempt of a stream. The code that takes it out of force ends it:
// clientStream.giveUp while it is in force, else the goroutine that replaces it.
type streamAttempt struct {
	attempt
	limit *attemptLimit // set by open; nil: none

	// err is why no other attempt followed, if that was decided. The goroutine that has set
	// busy sets it before publish; others read it under mu while busy is nil, and without
	// mu once a has no stream or retryAfter has returned that a was the last.
	err error

	sawHeader bool // InHeader was reported; guarded by mu
	replaced  bool // another attempt was made in its place; guarded by mu

	// shown is the latest attempt that had a stream, if it is not this one: the user sees
	// its headers and trailers if the RPC ends without another. nil: none. Set once.
	shown *streamAttempt
}

// visible is the attempt whose results options, Header and Trailer return at the end;
// nil if there is none.
func (a *streamAttempt) visible() *streamAttempt {
	switch {
	case a == nil:
		return nil
	case a.s != nil:
		return a
	}
	return a.shown
}

// run makes attempts until one has a stream on which everything in the log was
// sent, or no other may follow; v is the decision that led here, after an attempt that
// failed with last (nil: this is the first). The caller has set busy, or no other
// goroutine knows the stream yet.
func (cs *clientStream) run(v retryVerdict, last error) *streamAttempt {
	shown := cs.att.visible()
	for {
		if err := cs.pause(cs.ctx, v.delay, last); err != nil {
			return &streamAttempt{attempt: attempt{ctx: cs.ctx}, err: err, shown: shown}
		}
		a, o := cs.open(v.transparent)
		a.shown = shown
		if a.s == nil {
			a.limit.judge(cs.ctx, &o)
		}
		if a.s != nil {
			if cs.log.replay(a.s, cs.reportReplay(&a.attempt)) {
				return a
			}
			<-a.s.Finished()
			he := a.s.Err()
			if he == nil {
				return a // the server has answered before it had all
			}
			o = cs.failure(&a.attempt, he)
			a.limit.judge(cs.ctx, &o)
		}
		if v = cs.decide(&a.attempt, &o, cs.isCommitted()); !v.again {
			a.err = o.err
			return a
		}
		last = o.err
		if a.s != nil {
			cs.times.add(a.s, nil)
			a.shown, shown = nil, a
		}
		cs.retire(a, o.err)
	}
}

// reportReplay returns the function that reports to the stats handlers the messages of the log
// that are sent again on a; nil without handlers.
func (cs *clientStream) reportReplay(a *attempt) func(n, payload int) {
	if !cs.tagged() {
		return nil
	}
	return func(n, payload int) {
		sent := cs.log.messages[n]
		cs.reportOutPayload(a, sent.m, sent.uncompressed, payload)
	}
}

// open makes one attempt.
func (cs *clientStream) open(transparent bool) (*streamAttempt, outcome) {
	a := &streamAttempt{}
	ctx := cs.ctx
	ctx, a.limit = cs.limitAttempt(ctx)
	// contextDone cancels the RPC's first attempt. While another one is made it waits, and a
	// stream on which the log is sent meanwhile has to end by itself; so has that of a hedged RPC.
	watched := cs.attempts == 0 && a.limit == nil && cs.hedging == nil
	return a, cs.openStream(ctx, &a.attempt, transparent, watched)
}

// openStream opens the attempt's stream. watched says that the caller ends it when ctx ends, once
// openStream has returned.
func (r *rpc) openStream(ctx context.Context, a *attempt, transparent, watched bool) outcome {
	returned := false
	defer a.unwound(&returned)
	o := r.openOnce(ctx, a, transparent, watched)
	returned = true
	return o
}

func (r *rpc) openOnce(ctx context.Context, a *attempt, transparent, watched bool) outcome {
	if drop, err := r.connect(ctx, a, transparent); err != nil {
		return outcome{err: err, drop: drop}
	}
	var req h2.Request
	if err := r.request(a, &req); err != nil {
		return outcome{err: err, drop: isContextEnd(err)}
	}
	req.Follows = !r.sendsMany
	if r.tagged() {
		r.reportOpened(a, &req, nil)
	} else { // a handler may derive another context, or panic when the stream is open
		req.Watched = watched
	}
	s, err := a.conn.Open(a.ctx, &req)
	if err != nil {
		return r.refusal(a, asH2Error(err))
	}
	a.s, a.conn, r.wired = s, s.Conn(), true
	return outcome{}
}

// publish puts an attempt in force in place of the one that was replaced. It
// reports false if the RPC has ended meanwhile: then the attempt is ended too.
func (cs *clientStream) publish(a *streamAttempt) bool {
	cs.mu.Lock()
	old, replaced := cs.att, cs.busy != nil
	if replaced {
		close(cs.busy)
		cs.busy = nil
	}
	cs.known = cs.effort
	ended, err := cs.ended, cs.err
	if ended {
		cs.log.free()
	} else {
		cs.att = a
		if cs.committed {
			cs.log.free()
		}
	}
	cs.mu.Unlock()
	if ended {
		if err == io.EOF {
			err = nil
		}
		a.cut(err)
		if replaced {
			cs.conclude(old, a, err)
		} else {
			cs.endAttempt(a, err) // the RPC was concluded without it
		}
	}
	return !ended
}

// cut cancels the attempt's stream if it still runs.
func (a *streamAttempt) cut(err error) {
	if a.s != nil {
		a.s.Cancel(status.Convert(err))
	}
}

// current returns the attempt in force, after waiting for it if it is being
// replaced. nil: the RPC has ended.
func (cs *clientStream) current() *streamAttempt {
	for {
		cs.mu.Lock()
		a, busy, ended := cs.att, cs.busy, cs.ended
		cs.mu.Unlock()
		if ended {
			return nil
		}
		if busy == nil {
			return a
		}
		<-busy // never long after the RPC's end, which cancels all that is waited for
	}
}

// source returns the attempt to receive from: current's, and after the RPC's end
// the one that was in force then. nil: the RPC has ended, and there is nothing to receive.
func (cs *clientStream) source() *streamAttempt {
	for {
		cs.mu.Lock()
		a, busy := cs.att, cs.busy
		none := cs.ended && (a == nil || a.s == nil || a.replaced)
		cs.mu.Unlock()
		switch {
		case busy != nil:
			<-busy // as in current
		case none:
			return nil
		default:
			return a
		}
	}
}

// retryAfter is called when the stream of a has ended. It reports whether a is no longer
// in force, because this or another goroutine has made another attempt, or is deciding
// whether to: current and source wait for that decision and return the attempt in force,
// also after the RPC's end. false: a was the last, and its err does not change any more.
func (cs *clientStream) retryAfter(a *streamAttempt) bool {
	cs.mu.Lock()
	switch {
	case cs.busy != nil, cs.att != a, a.replaced:
		cs.mu.Unlock()
		return true
	case cs.ended, cs.committed, a.err != nil: // a later holder of busy does not decide on a any more
		cs.mu.Unlock()
		return false
	}
	he := a.s.Err()
	if he == nil {
		cs.mu.Unlock()
		return false
	}
	// No other goroutine makes attempts from here on until publish.
	cs.busy = make(chan struct{})
	cs.mu.Unlock()
	next := cs.replace(a, he)
	cs.publish(next)
	return next != a
}

// replace decides what follows a, which failed with he, and returns the attempt to put in force:
// a itself if no other may follow. The caller has set busy. If code of the program's panics, or
// calls runtime.Goexit, the RPC ends: other goroutines wait for busy.
func (cs *clientStream) replace(a *streamAttempt, he *h2.Error) (next *streamAttempt) {
	defer func() {
		if next == nil {
			cs.giveUp(errUnwound)
			cs.publish(&streamAttempt{attempt: attempt{ctx: cs.ctx}, err: errUnwound, shown: a.visible()})
		}
	}()
	o := cs.failure(&a.attempt, he)
	a.limit.judge(cs.ctx, &o)
	v := cs.decide(&a.attempt, &o, cs.isCommitted())
	if !v.again {
		a.err = o.err // as it was decided; it stays in force
		return a
	}
	cs.retire(a, o.err)
	return cs.run(v, o.err)
}

// keep notes that f (nil: nothing), which holds m, was sent on a, and that the
// stream was half-closed if last. It takes f over. It reports false if a is no longer in
// force: what was sent on it must be sent again on the next one.
func (cs *clientStream) keep(a *streamAttempt, f *frame, m any, last bool) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if !cs.ended && (cs.busy != nil || cs.att != a) {
		return false
	}
	cs.lends = cs.committed
	if cs.committed || cs.ended {
		if f != nil {
			f.free()
		}
		return true
	}
	if f != nil {
		if cs.tagged() {
			cs.log.messages = append(cs.log.messages, sentMessage{m, f.uncompressed})
		}
		cs.log.add(f)
	}
	cs.log.closed = cs.log.closed || last
	if cs.log.size > cs.set.maxBuffer {
		cs.commitLocked()
	}
	return true
}

// commitTo rules out that another attempt than a follows. It reports false if one has
// taken its place: what came on a does not count.
func (cs *clientStream) commitTo(a *streamAttempt) bool {
	for {
		cs.mu.Lock()
		busy := cs.busy
		mine := busy == nil && cs.att == a && !a.replaced
		if mine {
			cs.commitLocked()
		}
		cs.mu.Unlock()
		if mine {
			a.limit.stop()
			cs.selection.committed()
		}
		if busy == nil {
			return mine
		}
		<-busy // it may be decided that a stays in force
	}
}

// commitLocked rules other attempts out. The log stays while it may be being sent.
func (cs *clientStream) commitLocked() {
	cs.committed = true
	if cs.busy == nil && cs.att != nil {
		cs.log.free()
	}
}

func (cs *clientStream) isCommitted() bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.committed
}

// verdictOf is what the RPC ends with, given that the stream of a has ended and
// no attempt follows: nil if all went well.
func (cs *clientStream) verdictOf(a *streamAttempt) error {
	if a.err != nil {
		return a.err
	}
	if he := a.s.Err(); he != nil {
		return cs.streamError(&a.attempt, he)
	}
	if !cs.desc.ServerStreams && a.s.Messages() == 0 {
		return cardinality(0)
	}
	return nil
}

// sawHeader reports to the stats handlers, once, that response headers came.
func (cs *clientStream) sawHeader(a *streamAttempt) {
	if !cs.tagged() {
		return
	}
	cs.mu.Lock()
	seen := a.sawHeader
	a.sawHeader = true
	cs.mu.Unlock()
	if seen {
		return
	}
	cs.reportInHeader(&a.attempt, a.s.HeaderMD())
}

// retire is endAttempt for an attempt that another one follows, or takes the place of. Its
// stream, if any, has ended, or its end is on its way.
func (cs *clientStream) retire(a *streamAttempt, err error) {
	cs.mu.Lock()
	a.replaced = true
	cs.mu.Unlock()
	if a.s != nil {
		a.s.Drop()
	}
	cs.endAttempt(a, err)
}

// endAttempt is rpc.end, after InHeader if that has not been reported.
func (cs *clientStream) endAttempt(a *streamAttempt, err error) {
	if a.s != nil && cs.tagged() && a.s.HasHeader() {
		cs.sawHeader(a)
	}
	cs.end(&a.attempt, err)
}

// finish ends the RPC with err (nil: well), unless it has ended already. It
// returns the RPC's outcome as RecvMsg returns it: io.EOF for nil. The values that the
// call options point to are filled in then.
func (cs *clientStream) finish(err error) error {
	cs.giveUp(err)
	return cs.result()
}

// giveUp is finish for a caller that must not wait. If a goroutine is replacing the
// attempt, that goroutine concludes the RPC, else the caller.
func (cs *clientStream) giveUp(err error) {
	if e, ok := cs.abandon(err); ok {
		e.report()
	}
}

// ending is what is left to do for an RPC that has ended for its caller.
type ending struct {
	cs        *clientStream
	a         *streamAttempt // in force; nil: none
	err       error          // what the RPC ends with
	replacing bool           // a goroutine is replacing a
	stop      func() bool    // takes back the watch on the context; nil: there is none
}

// abandon ends the RPC as its caller sees it. The ending's report does the rest of
// giveUp, which runs code of the program's. false: the RPC has ended already.
func (cs *clientStream) abandon(err error) (ending, bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.ended {
		return ending{}, false
	}
	cs.ended = true
	cs.err = err
	if err == nil {
		cs.err = io.EOF
	}
	cs.commitLocked()
	return ending{cs: cs, a: cs.att, err: err, replacing: cs.busy != nil, stop: cs.stopWatch}, true
}

func (e ending) report() {
	if e.stop != nil {
		e.stop()
	}
	if e.replacing {
		e.cs.cancel() // all that is waited for
		return
	}
	if e.a != nil && e.err != nil {
		e.a.cut(e.err)
	}
	e.cs.conclude(e.a, e.a, e.err)
}

// conclude fills in what the options point to from inForce, the attempt in force at
// the end, then reports the end of last to the picker and the stats handlers, and calls
// OnFinish, without a lock. Both are nil if there was no attempt. It runs once.
func (cs *clientStream) conclude(inForce, last *streamAttempt, err error) {
	if v := inForce.visible(); v != nil {
		cs.collect(&v.attempt)
	}
	cs.settle()
	cs.cancel() // after cut: the stream ends with err, not as cancelled
	if cs.rpc.cancel != nil {
		cs.rpc.cancel()
	}
	cs.ch.delist(cs)
	defer cs.leave(err == nil) // also when code of the program's panics
	if last != nil {
		cs.endAttempt(last, err)
	}
	if err == nil {
		cs.succeeded()
	}
	cs.selection.committed()
	cs.reportFinished(err)
}

// settle notes that what the options point to is written.
func (cs *clientStream) settle() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.isSettled = true
	if cs.settled != nil {
		close(cs.settled)
	}
}

// result is what an RPC that has ended ended with.
func (cs *clientStream) result() error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if !cs.isSettled {
		if cs.settled == nil {
			cs.settled = make(chan struct{})
		}
		settled := cs.settled
		cs.mu.Unlock()
		<-settled
		cs.mu.Lock()
	}
	return cs.err
}

var _ grpc.ClientStream = (*clientStream)(nil)
