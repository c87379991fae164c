package grpcdial

import (
	"crypto/tls"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/channelz"
	"google.golang.org/grpc/stats"
)

// WithBlock makes [Dial] and [DialContext] wait until the channel is READY,
// which it is as soon as one backend is. Without it they return at once and
// the channel connects in the background.
//
// Failed attempts are repeated until the context ends, whatever the failure;
// [FailOnNonTempDialError] ends the wait earlier. The error of a wait that
// ended without a READY channel is a *DialError.
//
// NewClient refuses this option: it does not wait. Use AwaitReady on the
// channel that it returns.
func WithBlock() DialOption {
	return optionFunc(func(o *dialOptions) { o.block = true })
}

// WithReturnConnectionError is [WithBlock] under another name: every error of a
// blocking dial has the causes of the failed attempts. It exists for programs written
// for grpc-go, whose errors have them with this option only.
//
// NewClient refuses this option.
//
// Deprecated: use WithBlock, or AwaitReady on a channel of NewClient's.
func WithReturnConnectionError() DialOption {
	return optionFunc(func(o *dialOptions) {
		o.block = true
		o.returnConnectionError = true
	})
}

// FailOnNonTempDialError makes a blocking dial end at the first failure that
// will not heal by itself, if f is true: an error of the dialer with a method
// Temporary() bool that returns false, and every attempt that is Permanent, as with
// a certificate that is not trusted or a server that does not speak
// HTTP/2. The dial ends once no other address may still succeed. The default
// is false: attempts go on until the context ends.
//
// AwaitReady ends in the same way on a channel dialed with it. It has no effect
// on a dial that does not wait, nor on RPCs. NewClient refuses it.
func FailOnNonTempDialError(f bool) DialOption {
	return optionFunc(func(o *dialOptions) { o.failOnNonTempDialError = f })
}

// WithGiveUp lets the program say which failures end the wait of a blocking dial
// and of AwaitReady before its context does. f gets each failed attempt and
// returns true if it is not worth waiting for another one at that address. The
// wait ends once f has returned true for the latest attempt at every address; one
// backend that may still answer is enough to go on. If the resolver fails and there is
// no address, f gets that failure, with Phase [PhaseResolve].
//
// f is called on the goroutine that waits, once for each attempt, with no lock
// held. It may count. Together with [FailOnNonTempDialError] either of the two makes
// an attempt final. nil means that no failure ends the wait, which is the default.
func WithGiveUp(f func(Attempt) bool) DialOption {
	return optionFunc(func(o *dialOptions) { o.giveUp = f })
}

// WithTimeout bounds [Dial] or [DialContext] as a context with that timeout
// would. It does not bound the life of the channel. Zero or less means no
// bound, which is the default.
//
// NewClient refuses this option.
func WithTimeout(d time.Duration) DialOption {
	return optionFunc(func(o *dialOptions) { o.timeout = max(d, 0) })
}

// WithChannelzParentID nests the channel, in the data of channelz, in another channel
// of grpcdial or of grpc-go. Policies that make channels of their own get the
// identifier as the ChannelzParent of their balancer.BuildOptions. nil, which is the
// default, means a top channel, as does a parent that has been closed. Package channelz
// of this module serves the data.
func WithChannelzParentID(c channelz.Identifier) DialOption {
	return optionFunc(func(o *dialOptions) { o.channelzParent = c })
}

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
	return optionFunc(func(o *dialOptions) { o.dns = &d })
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

// WithServiceConfig hands the channel service configs that the program makes.
// A config that is waiting in c when the channel is dialed is used from the
// start; otherwise Dial and DialContext wait for the first one, or for c to be
// closed, as long as the context allows. Later ones replace it as they come.
// They win over the resolver's service configs and over [WithDefaultServiceConfig]. An
// illegal config fails the dial if it is the first, and else changes nothing
// ([EventConfigRefused]). The ClientConn reads c until either is closed; the last
// config stays in force. If c is closed before the first config, the option has no
// effect, but that a resolver which a channel of NewClient's has built by then was not
// asked for a config.
//
// Deprecated: use a resolver, or WithDefaultServiceConfig.
func WithServiceConfig(c <-chan ServiceConfig) DialOption {
	return optionFunc(func(o *dialOptions) { o.serviceConfig = c })
}

// WithDefaultServiceConfig sets the service config, as JSON, that is in force
// while the resolver returns none, returns an invalid one, or is not asked for one
// ([WithDisableServiceConfig]). A config that cannot be parsed makes the constructor
// fail.
func WithDefaultServiceConfig(s string) DialOption {
	return optionFunc(func(o *dialOptions) { o.defaultServiceConfig = &s })
}

// WithDisableServiceConfig makes the channel ignore the resolver's service configs,
// which by default are used, and sets resolver.BuildOptions.DisableServiceConfig so
// that the resolver does not look for one. [WithDefaultServiceConfig] stays in force.
func WithDisableServiceConfig() DialOption {
	return optionFunc(func(o *dialOptions) { o.disableServiceConfig = true })
}

// WithDefaultCallOptions adds call options that every RPC gets before its own
// ones, so that its own win. Given several times, the options add up. The default is
// none: messages of 4 MiB are received and of 2 GiB sent, in the codec proto, not
// compressed.
func WithDefaultCallOptions(cos ...grpc.CallOption) DialOption {
	return optionFunc(func(o *dialOptions) { o.callOptions = append(o.callOptions, cos...) })
}

