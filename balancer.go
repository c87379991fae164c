package grpcdial

import (
	"errors"
	"sync"

	"google.golang.org/grpc/balancer"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"
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

	last   balancer.State // policy queue only: what it reported last
	closed bool           // written on the policy queue with cc.mu held, read with either
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
	p.cc.post(func() {
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
		Target:          cc.parsed,
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
