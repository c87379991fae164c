package grpcdial

import (
	"fmt"

	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/addresslist"
	"github.com/grpcdial/grpcdial/internal/dns"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/proxy"
	"github.com/grpcdial/grpcdial/internal/text"
)

// ProxyStep is a step on the way through a proxy.
type ProxyStep string

// The steps, in their order.
const (
	ProxyStepChoose    ProxyStep = "choose"    // the function of WithProxy failed, or the environment's proxy is invalid
	ProxyStepURL       ProxyStep = "url"       // the proxy's URL is invalid
	ProxyStepResolve   ProxyStep = "resolve"   // the target's name was not found, for socks5
	ProxyStepDial      ProxyStep = "dial"      // the proxy was not reached
	ProxyStepTLS       ProxyStep = "tls"       // TLS with the proxy failed
	ProxyStepHandshake ProxyStep = "handshake" // the proxy refused, or did not answer as one
)

// ProxyError says why there is no connection through a proxy. errors.As finds it
// in a *DialError, in the error of an RPC that found no connection, and in the
// cause of a transition. It holds no credentials: a user name and a password that were
// sent to the proxy are masked where the proxy repeats them.
type ProxyError struct {
	Proxy  string // the proxy's URL without credentials; empty if none was chosen
	Target string // "host:port" that was to be reached through it

	Step ProxyStep // the step that failed

	// The proxy's answer, if there was one. StatusCode is HTTP's, 407 for instance, or
	// for socks5 and socks5h the reply of RFC 1928 §6; 0 means no answer. Status is its
	// text.
	StatusCode int
	Status     string

	// Challenges are the authentication schemes that an HTTP proxy accepts (RFC 9110
	// §11.7.1), "Basic" for instance.
	Challenges []string

	// Authenticated says that a user name was sent.
	Authenticated bool

	Body string // of an HTTP answer: at most 1 KiB, without non-text bytes
	Err  error  // the cause; nil if the proxy's answer is the whole cause
}

// Error is one line that names the proxy, the target and the reason.
func (e *ProxyError) Error() string { return e.internal().Error() }

// Reason is the line of Error without the proxy and the target.
func (e *ProxyError) Reason() string { return e.internal().Reason() }

// Unwrap returns Err.
func (e *ProxyError) Unwrap() error { return e.Err }

func (e *ProxyError) internal() *proxy.Error {
	return &proxy.Error{Proxy: e.Proxy, Target: e.Target, Step: proxy.Step(e.Step), StatusCode: e.StatusCode, Status: e.Status,
		Challenges: e.Challenges, Authenticated: e.Authenticated, Body: e.Body, Err: e.Err}
}

// publicCause returns err, or the public error type that stands for it. Its text is safe
// to show.
func publicCause(err error) error {
	if err == failure.ErrInsecure {
		return insecureConnError{}
	}
	e, ok := err.(*proxy.Error)
	if !ok {
		return text.Error(err)
	}
	return &ProxyError{Proxy: e.Proxy, Target: text.Target(e.Target), Step: ProxyStep(e.Step), StatusCode: e.StatusCode, Status: e.Status,
		Challenges: e.Challenges, Authenticated: e.Authenticated, Body: e.Body, Err: text.Error(e.Err)}
}

// chooseProxies returns the channel's choice of proxies; nil: there is none.
func chooseProxies(o *dialOptions) proxy.Func {
	switch {
	case o.proxy.given:
		return o.proxy.choose
	case o.dialer != nil:
		return nil
	default:
		return proxy.FromEnvironment()
	}
}

// chooseRoute finds out which proxy the target takes, keeps for r which one each
// address takes, and returns the builder of the resolver: for a name that the
// proxy is to look up, one whose resolver gives that very name. Resolver queue only.
func (cc *ClientConn) chooseRoute(r *resolverConn) (resolver.Builder, error) {
	cc.resolverQueue.AssertOn()
	scheme, endpoint := cc.parsed.scheme, cc.parsed.endpoint()
	if cc.overUnix || scheme == schemeUnix || scheme == schemeUnixAbstract {
		return cc.builder, nil
	}
	if _, list := cc.builder.(addresslist.Builder); list {
		r.proxies = cc.proxies // each address is a target of its own
		return cc.builder, nil
	}
	if scheme == schemeDNS {
		withPort, err := dns.HostPort(endpoint)
		if err != nil {
			return cc.builder, nil // whose resolver reports the same error
		}
		endpoint = withPort
	}
	perAddress, err := cc.proxies.ForTarget(endpoint)
	if err != nil {
		return nil, fmt.Errorf("grpcdial: %w", publicCause(err))
	}
	r.proxies = perAddress
	if u, err := perAddress.Choose(endpoint); err != nil || !proxy.TakesNames(u) || scheme != schemeDNS || cc.localDNS {
		return cc.builder, nil
	}
	return asWritten(endpoint), nil
}

// asWritten is the builder of a resolver that gives one address, and the resolver.
type asWritten string

func (asWritten) Scheme() string { return schemeDNS }

func (a asWritten) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	// The resolver would report the same address again: the error has no use here.
	_ = cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: string(a)}}})
	return a, nil
}

func (asWritten) ResolveNow(resolver.ResolveNowOptions) {}
func (asWritten) Close()                                {}
