package grpcdial

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/latch"
	"github.com/grpcdial/grpcdial/internal/metrics"
	"github.com/grpcdial/grpcdial/internal/proxy"
	"github.com/grpcdial/grpcdial/internal/serial"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
	"github.com/grpcdial/grpcdial/internal/subchannel"
	"github.com/grpcdial/grpcdial/internal/text"
)

// ClientConn is a channel: a target, the connections that serve it, and the
// RPCs that run on them. Dial, DialContext and NewClient make one; generated
// stubs take it as their grpc.ClientConnInterface.
//
// All methods may be called from any goroutine. Close must not be called from
// code that the channel calls: resolvers, policies, codecs, credentials, dialers,
// connection checks, the functions of a DialTrace, and the TagConn and HandleConn of stats handlers. Most
// of these run on goroutines that it waits for.
type ClientConn struct {
	// Set by the constructor and only read after that.
	opts      settings
	creds     channelCredentials
	target    string        // as the program wrote it
	parsed    restingTarget // what it means
	builder   resolver.Builder
	proxies   proxy.Func  // nil: none
	localDNS  bool        // the name is looked up here even if the target takes a proxy
	overUnix  bool        // the builder's resolvers give the paths of unix sockets
	atOnce    bool        // see resolvesAtOnce
	ownCode   atomic.Bool // see hasOwnCodeOnly; later cleared on the policy queue; here it costs no memory
	authority string
	defaults  *serviceconfig.Config // WithDefaultServiceConfig; nil: not given
	connect   connectFunc           // connect.Connect, except in tests
	metrics   *metrics.Recorder
	calls     *call.Channel
	channelz  *channelzdata.Channel // what package channelz serves
	chain     callChain             // in front of calls
	mirrors   mirrors
	observer  observer

	// With rules of their own, in their types.
	state         stateMachine
	attempts      attempts.Log
	subchannels   subchannel.Group
	policyQueue   serial.Queue // runs everything below that says "policy queue"
	resolverQueue serial.Queue // Build, ResolveNow and Close of resolvers, nothing else; see resolverConn
	reports       reports
	connectAsked  serial.Signal
	resetAsked    serial.Signal
	config        atomic.Pointer[serviceconfig.Config]
	latestReason  atomic.Pointer[reason]
	waiters       atomic.Int32             // calls that wait for READY: as RPCs do, they keep the channel from going idle
	impatient     atomic.Int32             // of the waiters, those whose wait a failure may end
	resolving     atomic.Int32             // a resolverCall: which code of the program's the resolver queue is in
	noConfigs     atomic.Bool              // WithServiceConfig's channel was closed without one
	building      atomic.Pointer[building] // see nextBuilding; nil on an idle channel until that is called
	keepaliveTime atomic.Int64             // of new connections, in nanoseconds
	closing       latch.Latch              // closed when Close begins
	following     chan struct{}            // closed when watchConfigs has ended; nil: it does not run; set before the channel is handed out

	mu     sync.Mutex
	closed bool // guarded by mu: no subchannel is made any more

	// Policy queue only.
	idle         bool
	wanted       bool // Connect was called, and the channel has not been READY since
	idleTimer    *time.Timer
	resolver     *resolverConn // nil while idle
	resolution   resolution
	chosen       *serviceconfig.Config // the latest good service config
	grpcGoConfig *grpcGoConfig         // nil: none so far
	policies     policySwitch
	published    published
}

// connectFunc makes one connection; connect.Connect says how.
type connectFunc func(ctx context.Context, cfg *connect.Config, addr resolver.Address, authority string) (*h2.Conn, error)

// errClosing is what the connections of a closed channel, and RPCs running on
// them, end with. It matches grpc.ErrClientConnClosing.
var (
	errClosing    = ErrClosed
	statusClosing = status.New(codes.Canceled, status.Convert(errClosing).Message())
)

