package grpcdial

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/text"
)

// Snapshot is the state of a channel at one instant. The caller owns it, and it does
// not change any more.
type Snapshot struct {
	Target string // canonical target

	// The connectivity state, with the number, the time and the cause of the
	// transition that led to it, as in StateChange. Seq is 0 and Since zero on a
	// channel that never left IDLE. The load-balancing policy makes it of the states
	// of the endpoints and needs a moment for that, so the two can disagree.
	State connectivity.State
	Since time.Time
	Cause error
	Seq   uint64

	// ResolveErr is the error of the resolver's latest report; nil if that had
	// addresses, or if the resolver has reported nothing yet.
	ResolveErr error

	// Keepalive is in force for new connections: the value of WithKeepaliveParams,
	// raised to the least that gRFC A8 allows, and doubled each time that a server
	// complained of too many pings. Time is 0 if keepalive is off.
	Keepalive keepalive.ClientParameters

	// Endpoints are the addresses that the policy uses, in the order in which it first
	// used them, and draining connections that still serve RPCs. A channel that went
	// IDLE because no RPC ran has none.
	Endpoints []EndpointSnapshot
}

// EndpointSnapshot is one address of a channel, with the connection to it if there
// is one. It may get more fields, and cannot be compared with ==.
type EndpointSnapshot struct {
	_ [0]func()

	Addr       string // as the resolver gave it
	ServerName string // the authority that the credentials are asked to verify

	// State is that of the subchannel, which connects to one of its addresses: the
	// others are IDLE while it is CONNECTING or READY.
	State connectivity.State
	Since time.Time // zero if the endpoint has been IDLE from the beginning

	// Cause is why the endpoint is not READY: for TRANSIENT_FAILURE a *DialError with
	// the failed attempts, for IDLE the error that ended the connection. It may be nil.
	// An endpoint that is READY has a cause if its health service reports it as not
	// serving.
	Cause error

	// NextAttempt is the end of the back-off; zero if no back-off is in progress. The
	// policy may connect later than that.
	NextAttempt time.Time

	// Of the connection; zero if there is none.
	Streams   int                        // open streams
	Keepalive keepalive.ClientParameters // in force on it
	Draining  bool                       // it takes no new RPCs; State is SHUTDOWN then
}

// Snapshot returns the channel's current state. It does no I/O, does not wait, and
// may be called from anywhere, trace hooks and policies included.
//
// All of it is of one instant: no state changes while it is put together, which
// takes some hundred nanoseconds for each endpoint. It does not delay RPCs.
func (cc *ClientConn) Snapshot() Snapshot {
	subs := cc.holdSubConns()
	defer release(subs)

	now := cc.state.latest()
	s := Snapshot{
		Target:     cc.shownTarget(),
		State:      now.To,
		Since:      now.Time,
		Cause:      now.Cause,
		Seq:        now.Seq,
		ResolveErr: mask.RPC(cc.attempts.ResolveError()),
		Keepalive:  cc.keepaliveParams(time.Duration(cc.keepaliveTime.Load())),
	}
	held := make(map[*subConn]bool, len(subs))
	for _, sc := range subs {
		held[sc] = true
		s.Endpoints = sc.appendEndpointsLocked(s.Endpoints)
	}
	for _, l := range cc.allLinks() {
		if !held[l.sc] || l.sc.link == l || l.conn == nil {
			continue
		}
		if e := l.endpointLocked(connectivity.Shutdown); e.Streams > 0 { // else it has ended
			s.Endpoints = append(s.Endpoints, e)
		}
	}
	return s
}

// holdSubConns locks every subchannel that there is and returns them in the order
// in which they were made.
//
// No other code holds two of these locks, and holdSubConns takes them in one order, so
// concurrent calls do not deadlock. A subchannel may be made, by code that holds none
// of the locks, while they are being taken. Then all are taken anew.
func (cc *ClientConn) holdSubConns() []*subConn {
	subs := cc.subConns()
	for {
		for _, sc := range subs {
			sc.mu.Lock()
		}
		now := cc.subConns()
		if slices.Equal(subs, now) {
			return subs
		}
		release(subs)
		subs = now
	}
}

func release(subs []*subConn) {
	for _, sc := range subs {
		sc.mu.Unlock()
	}
}

// subConns returns every subchannel of the policies, and those whose connections
// are still there.
func (cc *ClientConn) subConns() []*subConn {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	var all []*subConn
	for _, p := range cc.live {
		for sc := range p.subs {
			all = append(all, sc)
		}
	}
	for _, l := range cc.links {
		all = append(all, l.sc)
	}
	slices.SortFunc(all, func(a, b *subConn) int { return cmp.Compare(a.number, b.number) })
	return slices.Compact(all)
}

// appendEndpointsLocked appends one for each address; none for a subchannel that
// was shut down.
func (sc *subConn) appendEndpointsLocked(to []EndpointSnapshot) []EndpointSnapshot {
	if sc.state == connectivity.Shutdown {
		return to
	}
	for i, addr := range sc.addrs {
		e := EndpointSnapshot{Addr: text.Target(addr.Addr), ServerName: text.Target(sc.cc.serverName(addr))}
		l := sc.link
		used := l != nil && (sameAddress(addr, l.addr) || l.addr.Addr == "" && i == 0)
		switch {
		case used && sc.state == connectivity.Ready:
			e = l.endpointLocked(sc.state)
			e.Cause = sc.causeLocked()
		case used, sc.state == connectivity.Idle, sc.state == connectivity.TransientFailure:
			if used && l.conn != nil { // connected, and held back by its health
				e = l.endpointLocked(sc.state)
			}
			e.State, e.Since, e.Cause = sc.state, sc.since, sc.causeLocked()
			if l != nil && l.retry != nil {
				e.NextAttempt = l.until
			}
		}
		to = append(to, e)
	}
	return to
}

// causeLocked returns why the subchannel is not READY, as an error of the public API.
func (sc *subConn) causeLocked() error {
	switch sc.why.(type) {
	case *failure.Attempt, failure.List:
	default:
		return mask.RPC(sc.why)
	}
	e := &DialError{Target: sc.cc.shownTarget(), State: sc.state, InState: time.Since(sc.since)}
	for _, a := range asAttempts(0, sc.why, "", sc.since) {
		e.Attempts = append(e.Attempts, publicAttempt(a))
	}
	return e
}

// endpointLocked describes the link's connection, which is in use or, in state
// SHUTDOWN, draining.
func (l *link) endpointLocked(state connectivity.State) EndpointSnapshot {
	e := EndpointSnapshot{
		Addr:       text.Target(l.addr.Addr),
		ServerName: text.Target(l.sc.cc.serverName(l.addr)),
		State:      state,
		Since:      l.since,
		Streams:    l.conn.Streams(),
		Keepalive:  l.sc.cc.keepaliveParams(l.keepalive),
	}
	if state == connectivity.Shutdown {
		e.Draining, e.Since = true, l.left
	}
	return e
}

// keepaliveParams is the keepalive of connections whose pings are interval apart.
func (cc *ClientConn) keepaliveParams(interval time.Duration) keepalive.ClientParameters {
	if interval <= 0 {
		return keepalive.ClientParameters{}
	}
	p := cc.opts.keepalive
	p.Time = interval
	return p
}
