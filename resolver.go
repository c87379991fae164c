package grpcdial

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	grpcsc "google.golang.org/grpc/serviceconfig"

	"github.com/grpcdial/grpcdial/internal/dns"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/proxy"
	"github.com/grpcdial/grpcdial/internal/serial"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
	"github.com/grpcdial/grpcdial/internal/text"
)

// resolverConn is the resolver.ClientConn that one resolver gets. A channel
// that goes idle retires it, with its resolver, and makes another one later.
//
// Resolvers call it from goroutines of their own, and from inside Build and
// ResolveNow, which run on the resolver queue. It posts what they say to the
// policy queue and waits for the outcome. The policy queue never waits for the
// resolver queue, so that no such wait can go round in a circle; a resolver's
// Close may wait for a goroutine that is in UpdateState, as dns does, because
// retired or closing is closed before Close is called, which ends that wait.
type resolverConn struct {
	cc      *ClientConn
	retired chan struct{} // closed on the policy queue when the channel goes idle
	asked   serial.Signal // a ResolveNow is on the resolver queue

	resolver resolver.Resolver // resolver queue only; nil if Build failed
	proxies  proxy.Func        // set on the resolver queue before Build and only read after that: which proxy an address takes

	mu     sync.Mutex
	config *grpcsc.ParseResult // guarded by mu: the latest update's
}

func newResolverConn(cc *ClientConn) *resolverConn {
	return &resolverConn{cc: cc, retired: make(chan struct{})}
}

// errNoResolver is why there is no resolver if its builder has called runtime.Goexit.
var errNoResolver = errors.New("grpcdial: the goroutine was ended (runtime.Goexit) in the resolver's builder")

// build has the resolver built, which a failure is reported of to the channel before b
// is done. On a channel that is being closed, none is built and b stays as it is.
func (r *resolverConn) build(b *building) {
	r.cc.resolverQueue.Post(func() {
		if r.cc.isClosing() {
			return
		}
		b.err = errNoResolver
		defer func() {
			if b.err == nil {
				close(b.done)
				return
			}
			r.cc.post(func() {
				defer close(b.done)
				if r.cc.resolver == r {
					r.cc.applyResolverError(b.err)
				}
			})
		}()
		defer r.cc.calling(runningCall)()
		r.resolver, b.err = r.cc.buildResolver(r)
	})
}

// resolverCall says which code of the program's the resolver queue is in.
type resolverCall = int32

const (
	noCall      resolverCall = iota
	runningCall              // Build, with the function of WithProxy before it, or ResolveNow
	closeCall                // Close
)

// calling notes that code of the program's is called, until the function that it
// returns is. Resolver queue only.
func (cc *ClientConn) calling(c resolverCall) (returned func()) {
	cc.resolverQueue.AssertOn()
	cc.resolving.Store(c)
	return func() { cc.resolving.Store(noCall) }
}

// buildResolver is one call of a builder. Resolver queue only.
func (cc *ClientConn) buildResolver(r *resolverConn) (resolver.Resolver, error) {
	cc.resolverQueue.AssertOn()
	builder, err := cc.chooseRoute(r)
	if err != nil {
		return nil, err
	}
	res, err := builder.Build(cc.parsed, r, resolver.BuildOptions{
		DisableServiceConfig: cc.ignoresResolversConfig(),
		DialCreds:            cc.creds.transport.Clone(),
		CredsBundle:          cc.opts.bundle,
		Dialer:               cc.opts.dialer,
		Authority:            cc.authority,
		MetricsRecorder:      cc.metrics,
	})
	if err == nil && res == nil {
		err = errors.New("the builder returned no resolver")
	}
	if err != nil {
		return nil, fmt.Errorf("grpcdial: the resolver for scheme %q cannot be built for target %s: %w", cc.parsed.URL.Scheme, text.QuoteTarget(cc.target), text.Error(err))
	}
	return res, nil
}

// makesUnixSockets reports whether b is grpc-go's builder for the schemes unix
// and unix-abstract. It marks its addresses as unix sockets in a way that only
// grpc-go can read.
func makesUnixSockets(b resolver.Builder) bool {
	t := reflect.TypeOf(b)
	return t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "google.golang.org/grpc/internal/resolver/unix"
}

// retire has the resolver closed and whatever it says from now on ignored.
func (r *resolverConn) retire() {
	close(r.retired)
	r.cc.resolverQueue.Post(r.close)
}

// close runs on the resolver queue, so after Build.
func (r *resolverConn) close() {
	if r.resolver != nil {
		defer r.cc.calling(closeCall)()
		r.resolver.Close()
		r.resolver = nil
	}
}