// Invoke runs a unary RPC and returns when the response has been decoded into reply, or
// when the RPC has failed. Generated stubs call it.
//
// The error, as that of a stream, is a status error. If the channel knows more than the
// status, errors.As finds an *RPCError, with the RPC's stage and how its time was
// spent. The cause is in the error's chain: errors.As finds it by its type, a *DialError
// if there was no connection, and errors.Is by its identity, as a syscall.Errno or a value
// of the program's own dialer or credentials. The error never matches a standard sentinel
// by which programs recognise something else: io.EOF, io.ErrUnexpectedEOF, fs.ErrNotExist
// and its like, net.ErrClosed, http.ErrServerClosed, os.ErrDeadlineExceeded. It matches
// context.DeadlineExceeded or context.Canceled only if the RPC's own context ended it.
func (cc *ClientConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return cc.chain.Invoke(ctx, method, args, reply, opts...)
}

// NewStream opens a stream. Generated stubs call it. ctx bounds the stream's
// whole life.
func (cc *ClientConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return cc.chain.NewStream(ctx, desc, method, opts...)
}

// Target returns the target as it was given to the constructor.
func (cc *ClientConn) Target() string { return cc.target }

// CanonicalTarget returns the target as scheme://authority/endpoint, with the
// scheme that it fell back to if it had none.
func (cc *ClientConn) CanonicalTarget() string { return cc.parsed.target().String() }

// shownTarget is CanonicalTarget as it is shown: without a password, which a URL may
// have.
func (cc *ClientConn) shownTarget() string { return text.Target(cc.CanonicalTarget()) }

// GetMethodConfig returns the settings of the service config in force for method,
// "/service/method"; the zero value if it has none.
func (cc *ClientConn) GetMethodConfig(method string) MethodConfig {
	return cc.config.Load().Method(method).GRPC()
}

// ResetConnectBackoff ends the back-off of every subchannel: those that wait connect
// again at once, and all begin with the shortest delay after their next failure. A
// program may call it when the network is available again.
func (cc *ClientConn) ResetConnectBackoff() {
	cc.resetAsked.Send(&cc.policyQueue, func() {
		for p := range cc.policies.all {
			for _, sc := range cc.subchannels.Of(host{p}) {
				sc.ResetBackoff()
			}
		}
	})
}

// Close ends the channel: its connections are cut, RPCs that run on it end with
// Canceled, and so do later ones. It returns when no goroutine of the channel is
// left, except goroutines in the program's own code that does not return in time:
//
//   - Dialers, the functions of WithProxy and WithConnectCheck and handshakes of
//     credentials have 50 ms after their context has ended, or their connection was closed.
//   - Build and ResolveNow of resolvers have 50 ms, their Close has 500 ms.
//   - OnFinish functions and stats handlers that are called for the end of open streams
//     have 50 ms: they may wait for a lock that Close's caller holds. So have those of
//     streams whose context has ended before, and pickers, credentials and stats handlers in
//     attempts of a hedged RPC, also after another attempt has decided it.
//
// Such a goroutine ends when that code returns. A connection or resolver that it
// returns is closed. Close waits without a bound for everything else, above all for
// load-balancing policies, their producers, and functions of a DialTrace: they must
// not block. Unary RPCs that are cut end on their callers' goroutines.
//
// The second and any further Close returns [ErrClosed].
func (cc *ClientConn) Close() error {
	reported, first := cc.beginClose()
	if !first {
		return errClosing
	}
	cc.mirrors.close()
	cc.awaitEnd()
	if reported != nil {
		endsWithin(reported, closePatience)
	}
	return nil
}

// How long code of the program's has to return once the channel is being closed,
// before it is left to itself; Close says which code. That of a resolver's Close is
// longer, because Close asks for it, and programs count on its being done: they close
// what the resolver used.
const (
	closePatience         = 50 * time.Millisecond
	resolverClosePatience = 500 * time.Millisecond
)

// endsWithin waits until ended is closed, for d at most, and reports whether it was.
func endsWithin(ended <-chan struct{}, d time.Duration) bool {
	select {
	case <-ended:
		return true
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		return false
	}
}

