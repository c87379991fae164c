package connect

import (
	"context"
	"errors"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/proxy"
)

// chooseProxy asks which proxy an address takes; nil: none. The error is a
// *proxy.Error.
func (cfg *Config) chooseProxy(ctx context.Context, addr string) (*url.URL, error) {
	if cfg.Proxy == nil {
		return nil, nil
	}
	u, err := bounded(ctx,
		func() (*url.URL, error) { return cfg.Proxy.Choose(addr) },
		func() {},
		func(*url.URL) {})
	return u, asProxyError(err, &proxy.Error{Target: addr, Step: proxy.StepChoose})
}

// dialThrough has the endpoint's proxy connect to it. That runs on a goroutine
// of its own, because it may call a dialer of the user's, which may not return.
func (cfg *Config) dialThrough(ctx context.Context, e endpoint) (net.Conn, error) {
	nc, err := bounded(ctx,
		func() (net.Conn, error) { return cfg.connectThrough(ctx, e) },
		func() {}, // it has the context
		func(nc net.Conn) { _ = nc.Close() })
	// What does not end with the context can only be a dialer of the user's.
	return nc, asProxyError(err, &proxy.Error{Proxy: proxy.Redact(e.proxy), Target: e.address, Step: proxy.StepDial})
}

// connectThrough dials the proxy and has it connect to the endpoint. The second is
// what the phase Proxy is.
func (cfg *Config) connectThrough(ctx context.Context, e endpoint) (net.Conn, error) {
	step, reached := Step{Phase: failure.Proxy, Addr: e.shown, Proxy: proxy.Redact(e.proxy)}, false
	cfg.Progress.begun(&Step{Phase: failure.Dial, Addr: step.Addr, Proxy: step.Proxy})
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := cfg.dialProxy(ctx, network, addr)
		if reached = err == nil; reached {
			e.phaseDone()
			cfg.begin(&step)
		}
		return nc, err
	}
	nc, err := proxy.Connect(ctx, dial, e.proxy, e.address, proxy.Options{UserAgent: cfg.H2.UserAgent, TLS: cfg.ProxyTLS})
	if reached {
		cfg.end(&step, because(ctx, err))
	}
	return nc, err
}

// dialProxy makes the network connection to a proxy: with the user's dialer, or
// to the first of the proxy's addresses that answers.
func (cfg *Config) dialProxy(ctx context.Context, _, addr string) (net.Conn, error) {
	direct := *cfg
	direct.Proxy, direct.Progress = nil, nil // it is the target that progress is made to
	endpoints, err := direct.resolve(ctx, resolver.Address{Addr: addr})
	if err != nil {
		return nil, err
	}
	won := race(ctx, endpoints, runner[net.Conn]{
		try: func(ctx context.Context, e endpoint) (net.Conn, *failure.Attempt) {
			start := time.Now()
			nc, err := direct.dial(ctx, e)
			if err == nil {
				return nc, nil
			}
			a := e.failed("", start, failure.Dial, err)
			a.Hint = "" // proxy.Error has one
			return nil, a
		},
		drop:    func(nc net.Conn) { _ = nc.Close() },
		waiting: func(int) {}, // it is the target that progress is made to
	})
	switch {
	case won.won:
		return won.first, nil
	case len(won.lost) == 1:
		return nil, won.lost[0].Err
	default:
		return nil, won.lost
	}
}

// asProxyError is err if it is a *proxy.Error, and else the one given with err as
// its cause.
func asProxyError(err error, otherwise *proxy.Error) error {
	if _, ok := err.(*proxy.Error); ok || err == nil {
		return err
	}
	otherwise.Err = err
	return otherwise
}

// phaseOf is the phase in which an attempt ended with err: that of a proxy's step,
// or else the one given.
func phaseOf(err error, otherwise failure.Phase) failure.Phase {
	var e *proxy.Error
	if !errors.As(err, &e) {
		return otherwise
	}
	switch e.Step {
	case proxy.StepDial:
		return failure.Dial
	case proxy.StepResolve:
		return failure.Resolve
	default:
		return failure.Proxy
	}
}

// unresolved is the attempt at an address for which there is nothing to dial.
func unresolved(addr, authority string, start time.Time, err error) *failure.Attempt {
	a := failure.New(addr, authority, start, phaseOf(err, failure.Resolve), err)
	if e := (*proxy.Error)(nil); errors.As(err, &e) {
		a.Proxy = e.Proxy
	}
	return a
}
