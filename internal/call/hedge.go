package call

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// hedge is an RPC with one request that is sent several times without waiting for its
// failure (gRFC A6). One goroutine, for a unary RPC the caller's, starts the attempts, each
// on a goroutine of its own, and takes their outcomes as they come:
//
//	success              ends a unary RPC; its reply is decoded, by the caller. Of a stream it
//	                     is the response headers, and the stream goes on with that attempt
//	a fatal status       ends the RPC
//	a non-fatal status   the next attempt is made at once, or after the server's pushback
//	nothing for a while  the next attempt is made, hedgingDelay after the one before
//
// What is left then is cancelled. Attempts never touch the reply, nor each
// other: each has a copy of the RPC.
type hedge struct {
	*rpc
	policy  *serviceconfig.HedgingPolicy
	ctx     context.Context // of all attempts; ends with the RPC
	request *sharedFrame
	args    any           // the request
	stream  *hedgedStream // nil: a unary RPC

	outcomes chan *hedged // one for each attempt, never full
	started  int
	running  int

	mu   sync.Mutex
	used []any // guarded by mu: the backends that attempts have gone to
}

// hedged is one attempt, on one connection after the other as long as none takes it.
type hedged struct {
	rpc
	attempt attempt // of a unary RPC
	outcome outcome

	// Of a stream.
	stream *streamAttempt
	opened bool               // stream is open, the request is not sent on it
	ctx    context.Context    // of this attempt alone
	cancel context.CancelFunc // ends it
}

// losersPatience is how long the end of an RPC waits for the attempts that it has
// cancelled, so that they are reported to pickers and stats handlers before it is. One
// that is in code of the program's may take longer.
const losersPatience = 10 * time.Millisecond

// invokeHedged is invoke for an RPC with a hedging policy.
func (r *rpc) invokeHedged(ctx context.Context, args, reply any) error {
	f, err := r.encodeRequest(args)
	if err != nil {
		return r.noted(err, StageEncode, nil)
	}
	if len(f.bytes()) > r.set.maxBuffer {
		f.free()
		return r.invoke(ctx, args, reply) // too large to be kept for another attempt
	}
	if r.cancel != nil {
		defer r.cancel()
	}
	copied := *r // r stays on its caller's stack
	h := &hedge{rpc: &copied, policy: r.hedging, args: args, request: &sharedFrame{frame: f, users: 1}}
	defer h.request.release()
	h.outcomes = make(chan *hedged, h.most())
	var cancel context.CancelFunc
	h.ctx, cancel = context.WithCancel(ctx)
	won := h.race(ctx)
	cancel()
	err = h.end(ctx, won, reply)
	r.effort = h.effort
	return err
}

// maxHedges bounds the attempts of one hedged RPC, each of which has a goroutine: a service
// config may ask for any number where the program has lifted gRFC A6's bound.
const maxHedges = 100

// most is how many attempts there may be.
func (h *hedge) most() int { return min(h.policy.MaxAttempts, h.ch.cfg.MaxAttempts, maxHedges) }

// race starts attempts until one decides the RPC, which it returns; nil if the RPC ended
// while none was in progress.
func (h *hedge) race(ctx context.Context) (won *hedged) {
	var failed *hedged // the latest that did; it decides the RPC if no other may follow
	yield := func() {
		if failed != nil && failed != won {
			h.lose(failed)
		}
		failed = nil
	}
	defer yield()
	h.begin()
	next := time.NewTimer(h.policy.HedgingDelay)
	defer next.Stop()
	may := true // another attempt may be made
	var last error
	for {
		var due <-chan time.Time
		if may && h.started < h.most() {
			due = next.C
		}
		var ended, closed <-chan struct{} // of attempts in progress, they find out
		if h.running == 0 {
			ended, closed = ctx.Done(), h.ch.cfg.Closing.Done()
		}
		select {
		case <-due:
			may = h.throttle().allows() && !h.stream.isCommitted()
			if may {
				yield()
				h.begin()
				next.Reset(h.policy.HedgingDelay)
			} else if h.running == 0 {
				return failed
			}
		case <-ended:
			return h.without(h.contextEnded(ctx, ctx.Err(), StageBackoff, nil, last))
		case <-closed:
			return h.without(grpc.ErrClientConnClosing)
		case a := <-h.outcomes:
			h.running--
			if h.decides(a) || ctx.Err() != nil {
				return a
			}
			delay, again := pushback(a.outcome.pushback)
			allowed := h.throttle().failure()
			may = may && again && allowed
			switch {
			case may && h.started < h.most():
				next.Reset(delay)
			case h.running == 0:
				return a
			}
			last = a.outcome.err
			yield()
			failed = a
		}
	}
}

// decides reports whether the RPC ends as a has ended.
func (h *hedge) decides(a *hedged) bool {
	o := &a.outcome
	return o.err == nil || o.drop || !h.policy.NonFatalStatusCodes.Has(codeOf(o.err))
}

// pushback reads grpc-retry-pushback-ms: when the next attempt may be made, and whether
// one may.
func pushback(values []string) (delay time.Duration, again bool) {
	if len(values) == 0 {
		return 0, true
	}
	ms, err := strconv.ParseInt(values[0], 10, 32)
	if err != nil || ms < 0 || len(values) > 1 {
		return 0, false
	}
	return time.Duration(ms) * time.Millisecond, true
}

