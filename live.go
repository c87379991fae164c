package grpcdial

import (
	"errors"

	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/live"
	"github.com/grpcdial/grpcdial/internal/text"
)

// livePicture is a channel as the page of package channelz sees it.
type livePicture ClientConn

var _ live.Source = (*livePicture)(nil)

// shownTransitions is how many of the latest transitions the page shows.
const shownTransitions = 40

// Live puts together what the page shows. It does not wait, as Snapshot.
func (p *livePicture) Live() live.Channel {
	cc := (*ClientConn)(p)
	s := cc.Snapshot()
	c := live.Channel{
		Target:   s.Target,
		State:    s.State,
		Since:    s.Since,
		Cause:    liveCause(s.Cause),
		Failures: liveFailures(s.Cause),
		Policy:   grpc.PickFirstBalancerName,
	}
	if s.ResolveErr != nil {
		c.ResolveErr = oneLine(s.ResolveErr)
	}
	if config := cc.config.Load(); config != nil {
		if config.LB != nil {
			c.Policy = config.LB.Name
		}
		c.Config = text.Cut(text.Redact(text.Clean(config.JSON)), maxShownConfig)
		switch {
		case config.JSON == "":
		case config == cc.defaults:
			c.ConfigFrom = "default"
		case cc.ignoresResolversConfig():
			c.ConfigFrom = "WithServiceConfig"
		default:
			c.ConfigFrom = "resolver"
		}
	}
	recent := cc.state.recent(shownTransitions)
	for _, t := range recent {
		c.Transitions = append(c.Transitions, live.Transition{Seq: t.Seq, Time: t.Time, From: t.From, To: t.To, Cause: liveCause(t.Cause)})
	}
	if len(recent) > 0 {
		c.Omitted = int64(recent[0].Seq) - 1
	}
	for _, e := range s.Endpoints {
		c.Endpoints = append(c.Endpoints, cc.liveEndpoint(&e))
	}
	return c
}

// maxShownConfig bounds the text of a service config, in bytes.
const maxShownConfig = 16 << 10

func (cc *ClientConn) liveEndpoint(e *EndpointSnapshot) live.Endpoint {
	shown := live.Endpoint{
		Addr:        e.Addr,
		State:       e.State,
		Since:       e.Since,
		Cause:       liveCause(e.Cause),
		NextAttempt: e.NextAttempt,
		Streams:     e.Streams,
		Draining:    e.Draining,
	}
	if e.ServerName != e.Addr {
		shown.ServerName = e.ServerName
	}
	if d := cc.observer.dials.Load(); d != nil && !e.Draining {
		shown.Dial, shown.Failures = d.Of(e.Addr)
	}
	if len(shown.Failures) == 0 { // of the time before the page was made
		for _, f := range liveFailures(e.Cause) {
			if len(shown.Failures) < maxShownFailures {
				shown.Failures = append(shown.Failures, f)
			}
		}
	}
	return shown
}

// maxShownFailures bounds the failures of one endpoint, which may be a name of several
// addresses.
const maxShownFailures = 4

// liveCause returns the text of a cause; empty for nil. That of a DialError is its
// attempts: the page has the target and the state beside it.
func liveCause(cause error) string {
	if cause == nil {
		return ""
	}
	e, ok := cause.(*DialError)
	if !ok || len(e.Attempts) == 0 {
		return oneLine(cause)
	}
	line := func(i int) attemptText {
		a := e.Attempts[i].internal()
		return textOf(&a)
	}
	return listAttempts(line, len(e.Attempts), e.Omitted, maxShownCause)
}

// maxShownCause bounds the text of a cause, in bytes.
const maxShownCause = 600

// liveFailures returns the attempts that cause is made of.
func liveFailures(cause error) (all []live.Failure) {
	var e *DialError
	if !errors.As(cause, &e) {
		return nil
	}
	for _, a := range e.Attempts {
		f := live.Failure{
			Addr:       text.Target(a.Addr),
			ServerName: text.Target(a.ServerName),
			Proxy:      text.Target(a.Proxy),
			Phase:      string(a.Phase),
			Time:       a.Start.Add(a.Elapsed),
			Elapsed:    a.Elapsed,
			Hint:       text.Line(a.Hint),
			Permanent:  a.Permanent,
		}
		if a.Err != nil {
			f.Err = shownReason(a.Err, a.Addr, a.Phase)
		}
		all = append(all, f)
	}
	return all
}

// shownReason is the text of what ended a phase, without the address, which is shown
// beside it.
func shownReason(err error, addr string, phase Phase) string {
	a := failure.Attempt{Addr: addr, Phase: failure.Phase(phase), Err: err}
	return text.Cut(a.Cause(), 1000)
}

// pageDials returns what the page shows of dials, to be added to.
func (o *observer) pageDials() *live.Dials {
	if d := o.dials.Load(); d != nil {
		return d
	}
	o.dials.CompareAndSwap(nil, new(live.Dials))
	return o.dials.Load()
}

// keepForPage keeps what the page shows of e: the steps of dials, and how they and
// connections ended.
func (o *observer) keepForPage(e *DialEvent) {
	d := o.pageDials()
	switch e.Kind {
	case EventReady:
		d.Ready(e.AttemptID, e.Time)
	case EventFailed:
		d.Failed(e.AttemptID, liveFailure(e, string(e.Phase)))
	case EventLost:
		d.Lost(liveFailure(e, live.PhaseLost))
	default:
		if phase, done := e.step(); e.AttemptID > 0 && phase != "" {
			d.Step(e.AttemptID, liveStep(e, Phase(phase), done))
		}
	}
}

func liveFailure(e *DialEvent, phase string) live.Failure {
	f := live.Failure{Addr: e.Addr, ServerName: e.ServerName, Proxy: e.Proxy, Phase: phase, Time: e.Time,
		Elapsed: e.Elapsed, Hint: e.Hint, Permanent: e.Permanent}
	if e.Err != nil {
		f.Err = shownReason(e.Err, e.Addr, e.Phase)
	}
	return f
}

func liveStep(e *DialEvent, phase Phase, done bool) live.Step {
	s := live.Step{Phase: string(phase), Addr: e.Addr, Proxy: e.Proxy}
	if !done {
		s.Start = e.Time
		return s
	}
	s.End = e.Time
	switch {
	case e.Err != nil:
		s.Err = shownReason(e.Err, e.Addr, phase)
	case e.Kind == EventResolveDone:
		s.Detail = listed(e.Addrs)
	case e.TLS != nil:
		s.Detail = describeTLS(e.TLS)
	case e.Kind == EventHTTP2Done:
		s.Detail = e.settings()
	}
	return s
}
