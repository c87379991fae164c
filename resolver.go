package grpcdial

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/resolver"
	grpcdns "google.golang.org/grpc/resolver/dns"
	grpcsc "google.golang.org/grpc/serviceconfig"

	"github.com/grpcdial/grpcdial/internal/dns"
	"github.com/grpcdial/grpcdial/internal/latch"
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
	retired latch.Latch   // closed on the policy queue when the channel goes idle
	asked   serial.Signal // a ResolveNow is on the resolver queue

	resolver resolver.Resolver // resolver queue only; nil if Build failed, or if there is nothing more for it to do
	proxies  proxy.Func        // set on the resolver queue before Build and only read after that: which proxy an address takes

	mu     sync.Mutex
	config *grpcsc.ParseResult // guarded by mu: the latest update's
}

func newResolverConn(cc *ClientConn) *resolverConn {
	return &resolverConn{cc: cc}
}

// errNoResolver is why there is no resolver if its builder has called runtime.Goexit.
var errNoResolver = errors.New("grpcdial: the goroutine was ended (runtime.Goexit) in the resolver's builder")

// build has the resolver built, which a failure is reported of to the channel before b
// is done. On a channel that is being closed, none is built and b stays as it is. If here is
// set and held returned, the caller has to run the resolver queue.
func (r *resolverConn) build(b *building, here bool) (held bool) {
	f := func() {
		if r.cc.isClosing() {
			return
		}
		b.err = errNoResolver
		defer func() {
			if b.err == nil {
				b.done.Close()
				r.cc.building.CompareAndSwap(b, built) // at rest, a channel has no need of b
				return
			}
			r.cc.post(func() {
				defer b.done.Close()
				if r.cc.resolver == r {
					r.cc.applyResolverError(b.err, true)
				}
			})
		}()
		r.cc.calling(runningCall)
		defer r.cc.calling(noCall)
		r.resolver, b.err = r.cc.buildResolver(r)
	}
	if here && r.cc.resolverQueue.Hold(f) {
		return true
	}
	r.cc.resolverQueue.Post(f)
	return false
}

// resolverCall says which code of the program's the resolver queue is in.
type resolverCall = int32

const (
	noCall      resolverCall = iota
	runningCall              // Build, with the function of WithProxy before it, or ResolveNow
	closeCall                // Close
)

// calling notes which code of the program's is called from now on, noCall when it has
// returned. Resolver queue only.
func (cc *ClientConn) calling(c resolverCall) {
	cc.resolverQueue.AssertOn()
	cc.resolving.Store(c)
}

// buildResolver is one call of a builder. It returns no resolver if nothing need be called of
// it. Resolver queue only.
func (cc *ClientConn) buildResolver(r *resolverConn) (resolver.Resolver, error) {
	cc.resolverQueue.AssertOn()
	builder, err := cc.chooseRoute(r)
	if err != nil {
		return nil, err
	}
	res, err := builder.Build(cc.parsed.target(), r, resolver.BuildOptions{
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
		return nil, fmt.Errorf("grpcdial: the resolver for scheme %q cannot be built for target %s: %w", cc.parsed.scheme, text.QuoteTarget(cc.target), text.Error(err))
	}
	if isOf(builder, passthroughPackage) {
		return nil, nil // it has given its address, and its methods do nothing
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
	r.retired.Close()
	if r.cc.atOnce && r.cc.resolverQueue.Here(r.close) {
		return // Close of such a resolver does nothing: it waits for no goroutine that may be this one
	}
	r.cc.resolverQueue.Post(r.close)
}

// close runs on the resolver queue, so after Build.
func (r *resolverConn) close() {
	if r.resolver != nil {
		r.cc.calling(closeCall)
		defer r.cc.calling(noCall)
		r.resolver.Close()
		r.resolver = nil
	}
}

// resolveNow asks the resolver to look again. Requests that come while one is
// waiting to be made are one with it.
func (r *resolverConn) resolveNow() {
	r.asked.Send(&r.cc.resolverQueue, func() {
		if r.resolver != nil && !r.cc.isClosing() {
			r.cc.calling(runningCall)
			defer r.cc.calling(noCall)
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
	_ = r.verdict(func() error { r.cc.applyResolverError(err, false); return nil })
}

// UpdateStateWithError is UpdateState with an update that has no addresses, and ReportError
// with the reason, in one: RPCs and waits find the reason with the state that it led to.
// The nested module xds calls it, as grpc-go's xDS resolver says by these two that a
// listener is missing.
func (r *resolverConn) UpdateStateWithError(s resolver.State, err error) error {
	err = text.Error(err)
	r.mu.Lock()
	r.config = s.ServiceConfig
	r.mu.Unlock()
	return r.verdict(func() error { return r.cc.applyFailedUpdate(s, err) })
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
	if r.cc.ownCode.Load() {
		if err, ok := r.verdictHere(apply); ok {
			return err
		}
	}
	verdict := make(chan error, 1)
	f := func() {
		if r.cc.resolver != r {
			return // retired: no caller waits
		}
		err := apply()
		r.cc.enforceReports()
		verdict <- err
	}
	if !r.cc.post(f) {
		return nil
	}
	select {
	case err := <-verdict:
		return err
	case <-r.retired.Done():
		return nil
	case <-r.cc.closing.Done():
		return nil
	}
}

// verdictHere is verdict on this goroutine, if the policy queue is at rest. The goroutine is
// the resolver queue's, a caller's that lends it, or one of the library's resolver for scheme
// dns, which holds no lock meanwhile. What else it then runs on the policy queue waits for
// neither of these: see retire for the one thing that might.
func (r *resolverConn) verdictHere(apply func() error) (err error, ok bool) {
	ok = r.cc.policyQueue.Here(func() {
		if r.cc.resolver == r { // else retired
			err = apply()
		}
	})
	return err, ok
}

// endpointsOf returns the endpoints of an update: its own, or if it has none one for each
// address, as resolver.State documents.
func endpointsOf(s resolver.State) []resolver.Endpoint {
	if s.Endpoints != nil {
		return s.Endpoints
	}
	endpoints := make([]resolver.Endpoint, len(s.Addresses))
	for i, a := range s.Addresses {
		endpoints[i].Attributes = a.BalancerAttributes
		a.BalancerAttributes = nil
		endpoints[i].Addresses = []resolver.Address{a}
	}
	return endpoints
}

// defaultDNS is the builder for the scheme dns of channels without WithDNS.
var defaultDNS = dns.NewBuilder(dns.Config{})

// chooseDNS returns the builder for a target of this scheme, for which b was
// found: ours in place of grpc-go's for the scheme dns. A builder that the program
// chose, by registering it or by WithResolvers, stays.
func chooseDNS(scheme string, b resolver.Builder, o *dialOptions) resolver.Builder {
	given := slices.ContainsFunc(o.resolvers, func(b resolver.Builder) bool { return strings.EqualFold(b.Scheme(), schemeDNS) })
	if scheme != schemeDNS || given || reflect.TypeOf(b) != reflect.TypeOf(grpcdns.NewBuilder()) {
		return b
	}
	if o.dns == nil {
		return defaultDNS
	}
	return dns.NewBuilder(dns.Config{
		MinInterval:       o.dns.MinInterval,
		Refresh:           o.dns.Refresh,
		LookupTimeout:     o.dns.Timeout,
		ServiceConfigWait: o.dns.ServiceConfigWait,
	})
}
