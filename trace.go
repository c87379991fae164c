package grpcdial

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/live"
	"github.com/grpcdial/grpcdial/internal/text"
)

// EventKind says what a [DialEvent] is about.
type EventKind string

// The kinds of events. For one connection they come in this order, but that a
// host name's addresses are dialed beside each other, and that a Start may be
// followed by EventFailed and nothing else.
const (
	EventResolveStart EventKind = "resolve_start" // the resolver was built, or a host name is being looked up
	EventResolveDone  EventKind = "resolve_done"  // the resolver reported addresses or an error, any number of times; or the look-up has ended
	EventDialStart    EventKind = "dial_start"    // the network connection
	EventDialDone     EventKind = "dial_done"
	EventProxyStart   EventKind = "proxy_start" // the proxy's handshake, once it was dialed
	EventProxyDone    EventKind = "proxy_done"
	EventTLSStart     EventKind = "tls_start" // the transport credentials' handshake; not for insecure ones
	EventTLSDone      EventKind = "tls_done"
	EventHTTP2Start   EventKind = "http2_start" // the HTTP/2 preface
	// EventHTTP2Done: the server's SETTINGS arrived, or the wait for them failed. In TLS
	// 1.3 a server rejects the client's certificate at this point only: EventFailed then
	// has PhaseTLS.
	EventHTTP2Done     EventKind = "http2_done"
	EventCheckStart    EventKind = "check_start" // the check of WithConnectCheck
	EventCheckDone     EventKind = "check_done"
	EventReady         EventKind = "ready"          // the connection is ready to carry RPCs
	EventFailed        EventKind = "failed"         // the attempt at an address failed, or its health service reports it as not serving
	EventLost          EventKind = "lost"           // a connection that was ready takes no more RPCs
	EventBackoff       EventKind = "backoff"        // the next attempt at an address has to wait
	EventKeepalive     EventKind = "keepalive"      // a server complained of too many pings; new connections send fewer
	EventConfigRefused EventKind = "config_refused" // an invalid service config was refused; the one in force before, if any, stays
	EventState         EventKind = "state"          // a transition of the channel's state, as Watch returns it
)

// Setting is a parameter of a server's HTTP/2 SETTINGS (RFC 9113 §6.5.2).
type Setting struct {
	ID    uint16
	Value uint32
}

// String returns the setting as NAME=value.
func (s Setting) String() string { return fmt.Sprintf("%v=%d", http2.SettingID(s.ID), s.Value) }

// DialEvent is one event in the life of a channel: a step on the way to a
// connection, or the end of one. A field is zero unless its comment says that it is
// set for the event's kind. The values that it points to must not be changed.
type DialEvent struct {
	Kind   EventKind
	Time   time.Time
	Target string // the channel's canonical target

	// AttemptID numbers the attempts to make a connection, from 1 in each channel. All
	// events of one attempt have it, those of the connection that it led to, and the
	// Attempt of a DialError. It is 0 for events that belong to no attempt: of the
	// resolver, the back-off, the channel.
	AttemptID uint64

	Addr       string // the address or name being resolved or dialed; for the resolver the target's endpoint
	ServerName string // TLS, Check, Failed, Ready: the authority that the credentials are asked to verify
	Proxy      string // the proxy's URL without credentials, from Proxy on, if one is used

	// Elapsed is the time since the Start for a Done, since the attempt began for Ready
	// and Failed, since Ready for Lost, and the time in From for State.
	Elapsed time.Duration

	// Err is the failure that a Done, Failed or Lost reports; nil for a Done without one.
	// For ConfigRefused it is the error in the config.
	Err error

	// Cause is why the state changed, for State; as in StateChange.
	Cause error

	Phase     Phase                // Failed: where it ended
	Hint      string               // Failed, and ResolveDone if the resolver failed: as in Attempt
	Permanent bool                 // Failed, and ResolveDone if the resolver failed: as in Attempt
	Addrs     []string             // ResolveDone: the addresses, in order
	TLS       *tls.ConnectionState // TLSDone, with credentials that return a credentials.TLSInfo; nil if it failed
	Settings  []Setting            // HTTP2Done: the server's, as it sent them
	Wait      time.Duration        // Backoff: until the next attempt
	Keepalive time.Duration        // Keepalive: the time between pings from now on
	From, To  connectivity.State   // State
}

