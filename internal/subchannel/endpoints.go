package subchannel

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
)

// Endpoint is an address of a subchannel, with a connection to it if there is one, at one
// instant.
type Endpoint struct {
	Addr       resolver.Address
	ServerName string
	State      connectivity.State
	Since      time.Time
	Why        error // why it is not READY, or is not healthy

	NextAttempt time.Time // the end of the back-off or of a pause; zero: neither is in progress

	// Of the connection; zero if there is none.
	Streams   int
	Keepalive time.Duration // between its pings
	Draining  bool          // it takes no new RPCs; State is SHUTDOWN then
}

// Endpoints returns all endpoints and draining connections at one instant, in the order of
// their subchannels. also is called at the same instant, with the locks held.
func (g *Group) Endpoints(also func()) (all []Endpoint) {
	subs := g.hold()
	defer release(subs)
	also()
	held := make(map[*Subchannel]bool, len(subs))
	for _, sc := range subs {
		held[sc] = true
		all = sc.appendEndpointsLocked(all)
	}
	for _, l := range g.all() {
		if !held[l.sc] || l.conn == nil || slices.Contains(l.sc.conns, l) {
			continue
		}
		if e := l.endpointLocked(connectivity.Shutdown); e.Streams > 0 { // else it has ended
			all = append(all, e)
		}
	}
	return all
}

// hold locks every subchannel that there is and returns them in the order in which they
// were made.
//
// No other code holds two of these locks, and hold takes them in one order, so
// concurrent calls do not deadlock. A subchannel may be made, by code that holds none
// of the locks, while they are being taken. Then all are taken anew.
func (g *Group) hold() []*Subchannel {
	subs := g.known()
	for {
		for _, sc := range subs {
			sc.mu.Lock()
		}
		now := g.known()
		if slices.Equal(subs, now) {
			return subs
		}
		release(subs)
		subs = now
	}
}

func release(subs []*Subchannel) {
	for _, sc := range subs {
		sc.mu.Unlock()
	}
}

// known returns every subchannel that has not ended or whose connections are still there.
func (g *Group) known() (all []*Subchannel) {
	g.mu.Lock()
	defer g.mu.Unlock()
	all = append(all, g.subs...)
	for _, l := range g.loops {
		all = append(all, l.sc)
	}
	slices.SortFunc(all, func(a, b *Subchannel) int { return cmp.Compare(a.number, b.number) })
	return slices.Compact(all)
}

// appendEndpointsLocked appends one for each connection in use and for each other address;
// none for a subchannel that was shut down.
func (sc *Subchannel) appendEndpointsLocked(to []Endpoint) []Endpoint {
	if sc.state == connectivity.Shutdown {
		return to
	}
	for i, addr := range sc.addrs {
		connected := false
		for _, l := range sc.conns {
			if !sameAddress(addr, l.addr) {
				continue
			}
			e := l.endpointLocked(sc.state)
			if e.Why = sc.why; sc.state != connectivity.Ready { // held back by its health
				e.Since = sc.since
			}
			to, connected = append(to, e), true
		}
		if !connected {
			to = append(to, sc.unconnectedLocked(addr, i == 0))
		}
	}
	return to
}

// unconnectedLocked describes an address to which there is no connection.
func (sc *Subchannel) unconnectedLocked(addr resolver.Address, first bool) Endpoint {
	e := Endpoint{Addr: addr, ServerName: sc.host.ServerName(addr)}
	l := sc.connecting
	tried := len(sc.conns) == 0 && l != nil && (sameAddress(addr, l.addr) || l.addr.Addr == "" && first)
	if tried || sc.state == connectivity.Idle || sc.state == connectivity.TransientFailure {
		e.State, e.Since, e.Why = sc.state, sc.since, sc.why
		if l != nil && l.dialing.retry != nil {
			e.NextAttempt = l.dialing.until
		}
	}
	return e
}

// endpointLocked describes the loop's connection, which is in use or, in state
// SHUTDOWN, draining.
func (l *loop) endpointLocked(state connectivity.State) Endpoint {
	e := Endpoint{
		Addr:       l.addr,
		ServerName: l.sc.host.ServerName(l.addr),
		State:      state,
		Since:      l.since,
		Streams:    l.conn.Streams(),
		Keepalive:  l.keepalive,
	}
	if state == connectivity.Shutdown {
		e.Draining, e.Since = true, l.leftAt
	}
	return e
}

// Connected returns the addresses that subchannels are connected to, one for each, at most
// that many, and since when, of those for which keep returns true.
func (g *Group) Connected(most int, keep func(resolver.Address) bool) (all []Endpoint) {
	for _, l := range g.all() {
		if len(all) == most {
			break
		}
		if e, ok := l.inUse(); ok && keep(e.Addr) {
			all = append(all, e)
		}
	}
	return all
}

// inUse describes the loop's connection if it is the first of those in use.
func (l *loop) inUse() (e Endpoint, ok bool) {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	if len(l.sc.conns) == 0 || l.sc.conns[0] != l || l.cutBy != nil {
		return e, false
	}
	return l.endpointLocked(l.sc.state), true
}
