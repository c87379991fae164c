package subchannel

import (
	"context"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/backoff"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/mask"
)

// Subchannel is a subchannel as its policy sees it, and as RPCs do: one group of
// addresses, with the connections that are in use and at most one loop that makes another:
//
//	READY                connections in use, held back by their health (CONNECTING or
//	                     TRANSIENT_FAILURE then) if the policy asked for that
//	CONNECTING           none, and the loop is connecting
//	TRANSIENT_FAILURE    none, and the loop is backing off
//	IDLE                 neither
//
// Policies call it from the policy queue, from timers of their own and from
// pickers, often with a lock held. So no method waits, and none calls the
// policy: what happens here is reported to it on the policy queue.
type Subchannel struct {
	balancer.SubConn // nil; here for the methods that the interface keeps to itself

	// Set by Group.New and only read after that.
	g        *Group
	host     Host
	opts     balancer.NewSubConnOptions
	number   uint64 // in the order in which the channel's subchannels were made
	index    int    // in g.subs; guarded by g.mu
	channelz *channelzdata.Subchannel

	inUse atomic.Pointer[[]*call.Transport] // what RPCs read: of conns, oldest first; nil: none, or held back by their health

	mu         sync.Mutex
	state      connectivity.State                     // guarded by mu
	since      time.Time                              // guarded by mu: when it came to be in state; zero if it never left IDLE
	why        error                                  // guarded by mu: the latest failure or loss since it was READY, or what speaks against its health
	addrs      []resolver.Address                     // guarded by mu; the array is never written to
	connecting *loop                                  // guarded by mu: pauses, connects or backs off; nil: none does
	conns      []*loop                                // guarded by mu: those whose connections are in use, the oldest first
	record     record                                 // guarded by mu: of attempts and connections so far
	check      *healthWatch                           // guarded by mu: decides whether conns may be used; nil: they may. It goes with the last of conns.
	watches    map[*healthWatch]struct{}              // guarded by mu: check, and that of the health listener; nil: none
	queue      *h2.SlotQueue                          // guarded by mu: where RPCs wait for a stream on any of conns; nil: on each
	useTimer   *time.Timer                            // guarded by mu: of the next look at extra connections; nil: there are none
	renewals   map[*renewal]struct{}                  // guarded by mu; nil: none
	producers  map[balancer.ProducerBuilder]*producer // guarded by mu

	reported connectivity.State // policy queue only: the state that the policy has
	unwatch  func()             // policy queue only: ends the watch of the health listener; nil: there is none
	listener atomic.Uint32      // counts what makes an earlier health listener void
}

var (
	_ balancer.SubConn = (*Subchannel)(nil)
	_ call.Endpoint    = (*Subchannel)(nil)
)

// Transport returns the connection that the next RPC goes to, of several the oldest that can
// open a stream; nil if there is none.
func (sc *Subchannel) Transport() *call.Transport {
	p := sc.inUse.Load()
	if p == nil {
		return nil
	}
	all := *p
	if len(all) == 1 {
		return all[0]
	}
	best := all[0]
	for _, transport := range all {
		if transport.Conn.HasSlot() {
			return transport
		}
		if best.Conn.IsDone() {
			best = transport
		}
	}
	return best // where the RPC waits, for a stream on any of them
}

// NewTransport returns what the RPCs on conn have, which leads to addr.
func NewTransport(conn *h2.Conn, addr resolver.Address, authority string, perRPC []credentials.PerRPCCredentials) *call.Transport {
	return &call.Transport{Conn: conn, Authority: authority, PerRPC: perRPC, Metadata: connect.Metadata(addr)}
}

// Options returns what the policy made the subchannel with.
func (sc *Subchannel) Options() balancer.NewSubConnOptions { return sc.opts }

// Connect leaves IDLE. In other states it does nothing.
func (sc *Subchannel) Connect() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.state == connectivity.Idle {
		sc.connectLocked()
	}
}

// connectLocked makes the transition to CONNECTING.
func (sc *Subchannel) connectLocked() {
	if sc.startLocked(sc.addrs) {
		sc.setLocked(connectivity.Connecting, nil)
	}
}

