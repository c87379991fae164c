package grpcdial

import (
	"net/url"
	"time"
)

// DNSOptions says how the names of targets with the scheme dns are looked up, for
// [WithDNS]. A field that is zero leaves the default.
type DNSOptions struct {
	// MinInterval is the least time from the end of a look-up that succeeded to the
	// start of the next. A lost connection asks for one; what is asked earlier is
	// done then. The default is 30 seconds; negative means no least time.
	//
	// A look-up that failed is repeated with back-off, 1.6 seconds first and 2 minutes
	// at most.
	MinInterval time.Duration

	// Refresh is the time after which a name is looked up again unasked, counted
	// from the end of a look-up that succeeded. The default is never. It is raised
	// to MinInterval.
	Refresh time.Duration

	// Timeout bounds a look-up. The default is 30 seconds.
	Timeout time.Duration

	// ServiceConfigWait is how long RPCs may have to wait for the service config
	// that the name's TXT record may hold, counted from when the addresses are
	// known: the channel connects to them meanwhile. A config that comes later is
	// used from then on. The default is 1 second; negative means not to wait.
	ServiceConfigWait time.Duration
}

// WithDNS sets how names are looked up for a target with the scheme dns. It
// counts for grpcdial's own resolver, which serves that scheme unless the program
// has registered another one or gives one with [WithResolvers].
//
// grpc-go has settings for all channels of a program instead,
// SetMinResolutionInterval and SetResolvingTimeout of its package dns. They
// cannot be read and do not count here.
func WithDNS(d DNSOptions) DialOption {
	return optionFunc(func(o *dialOptions) { o.dns = d })
}

// proxyOption is the choice of WithProxy and WithNoProxy.
type proxyOption struct {
	given  bool                                  // false: what is the default
	choose func(target string) (*url.URL, error) // nil: none
}

// WithProxy sets which proxy TCP connections take, in place of what the
// environment says: f returns the URL of the one for a target, or nil for none.
// The URL's scheme is http or https, for CONNECT, or socks5 or socks5h; a user
// name and a password in it are sent to the proxy. The default port is 80, 443,
// 1080 and 1080. nil for f means the default, which is [WithProxy]'s with the
// environment's HTTPS_PROXY and NO_PROXY, or https_proxy and no_proxy, as
// net/http reads them: read when the channel is made, and never a proxy for
// localhost.
//
// f is first called with the target's endpoint: "host:port", with port 443 if a
// target of the scheme dns has none; what it is in the case of a scheme of the
// program's own. If it knows no proxy for that, no address of the channel takes
// one. Otherwise each address takes this proxy, but for those for which f,
// called with the address, knows none. f may be called by several goroutines at a
// time, and must not wait for the channel.
//
// An error of f, and a URL that is of no use, is a *[ProxyError]; about the
// endpoint it is one of Dial, DialContext, or the RPC. Unix sockets take no proxy.
//
// Who looks the target's name up is told by [WithLocalDNSResolution]. Names that
// were not, as those of the scheme passthrough, are looked up by the proxy, or
// for socks5 on this side.
//
// With a dialer of the program's own, that makes the connection to the proxy,
// whose "host:port" it gets. Without WithProxy such a dialer makes the connection
// to the target and the environment does not count.
//
// Of WithProxy and [WithNoProxy] the last one given wins.
func WithProxy(f func(target string) (*url.URL, error)) DialOption {
	return optionFunc(func(o *dialOptions) { o.proxy = proxyOption{given: f != nil, choose: f} })
}

// WithNoProxy has the channel connect without a proxy, whatever the environment
// says.
func WithNoProxy() DialOption {
	return optionFunc(func(o *dialOptions) { o.proxy = proxyOption{given: true} })
}

// WithLocalDNSResolution has the name of a target with the scheme dns looked up
// on this side even if the target takes a proxy; each address is then connected
// to through the proxy. Without it the proxy is given the name and looks it up,
// and there is no service config from DNS; with a socks5 proxy, which takes
// addresses only, the name is looked up on this side in either case.
//
// Dial and DialContext do so always. Without a proxy the option has no effect.
func WithLocalDNSResolution() DialOption {
	return optionFunc(func(o *dialOptions) { o.localDNS = true })
}
