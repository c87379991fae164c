package call

import (
	"context"
	"math"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// tries counts the attempts of one RPC.
type tries struct {
	policy        int // retries by policy so far: grpc-previous-rpc-attempts
	sincePushback int // of them, those since the server last set the delay
	idle          int // attempts in a row that were not processed, by servers that processed no other RPC either
	refusals      int // attempts that ended with REFUSED_STREAM
}

// A server that processes no request at all gets it once more (gRFC A6). One that ends
// its connections in good order may be restarting and gets it a few times more: each
// costs a connection, and the subchannel spaces those. So does one that refuses what is
// too much while it works on other RPCs, for about two seconds in which it ends none.
const (
	maxIdle        = 1
	maxIdleOrderly = 10
	maxIdleBusy    = 20
)

// The delays before an attempt that follows a second REFUSED_STREAM, or a later one.
const (
	minRefusalDelay = 5 * time.Millisecond
	maxRefusalDelay = 100 * time.Millisecond
)

// retryInput is all that the decision to try again depends on, but for the throttle.
type retryInput struct {
	outcome     outcome
	code        codes.Code // of the outcome
	committed   bool
	policy      *serviceconfig.RetryPolicy // nil: none
	maxAttempts int                        // the channel's bound
	tries       tries
	random      float64 // in [0, 1)
}

// retryVerdict is the decision.
type retryVerdict struct {
	again       bool
	transparent bool          // the server has not seen the RPC: no policy is needed
	delay       time.Duration // before the next attempt
	counts      bool          // a failure in the eyes of the throttle, which may then forbid the next attempt
	exhausted   bool          // the policy's attempts are used up
	tries       tries         // what they become if there is a next attempt
}

// retryDecision decides whether an RPC is tried again after an attempt that
// failed (gRFC A6). One that never reached the wire is, always. One that a server did not
// process is as long as servers make progress with other RPCs meanwhile, since its turn
// will come then, and a bounded number of times in a row if they do not. All else is
// as the policy says.
func retryDecision(in retryInput) retryVerdict {
	v := retryVerdict{tries: in.tries}
	o := &in.outcome
	switch {
	case in.committed, o.drop:
		return v
	case o.unsent:
		v.again, v.transparent = true, true
		return v
	case o.unprocessed && v.tries.givenBack(o):
		v.again, v.transparent = true, true
		if o.refused {
			v.delay = refusalDelay(v.tries.refusals, in.random)
		}
		return v
	case o.headers:
		return v
	}
	pushback := -1
	if len(o.pushback) > 0 {
		ms, err := strconv.Atoi(o.pushback[0])
		if err != nil || ms < 0 || len(o.pushback) > 1 {
			v.counts = true // the server says stop, with or without a policy
			return v
		}
		pushback = ms
	}
	if in.policy == nil || !in.policy.RetryableStatusCodes.Has(in.code) && !o.timedOut {
		return v
	}
	v.counts = true
	attempts := in.tries.policy + 1
	if attempts >= min(in.policy.MaxAttempts, in.maxAttempts) {
		v.exhausted = true
		return v
	}
	v.again = true
	v.tries.policy = attempts
	if !o.unprocessed {
		v.tries.idle = 0
	}
	if pushback >= 0 {
		v.delay = time.Duration(min(int64(pushback), math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
		v.tries.sincePushback = 0
		return v
	}
	v.delay = retryDelay(in.policy, in.tries.sincePushback, in.random)
	v.tries.sincePushback++
	return v
}

// givenBack counts an attempt that the server did not process. It reports whether
// another one may follow.
func (t *tries) givenBack(o *outcome) bool {
	t.idle++
	if o.progress {
		t.idle = 0
	}
	if o.refused {
		t.refusals++
	}
	switch {
	case o.orderly:
		return t.idle <= maxIdleOrderly
	case o.busy:
		return t.idle <= maxIdleBusy
	}
	return t.idle <= maxIdle
}

// refusalDelay is what precedes the attempt after the n-th REFUSED_STREAM, from 1: nothing
// at first, then a delay that doubles, with a jitter of a half. The connection goes on,
// so nothing else keeps a server that refuses what is too much from being asked at once.
func refusalDelay(n int, random float64) time.Duration {
	if n <= 1 {
		return 0
	}
	d := min(minRefusalDelay<<min(n-2, 10), maxRefusalDelay)
	return time.Duration(float64(d) * (0.5 + random))
}

// retryDelay is the n-th back-off, from 0, with a jitter of a fifth.
func retryDelay(p *serviceconfig.RetryPolicy, n int, random float64) time.Duration {
	d := float64(p.InitialBackoff) * math.Pow(p.BackoffMultiplier, float64(n))
	d = min(d, float64(p.MaxBackoff)) * (0.8 + 0.4*random)
	if d >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(d)
}

// pause waits before another attempt. last is the failure of the one before. An attempt
// for which no time is left is not made.
func (r *rpc) pause(ctx context.Context, d time.Duration, last error) error {
	if d <= 0 && last == nil {
		return nil // it is the first
	}
	if d <= 0 {
		return r.timeLeft(ctx, last)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	since := r.ch.now()
	select {
	case <-t.C:
		r.times.BackingOff += r.ch.now() - since
		return r.timeLeft(ctx, last)
	case <-r.ch.cfg.Closing.Done():
		return grpc.ErrClientConnClosing
	case <-ctx.Done():
		r.times.BackingOff += r.ch.now() - since
		return r.contextEnded(ctx, ctx.Err(), StageBackoff, nil, last)
	}
}

// timeLeft is the error of an RPC that no time is left for, be it that its context has
// not noticed yet.
func (r *rpc) timeLeft(ctx context.Context, last error) error {
	err := ctx.Err()
	if err == nil && expired(ctx) {
		err = context.DeadlineExceeded
	}
	if err == nil {
		return nil
	}
	return r.contextEnded(ctx, err, StageBackoff, nil, last)
}

// throttle holds the tokens of gRFC A6's retry throttling. nil never forbids.
type throttle struct {
	limits serviceconfig.RetryThrottling

	mu     sync.Mutex
	tokens float64
}

func newThrottle(l serviceconfig.RetryThrottling) *throttle {
	return &throttle{limits: l, tokens: l.MaxTokens}
}

// failure takes a token and reports whether a retry is allowed.
func (t *throttle) failure() bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tokens = max(t.tokens-1, 0)
	return t.tokens > t.limits.MaxTokens/2
}

// success gives tokens back.
func (t *throttle) success() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tokens = min(t.tokens+t.limits.TokenRatio, t.limits.MaxTokens)
}
