package connect

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// patience is how long code of the user's has to return after its context has
// ended and it was interrupted, before it is left to itself.
const patience = 50 * time.Millisecond

var errNoReturn = errors.New("the goroutine was ended (runtime.Goexit) in the dialer, the choice of a proxy, the credentials' handshake or the connection's check")

// bounded runs f, which calls code of the user's, on a goroutine of its own and
// returns what it returns. When ctx ends first, interrupt is called and the
// error is one that matches ctx's; f then has a little time to return, so that
// nothing is left running of code that behaves. What f returns too late to be
// used goes to drop, unless it is an error.
func bounded[T any](ctx context.Context, f func() (T, error), interrupt func(), drop func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	results := make(chan result, 1)
	var settled atomic.Bool // set by the goroutine when it delivers, or by the caller when it gives up: one of them drops
	go func() {
		r := result{err: errNoReturn}
		defer func() {
			if settled.CompareAndSwap(false, true) {
				results <- r
			} else if r.err == nil {
				drop(r.v)
			}
		}()
		r.v, r.err = f()
	}()

	select {
	case r := <-results:
		return r.v, r.err
	case <-ctx.Done():
	}
	var zero T
	interrupt()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var late result
	select {
	case late = <-results:
	case <-timer.C:
		if settled.CompareAndSwap(false, true) {
			return zero, ctx.Err()
		}
		late = <-results
	}
	if late.err == nil {
		drop(late.v)
	} else if errors.Is(late.err, ctx.Err()) {
		return zero, late.err // it may say more
	}
	return zero, ctx.Err()
}
