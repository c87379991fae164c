package subchannel

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/backoff"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/text"
)

// loop is the life of one connection, on one goroutine at a time:
//
//	start ──▶ connecting ── an address answered ──▶ ready
//	              │                                   │
//	              │ none did                          │ the connection is lost,
//	              ▼                                   │ or takes no new streams
//	          backingOff                              │
//	              │ time is up                        │
//	end ◀─────────┴───────────────────────────────────┘
//
// connecting begins with pausing if the record of the subchannel asks for that.
//
// A loop belongs to its subchannel while it is sc.connecting or one of sc.conns, and it
// alone moves from the one to the other. Shutdown and UpdateAddresses take it out, and the
// loop itself does when the server lets the connection end, all with sc.mu held. From then
// on the loop does not touch the subchannel: what is left of it serves the RPCs that still
// run on its connection. What each of the steps does to the subchannel is in transition.go.
type loop struct {
	sc    *Subchannel
	index int // in g.loops; guarded by g.mu

	// The loop's goroutine only.
	attempt uint64    // id of the latest attempt
	readyAt time.Time // when its connection was reported as ready; zero before, and once its loss was

	socket *channelzdata.Socket // policy queue only: the data of the connection; nil before there are any

	keepalive time.Duration // between the pings of its connection; written by the loop's goroutine before conn is set

	// Guarded by sc.mu.
	dialing   *dialing         // nil once the connection is in use; written by the loop's goroutine alone
	addr      resolver.Address // the one tried now, or that conn leads to
	since     time.Time        // when that began
	conn      *h2.Conn         // nil before there is one
	transport *call.Transport  // to conn
	took      time.Duration    // from when connecting began until the connection was in use
	leftAt    time.Time        // when it left the subchannel
	cutBy     error            // not nil: the channel has cut the loop

	// Guarded by sc.mu, of a connection in use.
	ageTimer *time.Timer // makes it stale; nil: nothing does
	opened   int64       // streams so far, at the latest look; see dropUnused
	stale    bool        // it is to be replaced, which may be known before it is in use
	old      bool        // by age, so that a failed attempt is not the last

	unnoted bool // the loop's goroutine only: how the connection ends is yet to be noted in the record
}

// dialing is what only connecting and backing off need: a loop whose connection is in use
// has none.
type dialing struct {
	limit   time.Duration                   // of connecting
	refused *failure.Attempt                // not nil: no attempt is to be made, it counts as failed with this
	perRPC  []credentials.PerRPCCredentials // the loop's goroutine only: sent with the RPCs on the connection

	// Guarded by sc.mu.
	begun   time.Time          // when connecting began
	backoff time.Duration      // from then to the end of backingOff
	until   time.Time          // the end of backingOff, or of pausing
	wanted  time.Time          // the end of pausing once an RPC waits
	asked   chan struct{}      // closed by hurry; nil except in pausing, and once it is closed
	cancel  context.CancelFunc // ends connecting and backingOff; else nil
	addrs   []resolver.Address // to be tried, in order; nil after that
	running *attempts.Running  // in the log of attempts; nil while nothing is tried
	failure error              // not nil: why it is in backingOff
	retry   chan struct{}      // closed by ResetBackoff; nil except in backingOff and pausing
}

// run is the goroutine, until there is a connection or the attempt has failed. What follows
// has a new one, serve or backOff: the stack that connecting took would otherwise be kept as
// long as the connection is, or the back-off takes, and is half of what a goroutine that
// waits for bytes needs. And the goroutine may be lent (Group.HoldFirst).
//
// Code of the program's that is called on any of them may end the goroutine
// (runtime.Goexit): Close does not wait for it then.
func (l *loop) run(ctx context.Context) {
	handed := false // to the new goroutine, which ends the loop
	defer func() {
		if !handed {
			l.sc.g.end(l)
		}
	}()
	conn, err := l.connect(ctx)
	if err == nil {
		l.ready(conn, &handed)
	} else if retry, until := l.failed(err); retry != nil {
		handed = true
		go l.backOff(ctx, retry, until)
	}
}

// pause is CONNECTING too, on the way to a server whose connections ended before they
// had served. It is not down, so RPCs wait for it; one that waits cuts the pause short.
// It returns an error if the loop has to end.
//
// An RPC that begins to wait counts itself in first and looks at Group.pausing then; here
// it is the other way round. So one of the two sees the other.
func (l *loop) pause(ctx context.Context) error {
	g := l.sc.g
	l.sc.mu.Lock()
	d := l.dialing
	retry, until, wanted := d.retry, d.until, d.wanted
	if retry == nil {
		l.sc.mu.Unlock()
		return nil
	}
	asked := make(chan struct{})
	d.asked = asked
	g.pausing.Add(1)
	l.sc.mu.Unlock()
	if g.cfg.Calls.Waiting() > 0 {
		l.hurry()
	}
	if wait(ctx, until, retry, asked) == asked {
		wait(ctx, wanted, retry, nil)
	}
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	d.noHurryLocked(g)
	d.retry, d.begun = nil, time.Now()
	return ctx.Err()
}

