// Package connect makes one connection: host name, proxy, network connection,
// credentials' handshake, HTTP/2 preface, the program's check, in a straight line.
// Each step is a named phase, and what fails says in which one it was.
package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/proxy"
)

// Config is what all connections of a channel have in common. It is read only
// and may be shared by any number of concurrent calls of Connect, if it has no
// Progress.
type Config struct {
	// Dialer makes the network connection in place of TCP and unix sockets. It
	// gets the address as it is, host names included, and a unix socket's as
	// "unix:///absolute/path", "unix:relative/path" or "unix:@abstract". It runs
	// on a goroutine of its own. nil: TCP and unix sockets.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)

	// Proxy says which proxy an address takes. It is asked for TCP addresses only,
	// as they were given to Connect, each time on a goroutine of its own. With a
	// Dialer, that dials the proxy's address in place of the one given. nil: no
	// address takes one.
	Proxy proxy.Func

	// ProxyTLS is for https proxies, as in proxy.Options. nil: the system's roots.
	ProxyTLS *tls.Config

	// Creds makes the connection secure. Never nil: plaintext is
	// insecure.NewCredentials(). ClientHandshake is called concurrently, each
	// time on a goroutine of its own.
	Creds credentials.TransportCredentials

	// Secure says that Creds do secure connections: Trace gets the phase TLS.
	Secure bool

	// RequireSecurity refuses a connection whose credentials state a security
	// level below PrivacyAndIntegrity, because credentials of the channel's
	// RPCs must not be sent on it. The cause is failure.ErrInsecure.
	RequireSecurity bool

	// H2 goes to the HTTP/2 connection. AuthInfo is filled in here.
	H2 h2.Config

	// Check is the last phase: a connection for which it returns an error is closed. It is
	// called on a goroutine of its own, with no lock held, several at a time while
	// addresses race. Its context ends with the attempt. nil: connections are not checked.
	Check Check

	// Resolver looks up host names and services' ports. nil: net.DefaultResolver.
	Resolver *net.Resolver

	// Trace is called when a phase begins and when it ends: Resolve for host names that
	// are looked up, TLS on connections that are Secure. It is called with no lock held,
	// on goroutines of Connect, several at a time while addresses race. nil: nothing is
	// called.
	Trace func(Step)

	// Progress keeps the attempt's current phase at each address. It is for one call of
	// Connect. nil: not kept.
	Progress *Progress
}

// Connect makes a connection to addr and returns it when the SETTINGS exchange
// is done and the check, if there is one, has passed. authority is the name that the
// credentials are asked to check.
//
// The error is a *failure.Attempt, or a failure.List when a host name led to
// several addresses that failed. Everything is closed then. A host name's
// addresses race as RFC 8305 says, and the race is to the end of the last phase: an address
// that takes the connection and then says nothing, or is of no use, does not keep
// the others from being tried, and one that is far away is not overtaken as long
// as each phase ends in its time. The list has one for each address, and one that
// counts those for which no time was left.
//
// ctx bounds all of it and has no hold on the connection once Connect has
// returned it. When ctx ends, its error is the cause of the attempts that it
// ended, with the phase they were in.
//
// No goroutine of Connect is left when it returns, but for one that reads from a
// connection that was checked, and ends with that, and for one exception: a
// Dialer or a Check that ignores its context, or credentials that ignore that their
// connection was closed, keep the goroutine they run on until they return. What
// they return then is closed.
func Connect(ctx context.Context, cfg *Config, addr resolver.Address, authority string) (*h2.Conn, error) {
	start := time.Now()
	authority = withoutZone(authority)
	if addr.Attributes != nil {
		ctx = withHandshakeInfo(ctx, credentials.ClientHandshakeInfo{Attributes: addr.Attributes})
	}
	endpoints, err := cfg.resolve(ctx, addr)
	if err != nil {
		return nil, unresolved(addr.Addr, authority, start, because(ctx, err))
	}
	cfg.Progress.forget(addr.Addr) // the name: its addresses stand for it
	if len(endpoints) == 1 {
		conn, failed := cfg.try(ctx, addr, endpoints[0], authority)
		if failed != nil {
			return nil, failed
		}
		return conn, nil
	}
	won := race(ctx, endpoints, runner[*h2.Conn]{
		try: func(ctx context.Context, e endpoint) (*h2.Conn, *failure.Attempt) {
			return cfg.try(ctx, addr, e, authority)
		},
		drop:    drop,
		waiting: func(n int) { cfg.Progress.waiting(addr.Addr, start, n, len(endpoints)) },
	})
	if won.won {
		return won.first, nil
	}
	failed := won.lost
	if n := won.untried; n > 0 && ctx.Err() != context.Canceled {
		failed = append(failed, failure.New(addr.Addr, authority, start, failure.Dial, &untriedError{n, len(endpoints)}))
	}
	return nil, asError(failed)
}

// try makes an HTTP/2 connection to e, which stands for addr. race cancels its context
// when another address has won; the progress of try is not read any more then.
func (cfg *Config) try(ctx context.Context, addr resolver.Address, e endpoint, authority string) (*h2.Conn, *failure.Attempt) {
	start := time.Now()
	conn, phase, err := cfg.dialAndEstablish(ctx, e, authority)
	if err == nil && cfg.Check != nil {
		e.phaseDone()
		phase, err = failure.Check, cfg.check(ctx, conn, addr, e, authority)
	}
	if err == nil {
		return conn, nil
	}
	a := e.failed(authority, start, phase, because(ctx, err))
	if ctx.Err() == context.Canceled {
		cfg.Progress.forget(e.shown)
	} else {
		cfg.Progress.failed(a)
	}
	return nil, a
}

