package grpcdial

import (
	"context"
	"errors"
	"slices"
	"syscall"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/mask"
)

// hope is what one wait for READY has left of it, given what may end it. It belongs to the goroutine that waits, so that the program's
// function runs there, with no lock held.
type hope struct {
	cc *ClientConn
	waitEnds
	judged map[*failure.Attempt]bool // those of the log, and whether the program gives up on them
}

// lost returns the failure that ends the wait, nil if there is none: that of the
// latest attempt, if the latest at every address failed for good. It is nil except
// in TRANSIENT_FAILURE, when every address has been tried.
//
// A resolver's failure counts if there is no address: it is for good if it is
// permanent or the program says so. An address that has just been connected to is
// hope for all of them, and so is one at which the first attempt is running: policies
// may say TRANSIENT_FAILURE before each address has been tried.
func (h *hope) lost(state connectivity.State) error {
	if !h.gives() {
		return nil
	}
	if h.giveUp == nil && state != connectivity.TransientFailure {
		return nil // nobody is to be asked
	}
	resolve, tried := h.cc.attempts.standing()
	h.judge(resolve, tried)
	if state != connectivity.TransientFailure {
		return nil
	}
	if len(tried) == 0 {
		if resolve != nil && (h.judged[resolve] || h.failFast && resolve.Permanent) {
			return asEnd(resolve.Err)
		}
		return nil
	}
	var last *failure.Attempt
	for _, attempts := range tried {
		if len(attempts) == 0 {
			return nil
		}
		for _, last = range attempts {
			if !h.judged[last] && !(h.failFast && forGood(last)) {
				return nil
			}
		}
	}
	if slices.ContainsFunc(h.cc.allLinks(), (*link).breaksNewGround) {
		return nil
	}
	return asEnd(last.Err)
}

// asEnd returns the failure err as what ended a wait. An attempt that its own time
// ended is no wait that the waiter's context ended.
func asEnd(err error) error {
	if err == context.DeadlineExceeded || err == context.Canceled {
		return mask.Dial(err)
	}
	return err
}

// judge asks the program about the attempts that it was not asked about before, and
// forgets those that are not the latest any more.
func (h *hope) judge(resolve *failure.Attempt, tried []failure.List) {
	if h.giveUp == nil {
		return
	}
	now := make(map[*failure.Attempt]bool)
	ask := func(a *failure.Attempt) {
		verdict, known := h.judged[a]
		if !known {
			verdict = h.giveUp(publicAttempt(a))
		}
		now[a] = verdict
	}
	if resolve != nil {
		ask(resolve)
	}
	for _, attempts := range tried {
		for _, a := range attempts {
			ask(a)
		}
	}
	h.judged = now
}

// askWhetherHopeless makes those who wait for READY look at the attempts again.
func (cc *ClientConn) askWhetherHopeless() {
	if cc.impatient.Load() > 0 {
		cc.state.poke()
	}
}

// forGood reports whether a failed for good: for a reason that does not heal, or
// because the dialer says that it is not temporary. A reset is, in every phase:
// servers and what is before them send one when they are busy or restarting.
func forGood(a *failure.Attempt) bool {
	if a.Permanent {
		return true
	}
	var t interface{ Temporary() bool }
	dialing := a.Phase == failure.Dial || a.Phase == failure.Resolve
	return dialing && errors.As(a.Err, &t) && !t.Temporary() && !errors.Is(a.Err, syscall.ECONNRESET)
}
