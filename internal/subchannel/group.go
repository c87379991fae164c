// Package subchannel has the subchannels of a channel: their states, the loops that
// connect them, when the next attempt is made, producers, and client-side health checks.
//
// A [Group] is the subchannels of one channel. A subchannel reaches the channel by one
// interface, [Host]: nothing here can call a policy or a resolver but by it.
//
// A [Subchannel] has a set of connections, most often one, and at most one loop that makes
// another. Each connection has a goroutine, its loop, which made it and serves it.
//
// # Locks
//
// A subchannel's mutex is held for a few steps only. While it is held, the policy queue is
// posted to, and the group's mutex, the log of attempts and a connection's mutex are taken,
// none of them the other way round. Several subchannels' are held at once by
// [Group.Endpoints] alone, in the order of their numbers. The group's mutex comes before
// those of channelz's data.
package subchannel

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/latch"
	"github.com/grpcdial/grpcdial/internal/metrics"
)

// What a connection ends with that its subchannel gives up. For metrics these are ends by
// the subchannel's shutdown.
var (
	ErrShutDown       = errors.New("grpcdial: the policy shut the subchannel down")
	ErrAddressRemoved = errors.New("grpcdial: the address is not among the subchannel's any more")
)

// Config is what the subchannels of a channel share. It is read only.
type Config struct {
	Params        *grpc.ConnectParams
	StatsHandlers []stats.Handler
	Calls         *call.Channel // on which RPCs of health watches and producers run
	Log           *attempts.Log
	Metrics       *metrics.Recorder
	Channelz      *channelzdata.Channel
	Closing       *latch.Latch // closed when the channel's Close begins

	Age *Age
}

// Age says when connections are old. One that is as old as Max, less a random part of
// Jitter, is replaced. 0: none is.
type Age struct{ Max, Jitter time.Duration }

// Group is the subchannels of one channel, and their connection loops. Init makes it ready
// to use. Its methods may be called from any goroutine.
type Group struct {
	cfg Config

	ready    atomic.Int32  // subchannels that are READY
	pausing  atomic.Int32  // loops in a pause that an RPC would cut short
	attempts atomic.Uint64 // the latest attempt's id

	mu      sync.Mutex
	closed  bool           // guarded by mu: no loop may start
	made    uint64         // guarded by mu: subchannels so far
	subs    []*Subchannel  // guarded by mu: those that have not ended, each where its index says
	loops   []*loop        // guarded by mu: those whose goroutine runs, each where its index says
	held    *Held          // guarded by mu: not nil: the first loop that begins is not started
	running sync.WaitGroup // one for each loop, health watch and timer that runs; added to under mu, before closed
}

// Init sets the group's config. It is called once, before anything else.
func (g *Group) Init(cfg Config) { g.cfg = cfg }

// New makes a subchannel in state IDLE.
func (g *Group) New(host Host, addrs []resolver.Address, opts balancer.NewSubConnOptions) *Subchannel {
	sc := &Subchannel{g: g, host: host, opts: opts, addrs: slices.Clone(addrs)}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.made++
	sc.number = g.made
	sc.channelz = g.cfg.Channelz.NewSubchannel(addrs)
	sc.index = len(g.subs)
	g.subs = append(g.subs, sc)
	return sc
}

// Of returns the subchannels of host that have not ended.
func (g *Group) Of(host Host) (all []*Subchannel) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, sc := range g.subs {
		if sc.host == host {
			all = append(all, sc)
		}
	}
	return all
}

// Addresses returns those of all subchannels that have not been shut down.
func (g *Group) Addresses() (all []string) {
	g.mu.Lock()
	subs := slices.Clone(g.subs)
	g.mu.Unlock()
	for _, sc := range subs { // a subchannel's mutex comes before the group's
		for _, a := range sc.addresses() {
			all = append(all, a.Addr)
		}
	}
	return all
}

// forget takes out a subchannel that has ended.
func (g *Group) forget(sc *Subchannel) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.subs = takeOut(g.subs, sc.index, func(moved *Subchannel) { moved.index = sc.index })
}

// Ready returns how many subchannels are READY.
func (g *Group) Ready() int { return int(g.ready.Load()) }

// Hurry cuts all pauses short: an RPC has begun to wait for a connection.
func (g *Group) Hurry() {
	if g.pausing.Load() == 0 {
		return
	}
	for _, l := range g.all() {
		l.hurry()
	}
}

// Untried reports whether a loop that no other connection of its subchannel spares is
// connecting and has an address, tried now or to be tried, at which no attempt has ended
// yet.
func (g *Group) Untried() bool { return slices.ContainsFunc(g.all(), (*loop).breaksNewGround) }

// Cut ends every attempt and every connection there is at once, draining ones too, because
// of why. RPCs that run end with st; nil: with Unavailable.
func (g *Group) Cut(why error, st *status.Status) {
	for _, l := range g.all() {
		l.cut(why, st)
	}
}

// Close is Cut, after which no loop begins. It does not wait.
func (g *Group) Close(why error, st *status.Status) {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.Cut(why, st)
}

// Wait waits until every goroutine of a closed group has ended.
func (g *Group) Wait() { g.running.Wait() }

// enter counts a goroutine in that is no loop's; running.Done counts it out. It reports false,
// and the goroutine has nothing to do, if the group is closed.
func (g *Group) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.running.Add(1)
	}
	return !g.closed
}

// begin counts the goroutine of l in and starts it. It reports false, and l must not start,
// if the group is closed.
func (g *Group) begin(ctx context.Context, l *loop) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	l.index = len(g.loops)
	g.loops = append(g.loops, l)
	g.running.Add(1)
	if g.held != nil && g.held.l == nil {
		*g.held = Held{ctx, l}
	} else {
		go l.run(ctx)
	}
	return true
}

// Held is a loop that was not started: its caller has to call Connect.
type Held struct {
	ctx context.Context // the loop's
	l   *loop
}

// HoldFirst calls f and returns the first loop that begins meanwhile; nil if none does. The
// caller lends it its goroutine in place of a new one, by calling Connect, whatever happens.
func (g *Group) HoldFirst(f func()) *Held {
	held := new(Held)
	g.holdNext(held)
	f()
	g.holdNext(nil)
	if held.l == nil {
		return nil
	}
	return held
}

func (g *Group) holdNext(h *Held) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = h
}

// Connect makes the loop's first attempt. When it returns, the connection is in use or could
// not be made, and what follows is on goroutines of the loop's own.
func (h *Held) Connect() { h.l.run(h.ctx) }

// end is the last that l's goroutine does.
func (g *Group) end(l *loop) {
	g.mu.Lock()
	g.loops = takeOut(g.loops, l.index, func(moved *loop) { moved.index = l.index })
	g.mu.Unlock()
	l.sc.host.Recheck() // its attempt may have been the last that could succeed
	g.running.Done()
}

// takeOut returns all without the element at i, whose place the last one gets.
func takeOut[T any](all []*T, i int, moved func(*T)) []*T {
	last := len(all) - 1
	moved(all[last])
	all[i], all[last] = all[last], nil
	return all[:last]
}

func (g *Group) all() []*loop {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.loops)
}
