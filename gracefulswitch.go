package grpcdial

import (
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	grpcsc "google.golang.org/grpc/serviceconfig"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// policySwitch is the policies of one channel: the current one, whose pickers
// RPCs use, and while the channel changes to another one, the pending one, which
// connects meanwhile. Policy queue only.
//
//	no policy ──▶ current ──────────────────▶ current, pending
//	                ▲      another is asked for    │
//	                └──────────────────────────────┘
//	                  pending is no longer CONNECTING, or
//	                  current is not READY: pending becomes current
type policySwitch struct {
	cc      *ClientConn // set once
	current *policy
	pending *policy
}

// latest returns the policy that resolver updates are for; nil if there is none.
func (w *policySwitch) latest() *policy {
	w.cc.policyQueue.AssertOn()
	if w.pending != nil {
		return w.pending
	}
	return w.current
}

// update gives a resolver's update to the policy that config asks for, which is
// built if it is not the latest one.
func (w *policySwitch) update(config *serviceconfig.Config, s resolver.State) error {
	w.cc.policyQueue.AssertOn()
	builder, lbConfig := chosenPolicy(config)
	p := w.latest()
	isNew := p == nil || p.builder.Name() != builder.Name()
	if isNew {
		if p = w.build(builder); p == nil {
			return balancer.ErrBadResolverState
		}
	}
	err := p.lb.UpdateClientConnState(balancer.ClientConnState{ResolverState: s, BalancerConfig: lbConfig})
	if isNew && w.cc.wanted {
		p.lb.ExitIdle()
	}
	return err
}

// chosenPolicy returns the builder of the policy that config asks for, and what
// the config says to it. A config that names none, or an unknown one in the
// field where that is no error, means pick_first.
func chosenPolicy(config *serviceconfig.Config) (balancer.Builder, grpcsc.LoadBalancingConfig) {
	if config.LB != nil {
		return config.LB.Builder, config.LB.Config
	}
	return balancer.Get(pickfirst.Name), nil
}

// build makes a policy the latest one. A pending one that it replaces is closed.
// It returns nil if the builder does not make a policy.
func (w *policySwitch) build(b balancer.Builder) *policy {
	w.cc.policyQueue.AssertOn()
	if w.pending != nil {
		w.pending.close()
		w.pending = nil
	}
	p := &policy{cc: w.cc, resolver: w.cc.resolver, builder: b, last: balancer.State{ConnectivityState: connectivity.Connecting}}
	p.lb = b.Build(p, w.cc.buildOptions())
	if p.lb == nil {
		p.close()
		return nil
	}
	w.cc.channelz.Policy(b.Name())
	if w.current == nil {
		w.current = p
	} else {
		w.pending = p
	}
	return p
}

// report takes the state and picker that p has posted.
func (w *policySwitch) report(p *policy, s balancer.State) {
	w.cc.policyQueue.AssertOn()
	p.last = s
	switch p {
	case w.pending:
		if s.ConnectivityState != connectivity.Connecting || w.current.last.ConnectivityState != connectivity.Ready {
			w.promote()
		}
	case w.current:
		if w.pending != nil && s.ConnectivityState != connectivity.Ready {
			w.promote()
			return
		}
		w.cc.publish(s)
	}
}

// promote makes the pending policy the current one, and closes the current one.
func (w *policySwitch) promote() {
	old := w.current
	w.current, w.pending = w.pending, nil
	w.cc.publish(w.current.last)
	old.close()
}

// close closes what policies there are.
func (w *policySwitch) close() {
	w.cc.policyQueue.AssertOn()
	all := w.all()
	w.current, w.pending = nil, nil
	for _, p := range all {
		p.close()
	}
}

// all returns the current policy and the pending one, as far as there are.
func (w *policySwitch) all() (all []*policy) {
	w.cc.policyQueue.AssertOn()
	for _, p := range []*policy{w.current, w.pending} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}