// startLocked starts a loop, which makes the attempt at once, after a pause, or not at
// all, as the record says. It reports false if the channel is closed.
func (sc *Subchannel) startLocked(addrs []resolver.Address) bool {
	params := sc.g.cfg.Params
	d := &dialing{addrs: addrs, begun: time.Now()}
	made := sc.record.failures
	if d.refused = sc.record.instead; d.refused != nil {
		sc.record.instead = nil
		made-- // it is the attempt that was counted already
	} else if until, wanted := sc.record.pause(); d.begun.Before(until) {
		d.retry, d.until, d.wanted = make(chan struct{}), until, wanted
	}
	d.backoff = backoff.Delay(params.Backoff, made, rand.Float64())
	d.limit = backoff.ConnectLimit(params.MinConnectTimeout, d.backoff)
	var ctx context.Context
	if d.refused == nil && d.retry == nil && len(addrs) > 0 {
		// The attempt begins at once. Its deadline does not shorten the back-off, whose end
		// is not after it.
		ctx, d.cancel = context.WithDeadline(context.Background(), d.begun.Add(d.limit))
	} else {
		ctx, d.cancel = context.WithCancel(context.Background())
	}
	l := &loop{sc: sc, dialing: d}
	if !sc.g.begin(ctx, l) {
		d.cancel()
		return false
	}
	sc.connecting = l // its goroutine takes sc.mu before it looks
	return true
}

// Shutdown ends the subchannel. RPCs that run on its connections may end first.
func (sc *Subchannel) Shutdown() {
	sc.mu.Lock()
	if sc.state == connectivity.Shutdown {
		sc.mu.Unlock()
		return
	}
	old := sc.takeAllLocked()
	sc.setLocked(connectivity.Shutdown, nil)
	sc.mu.Unlock()
	drain(old, ErrShutDown)
}

// addresses returns the subchannel's addresses, none if it was shut down. The array is
// never written to.
func (sc *Subchannel) addresses() []resolver.Address {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.state == connectivity.Shutdown {
		return nil
	}
	return sc.addrs
}

// UpdateAddresses replaces the addresses. Connections to addresses that are among them
// are kept, and others drained. If none is kept, a new attempt is made in the place of
// theirs or of the one in progress; with no address at all the subchannel becomes IDLE
// first. An attempt without addresses waits, in CONNECTING, until there are some. In other
// states the addresses are those of the next attempt.
func (sc *Subchannel) UpdateAddresses(addrs []resolver.Address) {
	sc.mu.Lock()
	if slices.EqualFunc(sc.addrs, addrs, sameAddress) {
		sc.mu.Unlock()
		return
	}
	sc.addrs = slices.Clone(addrs)
	connected := len(sc.conns) > 0
	old := sc.takeLocked(func(l *loop) bool { return !has(addrs, l.addr) })
	kept := len(sc.conns) > 0
	if !kept {
		sc.record.moved()
	} else if l := sc.connecting; l != nil && !has(addrs, l.addr) { // an extra one
		sc.connecting = nil
		old = append(old, l)
		sc.extraLocked()
	}
	if !kept && (connected || sc.state == connectivity.Connecting) {
		old = append(old, sc.takeAllLocked()...)
		if len(addrs) == 0 {
			sc.setLocked(connectivity.Idle, ErrAddressRemoved)
		}
		sc.connectLocked()
	}
	sc.mu.Unlock()
	sc.channelz.Addresses(addrs)
	sc.repick()
	drain(old, ErrAddressRemoved)
}

// has reports whether a connection to addr is one to an address of addrs.
func has(addrs []resolver.Address, addr resolver.Address) bool {
	return slices.ContainsFunc(addrs, func(a resolver.Address) bool { return sameAddress(a, addr) })
}

// sameAddress reports whether a connection to a is one to b. Attributes for the
// policy do not matter.
func sameAddress(a, b resolver.Address) bool {
	return a.Addr == b.Addr && a.ServerName == b.ServerName && a.Attributes.Equal(b.Attributes) &&
		sameMetadata(a.Metadata, b.Metadata)
}

// sameMetadata compares what a resolver has put into addresses. A map there, for which ==
// panics, is none that RPCs send (connect.Metadata), but policies may read it.
func sameMetadata(a, b any) bool {
	if reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() {
		return a == b
	}
	return reflect.DeepEqual(a, b)
}

// takeAllLocked takes the subchannel away from all of its loops, which it returns.
func (sc *Subchannel) takeAllLocked() []*loop {
	old := sc.takeLocked(func(*loop) bool { return true })
	if l := sc.connecting; l != nil {
		sc.connecting = nil
		old = append(old, l)
	}
	return old
}

