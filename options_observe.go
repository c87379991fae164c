package grpcdial

import "log/slog"

// WithDialTrace has the functions of t told of the channel's events: each step on
// the way to its connections, and what becomes of them. t is copied; nil means
// none, which is the default. A channel without a trace and a logger spends
// nothing on them, and RPCs spend nothing in either case.
func WithDialTrace(t *DialTrace) DialOption {
	if t == nil {
		return EmptyDialOption{}
	}
	copied := *t
	return optionFunc(func(o *dialOptions) { o.traces = append(o.traces, &copied) })
}

// WithLogger writes the events that [WithDialTrace] tells of to l, with their
// fields as attributes. nil means that nothing is logged, which is the default.
//
//	WARN   an attempt to connect or to resolve failed; a service config was refused;
//	       keepalive was slowed down
//	INFO   the state changed; a connection is ready, or was lost
//	DEBUG  everything else
//
// From INFO on repeats are left out: the same failure at the same address is
// logged once a minute, another event ten times. The next one logged tells by the
// attribute "omitted" how many were left out. RPCs are not logged.
func WithLogger(l *slog.Logger) DialOption {
	return optionFunc(func(o *dialOptions) { o.logger = l })
}
