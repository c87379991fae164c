package grpcdial

import (
	"context"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/mask"
	"github.com/grpcdial/grpcdial/internal/subchannel"
)

// host is the channel and one of its policies as the policy's subchannels see them.
type host struct{ *policy }

var _ subchannel.Host = host{}

func (h host) Post(f func())      { h.cc.post(f) }
func (h host) Hold(f func()) bool { return h.cc.ownCode.Load() && h.cc.policyQueue.Hold(f) }
func (h host) Run()               { h.cc.policyQueue.Run() }
func (h host) AssertOnQueue()     { h.cc.policyQueue.AssertOn() }
func (h host) Closed() bool       { return h.closed }

func (h host) Report(sc *subchannel.Subchannel, to connectivity.State, why error) {
	if why != nil {
		h.cc.published.disconnected(mask.RPC(why))
	}
	s := subchannel.State(to, why)
	if listener := sc.Options().StateListener; listener != nil {
		listener(s)
	} else {
		h.lb.UpdateSubConnState(sc, s)
	}
}

// Config returns what a connection is made with. A policy may give its subchannels a bundle
// of credentials of their own, which is asked for its parts for each connection.
func (h host) Config(bundle credentials.Bundle) (*connect.Config, []credentials.PerRPCCredentials) {
	cc := h.cc
	creds := cc.creds
	cfg := newConnector(&cc.opts, creds)
	cfg.Proxy = h.resolver.proxies
	cfg.H2.KeepaliveTime = time.Duration(cc.keepaliveTime.Load())
	if bundle != nil {
		creds = creds.withBundle(bundle, cc.opts.perRPCCreds)
		creds.secure(&cfg)
	}
	cfg.Check = cc.connectCheck(creds.perRPC)
	return &cfg, creds.perRPC
}

func (h host) Connect(ctx context.Context, cfg *connect.Config, a subchannel.Attempt) (*h2.Conn, failure.List) {
	cfg.Trace = h.cc.observer.steps(a.ID, a.Addr.Addr)
	addr := a.Addr
	if h.cc.overUnix {
		addr = connect.UnixSocket(addr)
	}
	conn, err := h.cc.connect(ctx, cfg, addr, a.ServerName)
	if err != nil {
		return nil, asAttempts(a.ID, err, a.Addr.Addr, a.Since)
	}
	return conn, nil
}

func (h host) ServerName(addr resolver.Address) string { return h.cc.serverName(addr) }
func (h host) HealthService() (string, bool)           { return h.cc.healthService() }
func (h host) MaxConnections() int                     { return h.cc.maxConnections() }
func (h host) ResolveNow()                             { h.resolver.resolveNow() }
func (h host) Recheck()                                { h.cc.recheckWaits() }
func (h host) TooManyPings(used time.Duration)         { h.cc.slowKeepalive(used) }

func (h host) Interrupted(by error, addr string, all failure.List) {
	if by == errClosing {
		h.cc.attempts.Interrupted(addr, interrupted(all))
	}
}

func (h host) AttemptFailed(id uint64, all failure.List) { h.cc.observer.failed(id, all) }

func (h host) ConnReady(a subchannel.Attempt, elapsed time.Duration) {
	h.cc.observer.report(DialEvent{Kind: EventReady, AttemptID: a.ID, Addr: a.Addr.Addr, ServerName: a.ServerName, Elapsed: elapsed})
}

func (h host) ConnLost(a subchannel.Attempt, lasted time.Duration, why error) {
	h.cc.observer.report(DialEvent{Kind: EventLost, AttemptID: a.ID, Addr: a.Addr.Addr, Elapsed: lasted, Err: why})
}

func (h host) BackingOff(addr string, wait time.Duration) {
	h.cc.observer.report(DialEvent{Kind: EventBackoff, Addr: addr, Wait: wait})
}

// subchannelConfig returns what the channel's subchannels share.
func (cc *ClientConn) subchannelConfig() subchannel.Config {
	return subchannel.Config{
		Params:        cc.opts.connectParams,
		StatsHandlers: cc.opts.statsHandlers,
		Calls:         cc.calls,
		Log:           &cc.attempts,
		Metrics:       cc.metrics,
		Channelz:      cc.channelz,
		Closing:       &cc.closing,
		Age:           &cc.opts.limits.age,
	}
}

// serverName returns the name that a connection's credentials are to check. The
// resolver may give one for an address, unless the user gave one for all.
func (cc *ClientConn) serverName(addr resolver.Address) string {
	if addr.ServerName != "" && cc.opts.authority == "" {
		return addr.ServerName
	}
	return cc.authority
}

// healthService returns the service to ask about; ok is false if backends are
// not to be checked.
func (cc *ClientConn) healthService() (service string, ok bool) {
	config := cc.config.Load()
	if cc.opts.disableHealthCheck || config == nil || config.HealthCheck == nil {
		return "", false
	}
	return config.HealthCheck.ServiceName, true
}

// slowKeepalive makes new connections wait twice as long as used between pings: a
// server has complained that it got too many (gRFC A8).
func (cc *ClientConn) slowKeepalive(used time.Duration) {
	for {
		now := cc.keepaliveTime.Load()
		if int64(2*used) <= now {
			return
		}
		if cc.keepaliveTime.CompareAndSwap(now, int64(2*used)) {
			cc.observer.report(DialEvent{Kind: EventKeepalive, Keepalive: 2 * used})
			return
		}
	}
}