// takeLocked takes the connections out of use that are gone, and returns their loops.
func (sc *Subchannel) takeLocked(gone func(*loop) bool) (old []*loop) {
	var kept []*loop
	for _, l := range sc.conns {
		if gone(l) {
			l.leftAt = time.Now()
			old = append(old, l)
		} else {
			kept = append(kept, l)
		}
	}
	if len(old) == 0 {
		return nil
	}
	sc.conns = kept
	sc.publishLocked()
	for _, l := range old {
		sc.unwatchLocked(l)
		if l.ageTimer != nil {
			l.ageTimer.Stop()
		}
	}
	sc.watchUseLocked()
	sc.renewedLocked()
	return old
}

// publishLocked makes RPCs use the connections, unless their health holds them back.
func (sc *Subchannel) publishLocked() {
	if len(sc.conns) == 0 || sc.check != nil && !sc.check.serving {
		sc.inUse.Store(nil)
		return
	}
	transports := make([]*call.Transport, len(sc.conns))
	for i, l := range sc.conns {
		transports[i] = l.transport
	}
	sc.inUse.Store(&transports)
}

// repick is called when a connection has left, with no lock held. An RPC that had chosen it
// and finds it ended waits for another picker, which does not come while other connections
// are in use, since the policy has nothing new to say: it asks the picker in force again.
func (sc *Subchannel) repick() {
	if sc.isConnected() {
		sc.g.cfg.Calls.Repick()
	}
}

// isConnected reports whether connections are in use.
func (sc *Subchannel) isConnected() bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return len(sc.conns) > 0
}

// drain ends loops that their subchannels were taken away from: an attempt at once, a
// connection when its last RPC has ended.
func drain(loops []*loop, why error) {
	for _, l := range loops {
		l.drain(why)
	}
}

// ResetBackoff ends a wait of the back-off and forgets the failures before. An
// attempt in progress is followed by the shortest delay if it fails.
func (sc *Subchannel) ResetBackoff() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.record = record{}
	l := sc.connecting
	if l == nil {
		return
	}
	d := l.dialing
	if d.failure == nil {
		d.backoff = min(backoff.Delay(sc.g.cfg.Params.Backoff, 0, rand.Float64()), d.limit)
	}
	if d.retry != nil {
		close(d.retry)
		d.retry = nil
	}
}

// setLocked changes the state and has it reported to the policy. Because mu is held, the
// policy gets the changes in their order.
func (sc *Subchannel) setLocked(to connectivity.State, why error) {
	if sc.state == to {
		return
	}
	switch connectivity.Ready {
	case sc.state:
		sc.g.ready.Add(-1)
	case to:
		sc.g.ready.Add(1)
	}
	sc.state, sc.since = to, time.Now()
	sc.g.cfg.Log.Changes.Add(1)
	if why != nil || to == connectivity.Ready {
		sc.why = why
	}
	sc.host.Post(func() { sc.report(to, why) })
}

// report passes a state to the policy. Policy queue only.
func (sc *Subchannel) report(to connectivity.State, why error) {
	sc.host.AssertOnQueue()
	if sc.reported == connectivity.Shutdown {
		return // the policy was closed meanwhile
	}
	if to == connectivity.Shutdown {
		sc.End()
	} else {
		sc.enter(to)
		sc.channelz.State(to, why)
	}
	if !sc.host.Closed() {
		sc.host.Report(sc, to, why)
	}
}

// enter ends what belongs to the state before: the health listener and the producers.
// Policy queue only.
func (sc *Subchannel) enter(to connectivity.State) {
	sc.host.AssertOnQueue()
	sc.reported = to
	sc.listener.Add(1)
	sc.endWatch()
	sc.closeProducers()
}

// End is the end of a subchannel that was shut down. A policy that is closed ends
// its subchannels directly, because the queue refuses what Close causes to be
// posted; the call from report then does nothing. Policy queue only.
func (sc *Subchannel) End() {
	sc.host.AssertOnQueue()
	if sc.reported == connectivity.Shutdown {
		return
	}
	sc.enter(connectivity.Shutdown)
	sc.channelz.Close()
	sc.g.forget(sc)
}

// State returns the form of a state that policies get.
func State(to connectivity.State, why error) balancer.SubConnState {
	s := balancer.SubConnState{ConnectivityState: to}
	if to == connectivity.TransientFailure {
		s.ConnectionError = mask.RPC(why)
	}
	return s
}