// DialTrace is a set of functions that the channel calls for each step on the way to
// its connections, like net/http/httptrace's for requests. Functions that are nil are
// not called.
//
// The functions are called on the goroutines of the channel, several at a time, without
// a lock held, and should return soon: the step that they report waits for them. They
// may call methods of the ClientConn that do not wait, such as Snapshot. Methods that
// wait, above all Close, deadlock. No function is called after Close has returned. A
// panic in a function is not recovered.
//
// Within one connection attempt, each call has returned before the next one is made,
// except for a host name's addresses that are dialed concurrently. A dial that waits
// for READY returns after Ready has returned.
type DialTrace struct {
	ResolveStart, ResolveDone func(DialEvent)
	DialStart, DialDone       func(DialEvent)
	ProxyStart, ProxyDone     func(DialEvent)
	TLSStart, TLSDone         func(DialEvent)
	HTTP2Start, HTTP2Done     func(DialEvent)
	CheckStart, CheckDone     func(DialEvent)
	Ready, Failed, Lost       func(DialEvent)
	Backoff                   func(DialEvent)
	Keepalive                 func(DialEvent)
	ConfigRefused             func(DialEvent)
	State                     func(DialEvent)

	// Every is called for each event, before the event's own function.
	Every func(DialEvent)
}

// of returns the function for events of a kind.
func (t *DialTrace) of(kind EventKind) func(DialEvent) {
	switch kind {
	case EventResolveStart:
		return t.ResolveStart
	case EventResolveDone:
		return t.ResolveDone
	case EventDialStart:
		return t.DialStart
	case EventDialDone:
		return t.DialDone
	case EventProxyStart:
		return t.ProxyStart
	case EventProxyDone:
		return t.ProxyDone
	case EventTLSStart:
		return t.TLSStart
	case EventTLSDone:
		return t.TLSDone
	case EventHTTP2Start:
		return t.HTTP2Start
	case EventHTTP2Done:
		return t.HTTP2Done
	case EventCheckStart:
		return t.CheckStart
	case EventCheckDone:
		return t.CheckDone
	case EventReady:
		return t.Ready
	case EventFailed:
		return t.Failed
	case EventLost:
		return t.Lost
	case EventBackoff:
		return t.Backoff
	case EventKeepalive:
		return t.Keepalive
	case EventConfigRefused:
		return t.ConfigRefused
	case EventState:
		return t.State
	}
	return nil
}

// observer passes a channel's events to its traces, its log and, in a program that serves
// the page of package channelz, to what the page shows of dials. In a channel without any
// of them its methods do nothing. They are called without a lock held. The zero value has
// neither traces nor a log.
type observer struct {
	*listeners                            // set once; nil: neither a trace nor a log
	dials      atomic.Pointer[live.Dials] // set with the first event for the page
}

// listeners are the traces and the log of a channel.
type listeners struct {
	target string // as it is shown
	traces []*DialTrace
	log    *eventLog // nil: none
}

func newListeners(target resolver.Target, o *dialOptions) *listeners {
	if len(o.traces) == 0 && o.logger == nil {
		return nil
	}
	l := &listeners{target: text.Target(target.String()), traces: o.traces}
	if o.logger != nil {
		l.log = newEventLog(o.logger)
	}
	return l
}

// idle reports whether events are of no interest.
func (o *observer) idle() bool { return o.listeners == nil && !live.Wanted() }

// report completes e and passes it on. Its texts leave the library, so credentials are
// masked and non-text bytes removed here.
func (o *observer) report(e DialEvent) {
	if o.idle() {
		return
	}
	e.Time = time.Now()
	e.Addr, e.ServerName, e.Hint = text.Target(e.Addr), text.Target(e.ServerName), text.Line(e.Hint)
	e.Err, e.Cause = fitCause(e.Err), fitCause(e.Cause)
	for i, addr := range e.Addrs {
		e.Addrs[i] = text.Target(addr)
	}
	if live.Wanted() {
		o.keepForPage(&e)
	}
	if o.listeners != nil {
		e.Target = o.target
		o.listeners.report(e)
	}
}

