package subchannel

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/grpcdial/grpcdial/internal/failure"
)

// ErrClosed is what Renew returns when the channel is closed meanwhile.
var ErrClosed = errors.New("grpcdial: the channel is closed")

// renewal waits until the connections that one subchannel had are replaced.
type renewal struct {
	sc    *Subchannel
	loops []*loop           // guarded by sc.mu: those of the connections
	ended chan failure.List // gets why the attempt failed, or nil when no connection of loops is in use; capacity 1
}

// Renew makes every subchannel that is connected replace its connections: it makes a new
// one, RPCs use that, and the old one ends with its last RPC. It returns when all have, or
// when an attempt has failed in each of the others, whose connections stay in use: with the
// attempts that failed; or with the error of ctx. Attempts in progress then go on.
func (g *Group) Renew(ctx context.Context) (failed failure.List, err error) {
	var all []*renewal
	for _, sc := range g.known() {
		if r := sc.renew(); r != nil {
			all = append(all, r)
		}
	}
	for i, r := range all {
		select {
		case list := <-r.ended:
			failed = append(failed, list...)
			continue
		case <-g.cfg.Closing.Done():
			err = ErrClosed
		case <-ctx.Done():
			err = ctx.Err()
		}
		for _, r := range all[i:] {
			r.forget()
		}
		return failed, err
	}
	return failed, nil
}

// forget ends the wait, but not the attempt: a program may ask again and again while that is
// in progress.
func (r *renewal) forget() {
	r.sc.mu.Lock()
	defer r.sc.mu.Unlock()
	delete(r.sc.renewals, r)
}

// renew makes all connections stale; nil if there is none. An attempt in progress is given
// up: it may have begun with credentials that are out of date. If it is all that there is, it
// goes on, and what it leads to is replaced at once.
func (sc *Subchannel) renew() *renewal {
	sc.mu.Lock()
	if len(sc.conns) == 0 {
		if l := sc.connecting; l != nil && l.dialing.running != nil {
			l.stale = true
		}
		sc.mu.Unlock()
		return nil
	}
	for _, l := range sc.conns {
		l.stale = true
	}
	r := &renewal{sc: sc, loops: slices.Clone(sc.conns), ended: make(chan failure.List, 1)}
	if sc.renewals == nil {
		sc.renewals = make(map[*renewal]struct{})
	}
	sc.renewals[r] = struct{}{}
	var old []*loop
	if l := sc.connecting; l != nil {
		sc.connecting = nil
		old = append(old, l)
	}
	sc.extraLocked()
	sc.mu.Unlock()
	drain(old, ErrReplaced)
	return r
}

// renewedLocked ends the renewals whose connections are all out of use.
func (sc *Subchannel) renewedLocked() {
	maps.DeleteFunc(sc.renewals, func(r *renewal, _ struct{}) bool {
		if slices.ContainsFunc(r.loops, func(l *loop) bool { return slices.Contains(sc.conns, l) }) {
			return false
		}
		r.ended <- nil
		return true
	})
}

// notRenewedLocked ends all renewals: an attempt has failed. Connections that are old stay
// stale, and are tried again for; the others stay in use.
func (sc *Subchannel) notRenewedLocked(why failure.List) {
	for _, l := range sc.conns {
		l.stale = l.old
	}
	for r := range sc.renewals {
		r.ended <- why
	}
	sc.renewals = nil
}
