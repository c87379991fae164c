package grpcdial

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/dns"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/foreignselector"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
	"github.com/grpcdial/grpcdial/internal/text"
)

// resolution is what the resolver in use has said. The zero value is that of an idle
// channel. Policy queue only, but for answered.
type resolution struct {
	begun       time.Time       // when the resolver was to be built: the channel left idle
	answered    atomic.Bool     // the resolver has said something since
	inVain      bool            // all that it said was an update without addresses, which the policy had no use for
	latest      *resolver.State // the latest update that reached the policy; nil: none
	provisional *provisional    // latest, if its service config is yet to come; else nil
}

// provisional is an update without its service config, and what it led to.
type provisional struct {
	state   resolver.State
	config  *serviceconfig.Config // that the policy was chosen by, and not in force
	verdict error                 // the policy's
}

// begin begins with a resolver that is about to be built.
func (r *resolution) begin() {
	r.begun, r.inVain = time.Now(), false
	r.answered.Store(false)
}

// answer notes that the resolver has said something, and returns since when it has been
// about that. Of the first that it says, that is known; xDS's says that a listener is
// missing by an empty update and the error after it.
func (r *resolution) answer() (since time.Time) {
	first := !r.answered.Swap(true) || r.inVain
	if r.inVain = false; first {
		return r.begun
	}
	return time.Now()
}

// repeats reports whether s has the addresses of the update before and comes for its
// service config only.
func (r *resolution) repeats(s resolver.State) bool {
	return r.provisional != nil && sameAddresses(r.provisional.state, s)
}

// take makes s the latest update. It returns the one before if that was provisional,
// else nil.
func (r *resolution) take(s resolver.State) (before *provisional) {
	before = r.provisional
	r.latest, r.provisional = &s, nil
	return before
}

// awaitConfig makes the update that was just taken a provisional one.
func (r *resolution) awaitConfig(p *provisional) { r.provisional = p }

// settle makes the latest update what it is for good: its service config does not come.
func (r *resolution) settle() { r.provisional = nil }

// forget forgets the updates: there is no policy any more that has them.
func (r *resolution) forget() { r.latest, r.provisional = nil, nil }

func sameAddresses(a, b resolver.State) bool {
	return slices.EqualFunc(a.Addresses, b.Addresses, resolver.Address.Equal)
}

// applyResolved takes an update to the policy that the service config asks for
// and returns what the policy says. RPCs are let through, unless the service
// config is still being looked up. Policy queue only.
func (cc *ClientConn) applyResolved(s resolver.State) error {
	cc.policyQueue.AssertOn()
	since := cc.resolution.answer()
	cc.channelz.Resolved(s)
	if countAddresses(s) > 0 {
		cc.attempts.Resolved(addressesOf(s))
		if !cc.resolution.repeats(s) {
			cc.reportResolved(since, s, nil)
		}
	} // else the policy decides what that is: noteVerdict
	if dns.ServiceConfigPending(s) {
		return cc.applyProvisional(since, s)
	}
	config, bad := cc.chooseConfig(s.ServiceConfig)
	if selectorOf(s) == nil && hasForeignSelector(s.Attributes) {
		if s = foreignselector.Translate(s); selectorOf(s) == nil {
			config, bad = nil, errForeignSelector
		}
	}
	if config == nil {
		if countAddresses(s) == 0 {
			cc.reportResolved(since, s, nil)
		}
		cc.failServiceConfig(bad)
		return balancer.ErrBadResolverState
	}
	cc.useConfig(config)
	err := cc.updatePolicy(config, s)
	cc.noteVerdict(since, s, err)
	cc.enforceReports()
	cc.useSelector(s)
	cc.published.letThrough()
	if bad != nil {
		cc.reportConfigRefused(bad)
		// Of the two, this is the one that resolvers act on.
		err = balancer.ErrBadResolverState
	}
	return err
}

// applyProvisional has the addresses of an update connected to while its service
// config is being looked up. RPCs wait for the update that has it. Nothing is
// chosen by this: the one that comes may be the channel's first. Policy queue
// only.
func (cc *ClientConn) applyProvisional(since time.Time, s resolver.State) error {
	cc.policyQueue.AssertOn()
	config, _ := cc.chooseConfig(nil)
	verdict := cc.updatePolicy(config, s)
	cc.noteVerdict(since, s, verdict)
	cc.resolution.awaitConfig(&provisional{s, config, verdict})
	return verdict
}

