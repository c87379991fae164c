package grpcdial

import (
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/subchannel"
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
	// used them, one element for each connection where there are several (gRFC A105), and
	// draining connections that still serve RPCs. A channel that went
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
	var s Snapshot
	endpoints := cc.subchannels.Endpoints(func() {
		now := cc.state.latest()
		s = Snapshot{
			State:      now.To,
			Since:      now.Time,
			Cause:      now.Cause,
			Seq:        now.Seq,
			ResolveErr: cc.attempts.ResolveError(),
			Keepalive:  cc.keepaliveParams(time.Duration(cc.keepaliveTime.Load())),
		}
	})
	s.Target, s.ResolveErr = cc.shownTarget(), mask.RPC(s.ResolveErr)
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, EndpointSnapshot{
			Addr:        text.Target(e.Addr.Addr),
			ServerName:  text.Target(e.ServerName),
			State:       e.State,
			Since:       e.Since,
			Cause:       cc.causeOf(&e),
			NextAttempt: e.NextAttempt,
			Streams:     e.Streams,
			Keepalive:   cc.keepaliveParams(e.Keepalive),
			Draining:    e.Draining,
		})
	}
	return s
}

// causeOf returns why the endpoint is not READY, as an error of the public API.
func (cc *ClientConn) causeOf(of *subchannel.Endpoint) error {
	switch of.Why.(type) {
	case *failure.Attempt, failure.List:
	default:
		return mask.RPC(of.Why)
	}
	e := &DialError{Target: cc.shownTarget(), State: of.State, InState: time.Since(of.Since)}
	for _, a := range asAttempts(0, of.Why, "", of.Since) {
		e.Attempts = append(e.Attempts, publicAttempt(a))
	}
	return e.capped()
}

// keepaliveParams is the keepalive of connections whose pings are interval apart.
func (cc *ClientConn) keepaliveParams(interval time.Duration) keepalive.ClientParameters {
	if interval <= 0 {
		return keepalive.ClientParameters{}
	}
	p := cc.opts.connection.keepalive
	p.Time = interval
	return p
}
