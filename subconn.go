package grpcdial

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/backoff"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/mask"
)

// subConn is a subchannel as its policy sees it, and as RPCs do: one group of
// addresses, of which it is connected to one at most. Its life is link's business.
//
// Policies call it from the policy queue, from timers of their own and from
// pickers, often with a lock held. So no method waits, and none calls the
// policy: what happens here is told to it on the policy queue.
//
// mu is held for a few steps only. While it is held the policy queue is posted to
// and cc.mu taken, and neither the other way round.
type subConn struct {
	balancer.SubConn // nil; here for the methods that the interface keeps to itself

	// Set by NewSubConn and only read after that.
	cc       *ClientConn
	policy   *policy
	opts     balancer.NewSubConnOptions
	number   uint64 // in the order in which the channel's subchannels were made
	channelz *channelzdata.Subchannel

	line atomic.Pointer[call.Line] // of state READY, else nil: all that RPCs read

	mu        sync.Mutex
	state     connectivity.State                     // guarded by mu
	since     time.Time                              // guarded by mu: when it came to be in state; zero if it never left IDLE
	why       error                                  // guarded by mu: the latest failure or loss since it was READY, or what speaks against its health
	addrs     []resolver.Address                     // guarded by mu; the array is never written to
	link      *link                                  // guarded by mu: who changes state now; nil in IDLE and SHUTDOWN
	record    record                                 // guarded by mu: of attempts and connections so far
	producers map[balancer.ProducerBuilder]*producer // guarded by mu

	told     connectivity.State // policy queue only: the state that the policy knows
	unwatch  func()             // policy queue only: ends the watch of the health listener; nil: there is none
	listener atomic.Uint32      // counts what makes an earlier health listener void
}

var (
	_ balancer.SubConn = (*subConn)(nil)
	_ call.Endpoint    = (*subConn)(nil)
)

var (
	errShutDown       = errors.New("grpcdial: the policy shut the subchannel down")
	errAddressRemoved = errors.New("grpcdial: the address is not among the subchannel's any more")
)

func newSubConn(p *policy, addrs []resolver.Address, opts balancer.NewSubConnOptions) *subConn {
	return &subConn{cc: p.cc, policy: p, opts: opts, addrs: slices.Clone(addrs)}
}

// Line returns the connection of a subchannel that is READY, else nil.
func (sc *subConn) Line() *call.Line { return sc.line.Load() }

// Connect leaves IDLE. In other states it does nothing.
func (sc *subConn) Connect() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.state == connectivity.Idle {
		sc.connectLocked()
	}
}

// connectLocked starts a link, which makes the attempt at once, after a pause, or not at
// all, as the record says.
func (sc *subConn) connectLocked() {
	params := sc.cc.opts.connectParams
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{sc: sc, addrs: sc.addrs, cancel: cancel, begun: time.Now()}
	made := sc.record.failures
	if l.refused = sc.record.instead; l.refused != nil {
		sc.record.instead = nil
		made-- // it is the attempt that was counted already
	} else if until, wanted := sc.record.pause(); l.begun.Before(until) {
		l.retry, l.until, l.wanted = make(chan struct{}), until, wanted
	}
	l.backoff = backoff.Delay(params.Backoff, made, rand.Float64())
	l.limit = backoff.ConnectLimit(params.MinConnectTimeout, l.backoff)
	if !sc.cc.addLink(l) {
		cancel()
		return
	}
	sc.link = l
	sc.setLocked(connectivity.Connecting, nil)
	go l.run(ctx)
}

// Shutdown ends the subchannel. RPCs that run on its connection may end first.
func (sc *subConn) Shutdown() {
	sc.mu.Lock()
	if sc.state == connectivity.Shutdown {
		sc.mu.Unlock()
		return
	}
	old := sc.takeLocked()
	sc.setLocked(connectivity.Shutdown, nil)
	sc.mu.Unlock()
	old.drain(errShutDown)
}