// resolveNow asks the resolver to look again. Requests that come while one is
// waiting to be made are one with it.
func (r *resolverConn) resolveNow() {
	r.asked.Send(&r.cc.resolverQueue, func() {
		if r.resolver != nil && !r.cc.isClosing() {
			defer r.cc.calling(runningCall)()
			r.resolver.ResolveNow(resolver.ResolveNowOptions{})
		}
	})
}

// awaitResolverQueue waits until all on the resolver queue, which is closed, has run,
// but not for code of the program's that does not return in time: what is behind it
// runs when it has. After beginClose nothing of the program's begins but Close.
func (cc *ClientConn) awaitResolverQueue() {
	ended := cc.resolverQueue.Done()
	if endsWithin(ended, closePatience) || cc.resolving.Load() == runningCall {
		return
	}
	for !endsWithin(ended, resolverClosePatience-closePatience) && cc.resolving.Load() == noCall {
		// It is not the program's code that takes so long.
	}
}

// UpdateState gives the resolver's update to the policy and returns the policy's
// verdict: an error makes resolvers look again, with back-off. Once the channel
// is closing, or idle, it returns nil at once.
func (r *resolverConn) UpdateState(s resolver.State) error {
	if s.Endpoints == nil {
		s.Endpoints = endpointsOf(s.Addresses)
	}
	r.mu.Lock()
	r.config = s.ServiceConfig
	r.mu.Unlock()
	return r.verdict(func() error { return r.cc.applyResolved(s) })
}

// NewAddress is UpdateState for resolvers of old. The service config stays.
func (r *resolverConn) NewAddress(addrs []resolver.Address) {
	r.mu.Lock()
	s := resolver.State{Addresses: addrs, ServiceConfig: r.config}
	r.mu.Unlock()
	_ = r.UpdateState(s)
}

// ReportError gives the resolver's failure to the policy.
func (r *resolverConn) ReportError(err error) {
	if err == nil {
		err = errors.New("the resolver reported an error without saying which")
	}
	err = text.Error(err) // from here on it may be shown
	_ = r.verdict(func() error { r.cc.applyResolverError(err); return nil })
}

// ParseServiceConfig parses a service config for UpdateState.
func (r *resolverConn) ParseServiceConfig(js string) *grpcsc.ParseResult {
	c, err := serviceconfig.Parser{MaxCallAttempts: r.cc.opts.maxCallAttempts}.Parse(js)
	if err != nil {
		return &grpcsc.ParseResult{Err: err}
	}
	return &grpcsc.ParseResult{Config: c}
}

// verdict runs apply on the policy queue and returns what it returns. It does so
// once the states are in force that the policy reported from within apply, so that
// a resolver that has its verdict finds the channel in the state that it led to.
func (r *resolverConn) verdict(apply func() error) error {
	verdict := make(chan error, 1)
	posted := r.cc.post(func() {
		if r.cc.resolver != r {
			return // retired: nobody waits
		}
		err := apply()
		r.cc.enforceReports()
		verdict <- err
	})
	if !posted {
		return nil
	}
	select {
	case err := <-verdict:
		return err
	case <-r.retired:
		return nil
	case <-r.cc.closing:
		return nil
	}
}

// endpointsOf makes an endpoint of each address, as resolver.State documents.
func endpointsOf(addrs []resolver.Address) []resolver.Endpoint {
	endpoints := make([]resolver.Endpoint, len(addrs))
	for i, a := range addrs {
		endpoints[i].Attributes = a.BalancerAttributes
		a.BalancerAttributes = nil
		endpoints[i].Addresses = []resolver.Address{a}
	}
	return endpoints
}

// applyResolved takes an update to the policy that the service config asks for
// and returns what the policy says. RPCs are let through, unless the service
// config is still being looked up. Policy queue only.
func (cc *ClientConn) applyResolved(s resolver.State) error {
	cc.policyQueue.AssertOn()
	since := cc.resolvingSince()
	cc.answered.Store(true)
	cc.books.Resolved(s)
	if countAddresses(s) > 0 {
		cc.attempts.resolved(s)
		if before := cc.provisional; before == nil || !sameAddresses(before.state, s) {
			cc.tellResolved(since, s, nil)
		}
	} else {
		none := errors.New("the resolver gave no addresses")
		cc.noteUnresolved(since, none)
		cc.tellResolved(since, s, none)
	}
	if dns.ServiceConfigPending(s) {
		return cc.applyProvisional(s)
	}
	config, bad := cc.chooseConfig(s.ServiceConfig)
	if hasForeignSelector(s.Attributes) {
		config, bad = nil, errForeignSelector
	}
	if config == nil {
		cc.failServiceConfig(bad)
		return balancer.ErrBadResolverState
	}
	cc.useConfig(config)
	err := cc.updatePolicy(config, s)
	cc.noteVerdict(since, s, err)
	cc.enforceReports()
	cc.useSelector(s)
	cc.letThrough()
	if bad != nil {
		cc.tellConfigRefused(bad)
		// Of the two, this is the one that resolvers act on.
		err = balancer.ErrBadResolverState
	}
	return err
}

