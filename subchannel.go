package grpcdial

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/attempts"
	"github.com/grpcdial/grpcdial/internal/backoff"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/text"
)

// link is a subchannel's life from the call of Connect until it is IDLE again, on
// one goroutine at a time:
//
//	Connect ──▶ connecting ── an address answered ──▶ ready
//	                │                                   │
//	                │ none did                          │ the connection is lost,
//	                ▼                                   │ or takes no new streams
//	            backingOff                              │
//	                │ time is up                        │
//	IDLE ◀──────────┴───────────────────────────────────┘
//
// connecting begins with pausing if the record of the subchannel asks for that.
//
// While sc.link points to it, it alone changes the subchannel's state. Whoever
// takes the subchannel away from it, Shutdown, UpdateAddresses, or the link itself
// when the server lets the connection end, changes sc.link with sc.mu held. From
// then on the link may not touch the subchannel: what is left of it serves the
// RPCs that still run on its connection.
type link struct {
	sc      *subConn
	limit   time.Duration    // of connecting
	refused *failure.Attempt // not nil: no attempt is to be made, it counts as failed with this
	place   int              // in cc.links; guarded by cc.mu

	// Link's goroutine only.
	attempt uint64    // id of the latest attempt
	readyAt time.Time // when its connection was told of as ready; zero before, and once its loss was
	judging bool      // how the connection ends is yet to be noted in the record

	// Written by the link's goroutine before conn is set.
	keepalive time.Duration                   // between the pings of its connection
	perRPC    []credentials.PerRPCCredentials // sent with the RPCs on it

	// Guarded by sc.mu.
	begun   time.Time          // when connecting began
	backoff time.Duration      // from then to the end of backingOff
	until   time.Time          // the end of backingOff, or of pausing
	wanted  time.Time          // the end of pausing once an RPC waits
	asked   chan struct{}      // closed by hurry; nil except in pausing, and once it is closed
	cancel  context.CancelFunc // ends connecting and backingOff, and the watch of checked; else nil
	addrs   []resolver.Address // to be tried, in order; nil after that
	addr    resolver.Address   // the one tried now, or that conn leads to
	since   time.Time          // when that began
	made    *attempts.Running  // in the log of attempts; nil while nothing is tried
	conn    *h2.Conn           // nil before there is one
	line    *call.Line         // to conn
	left    time.Time          // when the subchannel was taken away, or given back
	cutBy   error              // not nil: the channel has cut the link
	retry   chan struct{}      // closed by resetBackoff; nil except in backingOff and pausing
}

// run is the goroutine, until there is a connection. That has a new one, serve,
// because the stack that connecting took would otherwise be kept as long as the
// connection is: it is half of what a goroutine that waits for bytes needs.
//
// Code of the program's that is called on either may end the goroutine
// (runtime.Goexit): Close does not wait for it then.
func (l *link) run(ctx context.Context) {
	served := false
	defer func() {
		if !served {
			l.sc.cc.removeLink(l)
		}
	}()
	if conn, err := l.connecting(ctx); err != nil {
		l.backingOff(ctx, err)
	} else {
		l.ready(conn, &served)
	}
}

// pausing is CONNECTING too, on the way to a server whose connections ended before they
// had served. It is not down, so RPCs wait for it; one that waits cuts the pause short.
// It returns an error if the link has to end.
//
// An RPC that begins to wait counts itself in first and looks at cc.pausing then; here
// it is the other way round. So one of the two sees the other.
func (l *link) pausing(ctx context.Context) error {
	l.sc.mu.Lock()
	retry, until, wanted := l.retry, l.until, l.wanted
	if retry == nil {
		l.sc.mu.Unlock()
		return nil
	}
	asked := make(chan struct{})
	l.asked = asked
	l.sc.cc.pausing.Add(1)
	l.sc.mu.Unlock()
	if l.sc.cc.calls.Waiting() > 0 {
		l.hurry()
	}
	if wait(ctx, until, retry, asked) == asked {
		wait(ctx, wanted, retry, nil)
	}
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	l.noHurryLocked()
	l.retry, l.begun = nil, time.Now()
	return ctx.Err()
}

// hurry cuts the pause that the link is in short.
func (l *link) hurry() {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	if l.asked != nil {
		close(l.asked)
		l.until = l.wanted
	}
	l.noHurryLocked()
}

// noHurryLocked notes that the pause cannot be cut short any more.
func (l *link) noHurryLocked() {
	if l.asked != nil {
		l.asked = nil
		l.sc.cc.pausing.Add(-1)
	}
}