// throttle is that of the service config; nil never forbids.
func (h *hedge) throttle() *throttle { return h.rpc.policy.throttle }

// without is the end of the RPC while no attempt is in progress.
func (h *hedge) without(err error) *hedged {
	return &hedged{rpc: *h.rpc, stream: &streamAttempt{}, outcome: outcome{err: err}}
}

// begin makes another attempt.
func (h *hedge) begin() {
	h.running++
	if !h.ch.stepAside() {
		closed := h.without(grpc.ErrClientConnClosing)
		closed.outcome.drop = true
		h.outcomes <- closed
		return
	}
	a := &hedged{rpc: *h.rpc}
	a.rpc.tries.policy = h.started // grpc-previous-rpc-attempts
	a.rpc.hedge = h
	a.ctx = h.ctx
	if h.stream != nil {
		h.stream.begin(h, a)
	}
	h.started++
	h.request.use()
	go func() {
		defer h.ch.stepBack()
		defer h.request.release()
		returned := false
		defer func() {
			if !returned { // runtime.Goexit in code of the program's: the RPC waits for the outcome
				a.outcome = outcome{err: errUnwound, drop: true}
				if a.stream != nil {
					a.stream.cut(errUnwound)
				}
			}
			h.outcomes <- a
		}()
		a.run(h)
		returned = true
	}()
}

// run makes the attempt, again and again if no server processes it.
func (a *hedged) run(h *hedge) {
	transparent := false
	for {
		if h.stream != nil {
			a.outcome = a.tryStream(h, transparent)
		} else {
			a.outcome = a.tryUnary(h, transparent)
		}
		o := &a.outcome
		if !o.unsent && !o.unprocessed || a.ctx.Err() != nil {
			return
		}
		v := a.decide(&a.attempt, o, false)
		if !v.again {
			return
		}
		h.lose(a)
		if err := a.pause(a.ctx, v.delay, o.err); err != nil {
			a.attempt, a.stream, a.outcome = attempt{}, &streamAttempt{}, outcome{err: err, drop: true}
			return
		}
		transparent = v.transparent
	}
}

func (a *hedged) tryUnary(h *hedge, transparent bool) outcome {
	a.attempt = attempt{}
	if drop, err := a.connect(a.ctx, &a.attempt, transparent); err != nil {
		return outcome{err: err, drop: drop}
	}
	return a.exchange(&a.attempt, &h.request.frame, h.args)
}

// use notes that an attempt goes to that backend, on whichever of its connections. It reports
// false, and notes nothing, if one has gone there and not any backend will do. Attempts that
// have waited for a picker together pick at the same time, so this is one step.
func (h *hedge) use(backend any, anyWillDo bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !anyWillDo && slices.Contains(h.used, backend) {
		return false
	}
	h.used = append(h.used, backend)
	return true
}

// lose ends an attempt that does not decide the RPC.
func (h *hedge) lose(a *hedged) {
	if h.stream != nil {
		h.stream.lose(h, a)
		return
	}
	a.end(&a.attempt, a.outcome.err)
	a.attempt.release()
}

// end decodes the reply of the attempt that decided the RPC, and ends the others.
func (h *hedge) end(ctx context.Context, won *hedged, reply any) error {
	err := won.outcome.err
	if err == nil {
		if err = won.decodeReply(&won.attempt, reply); err == nil {
			h.succeeded()
		}
	}
	h.awaitLosers()
	if won.attempt.ctx != nil { // there is an attempt
		won.end(&won.attempt, err)
	}
	h.effort = won.effort
	h.attempts = h.started
	h.collect(&won.attempt)
	won.attempt.release()
	return err
}

// awaitLosers waits for attempts that were cancelled, for a moment. Those that take longer
// are ended when they come, on a goroutine of the channel's, unless that is closed.
func (h *hedge) awaitLosers() {
	if h.running == 0 {
		return
	}
	patience := time.NewTimer(losersPatience)
	defer patience.Stop()
	for h.running > 0 {
		select {
		case a := <-h.outcomes:
			h.running--
			h.lose(a)
		case <-patience.C:
			if !h.ch.stepAside() {
				h.loseRest()
				return
			}
			go func() {
				defer h.ch.stepBack()
				h.loseRest()
			}()
			return
		}
	}
}

// loseRest ends the attempts that still run, as they come.
func (h *hedge) loseRest() {
	for ; h.running > 0; h.running-- {
		h.lose(<-h.outcomes)
	}
}

// sharedFrame is a message that several attempts send. Its bytes are only read.
type sharedFrame struct {
	frame frame

	mu    sync.Mutex
	users int // guarded by mu; the frame is freed with the last
}

func (s *sharedFrame) use() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

func (s *sharedFrame) release() {
	s.mu.Lock()
	s.users--
	last := s.users == 0
	s.mu.Unlock()
	if last {
		s.frame.free()
	}
}

// allows reports whether a hedged RPC may be sent again.
func (t *throttle) allows() bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tokens > t.limits.MaxTokens/2
}