// hurry cuts the pause that the loop is in short.
func (l *loop) hurry() {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	if d := l.dialing; d != nil && d.asked != nil {
		close(d.asked)
		d.until = d.wanted
		d.noHurryLocked(l.sc.g)
	}
}

// noHurryLocked notes that the pause of a loop of g cannot be cut short any more.
func (d *dialing) noHurryLocked(g *Group) {
	if d.asked != nil {
		d.asked = nil
		g.pausing.Add(-1)
	}
}

// wait waits until then, until one of the channels is closed, which it returns, or
// until ctx ends.
func wait(ctx context.Context, then time.Time, retry, asked <-chan struct{}) <-chan struct{} {
	timer := time.NewTimer(time.Until(then))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-retry:
		return retry
	case <-asked:
		return asked
	case <-ctx.Done():
	}
	return nil
}

// connect tries one address after the other. One that does not answer leaves time for
// those after it.
func (l *loop) connect(ctx context.Context) (*h2.Conn, error) {
	g, host := l.sc.g, l.sc.host
	if err := l.pause(ctx); err != nil {
		return nil, err
	}
	d := l.dialing
	if d.refused != nil {
		l.noteFailure(d.refused.Addr, 0, failure.List{d.refused})
		return nil, d.refused
	}
	l.sc.mu.Lock()
	addrs := d.addrs // which another goroutine takes from a loop that has left
	l.sc.mu.Unlock()
	if len(addrs) == 0 { // UpdateAddresses replaces the loop when it has some
		<-ctx.Done()
		return nil, ctx.Err()
	}
	end, bounded := ctx.Deadline()
	if !bounded {
		var stop context.CancelFunc
		end = time.Now().Add(d.limit)
		ctx, stop = context.WithDeadline(ctx, end)
		defer stop()
	}
	var cfg *connect.Config
	cfg, d.perRPC = host.Config(l.sc.opts.CredsBundle)
	l.keepalive = cfg.H2.KeepaliveTime
	var failed failure.List
	for i, addr := range addrs {
		a := Attempt{ID: g.attempts.Add(1), Addr: addr, ServerName: host.ServerName(addr)}
		l.attempt = a.ID
		a.Since, cfg.Progress = l.try(a)
		share, stop := ctx, context.CancelFunc(func() {})
		if others := len(addrs) - i - 1; others > 0 {
			share, stop = context.WithTimeout(ctx, backoff.AddressLimit(time.Until(end), 1+others))
		}
		conn, all := host.Connect(share, cfg, a)
		stop()
		if conn != nil {
			g.cfg.Log.Connected(addr.Addr)
			return conn, nil
		}
		if failed = append(failed, all...); ctx.Err() == context.Canceled {
			if by := l.endedBy(); by != nil {
				host.Interrupted(by, addr.Addr, all)
			}
			break
		}
		l.noteFailure(addr.Addr, a.ID, all)
		if ctx.Err() != nil {
			break // no time left for the others
		}
	}
	if ctx.Err() != context.Canceled {
		g.cfg.Metrics.Failed(addrs[0])
	}
	return nil, failed
}

// noteFailure keeps and reports the attempts at addr that failed. The log, which is why the
// channel is not READY, does not have those of an extra loop.
func (l *loop) noteFailure(addr string, id uint64, all failure.List) {
	if !l.sc.isConnected() {
		l.sc.g.cfg.Log.Failed(addr, all)
		l.sc.host.Recheck()
	}
	l.sc.host.AttemptFailed(id, all)
}

// try notes which address is being tried, since when, and returns what the attempt reports
// its progress to.
func (l *loop) try(a Attempt) (since time.Time, p *connect.Progress) {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	log := l.sc.g.cfg.Log
	log.End(l.dialing.running)
	l.addr, l.since = a.Addr, time.Now()
	l.dialing.running = log.Begin(a.ID, a.Addr.Addr, a.ServerName, l.since)
	return l.since, &l.dialing.running.Progress
}

// backOff is the goroutine after an attempt that failed: it waits until the next one may be
// made. The subchannel is in TRANSIENT_FAILURE then, unless it has other connections.
func (l *loop) backOff(ctx context.Context, retry <-chan struct{}, until time.Time) {
	defer l.sc.g.end(l)
	l.sc.host.Recheck() // addresses for which no time was left cannot succeed any more
	l.sc.host.ResolveNow()
	addr := l.addr.Addr
	if refused := l.dialing.refused; refused != nil {
		addr = refused.Addr
	}
	l.sc.host.BackingOff(addr, max(time.Until(until), 0))
	wait(ctx, until, retry, nil)
	l.release()
}

