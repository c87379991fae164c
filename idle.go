package grpcdial

import (
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/latch"
	"github.com/grpcdial/grpcdial/internal/serial"
)

// Connect makes an idle channel connect, or its load-balancing policy if that is IDLE.
// That includes a policy that is built because of the call and that would otherwise wait
// for the first RPC.
//
// It does not wait for connections. The resolver of a channel that was idle has been
// built when Connect returns, as when DialContext does. Connect waits for a resolver's
// Build for a second at most, and does not wait if it is called by a resolver, a policy,
// or another function that the channel calls on the goroutines on which it calls these.
func (cc *ClientConn) Connect() {
	b := cc.nextBuilding()
	cc.askToConnect()
	if b.done.Closed() || serial.Inside() {
		return
	}
	timer := time.NewTimer(buildPatience)
	defer timer.Stop()
	select {
	case <-b.done.Done():
	case <-timer.C:
	case <-cc.closing.Done():
	}
}

// buildPatience is how long Connect waits for the resolver to be built. The bound is for
// a caller that holds a lock of the program's that Build takes.
const buildPatience = time.Second

// building is the building of one resolver: the next one's on an idle channel, else
// that of the resolver in use.
type building struct {
	done latch.Latch // closed when Build has returned, and if it failed the channel is in the state that this led to
	err  error       // why there is no resolver; read after done
}

// built is the building of a resolver that is built.
var built = func() *building {
	b := new(building)
	b.done.Close()
	return b
}()

// nextBuilding returns the building of the next resolver on an idle channel, where the
// first call makes it, and of the one in use on others.
func (cc *ClientConn) nextBuilding() *building {
	for {
		if b := cc.building.Load(); b != nil {
			return b
		}
		cc.building.CompareAndSwap(nil, new(building))
	}
}

// askToConnect is Connect without its wait.
func (cc *ClientConn) askToConnect() {
	if !cc.onPolicyQueueHere(cc.exitIdle) {
		cc.connectAsked.Send(&cc.policyQueue, func() { cc.exitIdle(false) })
	}
}

// wake makes an idle channel connect, for an RPC or a dial. It does not wait.
func (cc *ClientConn) wake() {
	if !cc.onPolicyQueueHere(cc.leaveIdle) {
		cc.post(func() { cc.leaveIdle(false) })
	}
}

// onPolicyQueueHere calls f, which may leave idle, on the policy queue, and then has a resolver
// built that f has left to it (held), all on this goroutine. It reports false, and does neither,
// if the queue is at work, or if anything of the program's may run on the queues.
func (cc *ClientConn) onPolicyQueueHere(f func(here bool) (held bool)) bool {
	held := false
	if !cc.ownCode.Load() || !cc.policyQueue.Here(func() { held = f(true) }) {
		return false
	}
	if held {
		cc.resolverQueue.Run()
	}
	return true
}

// exitIdle makes whatever is idle connect, the channel, for which here and held are as in
// leaveIdle, or its policy. A policy that is yet to be built is asked after its first
// update. Policy queue only.
func (cc *ClientConn) exitIdle(here bool) (held bool) {
	cc.policyQueue.AssertOn()
	if cc.isClosing() {
		return false
	}
	cc.wanted = true
	if cc.idle {
		return cc.leaveIdle(here)
	}
	if p := cc.policies.latest(); p != nil {
		p.lb.ExitIdle()
	}
	return false
}

// leaveIdle has a resolver built, and the rest follows from what it says. If here is set and
// held returned, the resolver queue is held, and the resolver built when the caller has it
// run. Policy queue only.
func (cc *ClientConn) leaveIdle(here bool) (held bool) {
	cc.policyQueue.AssertOn()
	if !cc.idle {
		return false
	}
	cc.idle = false
	cc.resolution.begin()
	cc.setState(connectivity.Connecting, nil, nil)
	cc.reportResolving()
	cc.resolver = newResolverConn(cc)
	held = cc.resolver.build(cc.nextBuilding(), here)
	cc.published.leaveIdle()
	cc.armIdleTimer(cc.opts.idleTimeout)
	return held
}

// enterIdle closes resolver, policy and connections, so that the channel is as
// NewClient made it. It does nothing if an RPC is running, or if a caller waits for
// READY. Policy queue only.
//
// An RPC counts itself as running before it looks at anything else, and here the
// ways to a connection are shut before RPCs are counted. So one that is not seen
// finds the channel idle: it calls wake, which runs after this, and waits. A
// wait for READY that is not seen finds it IDLE, and asks to connect.
func (cc *ClientConn) enterIdle() {
	cc.policyQueue.AssertOn()
	if cc.idle {
		return
	}
	cc.published.withdraw()
	if running, _ := cc.calls.Active(); running > 0 || cc.waiters.Load() > 0 {
		cc.published.restore()
		return
	}
	cc.idle, cc.wanted = true, false
	cc.building.Store(nil)
	cc.stopIdleTimer()
	cc.resolver.retire()
	cc.resolver = nil
	cc.resolution.forget()
	cc.policies.close()
	cc.subchannels.Cut(ErrIdle, nil)
	cc.attempts.Clear()
	cc.published.clear()
	cc.setState(connectivity.Idle, ErrIdle, nil)
}

// checkIdle goes idle if no RPC has run for the idle time-out, and looks again later
// otherwise. Policy queue only.
func (cc *ClientConn) checkIdle() {
	cc.policyQueue.AssertOn()
	if cc.idle {
		return
	}
	running, lastEnd := cc.calls.Active()
	if lastEnd.Before(cc.resolution.begun) {
		lastEnd = cc.resolution.begun
	}
	quiet := time.Since(lastEnd)
	switch {
	case running > 0 || cc.waiters.Load() > 0:
		cc.armIdleTimer(cc.opts.idleTimeout)
	case quiet < cc.opts.idleTimeout:
		cc.armIdleTimer(cc.opts.idleTimeout - quiet)
	default:
		if cc.enterIdle(); !cc.idle {
			cc.armIdleTimer(cc.opts.idleTimeout)
		}
	}
}

// leastIdleLook is the least time between two looks: with an idle time-out of next to
// nothing, an RPC that runs would keep a processor busy with being looked at.
const leastIdleLook = time.Millisecond

// armIdleTimer has checkIdle run after d. RPCs do not touch the timer: it costs
// a channel that is in use one look per time-out.
func (cc *ClientConn) armIdleTimer(d time.Duration) {
	d = max(d, leastIdleLook)
	switch {
	case cc.opts.idleTimeout <= 0:
	case cc.idleTimer == nil:
		cc.idleTimer = time.AfterFunc(d, func() { cc.post(cc.checkIdle) })
	default:
		cc.idleTimer.Reset(d)
	}
}

func (cc *ClientConn) stopIdleTimer() {
	if cc.idleTimer != nil {
		cc.idleTimer.Stop()
	}
}