// WithMaxMsgSize sets the largest message that is accepted, in bytes, after
// decompression. The default is 4 MiB. An RPC that gets a larger one ends with
// ResourceExhausted. It is a default call option: a later grpc.MaxCallRecvMsgSize in
// [WithDefaultCallOptions] wins over it.
//
// Deprecated: use WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(s)).
func WithMaxMsgSize(s int) DialOption {
	return WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(s))
}

// WithCodec sets the codec of every RPC that does not choose another one. The
// default is proto. nil is an error. It is a default call option: a later codec in
// [WithDefaultCallOptions] wins over it.
//
// Deprecated: use WithDefaultCallOptions(grpc.ForceCodec(c)).
func WithCodec(c grpc.Codec) DialOption { // grpc-go's type, kept for its users
	return WithDefaultCallOptions(grpc.CustomCodecCallOption{Codec: c})
}

// WithCompressor sets the compressor of RPCs that do not choose one with
// grpc.UseCompressor. nil means none, which is the default.
//
// Deprecated: use WithDefaultCallOptions(grpc.UseCompressor(name)).
func WithCompressor(c grpc.Compressor) DialOption { // grpc-go's type, kept for its users
	return optionFunc(func(o *dialOptions) { o.compressor = c })
}

// WithDecompressor sets the decompressor of messages whose encoding is dc.Type(). For
// other encodings the compressors registered with encoding.RegisterCompressor are used;
// with nil, which is the default, for all encodings.
//
// Deprecated: register a compressor.
func WithDecompressor(dc grpc.Decompressor) DialOption { // grpc-go's type, kept for its users
	return optionFunc(func(o *dialOptions) { o.decompressor = dc })
}

// WithDisableRetry stops retries that a service config asks for, which are made by
// default. Transparent retry, of RPCs that no server has begun to handle, stays.
// [WithMaxCallAttempts] has no effect then.
func WithDisableRetry() DialOption {
	return optionFunc(func(o *dialOptions) { o.disableRetry = true })
}

// WithDisableHealthCheck makes the channel ignore the healthCheckConfig of
// service configs. Without it, a service config that has one makes the policies
// that support health checking (round_robin and most others, but not pick_first on its
// own) send RPCs only to backends whose grpc.health.v1 service reports SERVING, and to
// backends without that service. Each backend that is checked costs a stream and a
// goroutine.
func WithDisableHealthCheck() DialOption {
	return optionFunc(func(o *dialOptions) { o.disableHealthCheck = true })
}

// WithMaxCallAttempts bounds the attempts of one RPC, the first included,
// whatever the service config says. n below 2 means the default, which is 5
// (gRFC A6).
func WithMaxCallAttempts(n int) DialOption {
	if n < 2 {
		n = defaultMaxCallAttempts
	}
	return optionFunc(func(o *dialOptions) { o.maxCallAttempts = n })
}

// WithStatsHandler adds a handler. The channel calls it for every RPC attempt, on the
// goroutines of the RPC, and for every connection whose HTTP/2 handshake succeeded, on
// the goroutine of the connection. The context of a connection, as TagConn returned
// it, ends with the connection. Given several
// times, the handlers are called in order. nil adds none, which is the default.
func WithStatsHandler(h stats.Handler) DialOption {
	return optionFunc(func(o *dialOptions) {
		if h != nil {
			o.statsHandlers = append(o.statsHandlers, h)
		}
	})
}

// WithUnaryInterceptor sets the interceptor of unary RPCs that is called
// before those of [WithChainUnaryInterceptor]. nil means none, which is the default.
//
// All interceptors get as their *grpc.ClientConn one whose RPCs run on the channel and
// whose state is SHUTDOWN. It is not the one that [ClientConn.GRPC] returns.
func WithUnaryInterceptor(f grpc.UnaryClientInterceptor) DialOption {
	return optionFunc(func(o *dialOptions) { o.unary = f })
}

// WithChainUnaryInterceptor adds interceptors of unary RPCs. The first one is
// the outermost, but for that of [WithUnaryInterceptor]; the last one calls
// the RPC itself. Given several times, they add up. The default is none.
func WithChainUnaryInterceptor(interceptors ...grpc.UnaryClientInterceptor) DialOption {
	return optionFunc(func(o *dialOptions) { o.chainUnary = append(o.chainUnary, interceptors...) })
}

// WithStreamInterceptor sets the interceptor of streams that is called before
// those of [WithChainStreamInterceptor]. nil means none, which is the default.
func WithStreamInterceptor(f grpc.StreamClientInterceptor) DialOption {
	return optionFunc(func(o *dialOptions) { o.stream = f })
}

// WithChainStreamInterceptor adds interceptors of streams. The first one is
// the outermost, but for that of [WithStreamInterceptor]; the last one opens
// the stream itself. Given several times, they add up. The default is none.
func WithChainStreamInterceptor(interceptors ...grpc.StreamClientInterceptor) DialOption {
	return optionFunc(func(o *dialOptions) { o.chainStream = append(o.chainStream, interceptors...) })
}
