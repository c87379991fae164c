package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"net/url"
)

// Options are what Connect has to know besides the proxy and the target. The
// zero value is ready. It is read only.
type Options struct {
	// UserAgent is the header of CONNECT requests. Empty: none is sent.
	UserAgent string

	// TLS is for https proxies. It is cloned; ALPN is set to HTTP/1.1, and
	// ServerName to the host of the proxy's URL unless it has one. nil: the
	// system's roots.
	TLS *tls.Config

	// LookUp looks the target's name up for socks5. nil: net.DefaultResolver,
	// whose queries may go on for some time after ctx has ended.
	LookUp func(ctx context.Context, host string) ([]netip.Addr, error)
}

// DialFunc makes a network connection, as net.Dialer's DialContext does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Connect makes a connection to target, "host:port", through the proxy. dial is
// called with network "tcp" and the Address of the proxy.
//
// With http, socks5 and socks5h the connection is the very one that dial
// returned: a *net.TCPConn remains one. Not a byte behind the proxy's answer is
// read, so that what the target says first is there to be read. With https it
// is one over TLS.
//
// A name goes to the proxy as it is, but for socks5: there it is looked up, and
// its addresses are tried in turn, until one is connected or the proxy itself
// fails. A caller that races them looks them up before; TakesNames reports whether that
// is needed.
//
// ctx bounds all of it, and has no hold on the connection once Connect has
// returned it. When ctx ends, the connection to the proxy is closed and the
// error matches ctx's. A proxy's answer is at most 64 KiB long.
//
// The error is an *Error. Everything is closed then, and in no case is a
// goroutine left, dial and LookUp permitting.
func Connect(ctx context.Context, dial DialFunc, proxyURL *url.URL, target string, o Options) (net.Conn, error) {
	a := attempt{dial: dial, opts: o, failed: &Error{Proxy: Redact(proxyURL), Target: target, Step: StepURL}}
	var err error
	if a.proxy, err = parse(proxyURL); err != nil {
		return nil, a.because(ctx, err)
	}
	if err = a.proxy.checkUser(); err != nil {
		return nil, a.because(ctx, err)
	}
	to, err := parseTarget(ctx, target)
	if err != nil {
		return nil, a.because(ctx, err)
	}
	if a.proxy.scheme == schemeSOCKS5 && !to.ip.IsValid() {
		return a.connectToEach(ctx, to)
	}
	return a.connect(ctx, to)
}

// attempt is one way through a proxy to one destination.
type attempt struct {
	proxy  server
	dial   DialFunc
	opts   Options
	failed *Error // filled in on the way, returned if it fails
}

// connectToEach looks the target's name up and tries its addresses in turn. The
// error is that of the first address, which is the preferred one.
func (a attempt) connectToEach(ctx context.Context, to destination) (net.Conn, error) {
	a.failed.Step = StepResolve
	ips, err := a.lookUp(ctx, to.host)
	if err != nil {
		return nil, a.because(ctx, err)
	}
	var first error
	for _, ip := range ips {
		one := a
		one.failed = &Error{Proxy: a.failed.Proxy, Target: a.failed.Target}
		nc, err := one.connect(ctx, at(ip, to.port))
		if err == nil {
			return nc, nil
		}
		if first == nil {
			first = err
		}
		if one.failed.StatusCode == 0 {
			break // the proxy said nothing of this address: it is itself the trouble
		}
	}
	return nil, first
}

func (a attempt) lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	lookUp := a.opts.LookUp
	if lookUp == nil {
		lookUp = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	ips, err := lookUp(ctx, host)
	if err == nil && len(ips) == 0 {
		err = &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return ips, err
}

// connect dials the proxy and has it connect to one destination.
func (a attempt) connect(ctx context.Context, to destination) (net.Conn, error) {
	a.failed.Step = StepDial
	nc, err := a.dial(ctx, "tcp", a.proxy.addr)
	if err == nil && nc == nil {
		err = errors.New("the dialer returned neither a connection nor an error")
	}
	if err != nil {
		return nil, a.because(ctx, err)
	}
	release := closeAtEnd(ctx, nc)
	tunnel, err := a.handshake(ctx, nc, to)
	if open := release(); !open && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		return nil, a.because(ctx, err)
	}
	return tunnel, nil
}

// errRefused says that the proxy's answer is in attempt.failed.
var errRefused = errors.New("refused")

// handshake makes of a connection to the proxy one to the destination. The
// caller closes nc if it fails, and when ctx ends.
func (a attempt) handshake(ctx context.Context, nc net.Conn, to destination) (net.Conn, error) {
	if a.proxy.scheme == schemeHTTPS {
		a.failed.Step = StepTLS
		secured, err := a.secure(ctx, nc)
		if err != nil {
			return nil, err
		}
		nc = secured
	}
	a.failed.Step = StepHandshake
	if a.proxy.isSOCKS() {
		return nc, a.socks(nc, to)
	}
	return nc, a.http(ctx, nc, to)
}

// because is a.failed with its cause, of which ctx's error is a part if ctx has
// ended.
func (a attempt) because(ctx context.Context, err error) error {
	end := ctx.Err()
	switch {
	case err == errRefused:
	case end != nil && !errors.Is(err, end):
		a.failed.Err = &endedError{end, err}
	default:
		a.failed.Err = a.proxy.secrets().Error(err)
	}
	return a.failed
}

// endedError is the context's end and what it looked like on the connection.
type endedError struct{ end, err error }

func (e *endedError) Error() string   { return e.end.Error() }
func (e *endedError) Unwrap() []error { return []error{e.end, e.err} }

// closeAtEnd closes nc when ctx ends. release ends that, waits if it is being
// done, and reports whether nc is still open. The goroutine that closes is the
// context package's and exists only while it does.
func closeAtEnd(ctx context.Context, nc net.Conn) (release func() (open bool)) {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = nc.Close()
	})
	return func() bool {
		if stop() {
			return true
		}
		<-closed
		return false
	}
}