func (l *listeners) report(e DialEvent) {
	for _, t := range l.traces {
		if t.Every != nil {
			t.Every(e)
		}
		if f := t.of(e.Kind); f != nil {
			f(e)
		}
	}
	if l.log != nil {
		l.log.event(e)
	}
}

// steps returns the function that reports the phases of an attempt at addr; nil if they
// are of no interest.
func (o *observer) steps(attempt uint64, addr string) func(connect.Step) {
	if o.idle() {
		return nil
	}
	if live.Wanted() {
		o.pageDials().Begin(attempt, text.Target(addr), time.Now())
	}
	return func(s connect.Step) { o.report(eventOf(s, attempt)) }
}

// phaseEvents are the kinds of events for the beginning and the end of phases.
var phaseEvents = map[failure.Phase][2]EventKind{
	failure.Resolve: {EventResolveStart, EventResolveDone},
	failure.Dial:    {EventDialStart, EventDialDone},
	failure.Proxy:   {EventProxyStart, EventProxyDone},
	failure.TLS:     {EventTLSStart, EventTLSDone},
	failure.HTTP2:   {EventHTTP2Start, EventHTTP2Done},
	failure.Check:   {EventCheckStart, EventCheckDone},
}

func eventOf(s connect.Step, attempt uint64) DialEvent {
	e := DialEvent{
		Kind:       phaseEvents[s.Phase][0],
		AttemptID:  attempt,
		Addr:       s.Addr,
		ServerName: s.ServerName,
		Proxy:      s.Proxy,
		Elapsed:    s.Elapsed,
		Err:        publicCause(s.Err),
		Addrs:      s.Addrs,
	}
	for _, v := range s.Settings {
		e.Settings = append(e.Settings, Setting{ID: uint16(v.ID), Value: v.Val})
	}
	if s.Done {
		e.Kind = phaseEvents[s.Phase][1]
	}
	if info, ok := s.AuthInfo.(credentials.TLSInfo); ok && s.Err == nil {
		e.TLS = &info.State
	}
	return e
}

// failed reports a failed attempt.
func (o *observer) failed(attempt uint64, attempts failure.List) {
	if o.idle() {
		return
	}
	for _, a := range attempts {
		o.report(DialEvent{
			Kind:       EventFailed,
			AttemptID:  attempt,
			Addr:       a.Addr,
			ServerName: a.ServerName,
			Proxy:      a.Proxy,
			Elapsed:    a.Elapsed,
			Err:        a.Err,
			Phase:      Phase(a.Phase),
			Hint:       a.Hint,
			Permanent:  a.Permanent,
		})
	}
}

// reportResolving reports that the resolver is being built. Policy queue only.
func (cc *ClientConn) reportResolving() {
	cc.observer.report(DialEvent{Kind: EventResolveStart, Addr: cc.parsed.endpoint()})
}

// reportResolved reports a result of the resolver. A failure is in the log of attempts
// already; since is as resolution.answer has it.
// Policy queue only.
func (cc *ClientConn) reportResolved(since time.Time, s resolver.State, err error) {
	if cc.observer.idle() {
		return
	}
	cc.policyQueue.AssertOn()
	e := DialEvent{Kind: EventResolveDone, Addr: cc.parsed.endpoint(), Err: err}
	if since == cc.resolution.begun {
		e.Elapsed = time.Since(since)
	}
	if a := cc.attempts.ResolveFailure(); a != nil && err != nil {
		e.Hint, e.Permanent = a.Hint, a.Permanent
	}
	for _, endpoint := range endpointsOf(s) {
		for _, a := range endpoint.Addresses {
			e.Addrs = append(e.Addrs, a.Addr)
		}
	}
	cc.observer.report(e)
}
