package call

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/latch"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// Endpoint is what a pick leads to: the SubConn of a PickResult must be one.
type Endpoint interface {
	// Transport returns what new RPCs go to; nil if there is nothing: the RPC picks
	// again when the picker changes.
	Transport() *Transport
}

// Transport is a connection, and what the RPCs on it have. It is read only.
type Transport struct {
	Conn *h2.Conn // never nil
	// Backend is what Conn is one of the connections of, comparable. nil: Conn is the only one.
	Backend Endpoint
	// Authority is the :authority of RPCs unless CallAuthority or the picker say
	// otherwise: the channel's, or that of a resolver.Address with a ServerName.
	Authority string
	// PerRPC are the credentials sent with every RPC besides its own: the channel's,
	// or those that the policy made the subchannel with.
	PerRPC []credentials.PerRPCCredentials
	// Metadata is sent after an RPC's own: what a resolver.Address has as its Metadata.
	// It is not in the events of stats handlers.
	Metadata metadata.MD
}

// backend returns what RPCs that look for another backend compare.
func (t *Transport) backend() any {
	if t.Backend != nil {
		return t.Backend
	}
	return t.Conn
}

// Owner is what RPCs ask of a channel's control plane. Its methods are called by any
// number of goroutines, and must not block.
type Owner interface {
	// Wake is called when an RPC begins while the channel is idle.
	Wake()
	// Wanted is called when an RPC begins to wait for a connection; see Waiting.
	Wanted()
	// Explain returns why the channel has no connection, which becomes a cause of RPCs
	// that end because of that. It must be cheap, and may return nil.
	Explain() Reason
	// Backends returns how many subchannels are READY. It is asked by RPCs that a server
	// gave back: they look for another one.
	Backends() int
	// Ready reports whether the channel is READY. It is asked by RPCs that a picker
	// makes wait.
	Ready() bool
}

// Config is what all RPCs of a channel have in common. It is read only.
type Config struct {
	// DefaultOptions come before the options of each RPC. A caller that puts
	// them in front itself leaves this empty: an OnFinish would run twice.
	DefaultOptions []grpc.CallOption
	// Legacy is what the deprecated dial options WithCompressor and WithDecompressor have
	// set. nil: nothing.
	Legacy *Legacy
	// DisableRetry switches retry policies off. RPCs that no server has
	// processed are tried again nevertheless.
	DisableRetry bool
	// MaxAttempts bounds the attempts that a retry policy allows; 0 means 5.
	MaxAttempts int
	// StatsHandlers get the events of every RPC, in this order.
	StatsHandlers []stats.Handler
	// UserAgent is the value of the user-agent header in the events of stats handlers.
	UserAgent string
	// Closing is closed by the channel's owner before it calls Close. nil: Close does that.
	Closing *latch.Latch
	// Owner is the control plane that the channel's RPCs ask. nil: there is none.
	Owner Owner
	// Hooks is what the owner adds to RPCs, the same for all of its channels. nil: nothing.
	Hooks *Hooks
}

// Legacy has a compressor and a decompressor of old, either of which may be nil.
type Legacy struct {
	Compressor   grpc.Compressor
	Decompressor grpc.Decompressor
}

// Hooks is what RPCs get from the package above. It is read only.
type Hooks struct {
	// Insecure is what errors of RPCs match whose credentials require transport
	// security that their connection does not have. nil: nothing of the kind.
	Insecure error
	// ErrorAs serves errors.As on an [Error]: it sets target, if that is of a type that
	// the channel's owner has for such errors, and reports whether it did. nil: it has none.
	ErrorAs func(e *Error, target any) bool
	// ServerLoad makes the balancer's DoneInfo.ServerLoad of a trailer. nil: none.
	ServerLoad func(trailer metadata.MD) any
}

// defaultMaxAttempts is gRFC A6's bound on maxAttempts.
const defaultMaxAttempts = 5

// Channel makes RPCs. Its methods may be called by any number of goroutines.
type Channel struct {
	cfg     Config    // set once
	base    *settings // of the default options; nil: there are none
	baseErr error     // what was wrong with the default options; every RPC ends with it
	epoch   time.Time

	// Set by the control plane, read by RPCs.
	picker   atomic.Pointer[pickerGen] // never nil
	policy   atomic.Pointer[policy]
	selector atomic.Pointer[selectorInForce] // nil: the service config's method configs count
	resolved atomic.Bool
	idle     atomic.Bool

	waiting  atomic.Int32 // RPCs that wait for a connection
	refusing atomic.Bool  // Drain was called

	// count counts RPCs, running ones too. lastEnd is the time of the latest end, in
	// nanoseconds after epoch.
	count   channelzdata.CallCount
	lastEnd atomic.Int64

	accepted atomic.Pointer[string] // grpc-accept-encoding; see acceptEncoding

	mu      sync.Mutex    // guards what follows, and that two setters do not interleave
	changed chan struct{} // closed when another picker is in force; nil while no RPC waits for that
	opened  chan struct{} // closed when resolved is true; nil while no RPC waits for that
	streams *clientStream // open streams, a doubly linked list; see enlist
	shut    bool          // no stream is enlisted any more
	drained chan struct{} // closed when no RPC runs after Drain; nil before Drain
	aside   int           // goroutines of the channel's own that call code of the program's
	none    chan struct{} // closed when aside is 0; nil unless Close waits for that
}

