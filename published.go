package grpcdial

import (
	"cmp"
	"errors"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/call"
)

// published is what RPCs see of the control plane, with what is needed to make it so
// again and to explain it. Policy queue only.
type published struct {
	calls *call.Channel // what RPCs look at; set once

	picker         balancer.Picker // the one in force; nil: RPCs wait
	failing        call.Reason     // why that fails RPCs
	through        bool            // RPCs do not wait for the resolver any more
	lastDisconnect error           // why a connection ended or an attempt failed, until the channel is READY again
}

// setPicker puts a picker in force. failing is why it fails RPCs; nil if it does not,
// or if that is not known.
func (p *published) setPicker(picker balancer.Picker, failing call.Reason) {
	p.picker, p.failing = picker, failing
	p.calls.SetFailingPicker(picker, failing)
}

// letThrough ends the wait of RPCs for the resolver.
func (p *published) letThrough() {
	p.through = true
	p.calls.SetResolved(true)
}

// disconnected notes why a connection ended, or could not be made.
func (p *published) disconnected(why error) { p.lastDisconnect = why }

// connected notes that the channel is READY.
func (p *published) connected() { p.lastDisconnect = nil }

// leaveIdle ends that RPCs wake the channel.
func (p *published) leaveIdle() { p.calls.SetIdle(false) }

// withdraw shuts every way to a connection: an RPC that begins from now on wakes the
// channel and waits.
func (p *published) withdraw() {
	p.calls.SetIdle(true)
	p.calls.SetResolved(false)
	p.calls.SetPicker(nil)
}

// restore takes back withdraw.
func (p *published) restore() {
	p.calls.SetFailingPicker(p.picker, p.failing)
	p.calls.SetResolved(p.through)
	p.calls.SetIdle(false)
}

// clear makes withdraw final: the channel is idle.
func (p *published) clear() {
	p.calls.SetSelector(nil)
	*p = published{calls: p.calls}
}

// errLeft is why a channel is not READY any more whose connection was not lost.
var errLeft = errors.New("grpcdial: the policy gave the connection up: its address is not among the resolver's any more, or another policy took over")

// errPolicyFailed is the cause of a transition to TRANSIENT_FAILURE for which nothing
// that the channel knows is the reason.
var errPolicyFailed = errors.New("grpcdial: the load-balancing policy reported TRANSIENT_FAILURE without a failed connection attempt")

// publish puts the picker and the state of s in force for RPCs and the program, at the
// same time: a caller that waited for the state does not find the old picker, and an RPC
// that the picker fails finds the state that it failed in. Policy queue only.
func (cc *ClientConn) publish(s balancer.State) {
	cc.policyQueue.AssertOn()
	to, from := s.ConnectivityState, cc.state.state()
	if to == connectivity.Shutdown {
		to = connectivity.TransientFailure // only Close may end a channel
	}
	var why error
	var failing call.Reason
	switch {
	case to == connectivity.Ready:
		cc.published.connected()
		cc.wanted = false
		cc.attempts.Ready()
		cc.latestReason.Store(nil)
	case to == connectivity.TransientFailure:
		failing, why = cc.explainAs(to)
	case from == connectivity.Ready:
		why = cmp.Or(cc.published.lastDisconnect, errLeft)
	}
	cc.setState(to, why, func() { cc.published.setPicker(s.Picker, failing) })
}
