package call

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// attemptLimit cancels an attempt that has no response in its time
// (perAttemptRecvTimeout). nil: the attempt has none of its own.
type attemptLimit struct {
	after   time.Duration
	timer   *time.Timer
	cancel  context.CancelFunc
	expired atomic.Bool
}

// limitAttempt returns a context for the next attempt of an RPC of ctx.
func (r *rpc) limitAttempt(ctx context.Context) (context.Context, *attemptLimit) {
	if r.retry == nil || r.retry.PerAttemptRecvTimeout == 0 {
		return ctx, nil
	}
	l := &attemptLimit{after: r.retry.PerAttemptRecvTimeout}
	ctx, l.cancel = context.WithCancel(ctx)
	l.timer = time.AfterFunc(l.after, func() {
		l.expired.Store(true)
		l.cancel()
	})
	return ctx, l
}

// stop ends the limit: a response has come, or the attempt has ended. The context of a
// stream's attempt ends with that of the RPC.
func (l *attemptLimit) stop() {
	if l != nil {
		l.timer.Stop()
	}
}

// judge ends the limit of an attempt that has ended with o, which it makes another one if
// the limit was the reason. ctx is that of the RPC.
func (l *attemptLimit) judge(ctx context.Context, o *outcome) {
	if l == nil {
		return
	}
	l.stop()
	defer l.cancel()
	if o.err != nil && l.expired.Load() && ctx.Err() == nil {
		st := status.Newf(codes.DeadlineExceeded, "the attempt had no response within perAttemptRecvTimeout, %v", l.after)
		*o = outcome{err: st.Err(), headers: o.headers, timedOut: true}
	}
}