// updatePolicy gives an update to the policy and returns what it says. The policy
// is left alone if the update before was provisional and, now that the service
// config is known, nothing has changed. Policy queue only.
func (cc *ClientConn) updatePolicy(config *serviceconfig.Config, s resolver.State) error {
	cc.policyQueue.AssertOn()
	before := cc.resolution.take(s)
	if before != nil && before.config == config && sameAddresses(before.state, s) {
		return before.verdict
	}
	return cc.policies.update(config, s)
}

// applyResolverError reports a failure of the resolver to the policy, or if there is
// none yet to all RPCs. unbuilt says that there is no resolver: none is built before the
// channel has been idle. Policy queue only.
func (cc *ClientConn) applyResolverError(err error, unbuilt bool) {
	cc.policyQueue.AssertOn()
	since := cc.resolution.answer()
	cc.channelz.Unresolved(err)
	cc.resolution.settle()
	cc.noteUnresolved(since, err, unbuilt)
	cc.reportResolved(since, resolver.State{}, err)
	if cc.chosen == nil {
		config, _ := cc.chooseConfig(nil)
		cc.useConfig(config)
	}
	if p := cc.policies.latest(); p != nil {
		p.lb.ResolverError(err)
	} else {
		cc.publish(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(mask.RPC(err))})
	}
	cc.published.letThrough()
}

// applyFailedUpdate has the policy that an update asks for take over, and reports to it why
// the update has no addresses. Policy queue only.
func (cc *ClientConn) applyFailedUpdate(s resolver.State, err error) error {
	cc.policyQueue.AssertOn()
	config, bad := cc.chooseConfig(s.ServiceConfig)
	if config == nil {
		cc.failServiceConfig(bad)
		return balancer.ErrBadResolverState
	}
	cc.useConfig(config)
	verdict := cc.updatePolicy(config, s)
	cc.applyResolverError(err, false)
	cc.enforceReports()
	cc.useSelector(s)
	return verdict
}

// noteUnresolved keeps err as the reason why there are no addresses. unbuilt is as
// applyResolverError has it: waiting does not mend that.
func (cc *ClientConn) noteUnresolved(since time.Time, err error, unbuilt bool) {
	defer cc.recheckWaits()
	endpoint := cmp.Or(cc.parsed.endpoint(), cc.shownTarget())
	var a *failure.Attempt
	if e := (*ProxyError)(nil); errors.As(err, &e) {
		a = failure.New(endpoint, "", since, failure.Proxy, e.internal())
		a.Proxy, a.Err = e.Proxy, e
	} else {
		a = failure.New(endpoint, "", since, failure.Resolve, err)
	}
	a.Permanent = a.Permanent || unbuilt
	cc.attempts.Unresolved(a)
}

// errNoAddresses is why there is no connection if the policy has no use for an update
// without addresses.
var errNoAddresses = errors.New("the resolver gave no addresses")

// noteVerdict notes what the policy said of an update. If it refused the addresses, or
// that there were none, that is why there is no connection. One that takes an update
// without addresses has them from elsewhere, as xDS's policies do: from the update's
// attributes. Policy queue only.
func (cc *ClientConn) noteVerdict(since time.Time, s resolver.State, verdict error) {
	cc.policyQueue.AssertOn()
	switch none := countAddresses(s) == 0; {
	case none && verdict != nil:
		cc.resolution.inVain = since == cc.resolution.begun
		err := errNoAddresses
		if !errors.Is(verdict, balancer.ErrBadResolverState) {
			err = fmt.Errorf("%w, and the load-balancing policy refused its update: %w", errNoAddresses, text.Error(verdict))
		}
		cc.noteUnresolved(since, err, false)
		cc.reportResolved(since, s, err)
	case none:
		cc.attempts.Resolved(cc.subchannels.Addresses())
		cc.recheckWaits()
		cc.reportResolved(since, s, nil)
	case verdict != nil:
		cc.noteUnresolved(since, fmt.Errorf("the load-balancing policy refused the resolver's addresses: %w", text.Error(verdict)), false)
	}
}

// addressesOf returns the addresses of an update.
func addressesOf(s resolver.State) (all []string) {
	for _, a := range s.Addresses {
		all = append(all, a.Addr)
	}
	for _, e := range s.Endpoints {
		for _, a := range e.Addresses {
			all = append(all, a.Addr)
		}
	}
	return all
}

func countAddresses(s resolver.State) int {
	n := len(s.Addresses)
	for _, e := range s.Endpoints {
		n += len(e.Addresses)
	}
	return n
}