// provisional is an update without its service config, and what it led to.
type provisional struct {
	state   resolver.State
	config  *serviceconfig.Config // that the policy was chosen by, and not in force
	verdict error                 // the policy's
}

// applyProvisional has the addresses of an update connected to while its service
// config is being looked up. RPCs wait for the update that has it. Nothing is
// chosen by this: the one that comes may be the channel's first. Policy queue
// only.
func (cc *ClientConn) applyProvisional(s resolver.State) error {
	cc.policyQueue.AssertOn()
	config, _ := cc.chooseConfig(nil)
	verdict := cc.updatePolicy(config, s)
	cc.noteVerdict(cc.resolvingSince(), s, verdict)
	cc.provisional = &provisional{s, config, verdict}
	return verdict
}

// updatePolicy gives an update to the policy and returns what it says. The policy
// is left alone if the update before was provisional and, now that the service
// config is known, nothing has changed. Policy queue only.
func (cc *ClientConn) updatePolicy(config *serviceconfig.Config, s resolver.State) error {
	cc.policyQueue.AssertOn()
	before := cc.provisional
	cc.provisional, cc.resolved = nil, &s
	if before != nil && before.config == config && sameAddresses(before.state, s) {
		return before.verdict
	}
	return cc.policies.update(config, s)
}

func sameAddresses(a, b resolver.State) bool {
	return slices.EqualFunc(a.Addresses, b.Addresses, resolver.Address.Equal)
}

// letThrough ends the wait of RPCs for the resolver. Policy queue only.
func (cc *ClientConn) letThrough() {
	cc.policyQueue.AssertOn()
	cc.through = true
	cc.calls.SetResolved(true)
}

// applyResolverError tells the policy, or if there is none yet all RPCs, that
// the resolver failed. Policy queue only.
func (cc *ClientConn) applyResolverError(err error) {
	cc.policyQueue.AssertOn()
	since := cc.resolvingSince()
	cc.answered.Store(true)
	cc.books.Unresolved(err)
	cc.provisional = nil
	cc.noteUnresolved(since, err)
	cc.tellResolved(since, resolver.State{}, err)
	if cc.chosen == nil {
		config, _ := cc.chooseConfig(nil)
		cc.useConfig(config)
	}
	if p := cc.policies.latest(); p != nil {
		p.lb.ResolverError(err)
	} else {
		cc.publish(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(mask.RPC(err))})
	}
	cc.letThrough()
}

// resolvingSince is when the resolver began with what it says now. That is known
// of the first that it says: it was built when idle was left.
func (cc *ClientConn) resolvingSince() time.Time {
	if cc.answered.Load() {
		return time.Now()
	}
	return cc.busySince
}

// noteUnresolved keeps err as the reason why there are no addresses.
func (cc *ClientConn) noteUnresolved(since time.Time, err error) {
	defer cc.askWhetherHopeless()
	endpoint := cmp.Or(cc.parsed.Endpoint(), cc.shownTarget())
	if e := (*ProxyError)(nil); errors.As(err, &e) {
		a := failure.New(endpoint, "", since, failure.Proxy, e.internal())
		a.Proxy, a.Err = e.Proxy, e
		cc.attempts.unresolved(a)
		return
	}
	cc.attempts.unresolved(failure.New(endpoint, "", since, failure.Resolve, err))
}

// noteVerdict keeps a policy's refusal of the addresses as the reason why there are
// none. That there were none to refuse has been noted.
func (cc *ClientConn) noteVerdict(since time.Time, s resolver.State, verdict error) {
	if verdict != nil && countAddresses(s) > 0 {
		cc.noteUnresolved(since, fmt.Errorf("the load-balancing policy refused the resolver's addresses: %w", text.Error(verdict)))
	}
}

func countAddresses(s resolver.State) int {
	n := len(s.Addresses)
	for _, e := range s.Endpoints {
		n += len(e.Addresses)
	}
	return n
}