// pickerGen is a picker that was put in force.
type pickerGen struct {
	picker balancer.Picker // nil: RPCs wait
	why    Reason          // why it fails RPCs; nil: it has not been said
}

// What a channel has at first, and for which it needs no memory of its own.
var (
	noPicker = new(pickerGen)
	noPolicy = new(policy)
	noLegacy = new(Legacy)
	noHooks  = new(Hooks)
)

// policy is a service config with the state that belongs to it.
type policy struct {
	config   *serviceconfig.Config
	throttle *throttle // nil: retries are not throttled
}

// New makes a channel that has no picker, no config, no resolver result, and is not idle.
func New(cfg Config) *Channel {
	ch := &Channel{cfg: cfg, epoch: time.Now()}
	if ch.cfg.Closing == nil {
		ch.cfg.Closing = new(latch.Latch)
	}
	if ch.cfg.Legacy == nil {
		ch.cfg.Legacy = noLegacy
	}
	if ch.cfg.Hooks == nil {
		ch.cfg.Hooks = noHooks
	}
	if ch.cfg.MaxAttempts <= 0 {
		ch.cfg.MaxAttempts = defaultMaxAttempts
	}
	if len(cfg.DefaultOptions) > 0 {
		ch.base = new(settings)
		ch.baseErr = ch.base.applyAll(cfg.DefaultOptions)
	}
	ch.picker.Store(noPicker)
	ch.policy.Store(noPolicy)
	return ch
}

// SetPicker puts p in force and wakes RPCs that wait for a picker. nil: they wait on.
func (ch *Channel) SetPicker(p balancer.Picker) { ch.SetFailingPicker(p, nil) }

// SetFailingPicker is SetPicker for one that fails RPCs because of why, which is the
// cause of such an RPC if Explain has nothing to say any more.
func (ch *Channel) SetFailingPicker(p balancer.Picker, why Reason) {
	next := noPicker
	if p != nil {
		next = &pickerGen{picker: p, why: why}
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.picker.Store(next)
	wake(&ch.changed)
}

// wake closes a channel on which RPCs wait, if any does. ch.mu is held.
func wake(waiting *chan struct{}) {
	if *waiting != nil {
		close(*waiting)
		*waiting = nil
	}
}

// awaited returns a channel for wake to close. ch.mu is held.
func awaited(waiting *chan struct{}) <-chan struct{} {
	if *waiting == nil {
		*waiting = make(chan struct{})
	}
	return *waiting
}

// replaced returns a channel that is closed when gen is not in force any more; nil if it
// is not already.
func (ch *Channel) replaced(gen *pickerGen) <-chan struct{} {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.picker.Load() != gen {
		return nil
	}
	return awaited(&ch.changed)
}

// Repick makes RPCs that wait for a picker ask the one in force again: an endpoint that had
// no connection for them may have one now.
func (ch *Channel) Repick() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if old := ch.picker.Load(); old != noPicker {
		again := *old
		ch.picker.Store(&again)
		wake(&ch.changed)
	}
}

// SetConfig puts a service config in force for RPCs that begin from now on.
// nil: none. The tokens of a retry throttle are kept if its values stay the same.
func (ch *Channel) SetConfig(c *serviceconfig.Config) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	next := &policy{config: c}
	if c != nil && c.RetryThrottling != nil {
		if old := ch.policy.Load().throttle; old != nil && old.limits == *c.RetryThrottling {
			next.throttle = old
		} else {
			next.throttle = newThrottle(*c.RetryThrottling)
		}
	}
	ch.policy.Store(next)
}

// SetResolved says whether the resolver has had its first say, be it a result
// or an error. RPCs wait until it has.
func (ch *Channel) SetResolved(on bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.resolved.Store(on); on {
		wake(&ch.opened)
	}
}

// untilResolved returns a channel that is closed when RPCs need not wait for the resolver
// any more; nil if they need not already.
func (ch *Channel) untilResolved() <-chan struct{} {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.resolved.Load() {
		return nil
	}
	return awaited(&ch.opened)
}

// SetIdle says whether the channel is idle; RPCs that begin while it is call
// Owner.Wake.
//
// An RPC counts itself in Active before it looks whether the channel is idle.
// So if a caller sets idle and then finds Active to be 0, any later RPC calls Wake; if
// it finds an RPC running, it must leave idle itself.
func (ch *Channel) SetIdle(on bool) { ch.idle.Store(on) }

