package grpcdial

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/dns"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/metrics"
	"github.com/grpcdial/grpcdial/internal/subchannel"
)

// Dial is DialContext without a context: nothing but WithTimeout bounds it.
func Dial(target string, opts ...DialOption) (*ClientConn, error) {
	return DialContext(context.Background(), target, opts...)
}

// DialContext makes a channel to target and has it connect. It returns at once,
// whatever the resolver and the network do, or with WithBlock as soon as one
// backend is READY. A target without a known scheme is taken for an address, as
// by the passthrough resolver, unless resolver.SetDefaultScheme says otherwise.
//
// ctx bounds the dial. Every dial waits for the first config of WithServiceConfig, if that
// option is given, and for the resolver to be built; with WithBlock it then waits for
// READY. A ctx that has ended already fails the dial. The end of ctx does not affect a
// channel that DialContext has returned.
//
// The error is the first illegal option or combination of options found, that of
// the resolver's builder, or a *DialError. All goroutines and connections of the channel
// have ended then, as after Close.
func DialContext(ctx context.Context, target string, opts ...DialOption) (*ClientConn, error) {
	cc, o, err := newClientConn(byDial, target, opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := withTimeout(ctx, o.timeout)
	defer cancel()
	if err := cc.dial(ctx, o.block); err != nil {
		return nil, err
	}
	return cc, nil
}

// NewClient makes a channel to target without any I/O. It is IDLE until the
// first RPC, Connect or AwaitReady. A target without a known scheme is looked up
// in DNS, unless resolver.SetDefaultScheme says otherwise, or goes to the
// program's own dialer as it is written if there is one.
//
// The error is the first illegal option or combination of options found.
func NewClient(target string, opts ...DialOption) (*ClientConn, error) {
	cc, _, err := newClientConn(byNewClient, target, opts)
	if err != nil {
		return nil, err
	}
	if err := cc.takeFirstConfig(); err != nil {
		_ = cc.Close()
		return nil, err
	}
	return cc, nil
}

// newClientConn is the part of a dial that does no I/O: from options and target
// to an idle channel. It returns the options too, for what the dial needs of them.
func newClientConn(by constructor, target string, opts []DialOption) (*ClientConn, *dialOptions, error) {
	o, err := newDialOptions(by, opts)
	if err != nil {
		return nil, nil, err
	}
	creds, err := checkCredentials(o)
	if err != nil {
		return nil, nil, err
	}
	defaults, err := parseDefaultServiceConfig(o)
	if err != nil {
		return nil, nil, err
	}
	parsed, builder, err := chooseTarget(target, by, o)
	if err != nil {
		return nil, nil, err
	}
	authority, err := chooseAuthority(creds.transport.Info().ServerName, o.authority, parsed, builder)
	if err != nil {
		return nil, nil, err
	}
	cc := &ClientConn{
		opts:      o.settings(),
		creds:     creds,
		target:    target,
		parsed:    resting(parsed),
		builder:   chooseDNS(parsed.URL.Scheme, builder, o),
		proxies:   chooseProxies(o),
		localDNS:  o.localDNS || by == byDial,
		overUnix:  makesUnixSockets(builder),
		authority: authority,
		defaults:  defaults,
		connect:   connect.Connect,
		idle:      true,
	}
	cc.policyQueue.AfterEach(cc.enforceReports)
	cc.policies.cc = cc
	cc.observer.listeners = newListeners(parsed, o)
	cc.keepaliveTime.Store(int64(cc.opts.keepaliveTime()))
	cc.metrics = metrics.New(o.statsHandlers, cc.shownTarget, letGo)
	cc.calls = call.New(cc.callConfig(o))
	cc.channelz = channelzdata.Open(target, o.channelzParent, cc.calls)
	cc.channelz.Show((*livePicture)(cc))
	cc.calls.SetIdle(true)
	cc.subchannels.Init(cc.subchannelConfig())
	cc.published.calls = cc.calls
	var connOf func() *grpc.ClientConn
	if o.intercepts() {
		connOf = (&bridge{calls: cc, target: target, scheme: parsed.URL.Scheme}).get
	}
	cc.chain.init(o, cc.calls, connOf)
	if i := cc.chain.interceptors; i != nil {
		i.mirrors = &cc.mirrors
	}
	cc.atOnce = cc.resolvesAtOnce()
	cc.ownCode.Store(cc.hasOwnCodeOnly(o))
	return cc, o, nil
}

// resolvesAtOnce reports whether the resolver gives what it has within Build, after which it
// has nothing to do: it is passthrough, or that for unix sockets, both grpc-go's, or one of ours
// for a target that is an address.
func (cc *ClientConn) resolvesAtOnce() bool {
	if isOf(cc.builder, dnsPackage) {
		return dns.IsAddress(cc.parsed.endpoint())
	}
	return isOf(cc.builder, passthroughPackage) || cc.overUnix || isOf(cc.builder, addressListPackage)
}

// hasOwnCodeOnly reports whether nothing of the program's runs on the channel's queues, and
// nothing that takes time: the resolver is one of those of resolvesAtOnce, or ours for scheme
// dns, which looks names up on a goroutine of its own, and the policy is grpc-go's pick_first.
// Goroutines of the channel's and of its callers then run the queues in place of new ones:
// each that is started wakes a sleeping processor, and that was most of what a dial cost.
// It ends with the first policy that is another, which a service config from DNS may name.
func (cc *ClientConn) hasOwnCodeOnly(o *dialOptions) bool {
	return cc.observer.listeners == nil && !cc.metrics.Records() && !o.proxy.given &&
		o.serviceConfig == nil && (cc.defaults == nil || cc.defaults.LB == nil) &&
		(cc.atOnce || isOf(cc.builder, dnsPackage)) && isOwnPolicy(balancer.Get(pickfirst.Name))
}

// isOwnPolicy reports whether b is grpc-go's builder of pick_first.
func isOwnPolicy(b balancer.Builder) bool {
	return isOf(b, "google.golang.org/grpc/balancer/pickfirst")
}

// Where the builders of resolvers are that the channel knows.
const (
	passthroughPackage = "google.golang.org/grpc/internal/resolver/passthrough"
	dnsPackage         = "github.com/grpcdial/grpcdial/internal/dns"
	addressListPackage = "github.com/grpcdial/grpcdial/internal/addresslist"
)

// isOf reports whether the type of v is one of the package with that path.
func isOf(v any, path string) bool {
	t := reflect.TypeOf(v)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath() == path
}

// letGo is what a connection ends with that its subchannel gives up.
var letGo = []error{subchannel.ErrShutDown, subchannel.ErrAddressRemoved, subchannel.ErrReplaced, subchannel.ErrUnused}

// newConnector returns what the channel's connections are made with, but for what
// host.Config adds.
func newConnector(o *settings, creds channelCredentials) connect.Config {
	c := o.connection
	cfg := connect.Config{
		Dialer:   o.dialer,
		ProxyTLS: o.proxyTLS,
		H2: h2.Config{
			UserAgent:           o.userAgent,
			StreamWindow:        c.streamWindow,
			ConnWindow:          c.connWindow,
			ReadBufferSize:      c.readBuffer,
			WriteBufferSize:     c.writeBuffer,
			KeepaliveTimeout:    c.keepalive.Timeout,
			PermitWithoutStream: c.keepalive.PermitWithoutStream,
			GoAway:              newGoAwayError,
		},
	}
	if c.maxHeaderList != nil {
		cfg.H2.MaxHeaderListSize = *c.maxHeaderList
	}
	creds.secure(&cfg)
	return cfg
}

// keepaliveTime returns the time between the PINGs of connections; 0: there are none.
func (o *settings) keepaliveTime() time.Duration {
	if o.connection.keepalive.Time == math.MaxInt64 {
		return 0
	}
	return o.connection.keepalive.Time
}

// callConfig returns what the channel's RPCs have in common. Default call
// options are not among it: the chain puts them before those of each RPC.
func (cc *ClientConn) callConfig(o *dialOptions) call.Config {
	var legacy *call.Legacy
	if o.compressor != nil || o.decompressor != nil {
		legacy = &call.Legacy{Compressor: o.compressor, Decompressor: o.decompressor}
	}
	return call.Config{
		Legacy:        legacy,
		DisableRetry:  o.disableRetry,
		MaxAttempts:   o.maxCallAttempts,
		UserAgent:     o.userAgent,
		StatsHandlers: o.statsHandlers,
		Closing:       &cc.closing,
		Owner:         (*callOwner)(cc),
		Hooks:         callHooks,
	}
}

var callHooks = &call.Hooks{Insecure: ErrPerRPCNeedsTransportSecurity, ErrorAs: rpcErrorAs, ServerLoad: call.ServerLoad}

// callOwner is the channel as its RPCs ask it.
type callOwner ClientConn

func (o *callOwner) Wake()                { (*ClientConn)(o).wake() }
func (o *callOwner) Wanted()              { (*ClientConn)(o).subchannels.Hurry() }
func (o *callOwner) Explain() call.Reason { return (*ClientConn)(o).explain() }
func (o *callOwner) Backends() int        { return o.subchannels.Ready() }
func (o *callOwner) Ready() bool          { return (*ClientConn)(o).isReady() }

// withTimeout bounds ctx by d; 0: not at all.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// dial is the part of a dial that ctx bounds. With block it waits for READY. The channel is
// closed if it fails.
func (cc *ClientConn) dial(ctx context.Context, block bool) error {
	begun, configured := time.Now(), true
	err := ctx.Err()
	if err == nil {
		err = cc.awaitFirstConfig(ctx)
		configured = err == nil
	}
	var first *subchannel.Held
	if err == nil {
		first, err = cc.awaitResolver(ctx, block)
	}
	if err != nil && err != ctx.Err() {
		_ = cc.Close()
		return err // of an argument, not of a connection
	}
	switch {
	case first != nil:
		return cc.connectHere(ctx, begun, first)
	case err == nil && block:
		return cc.awaitFirstReady(ctx, begun)
	case err == nil:
		return nil
	}
	e := cc.giveUp(time.Since(begun), err).endedWith(ctx)
	if !configured {
		e.Attempts = []Attempt{unfinished(cc.parsed.endpoint(), "", PhaseResolve, begun, "it has not begun: the first config of WithServiceConfig has not come").until(time.Now())}
	}
	return e
}

// awaitResolver leaves idle and waits until the resolver is built. With hold it may return
// the first loop that connects, which the caller then has to have connect.
func (cc *ClientConn) awaitResolver(ctx context.Context, hold bool) (first *subchannel.Held, err error) {
	b := cc.nextBuilding()
	if !hold || !cc.ownCode.Load() || len(cc.opts.statsHandlers) > 0 { // which an attempt calls
		cc.wake()
	} else if first = cc.subchannels.HoldFirst(cc.wake); first != nil {
		return first, nil
	}
	select {
	case <-b.done.Done():
		return nil, b.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// awaitFirstReady waits for READY, and closes the channel if that does not come before ctx
// ends or a failure ends the wait.
func (cc *ClientConn) awaitFirstReady(ctx context.Context, begun time.Time) error {
	err := cc.waitReady(ctx, cc.waitEnds(), 0)
	if err == nil {
		return nil
	}
	return cc.giveUp(time.Since(begun), err).endedWith(ctx)
}

// connectHere is awaitFirstReady for a dial that makes the first attempt on its own
// goroutine: a new one, and the wake-ups between the two, took a tenth of what a dial costs.
// Should ctx end meanwhile, another goroutine waits and gives up in its place. That cuts the
// attempt, which ends as fast as if it had a goroutine of its own, for which giving up waits.
func (cc *ClientConn) connectHere(ctx context.Context, begun time.Time, first *subchannel.Held) error {
	cc.waiters.Add(1)
	defer cc.waiters.Add(-1)
	var cut struct {
		sync.WaitGroup
		err error
	}
	cut.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer cut.Done()
		cut.err = cc.awaitFirstReady(ctx, begun)
	})
	first.Connect()
	if stop() {
		return cc.awaitFirstReady(ctx, begun)
	}
	cut.Wait()
	return cut.err
}

// giveUp closes a channel that did not become READY and returns why, as a
// *DialError. Attempts that were still running are ended first, so that they say
// how far they got. Code of the program's that does not return is not waited for
// longer than by Close.
func (cc *ClientConn) giveUp(elapsed time.Duration, ended error) *DialError {
	at, state, running := time.Now(), cc.state.latest(), cc.beforeConnecting()
	cc.beginClose()
	cc.awaitEnd()
	e := cc.newReason(state, running).dialError(at, elapsed, ended)
	for i := range e.Attempts {
		if a := &e.Attempts[i]; a.Err == ErrUnfinished { // its end was part of the wait's
			a.Elapsed = min(a.Elapsed, at.Sub(a.Start))
		}
	}
	return e
}

// AwaitReady makes the channel connect and waits until it is READY, or until ctx
// ends or the channel is closed. The error is a *DialError with the latest attempt at each
// address. A nil option is an error of another type, returned at once.
// [FailFast] and [GiveUpOn] end this wait when no address can succeed any more; so do
// [FailOnNonTempDialError] and [WithGiveUp] each wait on a channel dialed with them. The
// last of several GiveUpOn counts, in the place of WithGiveUp.
func (cc *ClientConn) AwaitReady(ctx context.Context, opts ...WaitOption) error {
	p := cc.waitEnds()
	for i, opt := range opts {
		if opt == nil {
			return fmt.Errorf("grpcdial: AwaitReady: option %d of %d is nil", i+1, len(opts))
		}
		opt.applyToWait(&p)
	}
	begun := time.Now()
	ended := cc.waitReady(ctx, p, cc.state.latest().Seq)
	why := cc.reason()
	if ended == nil || why.state == connectivity.Ready { // at the last moment
		return nil
	}
	at := time.Now()
	return why.dialError(at, at.Sub(begun), ended).endedWith(ctx)
}

// waitReady is AwaitReady with nothing but what ended the wait as its error. It ends too if
// the channel was READY after the transition with the number since.
func (cc *ClientConn) waitReady(ctx context.Context, p waitEnds, since uint64) error {
	cc.waiters.Add(1)
	defer func() {
		cc.calls.Touch()
		cc.waiters.Add(-1)
	}()
	defer cc.mirrors.catchUp()
	verdict := cc.verdict(p)
	if p.gives() {
		cc.impatient.Add(1)
		defer cc.impatient.Add(-1)
	}
	for over := false; ; {
		now, pokes := cc.state.look()
		if cc.state.wasReady(since) {
			return nil // if only for a moment
		}
		if err := verdict.Ended(now.To); err != nil {
			return err
		}
		switch now.To {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return errClosing
		case connectivity.Idle:
			cc.askToConnect()
		}
		if over {
			return ctx.Err()
		}
		changed := cc.state.since(now, pokes)
		if changed == nil {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			over = true // what happened until now counts all the same
		}
	}
}

// WaitOption ends one wait of [ClientConn.AwaitReady] before its context does.
// [FailFast] and [GiveUpOn] make them.
type WaitOption interface {
	applyToWait(*waitEnds)
}

// FailFast ends the wait at the first failure that will not heal by itself, once no other
// address may still succeed, as [FailOnNonTempDialError] does for all waits of a channel.
func FailFast() WaitOption {
	return waitOptionFunc(func(p *waitEnds) { p.failFast = true })
}

// GiveUpOn ends the wait once f has returned true for the latest attempt at every
// address, as [WithGiveUp] says for all waits of a channel. nil means that no failure ends
// the wait.
func GiveUpOn(f func(Attempt) bool) WaitOption {
	return waitOptionFunc(func(p *waitEnds) { p.giveUp = f })
}

type waitOptionFunc func(*waitEnds)

func (f waitOptionFunc) applyToWait(p *waitEnds) { f(p) }

// waitEnds are the failures that end a wait for READY.
type waitEnds struct {
	failFast bool               // failures that do not heal
	giveUp   func(Attempt) bool // those that the program names; nil: none
}

// gives reports whether any failure may end the wait.
func (p waitEnds) gives() bool { return p.failFast || p.giveUp != nil }

// waitEnds returns those that the dial options name.
func (cc *ClientConn) waitEnds() waitEnds {
	return waitEnds{cc.opts.failOnNonTempDialError, cc.opts.giveUp}
}

// verdict returns what judges a wait that p ends; nil if no failure does.
func (cc *ClientConn) verdict(p waitEnds) *attempts.Verdict {
	if !p.gives() {
		return nil
	}
	ends := attempts.Ends{FailFast: p.failFast}
	if p.giveUp != nil {
		ends.GiveUp = func(a *failure.Attempt) bool { return p.giveUp(publicAttempt(a)) }
	}
	return attempts.NewVerdict(&cc.attempts, ends, cc.subchannels.Untried)
}

// recheckWaits makes waits for READY look at the attempts again.
func (cc *ClientConn) recheckWaits() {
	if cc.impatient.Load() > 0 {
		cc.state.poke()
	}
}