// UpdateAddresses replaces the addresses. A connection to an address that is
// among them is kept. Otherwise it is drained, or the attempt given up, and a
// new attempt made; with no address at all the subchannel becomes IDLE first. An attempt
// without addresses waits, in CONNECTING, until there are some. In other states the
// addresses are those of the next attempt.
func (sc *subConn) UpdateAddresses(addrs []resolver.Address) {
	sc.mu.Lock()
	if slices.EqualFunc(sc.addrs, addrs, sameAddress) {
		sc.mu.Unlock()
		return
	}
	sc.addrs = slices.Clone(addrs)
	connected := sc.link != nil && sc.link.conn != nil // READY, or what its health makes of it
	kept := connected &&
		slices.ContainsFunc(addrs, func(a resolver.Address) bool { return sameAddress(a, sc.link.addr) })
	var old *link
	if !kept {
		sc.record.moved()
	}
	if !kept && (connected || sc.state == connectivity.Connecting) {
		old = sc.takeLocked()
		if len(addrs) == 0 {
			sc.setLocked(connectivity.Idle, errAddressRemoved)
		}
		sc.connectLocked()
	}
	sc.mu.Unlock()
	sc.channelz.Addresses(addrs)
	old.drain(errAddressRemoved)
}

// sameAddress reports whether a connection to a is one to b. Attributes for the
// policy do not matter.
func sameAddress(a, b resolver.Address) bool {
	return a.Addr == b.Addr && a.ServerName == b.ServerName && a.Attributes.Equal(b.Attributes) &&
		a.Metadata == b.Metadata
}

// takeLocked takes the subchannel away from its link, which it returns; nil if
// there is none.
func (sc *subConn) takeLocked() *link {
	old := sc.link
	sc.link = nil
	sc.line.Store(nil)
	if old != nil {
		old.left = time.Now()
	}
	return old
}

// resetBackoff ends a wait of the back-off and forgets the failures before. An
// attempt that is being made is followed by the shortest delay if it fails.
func (sc *subConn) resetBackoff() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.record = record{}
	l := sc.link
	if l == nil {
		return
	}
	if sc.state == connectivity.Connecting {
		l.backoff = backoff.Delay(sc.cc.opts.connectParams.Backoff, 0, rand.Float64())
	}
	if l.retry != nil {
		close(l.retry)
		l.retry = nil
	}
}

// setLocked changes the state and has the policy told. Because mu is held, the
// policy hears of changes in their order.
func (sc *subConn) setLocked(to connectivity.State, why error) {
	if sc.state == to {
		return
	}
	switch connectivity.Ready {
	case sc.state:
		sc.cc.ready.Add(-1)
	case to:
		sc.cc.ready.Add(1)
	}
	sc.state, sc.since = to, time.Now()
	sc.cc.attempts.Changes.Add(1)
	if why != nil || to == connectivity.Ready {
		sc.why = why
	}
	sc.cc.post(func() { sc.tell(to, why) })
}

// tell tells the policy. Policy queue only.
func (sc *subConn) tell(to connectivity.State, why error) {
	sc.cc.policyQueue.AssertOn()
	if sc.told == connectivity.Shutdown {
		return // the policy was closed meanwhile
	}
	if to == connectivity.Shutdown {
		sc.end()
	} else {
		sc.enter(to)
		sc.channelz.State(to, why)
	}
	if sc.policy.closed {
		return
	}
	if why != nil {
		sc.cc.published.disconnected(mask.RPC(why))
	}
	s := subConnState(to, why)
	if sc.opts.StateListener != nil {
		sc.opts.StateListener(s)
	} else {
		sc.policy.lb.UpdateSubConnState(sc, s)
	}
}

// enter ends what belongs to the state before: the health listener and the producers.
// Policy queue only.
func (sc *subConn) enter(to connectivity.State) {
	sc.cc.policyQueue.AssertOn()
	sc.told = to
	sc.listener.Add(1)
	sc.endWatch()
	sc.closeProducers()
}

// end is the end of a subchannel that was shut down. A policy that is closed ends
// its subchannels directly, because the queue refuses what Close causes to be
// posted; the call from tell then does nothing. Policy queue only.
func (sc *subConn) end() {
	sc.cc.policyQueue.AssertOn()
	if sc.told == connectivity.Shutdown {
		return
	}
	sc.enter(connectivity.Shutdown)
	sc.channelz.Close()
	sc.policy.forget(sc)
}

// subConnState is what a policy is told of a state.
func subConnState(to connectivity.State, why error) balancer.SubConnState {
	s := balancer.SubConnState{ConnectivityState: to}
	if to == connectivity.TransientFailure {
		s.ConnectionError = mask.RPC(why)
	}
	return s
}