func (cfg *Config) dialAndEstablish(ctx context.Context, e endpoint, authority string) (*h2.Conn, failure.Phase, error) {
	nc, err := cfg.dial(ctx, e)
	if err != nil {
		return nil, phaseOf(err, failure.Dial), err
	}
	e.phaseDone()
	return cfg.establish(ctx, nc, e, authority)
}

var (
	// errOvertaken is the end of a connection that another address had before.
	errOvertaken = errors.New("another address of the name was connected before")
	// errUnchecked is the end of a connection that did not pass its check.
	errUnchecked = errors.New("the check of the connection (WithConnectCheck) did not pass")
)

// drop ends a connection that has no use, and waits until nothing of it runs.
func drop(conn *h2.Conn) {
	conn.Close(errOvertaken, nil)
	_ = conn.Serve(func(error) {})
}

// untriedError says that there was no time to try n of a name's addresses.
type untriedError struct{ n, of int }

func (e *untriedError) Error() string {
	return fmt.Sprintf("no time was left for %d of its %d addresses", e.n, e.of)
}

// establish makes an HTTP/2 connection of a network connection to e, and closes it
// if that fails.
func (cfg *Config) establish(ctx context.Context, nc net.Conn, e endpoint, authority string) (*h2.Conn, failure.Phase, error) {
	wire := h2.NewWire(nc)
	secured, info, err := cfg.secure(ctx, wire, e, authority)
	if err != nil {
		return nil, failure.TLS, err
	}
	e.phaseDone()
	h2cfg := cfg.H2
	h2cfg.AuthInfo, h2cfg.Secrets = info, proxy.Secrets(e.proxy)
	step := Step{Phase: failure.HTTP2, Addr: e.shown, Proxy: proxy.Redact(e.proxy)}
	_, step.withinTLS = info.(credentials.TLSInfo)
	var settings *[]http2.Setting // nil without a Trace
	if cfg.Trace != nil {
		got := new([]http2.Setting)
		h2cfg.OnSettings, settings = func(s []http2.Setting) { *got = s }, got
	}
	conn := h2.New(wire, secured, h2cfg)
	cfg.begin(&step)
	if err := conn.Handshake(ctx); err != nil {
		err, phase := e.masked(err), failure.HTTP2
		if alert, ok := lateAlert(err); ok {
			err, phase = alert, failure.TLS
		} else if step.withinTLS {
			err = failure.WithinTLS(err)
		}
		cfg.end(&step, because(ctx, err))
		return nil, phase, err
	}
	if settings != nil {
		step.Settings = *settings
	}
	cfg.end(&step, nil)
	return conn, "", nil
}

// secure is the handshake of the credentials on a connection to e, which is closed
// if that fails.
func (cfg *Config) secure(ctx context.Context, wire *h2.Wire, e endpoint, authority string) (net.Conn, credentials.AuthInfo, error) {
	step := Step{Phase: failure.TLS, Addr: e.shown, ServerName: authority, Proxy: proxy.Redact(e.proxy)}
	if cfg.Secure {
		cfg.begin(&step)
	}
	secured, info, err := cfg.handshake(ctx, wire, authority)
	if err != nil {
		_ = wire.Close()
		err, _ = failure.WithAlert(failure.WithoutALPNAdvice(err))
		err = e.masked(failure.WithFirstBytes(err, wire.Said()))
	}
	if cfg.Secure {
		step.AuthInfo = info
		cfg.end(&step, because(ctx, err))
	}
	return secured, info, err
}

// lateAlert takes the TLS alert out of the error of an HTTP/2 handshake. A
// TLS 1.3 server judges our certificate after our side of its handshake is done
// (RFC 8446 §4.4.2), so that its alert comes in the place of its SETTINGS.
func lateAlert(err error) (error, bool) {
	alert, ok := failure.WithAlert(err)
	if pe := (*h2.PrefaceError)(nil); ok && errors.As(err, &pe) && len(pe.First) == 0 {
		return failure.WithAlert(pe.Err) // what there is to know is in it
	}
	return alert, ok
}

// because makes ctx's error part of err if it was ctx's end that ended the
// attempt and err does not say so: package net sets its own deadline to that of
// the context, and it may be the first of the two to pass.
func because(ctx context.Context, err error) error {
	if e, ok := err.(*proxy.Error); ok {
		whole := *e
		whole.Err = because(ctx, e.Err)
		return &whole
	}
	end := ctx.Err()
	if end == nil && over(ctx) {
		end = context.DeadlineExceeded
	}
	if end == nil || errors.Is(err, end) {
		return err
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return &endedError{end, err}
	}
	return err // it failed by itself, a moment before
}

// endedError is the context's end and what it looked like on the connection.
type endedError struct{ end, err error }

func (e *endedError) Error() string   { return e.end.Error() }
func (e *endedError) Unwrap() []error { return []error{e.end, e.err} }

// over says whether ctx has ended, or its deadline has passed and its timer is
// late.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// asError is the failed attempts in the order in which they began; one alone
// is no list.
func asError(failed failure.List) error {
	if len(failed) == 1 {
		return failed[0]
	}
	slices.SortStableFunc(failed, func(a, b *failure.Attempt) int { return a.Start.Compare(b.Start) })
	return failed
}
