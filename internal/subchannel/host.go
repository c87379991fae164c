package subchannel

import (
	"context"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// Host is what a subchannel needs of its channel and of the policy that made it. Its
// methods are called without a lock held, on any goroutine, unless they say otherwise.
type Host interface {
	// Post has f run on the policy queue, in the order of the calls, unless the channel is
	// being closed by then. It does not wait, and may be called with a subchannel's lock
	// held.
	Post(f func())
	// Hold is Post for a caller that lends its goroutine to the policy queue. If it returns
	// true, the caller has to call Run soon; if false, f will not run.
	Hold(f func()) bool
	Run()
	// AssertOnQueue panics, in tests, if the caller is not on the policy queue.
	AssertOnQueue()
	// Closed reports whether the policy was closed. Policy queue only.
	Closed() bool
	// Report passes a change of state to the policy. why is what led to it, or nil. Policy
	// queue only.
	Report(sc *Subchannel, to connectivity.State, why error)

	// Config returns what connections are made with, and the credentials that RPCs on them
	// send. The caller owns the first. bundle is that of the subchannel's options.
	Config(bundle credentials.Bundle) (*connect.Config, []credentials.PerRPCCredentials)
	// Connect makes one attempt. Of the failures it returns, the causes are those that
	// programs may see.
	Connect(ctx context.Context, cfg *connect.Config, a Attempt) (*h2.Conn, failure.List)
	// ServerName returns the name that the credentials check at addr, and that RPCs have as
	// their authority. It may be called with a subchannel's lock held.
	ServerName(addr resolver.Address) string
	// HealthService returns the service whose health is watched; ok is false if backends
	// are not to be checked. It may be called with a subchannel's lock held.
	HealthService() (service string, ok bool)

	// MaxConnections returns how many connections a subchannel may have, at least 1. It may
	// be called with a subchannel's lock held.
	MaxConnections() int

	// ResolveNow asks the resolver to look again.
	ResolveNow()
	// Recheck makes waits for READY look at the log of attempts again.
	Recheck()
	// Interrupted notes attempts at addr that were cancelled because the channel ended the
	// connection loop with the error by.
	Interrupted(by error, addr string, all failure.List)
	// TooManyPings notes that a server complained of keepalive PINGs that were apart by
	// used (gRFC A8).
	TooManyPings(used time.Duration)

	// AttemptFailed, ConnReady, ConnLost and BackingOff are events for traces and the log.
	AttemptFailed(id uint64, all failure.List)
	ConnReady(a Attempt, elapsed time.Duration)
	ConnLost(a Attempt, lasted time.Duration, why error)
	BackingOff(addr string, wait time.Duration)
}

// Attempt is one attempt to connect to one address.
type Attempt struct {
	ID         uint64 // no other of the channel has it
	Addr       resolver.Address
	ServerName string    // as Host.ServerName returns it
	Since      time.Time // zero for ConnReady and ConnLost
}
