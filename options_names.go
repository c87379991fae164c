package grpcdial

import (
	"crypto/tls"
	"net/url"
	"time"
)

// DNSOptions says how the names of targets with the scheme dns are looked up, for
// [WithDNS]. A field that is zero leaves the default. It may get more fields, and cannot
// be compared with ==.
type DNSOptions struct {
	_ [0]func()

	// MinInterval is the least time from the end of a look-up that succeeded to the
	// start of the next. A lost connection requests a look-up; one requested earlier
	// waits until then. The default is 30 seconds; negative means no least time.
	//
	// A look-up that failed is repeated with back-off, 1.6 seconds first and 2 minutes
	// at most.
	MinInterval time.Duration

	// Refresh is the time after which a name is looked up again without a request,
	// counted from the end of a look-up that succeeded. The default is never. It is
	// raised to MinInterval.
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

// WithProxy sets which proxy the channel's TCP connections take, in place of the
// environment: f returns the URL of the one for a target, or nil for none. nil
// for f means the default.
//
// The default is the proxy of the environment variables HTTPS_PROXY and NO_PROXY, or
// https_proxy and no_proxy, by the rules of net/http: localhost and the hosts that
// NO_PROXY lists take no proxy. The variables are read when the channel is made.
//
// A URL has the scheme http or https, for CONNECT, or socks5 or socks5h. Its
// default port is 80, 443, 1080 and 1080. A user name and a password in it are sent
// to the proxy: to one of https after its certificate was verified (see
// [WithProxyTLSConfig]), to the others in clear text, as their protocols require.
//
// f is called first for the target's endpoint, "host:port", with port 443 if a
// target of the scheme dns has none. If it returns nil, no address of the channel
// takes a proxy. Otherwise each address takes that proxy, unless f returns nil for the
// address. f may be called by several goroutines at a time, and must not wait for the
// channel: a dial waits for it, and so does Close. Unix sockets take no proxy, and f is
// not called for them.
//
// Failures of a proxy are a *[ProxyError]. Dial and DialContext return one at once
// if f fails for the target's endpoint, or returns an invalid URL; RPCs of NewClient's
// channels fail with it.
//
// A name that was not looked up before, as with the scheme passthrough, is looked
// up by the proxy, and for one of socks5 here. For names of the scheme dns see
// [WithLocalDNSResolution].
//
// A dialer of the program's own makes the connection to the proxy of WithProxy and
// gets the proxy's "host:port". Without WithProxy such a dialer makes the connection to
// the target, and the environment's proxies are not used.
//
// Of WithProxy and [WithNoProxy] the last one given wins.
func WithProxy(f func(target string) (*url.URL, error)) DialOption {
	return optionFunc(func(o *dialOptions) { o.proxy = proxyOption{given: f != nil, choose: f} })
}

// WithProxyTLSConfig sets how TLS with https proxies is done, those of the
// environment too: RootCAs for a proxy whose certificate is signed by an authority of
// one's own, Certificates for a proxy that wants one of its clients. ServerName is the
// host of the proxy's URL unless cfg has one, and the protocol negotiated is HTTP/1.1
// in any case. cfg is copied. nil, which is the default, means the system's roots.
//
// It has nothing to do with TLS between the channel and its servers, which goes
// through the proxy, nor with proxies of other schemes.
func WithProxyTLSConfig(cfg *tls.Config) DialOption {
	cfg = cfg.Clone() // of nil too
	return optionFunc(func(o *dialOptions) { o.proxyTLS = cfg })
}

// WithNoProxy makes the channel connect without a proxy, also if the environment names
// one. Of it and [WithProxy] the last one given wins.
func WithNoProxy() DialOption {
	return optionFunc(func(o *dialOptions) { o.proxy = proxyOption{given: true} })
}

// WithLocalDNSResolution makes the channel itself look up the name of a target with the
// scheme dns even if the target takes a proxy; it then connects to each address through
// the proxy. Without it the proxy gets the name and looks it up, and there is no service
// config from DNS; for a socks5 proxy, which takes addresses only, the channel looks up
// the name in either case.
//
// Dial and DialContext do so always. Without a proxy the option has no effect.
func WithLocalDNSResolution() DialOption {
	return optionFunc(func(o *dialOptions) { o.localDNS = true })
}
