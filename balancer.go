package grpcdial

import (
	"errors"
	"sync"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"
	grpcsc "google.golang.org/grpc/serviceconfig"

	"github.com/grpcdial/grpcdial/internal/serial"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// policy is one load-balancing policy and the balancer.ClientConn that it gets.
//
// Policies call it from the policy queue, from timers of their own and from
// pickers, so on RPCs' goroutines too, often with a lock held. So its methods
// never wait and never call a policy: what has an effect on one is posted to the
// policy queue.
type policy struct {
	balancer.ClientConn // nil; here for the methods that the interface keeps to itself

	// Set by build and only read after that.
	cc       *ClientConn
	resolver *resolverConn
	builder  balancer.Builder
	lb       balancer.Balancer // set when Build has returned; nil if that made none

	asked  serial.Signal  // a ResolveNow is on the policy queue
	closed bool           // written on the policy queue with cc.mu held, read with either
	last   balancer.State // policy queue only: what it reported last
}

var _ balancer.ClientConn = (*policy)(nil)

var errPolicyClosed = errors.New("grpcdial: the policy was closed")

// NewSubConn makes a subchannel in state IDLE.
func (p *policy) NewSubConn(addrs []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	if len(addrs) == 0 {
		return nil, errors.New("grpcdial: a subchannel needs an address")
	}
	p.cc.mu.Lock()
	defer p.cc.mu.Unlock()
	if p.closed || p.cc.closed {
		return nil, errPolicyClosed
	}
	return p.cc.subchannels.New(host{p}, addrs, opts), nil
}

// RemoveSubConn is sc.Shutdown.
func (p *policy) RemoveSubConn(sc balancer.SubConn) { sc.Shutdown() }

// UpdateAddresses is sc.UpdateAddresses.
func (p *policy) UpdateAddresses(sc balancer.SubConn, addrs []resolver.Address) {
	sc.UpdateAddresses(addrs)
}

// UpdateState makes s the policy's state and picker, in the order of the calls: called
// within a function on the policy queue, when that has returned.
// A policy that was closed has no say any more.
func (p *policy) UpdateState(s balancer.State) {
	if p.cc.reports.add(p, s) && !p.cc.post(nothing) {
		p.cc.reports.take() // the channel is closed
	}
}

// nothing is posted so that enforceReports runs, as after each function on the policy queue.
func nothing() {}

// ResolveNow asks the resolver to look again, unless another policy is to
// replace this one.
func (p *policy) ResolveNow(resolver.ResolveNowOptions) {
	p.asked.Send(&p.cc.policyQueue, func() {
		if p == p.cc.policies.latest() {
			p.resolver.resolveNow()
		}
	})
}

// Target returns the channel's target as the program wrote it.
func (p *policy) Target() string { return p.cc.target }

// MetricsRecorder returns the channel's recorder.
func (p *policy) MetricsRecorder() estats.MetricsRecorder { return p.cc.metrics }

// close closes the policy and ends its subchannels with all that belongs to them,
// those too that the policy shut down and that have not ended yet. The policy is not
// called any more after its Close has begun. Policy queue only.
func (p *policy) close() {
	p.cc.policyQueue.AssertOn()
	p.cc.mu.Lock()
	p.closed = true
	p.cc.mu.Unlock()
	if p.lb != nil {
		p.lb.Close()
	}
	for _, sc := range p.cc.subchannels.Of(host{p}) {
		sc.Shutdown()
		sc.End()
	}
}

func (cc *ClientConn) buildOptions() balancer.BuildOptions {
	return balancer.BuildOptions{
		DialCreds:       cc.creds.transport.Clone(),
		CredsBundle:     cc.opts.bundle,
		Dialer:          cc.opts.dialer,
		Authority:       cc.authority,
		CustomUserAgent: cc.opts.userAgent,
		Target:          cc.parsed.target(),
		ChannelzParent:  cc.channelz.Identifier(),
	}
}

// reports is the states that policies have reported and that are not in force yet, in
// the order of the reports. The zero value is ready to use.
type reports struct {
	mu      sync.Mutex
	waiting []report // guarded by mu
}

type report struct {
	policy *policy
	state  balancer.State
}

// add puts a report at the end. It reports whether it is the first that waits.
func (r *reports) add(p *policy, s balancer.State) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, report{p, s})
	return len(r.waiting) == 1
}

func (r *reports) take() []report {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.waiting
	r.waiting = nil
	return all
}

// enforceReports puts in force what was reported, in order. It runs after each function on
// the queue: reports to the policies, which may be many, do not come between, and pickers that
// are replaced at once do not pile up. Policy queue only.
func (cc *ClientConn) enforceReports() {
	cc.policyQueue.AssertOn()
	for _, r := range cc.reports.take() {
		if !r.policy.closed && !cc.isClosing() {
			cc.policies.report(r.policy, r.state)
		}
	}
}

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
	s.Endpoints = endpointsOf(s) // the update that the channel keeps does without
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
	if !isOwnPolicy(b) {
		w.cc.ownCode.Store(false)
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
	current, pending := w.current, w.pending
	w.current, w.pending = nil, nil
	if current != nil {
		current.close()
	}
	if pending != nil {
		pending.close()
	}
}

// all yields the current policy and the pending one, if there are any.
func (w *policySwitch) all(yield func(*policy) bool) {
	w.cc.policyQueue.AssertOn()
	if w.current != nil && !yield(w.current) {
		return
	}
	if w.pending != nil {
		yield(w.pending)
	}
}
