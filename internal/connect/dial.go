package connect

import (
	"context"
	"errors"
	"net"

	"github.com/grpcdial/grpcdial/internal/failure"
)

// dial makes the network connection to e, through its proxy if it has one.
func (cfg *Config) dial(ctx context.Context, e endpoint) (net.Conn, error) {
	if e.proxy != nil {
		return cfg.dialThrough(ctx, e)
	}
	step := Step{Phase: failure.Dial, Addr: e.shown}
	cfg.begin(&step)
	nc, err := cfg.dialDirectly(ctx, e)
	cfg.end(&step, because(ctx, err))
	return nc, err
}

// dialDirectly is dial without a proxy.
//
// TCP keepalive probes are on, at the intervals that the system is set to
// (a net.Dialer would choose its own otherwise); Nagle's algorithm is off, as
// package net leaves it.
func (cfg *Config) dialDirectly(ctx context.Context, e endpoint) (net.Conn, error) {
	if cfg.Dialer != nil {
		return cfg.dialWithUsers(ctx, e.address)
	}
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1}}
	return d.DialContext(ctx, e.network, e.address)
}

// dialWithUsers calls the user's dialer.
func (cfg *Config) dialWithUsers(ctx context.Context, addr string) (net.Conn, error) {
	return bounded(ctx,
		func() (net.Conn, error) {
			nc, err := cfg.Dialer(ctx, addr)
			if err == nil && nc == nil {
				err = errors.New("the dialer returned neither a connection nor an error")
			}
			return nc, err
		},
		func() {}, // it has the context
		func(nc net.Conn) { _ = nc.Close() })
}
