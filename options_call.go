package grpcdial

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// WithServiceConfig hands the channel service configs that the program makes.
// A config that is waiting in c when the channel is dialed is used from the
// start; otherwise Dial and DialContext wait for the first one, or for c to be
// closed, as long as the context allows. Later ones replace it as they come.
// They win over the resolver's service configs and over [WithDefaultServiceConfig]. An
// illegal config fails the dial if it is the first, and else changes nothing
// ([EventConfigRefused]). The ClientConn reads c until either is closed; the last
// config stays in force. If c is closed before the first config, the option has no
// effect.
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
// ResourceExhausted.
//
// Deprecated: use WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(s)).
func WithMaxMsgSize(s int) DialOption {
	return WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(s))
}

// WithCodec sets the codec of every RPC that does not choose another one. The
// default is proto. nil is an error.
//
// Deprecated: use WithDefaultCallOptions(grpc.ForceCodec(c)).
func WithCodec(c grpc.Codec) DialOption { //nolint:staticcheck // grpc-go's type, kept for its users
	return WithDefaultCallOptions(grpc.CustomCodecCallOption{Codec: c})
}

// WithCompressor sets the compressor of RPCs that do not choose one with
// grpc.UseCompressor. nil means none, which is the default.
//
// Deprecated: use WithDefaultCallOptions(grpc.UseCompressor(name)).
func WithCompressor(c grpc.Compressor) DialOption { //nolint:staticcheck // grpc-go's type, kept for its users
	return optionFunc(func(o *dialOptions) { o.compressor = c })
}

// WithDecompressor sets the decompressor of messages whose encoding is dc.Type(). For
// other encodings the compressors registered with encoding.RegisterCompressor are used;
// with nil, which is the default, for all encodings.
//
// Deprecated: register a compressor.
func WithDecompressor(dc grpc.Decompressor) DialOption { //nolint:staticcheck // grpc-go's type, kept for its users
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
