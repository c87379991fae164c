// Package live has what a channel shows of itself on the page of package channelz, besides
// its channelz data: why it is in its state, its latest transitions, the service config in
// force, and for each endpoint the latest failure and the steps of the latest dial.
//
// A channel gives its data to the page through [Source], which its channelz data hold, so
// that neither imports the other. The data are put together when the page asks for them;
// only the steps of dials have to be kept before that, by [Dials], and they are kept only
// in programs that serve the page ([Want]).
//
// All texts are fit to leave the library: they have been through package text.
package live

import (
	"sync/atomic"
	"time"

	"google.golang.org/grpc/connectivity"
)

// Source is a channel as the page sees it. Live may be called from any goroutine; it must
// not wait, and is called with no lock held.
type Source interface{ Live() Channel }

// wanted is set for good by the first page that is made.
var wanted atomic.Bool

// Want has the steps of all later dials of the process kept.
func Want() { wanted.Store(true) }

// Wanted reports whether the steps of dials are to be kept.
func Wanted() bool { return wanted.Load() }

// Channel is a channel at one instant.
type Channel struct {
	Target      string // canonical
	State       connectivity.State
	Since       time.Time // zero: it never left IDLE
	Cause       string    // of the transition to State; empty: it needs none
	Failures    []Failure // the attempts that Cause is made of
	ResolveErr  string    // of the resolver's latest report; empty: it had addresses, or there is none
	Policy      string    // the load-balancing policy that the service config chooses
	Config      string    // the JSON of the service config in force; empty: there is none
	ConfigFrom  string    // where it comes from: "resolver", "default", "WithServiceConfig"
	Transitions []Transition
	Omitted     int64 // transitions before those
	Endpoints   []Endpoint
}

// Transition is one change of the channel's state.
type Transition struct {
	Seq      uint64
	Time     time.Time
	From, To connectivity.State
	Cause    string
}

// Endpoint is one address of a channel.
type Endpoint struct {
	Addr, ServerName string
	State            connectivity.State
	Since            time.Time // zero: it has been IDLE from the beginning
	Cause            string    // why it is not READY
	NextAttempt      time.Time // the end of the back-off; zero: there is none
	Streams          int       // open ones
	Draining         bool      // it takes no new RPCs

	Failures []Failure // the latest ones, which may be over: of the latest attempt that failed, or the loss of a connection
	Dial     *Dial     // the latest; nil: not kept
}

// Failure is an attempt to connect that failed, or with PhaseLost the end of a connection.
type Failure struct {
	Addr, ServerName, Proxy string
	Phase                   string
	Time                    time.Time // when it ended
	Elapsed                 time.Duration
	Err, Hint               string
	Permanent               bool // it will not heal by itself
}

// PhaseLost is the Phase of a connection that was READY and was lost.
const PhaseLost = "lost"

// Dial is one attempt to connect to an endpoint.
type Dial struct {
	Attempt uint64
	Addr    string // the endpoint's
	Start   time.Time
	End     time.Time // zero: it had not ended
	Ready   bool      // it led to a connection
	Steps   []Step    // in the order in which they began
	Omitted int       // steps besides these
}

// Step is one phase of a dial at one address.
type Step struct {
	Phase       string
	Addr, Proxy string
	Start, End  time.Time // End is zero if it had not ended
	Err         string
	Detail      string // what it brought
}
