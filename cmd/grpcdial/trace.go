package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/text"
)

// phases are the phases that the events are of.
var phases = map[grpcdial.EventKind]grpcdial.Phase{
	grpcdial.EventResolveStart: grpcdial.PhaseResolve,
	grpcdial.EventResolveDone:  grpcdial.PhaseResolve,
	grpcdial.EventDialStart:    grpcdial.PhaseDial,
	grpcdial.EventDialDone:     grpcdial.PhaseDial,
	grpcdial.EventProxyStart:   grpcdial.PhaseProxy,
	grpcdial.EventProxyDone:    grpcdial.PhaseProxy,
	grpcdial.EventTLSStart:     grpcdial.PhaseTLS,
	grpcdial.EventTLSDone:      grpcdial.PhaseTLS,
	grpcdial.EventHTTP2Start:   grpcdial.PhaseHTTP2,
	grpcdial.EventHTTP2Done:    grpcdial.PhaseHTTP2,
	grpcdial.EventCheckStart:   grpcdial.PhaseCheck,
	grpcdial.EventCheckDone:    grpcdial.PhaseCheck,
}

// trace returns the functions that record each phase of the channel's connections.
func (t *timeline) trace() *grpcdial.DialTrace {
	begin := func(e grpcdial.DialEvent) { t.begin(beginning(e)) }
	finish := func(e grpcdial.DialEvent) { t.finish(ending(e)) }
	return &grpcdial.DialTrace{
		ResolveStart: begin, ResolveDone: finish,
		DialStart: begin, DialDone: finish,
		ProxyStart: begin, ProxyDone: finish,
		TLSStart: begin, TLSDone: finish,
		HTTP2Start: begin, HTTP2Done: finish,
		CheckStart: begin, CheckDone: finish,
		Ready: func(e grpcdial.DialEvent) { t.ready(e.Addr) },
	}
}

func beginning(e grpcdial.DialEvent) step {
	return step{phase: phases[e.Kind], attempt: e.AttemptID, addr: e.Addr, serverName: e.ServerName, proxy: e.Proxy, start: e.Time}
}

func ending(e grpcdial.DialEvent) step {
	s := beginning(e)
	s.end, s.err, s.addrs, s.tls, s.settings = e.Time, e.Err, e.Addrs, e.TLS, e.Settings
	return s
}

// narrate has trace write every event to w too, as a line with its time.
func narrate(trace *grpcdial.DialTrace, w io.Writer) *grpcdial.DialTrace {
	var mu sync.Mutex // one line at a time
	trace.Every = func(e grpcdial.DialEvent) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "%s  %s\n", e.Time.Format(clock), text.Line(e.String()))
	}
	return trace
}
