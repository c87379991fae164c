package call

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// hedgedStream is the part of a hedge that is about streams: RPCs with one request and any
// number of replies. Those whose program goes on to send are not hedged: what it sends
// depends on what it has received, from one server.
//
// The first attempt was opened by NewStream; SendMsg hands the request over and returns.
// From then on a goroutine holds clientStream.busy, which is what replacing an attempt
// takes: the receiver waits for it, and it alone touches the RPC's fields for attempts. It
// ends that by publishing the attempt that responds first, or decides the RPC, with no
// other to follow. Close, and the end of the RPC's context, end all attempts and so find
// it; they do not wait for it otherwise.
type hedgedStream struct {
	cs    *clientStream
	first *streamAttempt
	all   []*hedged // that were begun; the hedge's goroutine only

	shown *streamAttempt // guarded by hedge.mu: the latest that had a stream and lost
}

// hedgeFrom begins to hedge an RPC whose attempt a is open and whose request is f, which
// holds m. It takes f over, unless it returns false: the RPC is not hedged then, or a is
// not in force any more.
func (cs *clientStream) hedgeFrom(a *streamAttempt, f *frame, m any) bool {
	if len(f.bytes()) > cs.set.maxBuffer {
		return false // too large to be kept for another attempt
	}
	if !cs.ch.stepAside() {
		return false
	}
	cs.mu.Lock()
	free := !cs.ended && !cs.committed && cs.busy == nil && cs.att == a
	if free {
		cs.busy, cs.hedged = make(chan struct{}), true
	}
	cs.mu.Unlock()
	if !free {
		cs.ch.stepBack()
		return false
	}
	owned := *f
	go cs.hedgeStream(a, owned, m)
	return true
}

// hedgeStream is the goroutine.
func (cs *clientStream) hedgeStream(first *streamAttempt, f frame, m any) {
	defer cs.ch.stepBack()
	copied := cs.rpc // cs is busy: nothing else changes it
	h := &hedge{rpc: &copied, policy: cs.hedging, ctx: cs.ctx, args: m, request: &sharedFrame{frame: f, users: 1}}
	h.stream = &hedgedStream{cs: cs, first: first}
	h.outcomes = make(chan *hedged, h.most())
	h.use(first.transport.backend(), true)
	var won *hedged
	defer func() {
		if won == nil { // runtime.Goexit in code of the program's: other goroutines wait for busy
			h.stream.decided(h, h.without(errUnwound))
		}
	}()
	won = h.race(cs.ctx)
	h.stream.decided(h, won)
	h.loseRest()
	h.request.release()
}

// begin readies an attempt.
func (s *hedgedStream) begin(h *hedge, a *hedged) {
	ctx, cancel := context.WithCancel(h.ctx)
	a.ctx, a.cancel = ctx, cancel
	if h.started == 0 { // its stream is of the RPC's context
		a.stream, a.opened = s.first, true
		opened := s.first.s
		a.cancel = func() {
			cancel()
			opened.Cancel(status.New(codes.Canceled, "another attempt of the hedged RPC had a response before"))
		}
	}
	s.all = append(s.all, a)
}

// isCommitted reports whether the program's calls rule further attempts out. A unary RPC
// (nil) has none.
func (s *hedgedStream) isCommitted() bool { return s != nil && s.cs.isCommitted() }

// tryStream makes one attempt, which succeeds when the server responds, be it with status
// OK and nothing else.
func (a *hedged) tryStream(h *hedge, transparent bool) outcome {
	if a.opened {
		a.opened = false
	} else {
		a.stream = new(streamAttempt)
		if o := a.openStream(a.ctx, &a.stream.attempt, transparent, false); a.stream.s == nil {
			return o
		}
	}
	s, f := a.stream.s, &h.request.frame
	if s.Send(f.bytes(), true) == nil && a.tagged() {
		a.reportOutPayload(&a.stream.attempt, h.args, f.uncompressed, f.payload())
	}
	if _, ok := s.Header(a.ctx); ok {
		return outcome{}
	}
	<-s.Finished()
	if he := s.Err(); he != nil {
		return a.failure(&a.stream.attempt, he)
	}
	return outcome{}
}

// decided puts the attempt that decides the RPC in force, and cancels the others.
func (s *hedgedStream) decided(h *hedge, won *hedged) {
	for _, a := range s.all {
		if a != won {
			a.cancel()
		}
	}
	h.mu.Lock()
	won.stream.shown = s.shown
	h.mu.Unlock()
	if won.stream.ctx == nil { // it came to nothing
		won.stream.ctx = h.ctx
	}
	won.stream.err = won.outcome.err
	cs := s.cs
	cs.effort = won.effort
	cs.attempts = h.started
	cs.mu.Lock()
	cs.commitLocked()
	cs.mu.Unlock()
	cs.publish(won.stream)
}

// lose ends an attempt that does not decide the RPC, or that is made again.
func (s *hedgedStream) lose(h *hedge, a *hedged) {
	if a.stream.s != nil {
		h.mu.Lock()
		s.shown = a.stream
		h.mu.Unlock()
	}
	s.cs.retire(a.stream, a.outcome.err)
}
