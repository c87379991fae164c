package grpcdial

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/subchannel"
)

// WithMaxConnectionsPerSubchannel lets a subchannel, which is most often one address, have
// up to n connections (gRFC A105). Another one is made when RPCs wait because the server
// allows no more streams on those that there are (MAX_CONCURRENT_STREAMS), one at a time
// and with the back-off of all attempts. RPCs that wait go to whichever connection has a
// stream first; others to the oldest connection that has one. A connection besides the
// oldest that had no RPC for 30 to 60 seconds is closed.
//
// The connectionScaling.maxConnectionsPerSubchannel of a service config counts in the place
// of n, but no more than n; without this option no more than 10. The default is one
// connection. n has to be 1 or more.
func WithMaxConnectionsPerSubchannel(n int) DialOption {
	return optionFunc(func(o *dialOptions) {
		if n < 1 {
			o.invalid = fmt.Errorf("grpcdial: WithMaxConnectionsPerSubchannel(%d): it has to be 1 or more", n)
		}
		o.maxConnections = n
	})
}

// WithMaxConnectionAge replaces each connection before it is older than age, as
// [ClientConn.Renew] does: at a random time between age - jitter and age, so that the
// clients that a server began with do not come back all at once. Until a new connection
// could be made the old one stays in use, and attempts follow each other with the back-off.
//
// It is for certificates that are rotated, and for balancers and addresses behind which
// there are several servers, to which connections would stick. The default, and an age of
// zero or less, is no limit. A jitter that is negative or larger than age is an error of
// the constructor.
func WithMaxConnectionAge(age, jitter time.Duration) DialOption {
	return optionFunc(func(o *dialOptions) {
		if age > 0 && (jitter < 0 || jitter > age) {
			o.invalid = fmt.Errorf("grpcdial: WithMaxConnectionAge(%v, %v): the jitter has to be between 0 and the age", age, jitter)
		}
		o.age = subchannel.Age{Max: max(age, 0), Jitter: jitter}
	})
}

// defaultConnectionLimit is gRFC A105's bound on what a service config may ask for.
const defaultConnectionLimit = 10

// maxConnections returns how many connections a subchannel may have: what the service
// config says, WithMaxConnectionsPerSubchannel if that says nothing, which also bounds it.
func (cc *ClientConn) maxConnections() int {
	most, limit := 0, defaultConnectionLimit
	if config := cc.config.Load(); config != nil {
		most = config.MaxConnectionsPerSubchannel
	}
	if n := cc.opts.limits.maxConnections; n > 0 {
		limit = n
		if most == 0 {
			most = n
		}
	}
	return min(max(most, 1), limit)
}

// Renew replaces the channel's connections by new ones, for example because the
// certificates in use have changed. Every subchannel that is connected makes a new
// connection to the address of each that it has; RPCs go to the new one as soon as it is
// there, and the old one is closed when its last RPC has ended. So no RPC fails because of
// it. A stream that never ends keeps its connection. Where a connection is just being made,
// that one is replaced when it is there, for which Renew does not wait.
//
// It returns nil when all have been replaced, or ended otherwise, at once if the channel
// has no connection: it does not make the channel leave IDLE. An attempt that fails ends it
// for that subchannel, whose old connections stay in use. When all attempts have ended the
// error is a *DialError with those that failed. If ctx ends first, it is a *DialError with
// the error of ctx and the attempts in progress, which go on. If the channel is closed the
// error is [ErrClosed]. Concurrent calls are allowed: each returns when the connections
// that it found are replaced.
func (cc *ClientConn) Renew(ctx context.Context) error {
	begun := time.Now()
	if cc.isClosing() {
		return ErrClosed
	}
	failed, err := cc.subchannels.Renew(ctx)
	switch {
	case err == subchannel.ErrClosed:
		return ErrClosed
	case err == nil && len(failed) == 0:
		return nil
	}
	now, state := time.Now(), cc.state.latest()
	e := &DialError{Target: cc.shownTarget(), State: state.To, Elapsed: now.Sub(begun), Err: err}
	if !state.Time.IsZero() {
		e.InState = now.Sub(state.Time)
	}
	for _, a := range failed {
		e.Attempts = append(e.Attempts, publicAttempt(a))
	}
	if err == nil {
		e.Err = asCause(failed[len(failed)-1])
		return e.capped()
	}
	running := cc.inProgress()
	for _, a := range append(running.attempts, running.later...) {
		e.Attempts = append(e.Attempts, a.until(now))
	}
	return e.capped().endedWith(ctx)
}

// asCause returns why an attempt failed. Its own time-out is no end of the wait's context.
func asCause(a *failure.Attempt) error {
	if a.Err == context.DeadlineExceeded || a.Err == context.Canceled {
		return mask.Dial(a.Err)
	}
	return a.Err
}

// capped leaves out the oldest attempts, if there are too many.
func (e *DialError) capped() *DialError {
	if n := len(e.Attempts) - maxAttempts; n > 0 {
		e.Attempts, e.Omitted = e.Attempts[n:], e.Omitted+n
	}
	return e
}

// noConnection is what a DialError begins with.
func noConnection(state connectivity.State) string {
	if state == connectivity.Ready { // of Renew
		return "no new connection"
	}
	return "no connection"
}