// ready puts the connection in use. That is before serve begins, which then needs little
// stack.
//
// handed is set when the loop is serve's to end.
func (l *loop) ready(conn *h2.Conn, handed *bool) {
	defer func() {
		if !*handed { // ended by code of the program's
			abandon(conn)
		}
	}()
	g := l.sc.g
	stats := beginStats(g.cfg.StatsHandlers, conn)
	g.cfg.Metrics.Connected(l.addr, conn.Peer().AuthInfo)
	held := l.openSocket(conn)
	l.readyAt = time.Now()
	l.sc.host.ConnReady(l.connected(), l.readyAt.Sub(l.since))
	used, more, old := l.use(conn)
	if more { // an RPC that found the others ended looks again
		g.cfg.Calls.Repick()
	}
	drain(old, ErrReplaced)
	if !used {
		why := cmp.Or(l.endedBy(), ErrShutDown)
		g.cfg.Metrics.Disconnected(l.addr, conn.Peer().AuthInfo, why)
		conn.Close(why, nil)
	}
	*handed = true
	go l.serve(conn, stats)
	if held {
		l.sc.host.Run() // READY is reported on this goroutine, which has nothing else to do any more
	}
}

// connected describes the attempt that led to the connection, but for its time. The
// loop's goroutine only.
func (l *loop) connected() Attempt {
	return Attempt{ID: l.attempt, Addr: l.addr, ServerName: l.sc.host.ServerName(l.addr)}
}

// abandon closes a connection that is not served.
func abandon(conn *h2.Conn) {
	conn.Close(ErrShutDown, nil)
	_ = conn.Serve(func(error) {})
}

// serve is the goroutine from then on. When the server lets the connection end, it leaves
// the subchannel at once and the goroutine stays for the RPCs that still run.
func (l *loop) serve(conn *h2.Conn, stats *connStats) {
	defer l.leave(conn)
	why := conn.Serve(func(why error) { l.lost(conn, inWords(why)) })
	l.served(conn, stats, why)
}

// served is what serve does when the connection has ended. Inlined, it would make serve's part
// of the stack larger, which each connection has.
//
//go:noinline
func (l *loop) served(conn *h2.Conn, stats *connStats, why error) {
	why = inWords(why)
	l.lost(conn, why)
	l.drained(conn, why)
	l.closeSocket(why)
	stats.end()
}

// leave is the end of serve. conn has ended, unless code of the program's has ended
// the goroutine.
func (l *loop) leave(conn *h2.Conn) {
	conn.Close(ErrShutDown, nil)
	l.sc.g.end(l)
}

// lost takes the connection out of use, unless that was done already.
func (l *loop) lost(conn *h2.Conn, why error) {
	if !l.readyAt.IsZero() { // once: the server may announce the end first with a GOAWAY
		l.sc.host.ConnLost(l.connected(), time.Since(l.readyAt), why)
		l.readyAt = time.Time{}
	}
	if conn.TooManyPings() {
		l.sc.host.TooManyPings(l.keepalive)
	}
	given, unserved, next := l.giveBack(conn, why)
	if !given {
		return
	}
	l.sc.repick()
	conn.Drain(why) // health checks and load reports go to other connections
	l.sc.g.cfg.Metrics.Disconnected(l.addr, conn.Peer().AuthInfo, why)
	if len(next) > 0 {
		l.sc.g.cfg.Log.Failed(next[0].Addr, next)
		l.sc.host.Recheck()
	}
	if unserved != nil {
		l.sc.g.cfg.Log.Disconnected(unserved) // the explanation of an RPC that waits in vain
	}
	l.sc.host.ResolveNow()
}

// errServerClosed is why a connection ended that the server closed without a word.
var errServerClosed = fmt.Errorf("the server closed the connection: %w", io.EOF)

// inWords is why, the end of a connection, for people to read.
func inWords(why error) error {
	switch why {
	case io.EOF:
		return errServerClosed
	case grpc.ErrClientConnClosing:
		return why // as it is; its text would be made anew
	}
	return text.Error(why)
}

// drain ends a loop that has left its subchannel: an attempt at once, a connection when
// its last RPC has ended.
func (l *loop) drain(why error) {
	if conn := l.stop(nil); conn != nil { // so l.addr does not change any more
		l.sc.g.cfg.Metrics.Disconnected(l.addr, conn.Peer().AuthInfo, why)
		conn.Drain(why)
	}
}

// cut ends an attempt or a connection at once. RPCs that run on it end with st.
func (l *loop) cut(why error, st *status.Status) {
	if conn := l.stop(why); conn != nil {
		conn.Close(why, st)
	}
}

func (l *loop) stop(cutBy error) *h2.Conn {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	if l.cutBy == nil {
		l.cutBy = cutBy
	}
	if d := l.dialing; d != nil && d.cancel != nil {
		d.cancel()
	}
	return l.conn
}

// endedBy returns what the channel cut the loop with; nil if it did not.
func (l *loop) endedBy() error {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	return l.cutBy
}

// breaksNewGround is Group.Untried for one loop.
func (l *loop) breaksNewGround() bool {
	l.sc.mu.Lock()
	var addrs []resolver.Address
	if l.dialing != nil && len(l.sc.conns) == 0 {
		addrs = l.dialing.addrs
	}
	l.sc.mu.Unlock()
	return slices.ContainsFunc(addrs, func(a resolver.Address) bool { return !l.sc.g.cfg.Log.Knows(a.Addr) })
}
