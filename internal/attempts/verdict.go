package attempts

import (
	"context"
	"errors"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/errno"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/mask"
)

// Ends are the failures that end a wait for READY.
type Ends struct {
	FailFast bool                        // those that do not heal
	GiveUp   func(*failure.Attempt) bool // those for which it returns true; nil: none
}

// Verdict judges whether one wait for READY can still succeed. It belongs to the
// goroutine that waits, so that GiveUp is called there, with no lock held.
type Verdict struct {
	log     *Log
	ends    Ends
	untried func() bool
	asked   map[*failure.Attempt]bool // those of the log, and what GiveUp returned for them
}

// NewVerdict returns the verdict on a wait that ends end. untried reports whether an
// attempt is in progress, or to be made by one that is, at an address where none has
// ended yet.
func NewVerdict(log *Log, ends Ends, untried func() bool) *Verdict {
	return &Verdict{log: log, ends: ends, untried: untried}
}

// Ended returns the failure that ends the wait, nil if there is none: that of the
// latest attempt, if the latest at every address failed for good. It is nil except
// in TRANSIENT_FAILURE, when every address has been tried.
//
// A nil Verdict is that on a wait that no failure ends.
//
// A resolver's failure counts if there is no address: it is for good if it is
// permanent or the program says so. The wait goes on while an address has just been
// connected to, or the first attempt at one is running: policies may report
// TRANSIENT_FAILURE before each address has been tried.
func (v *Verdict) Ended(state connectivity.State) error {
	if v == nil || v.ends.GiveUp == nil && !v.ends.FailFast {
		return nil
	}
	if v.ends.GiveUp == nil && state != connectivity.TransientFailure {
		return nil // GiveUp has to see every failure, but there is none
	}
	resolve, tried := v.log.ByAddress()
	v.judge(resolve, tried)
	if state != connectivity.TransientFailure {
		return nil
	}
	if len(tried) == 0 {
		if resolve != nil && (v.asked[resolve] || v.ends.FailFast && resolve.Permanent) {
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
			if !v.asked[last] && !(v.ends.FailFast && forGood(last)) {
				return nil
			}
		}
	}
	if v.untried() {
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

// judge calls GiveUp with the attempts that it was not called with before, and
// forgets those that are not the latest any more.
func (v *Verdict) judge(resolve *failure.Attempt, tried []failure.List) {
	if v.ends.GiveUp == nil {
		return
	}
	now := make(map[*failure.Attempt]bool)
	ask := func(a *failure.Attempt) {
		ends, known := v.asked[a]
		if !known {
			ends = v.ends.GiveUp(a)
		}
		now[a] = ends
	}
	if resolve != nil {
		ask(resolve)
	}
	for _, attempts := range tried {
		for _, a := range attempts {
			ask(a)
		}
	}
	v.asked = now
}

// forGood reports whether a failed for good: for a reason that does not heal, or
// because the dialer says that it is not temporary. A reset is, in every phase:
// servers and proxies send one when they are busy or restarting.
func forGood(a *failure.Attempt) bool {
	if a.Permanent {
		return true
	}
	var t interface{ Temporary() bool }
	dialing := a.Phase == failure.Dial || a.Phase == failure.Resolve
	return dialing && errors.As(a.Err, &t) && !t.Temporary() && !errno.IsReset(a.Err)
}