// Active returns how many RPCs are running, and when the latest one ended: the
// channel's creation if none has.
func (ch *Channel) Active() (running int, lastEnd time.Time) {
	// In this order: an RPC notes its end before it is counted as ended.
	n := ch.count.Running()
	return int(n), ch.epoch.Add(time.Duration(ch.lastEnd.Load()))
}

// Waiting returns how many RPCs wait for a connection, or for a policy to choose one.
//
// An RPC counts itself in before it calls Owner.Wanted. So one that Waiting has not
// counted calls it later.
func (ch *Channel) Waiting() int { return int(ch.waiting.Load()) }

// Calls returns how many RPCs the channel has made. Those of [Direct] are not
// among them.
func (ch *Channel) Calls() channelzdata.Calls { return ch.count.Read(ch.epoch) }

// Drain makes RPCs that begin from now on end as after Close. Those that run go on,
// attempts that are yet to come included. The channel that it returns is closed
// once none runs. RPCs on one subchannel do not count.
//
// An RPC counts itself in before it looks whether it is refused, and Drain looks
// at the count after it has begun to refuse: one of the two sees the other. An RPC
// that ends looks at the count after it has counted itself out, so the last one finds
// that none runs.
func (ch *Channel) Drain() <-chan struct{} {
	ch.mu.Lock()
	if ch.drained == nil {
		ch.drained = make(chan struct{})
	}
	drained := ch.drained
	ch.mu.Unlock()
	ch.refusing.Store(true)
	if ch.count.Running() == 0 {
		ch.noneRuns()
	}
	return drained
}

// noneRuns closes drained, once. Drain was called.
func (ch *Channel) noneRuns() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	select {
	case <-ch.drained:
	default:
		close(ch.drained)
	}
}

// Close ends RPCs that wait for a connection, open streams, and new RPCs with
// an error that matches grpc.ErrClientConnClosing. Unary RPCs that have been
// sent end when their connection is closed. It calls no code of the program's, whose
// locks its caller may hold: OnFinish, stats handlers and the balancer's Done are called
// for a stream's end on a goroutine of their own, or on the goroutine that is making
// another attempt just then. The channel returned is closed once all calls on goroutines
// of the channel's own have returned, those of RPCs that ended before included; nil: there
// were none.
func (ch *Channel) Close() (reported <-chan struct{}) {
	ch.cfg.Closing.Close()
	ch.mu.Lock()
	ch.shut = true
	var open []*clientStream
	for cs := ch.streams; cs != nil; cs = cs.next {
		open = append(open, cs)
	}
	ch.mu.Unlock()
	for _, cs := range open {
		if e, ok := cs.abandon(grpc.ErrClientConnClosing); ok {
			ch.mu.Lock()
			ch.aside++
			ch.mu.Unlock()
			go func() {
				defer ch.stepBack()
				e.report()
			}()
		}
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.aside > 0 && ch.none == nil {
		ch.none = make(chan struct{})
	}
	return ch.none
}

// stepAside counts a goroutine of the channel's own in that may call code of the program's, so
// that Close waits for it; stepBack counts it out. It reports false once Close has begun: the
// goroutine must call none.
func (ch *Channel) stepAside() bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.shut {
		return false
	}
	ch.aside++
	return true
}

func (ch *Channel) stepBack() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.aside--; ch.aside == 0 {
		wake(&ch.none)
	}
}

func (ch *Channel) isClosed() bool { return ch.cfg.Closing.Closed() }

// now is the time since the channel was made.
func (ch *Channel) now() time.Duration { return time.Since(ch.epoch) }

// enter counts an RPC in, which began at that time; see SetIdle for the order.
func (ch *Channel) enter(began time.Duration) {
	ch.count.Start(began)
	if ch.idle.Load() && ch.cfg.Owner != nil {
		ch.cfg.Owner.Wake()
	}
}

// leave counts an RPC out, which ended with status OK if ok is true; see Active
// for the order.
func (ch *Channel) leave(ok bool) {
	ch.lastEnd.Store(int64(ch.now()))
	ch.count.End(ok)
	if ch.refusing.Load() && ch.count.Running() == 0 {
		ch.noneRuns()
	}
}

// Touch counts as the end of an RPC for Active.
func (ch *Channel) Touch() { ch.lastEnd.Store(int64(ch.now())) }

// enlist makes Close end the stream. It reports false if the channel is closed.
func (ch *Channel) enlist(cs *clientStream) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.shut {
		return false
	}
	cs.enlisted = true
	cs.next = ch.streams
	if cs.next != nil {
		cs.next.prev = cs
	}
	ch.streams = cs
	return true
}

// delist takes back enlist.
func (ch *Channel) delist(cs *clientStream) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if !cs.enlisted {
		return
	}
	cs.enlisted = false
	if cs.prev != nil {
		cs.prev.next = cs.next
	} else {
		ch.streams = cs.next
	}
	if cs.next != nil {
		cs.next.prev = cs.prev
	}
	cs.next, cs.prev = nil, nil
}
