package grpcdial

import "log/slog"

// WithDialTrace makes the channel call the functions of t for its events: each step on
// the way to its connections, their loss, and the transitions of its state. t is
// copied; nil means none, which is the default. Given several times, the traces add up,
// in order. A channel without a trace and a logger spends nothing on events, and RPCs
// spend nothing in either case.
func WithDialTrace(t *DialTrace) DialOption {
	if t == nil {
		return EmptyDialOption{}
	}
	copied := *t
	return optionFunc(func(o *dialOptions) { o.traces = append(o.traces, &copied) })
}

// WithLogger writes the events that [WithDialTrace] reports to l, with their fields as
// attributes. nil means that nothing is logged, which is the default.
//
//	WARN   an attempt to connect or to resolve failed; a service config was refused;
//	       keepalive was slowed down
//	INFO   the state changed; a connection is ready, or was lost
//	DEBUG  everything else
//
// From INFO on repeats are left out: the same failure at the same address is
// logged once a minute, another event ten times. The attribute "omitted" of the next one
// logged is the number left out. RPCs are not logged.
func WithLogger(l *slog.Logger) DialOption {
	return optionFunc(func(o *dialOptions) { o.logger = l })
}