// connectionWanted cuts all pauses short: an RPC has begun to wait for a connection.
func (cc *ClientConn) connectionWanted() {
	if cc.pausing.Load() == 0 {
		return
	}
	for _, l := range cc.allLinks() {
		l.hurry()
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

// connecting is state CONNECTING: one address after the other. One that does not answer
// leaves time for those after it.
func (l *link) connecting(ctx context.Context) (*h2.Conn, error) {
	cc := l.sc.cc
	if err := l.pausing(ctx); err != nil {
		return nil, err
	}
	if l.refused != nil {
		cc.noteFailure(l.refused.Addr, failure.List{l.refused})
		cc.observer.failed(0, failure.List{l.refused})
		return nil, l.refused
	}
	if len(l.addrs) == 0 { // UpdateAddresses replaces the link when it has some
		<-ctx.Done()
		return nil, ctx.Err()
	}
	end := time.Now().Add(l.limit)
	ctx, stop := context.WithDeadline(ctx, end)
	defer stop()
	cfg := cc.connectConfig(l)
	var failed failure.List
	for i, addr := range l.addrs {
		l.attempt = cc.attemptIDs.Add(1)
		cfg.Progress = l.try(addr)
		cfg.Trace = cc.observer.steps(l.attempt, addr.Addr)
		share, stop := ctx, context.CancelFunc(func() {})
		if others := len(l.addrs) - i - 1; others > 0 {
			share, stop = context.WithTimeout(ctx, backoff.AddressLimit(time.Until(end), 1+others))
		}
		conn, err := cc.connect(share, cfg, cc.marked(addr), cc.serverName(addr))
		stop()
		if err == nil {
			cc.attempts.Connected(addr.Addr)
			return conn, nil
		}
		attempts := asAttempts(l.attempt, err, addr.Addr, l.since)
		if failed = append(failed, attempts...); ctx.Err() == context.Canceled {
			if l.endedBy() == errClosing {
				cc.attempts.Interrupted(addr.Addr, interrupted(attempts))
			}
			break
		}
		cc.noteFailure(addr.Addr, attempts)
		cc.observer.failed(l.attempt, attempts)
		if ctx.Err() != nil {
			break // no time left for the others
		}
	}
	if ctx.Err() != context.Canceled {
		cc.metrics.Failed()
	}
	return nil, failed
}

// backingOff is state TRANSIENT_FAILURE, until the next attempt may be made.
func (l *link) backingOff(ctx context.Context, why error) {
	retry, until := l.failed(why)
	if retry == nil {
		return
	}
	l.sc.cc.recheckWaits() // addresses for which no time was left cannot succeed any more
	l.sc.policy.resolver.resolveNow()
	l.tellBackoff(time.Until(until))
	wait(ctx, until, retry, nil)
	l.release()
}

// ready enters state READY, or with checked those that stand for it. That is before
// serve begins, which then needs little stack.
//
// served is set when the link is serve's to end.
func (l *link) ready(conn *h2.Conn, served *bool) {
	defer func() {
		if !*served { // ended by code of the program's
			abandon(conn)
		}
	}()
	told := l.sc.cc.beginConn(conn)
	l.sc.cc.metrics.Connected(conn.Peer().AuthInfo)
	closeSocket := l.openSocket(conn)
	l.tellReady()
	if !l.connected(conn) {
		why := cmp.Or(l.endedBy(), errShutDown)
		l.sc.cc.metrics.Disconnected(conn.Peer().AuthInfo, why)
		conn.Close(why, nil)
	}
	*served = true
	go l.serve(conn, told, closeSocket)
}

// abandon closes a connection that nobody will serve.
func abandon(conn *h2.Conn) {
	conn.Close(errShutDown, nil)
	_ = conn.Serve(func(error) {})
}

// serve is the goroutine from then on. When the server lets the connection end, the
// subchannel is given back at once and the goroutine stays for the RPCs that still
// run.
func (l *link) serve(conn *h2.Conn, told *connStats, closeSocket func(error)) {
	defer l.leave(conn)
	why := inWords(conn.Serve(func(why error) { l.lost(conn, inWords(why)) }))
	l.lost(conn, why)
	l.drained(conn, why)
	closeSocket(why)
	told.end()
}

// leave is the end of serve. conn has ended, unless code of the program's has ended
// the goroutine.
func (l *link) leave(conn *h2.Conn) {
	conn.Close(errShutDown, nil)
	l.sc.cc.removeLink(l)
}

// errServerClosed is why a connection ended that the server closed without a word.
var errServerClosed = fmt.Errorf("the server closed the connection: %w", io.EOF)

// inWords is why, the end of a connection, for people to read.
func inWords(why error) error {
	if why == io.EOF {
		return errServerClosed
	}
	return text.Error(why)
}

// try notes which address is being tried, and returns what is to be told how far
// that is.
func (l *link) try(addr resolver.Address) *connect.Progress {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	l.sc.cc.attempts.End(l.made)
	l.addr, l.since = addr, time.Now()
	l.made = l.sc.cc.attempts.Begin(l.attempt, addr.Addr, l.sc.cc.serverName(addr), l.since)
	return &l.made.Progress
}

// breaksNewGround reports whether the link is connecting and has an address, tried now
// or to be tried, at which no attempt has ended yet.
func (l *link) breaksNewGround() bool {
	l.sc.mu.Lock()
	addrs := l.addrs
	l.sc.mu.Unlock()
	return slices.ContainsFunc(addrs, func(a resolver.Address) bool { return !l.sc.cc.attempts.Knows(a.Addr) })
}

// connectedTo returns the address that the link's connection leads to, and since
// when there is one.
func (l *link) connectedTo() (addr resolver.Address, since time.Time, ok bool) {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	return l.addr, l.since, l.conn != nil && l.ownsLocked()
}

// connected makes the transition to READY, unless that depends on the backend's
// health. It reports false if the subchannel is not the link's any more.
func (l *link) connected(conn *h2.Conn) bool {
	sc := l.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	l.stopLocked()
	if !l.ownsLocked() {
		return false
	}
	l.conn, l.since = conn, time.Now()
	l.line = sc.cc.newLine(conn, l.addr, l.perRPC)
	if !l.checked() {
		sc.line.Store(l.line)
		sc.setLocked(connectivity.Ready, nil)
	}
	return true
}

// failed makes the transition to TRANSIENT_FAILURE. It returns when the back-off
// ends and a channel that resetBackoff closes; nil if the subchannel is not the
// link's any more.
func (l *link) failed(why error) (retry <-chan struct{}, until time.Time) {
	sc := l.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if !l.ownsLocked() {
		l.stopLocked()
		return nil, until
	}
	if l.refused == nil {
		sc.record.failed()
	}
	l.sc.cc.attempts.End(l.made)
	l.addrs, l.made, l.retry, l.until = nil, nil, make(chan struct{}), l.begun.Add(l.backoff)
	sc.setLocked(connectivity.TransientFailure, why)
	return l.retry, l.until
}

// release makes the transition from TRANSIENT_FAILURE to IDLE.
func (l *link) release() {
	sc := l.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	l.stopLocked()
	if l.ownsLocked() {
		sc.link = nil
		sc.setLocked(connectivity.Idle, nil)
	}
}

// lost makes the transition from READY to IDLE. It does nothing if the
// subchannel is not the link's any more.
func (l *link) lost(conn *h2.Conn, why error) {
	l.tellLost(why)
	if conn.TooManyPings() {
		l.sc.cc.slowKeepalive(l.keepalive)
	}
	given, unserved := l.giveBack(conn, why)
	if !given {
		return
	}
	l.sc.cc.metrics.Disconnected(conn.Peer().AuthInfo, why)
	if unserved != nil {
		l.sc.cc.attempts.Disconnected(unserved) // the explanation of an RPC that waits in vain
	}
	l.sc.policy.resolver.resolveNow()
}

// giveBack makes the transition. It returns the description of a connection that ended in
// good order before it had served, if that is not the first in a row.
//
// A connection on which RPCs run is judged when it has ended: GOAWAY may promise to serve
// them. The next attempt does not wait for that.
func (l *link) giveBack(conn *h2.Conn, why error) (given bool, unserved *failure.Attempt) {
	sc := l.sc
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if !l.ownsLocked() {
		return false, nil
	}
	l.stopLocked()
	sc.link, l.left = nil, time.Now()
	sc.line.Store(nil)
	if l.judging = conn.Serving() && !conn.Answered(); !l.judging {
		how, a := l.judgeLocked(conn, why)
		if how == endOrderly && sc.record.unserved > 1 {
			unserved = a
		}
	}
	sc.setLocked(connectivity.Idle, why)
	return true, unserved
}

// drained judges a connection that has ended and was not judged when the subchannel
// was given back.
func (l *link) drained(conn *h2.Conn, why error) {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	if l.judging && l.cutBy == nil {
		l.judgeLocked(conn, why)
	}
}

// judgeLocked notes in the record how the connection ended. It describes the connection if
// that has not served.
func (l *link) judgeLocked(conn *h2.Conn, why error) (how ending, a *failure.Attempt) {
	lasted := time.Since(l.since)
	how = judge(lasted, conn.Answered(), conn.Harmed(), why)
	if how != endServed {
		a = l.shortLife(lasted, why)
	}
	l.sc.record.ended(how, lasted, l.begun, a)
	return how, a
}

// endedBy returns what the channel cut the link with; nil if it did not.
func (l *link) endedBy() error {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	return l.cutBy
}

// ownsLocked reports whether the subchannel is still the link's to change. That
// of a link which the channel has cut stays as it is: the policy is being closed.
func (l *link) ownsLocked() bool { return l.sc.link == l && l.cutBy == nil }

// shortLife describes a connection that ended before it had served.
func (l *link) shortLife(lasted time.Duration, why error) *failure.Attempt {
	a := &failure.Attempt{Addr: l.addr.Addr, Phase: failure.HTTP2, Start: l.since, Elapsed: lasted,
		Err:  fmt.Errorf("connection lost %v after it was set up: %w", text.Round(lasted), why),
		Hint: "the server accepts connections and ends them before an RPC is served; its log may say why"}
	if name := l.sc.cc.serverName(l.addr); name != a.Addr {
		a.ServerName = name
	}
	return a
}

// stopLocked frees what only connecting and backingOff need, and ends the watch
// of checked.
func (l *link) stopLocked() {
	if l.cancel != nil {
		l.cancel()
	}
	l.sc.cc.attempts.End(l.made)
	l.cancel, l.addrs, l.retry, l.made = nil, nil, nil, nil
}

// drain ends a link whose subchannel was taken away: an attempt at once, a
// connection when its last RPC has ended. l may be nil.
func (l *link) drain(why error) {
	if l == nil {
		return
	}
	if conn := l.end(nil); conn != nil {
		l.sc.cc.metrics.Disconnected(conn.Peer().AuthInfo, why)
		conn.Drain(why)
	}
}

// cut ends an attempt or a connection at once. RPCs that run on it end with st.
func (l *link) cut(why error, st *status.Status) {
	if conn := l.end(why); conn != nil {
		conn.Close(why, st)
	}
}

func (l *link) end(cutBy error) *h2.Conn {
	l.sc.mu.Lock()
	defer l.sc.mu.Unlock()
	if l.cutBy == nil {
		l.cutBy = cutBy
	}
	if l.cancel != nil {
		l.cancel()
	}
	return l.conn
}

// connectConfig returns what l's connection is made with, and notes what is to be
// known of it later. A policy may give its subchannels a bundle of credentials of
// their own, which is asked for its parts for each connection.
func (cc *ClientConn) connectConfig(l *link) *connect.Config {
	cfg, creds := cc.connector, cc.creds
	cfg.Proxy = l.sc.policy.resolver.proxies
	cfg.H2.KeepaliveTime = time.Duration(cc.keepaliveTime.Load())
	if b := l.sc.opts.CredsBundle; b != nil {
		creds = creds.withBundle(b, cc.opts.perRPCCreds)
		creds.secure(&cfg)
	}
	l.keepalive, l.perRPC = cfg.H2.KeepaliveTime, creds.perRPC
	cfg.Check = cc.connectCheck(creds.perRPC)
	return &cfg
}

// newLine returns what the RPCs on conn have, which leads to addr.
func (cc *ClientConn) newLine(conn *h2.Conn, addr resolver.Address, perRPC []credentials.PerRPCCredentials) *call.Line {
	return &call.Line{
		Conn: conn, Authority: cc.serverName(addr), PerRPC: perRPC,
		Metadata: connect.Metadata(addr),
	}
}

// marked returns addr as connect wants it.
func (cc *ClientConn) marked(addr resolver.Address) resolver.Address {
	if cc.overUnix {
		return connect.UnixSocket(addr)
	}
	return addr
}

// serverName returns the name that a connection's credentials are to check. The
// resolver may give one for an address, unless the user gave one for all.
func (cc *ClientConn) serverName(addr resolver.Address) string {
	if addr.ServerName != "" && cc.opts.authority == "" {
		return addr.ServerName
	}
	return cc.authority
}

// slowKeepalive makes new connections wait twice as long as used between pings: a
// server has said that it got too many (gRFC A8).
func (cc *ClientConn) slowKeepalive(used time.Duration) {
	for {
		now := cc.keepaliveTime.Load()
		if int64(2*used) <= now {
			return
		}
		if cc.keepaliveTime.CompareAndSwap(now, int64(2*used)) {
			cc.observer.tell(DialEvent{Kind: EventKeepalive, Keepalive: 2 * used})
			return
		}
	}
}