// beginClose does everything about Close but wait. reported is closed when the ends of
// streams have been reported to the program; it is nil if no stream was open. first is
// false if the channel was closed before.
//
// Nothing here waits for a queue, so that connections are cut at once whatever a
// policy or a resolver is doing. What runs on the queues cannot hold Close up
// either: an UpdateState that waits for the policy returns as closing is closed,
// and streams of producers, which policies wait for, end with their connection.
func (cc *ClientConn) beginClose() (reported <-chan struct{}, first bool) {
	cc.mu.Lock()
	if cc.closed {
		cc.mu.Unlock()
		return nil, false
	}
	cc.closed = true
	cc.mu.Unlock()

	cc.setState(connectivity.Shutdown, errClosing, nil)
	cc.policyQueue.Discard()
	cc.closing.Close()
	reported = cc.calls.Close()
	cc.subchannels.Close(errClosing, statusClosing)
	cc.channelz.Close() // before what ends here is noted there in vain
	if !cc.ownCode.Load() {
		cc.policyQueue.Close(cc.end)
	} else if cc.policyQueue.CloseHeld(cc.end) {
		cc.policyQueue.Run()
	}
	return reported, true
}

// awaitEnd is the wait of Close: for connections, then for the queues.
func (cc *ClientConn) awaitEnd() {
	if cc.following != nil {
		<-cc.following
	}
	cc.subchannels.Wait()
	cc.policyQueue.Wait()
	cc.awaitResolverQueue()
}

// isClosing reports whether Close has begun.
func (cc *ClientConn) isClosing() bool { return cc.closing.Closed() }

// post has f run on the policy queue, unless Close has begun by then: from then on
// nothing runs there but end, which ends all that there is. It reports false, and f
// will not run, if that is so already.
func (cc *ClientConn) post(f func()) bool { return cc.policyQueue.Post(f) }

// end is the last to run on the policy queue. Posts that it causes are refused.
func (cc *ClientConn) end() {
	cc.stopIdleTimer()
	if cc.resolver != nil {
		cc.resolver.retire()
	}
	cc.resolverQueue.Close(nil)
	cc.policies.close()
	cc.calls.SetSelector(nil)
	cc.reports.take()
}

// ShutdownError is what Shutdown returns when its context ended before the RPCs
// did.
//
// It may get more fields, and cannot be compared with ==.
type ShutdownError struct {
	_ [0]func()

	Aborted int   // RPCs that still ran then
	Err     error // the context's error
}

// Error is one line: how many RPCs were cut, and the context's error.
func (e *ShutdownError) Error() string {
	noun := "RPCs that were"
	if e.Aborted == 1 {
		noun = "RPC that was"
	}
	return fmt.Sprintf("grpcdial: Shutdown aborted %d %s still running: %v", e.Aborted, noun, e.Err)
}

// Unwrap returns the context's error.
func (e *ShutdownError) Unwrap() error { return e.Err }

// Shutdown closes the channel as Close does, but lets the RPCs that run end first.
// New RPCs are refused from the start, with [ErrClosed]. An RPC runs until its caller
// has its outcome: an RPC that waits for a connection or for a retry may still succeed,
// and a stream that the program does not read to its end runs until its context ends.
// An interceptor that has not yet begun its RPC does not count as one.
//
// When ctx ends, the RPCs that still run are cut as by Close and the error is a
// *ShutdownError. Else it is nil, or [ErrClosed] if the channel was closed before or by
// another goroutine meanwhile. When Shutdown returns nil or a *ShutdownError, the
// channel's goroutines have ended as Close documents.
//
// It must not be called where Close must not.
func (cc *ClientConn) Shutdown(ctx context.Context) error {
	drained := cc.calls.Drain()
	select {
	case <-drained:
		return cc.Close()
	case <-cc.closing.Done():
		return errClosing
	case <-ctx.Done():
	}
	running, _ := cc.calls.Active()
	if err := cc.Close(); err != nil || running == 0 {
		return err
	}
	return &ShutdownError{Aborted: running, Err: ctx.Err()}
}
