package bridge

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/channelz"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial"
)

// FromGRPC returns an option for a grpcdial channel that says what opts say for one of
// grpc-go: interceptors, stats handlers, credentials, default call options, user agent,
// authority, dialer, keepalive, windows and buffers, service config, retry, resolvers,
// proxy, idle time-out, and the rest of what a [grpcdial.DialOption] exists for. It
// includes the dial options that grpc-go applies to all connections of the program,
// but not those that depend on the target.
//
// The error names what a grpcdial channel does not honour, or what this version of
// grpc-go keeps in a way that this package does not know, all of it. An option that
// only a blocking dial honours, grpc.WithBlock for one, is carried over too:
// grpcdial.NewClient refuses it. grpc.WithSharedWriteBuffer has no effect.
//
// FromGRPC does not connect. It is safe for concurrent use, and so is what it returns.
func FromGRPC(opts ...grpc.DialOption) (grpcdial.DialOption, error) {
	for i, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("grpcdial/bridge: FromGRPC: dial option %d of %d is nil", i+1, len(opts))
		}
	}
	usual, err := usualOptions()
	if err != nil {
		return nil, err
	}
	var converted []grpcdial.DialOption
	err = collect(opts, func(options reflect.Value) error {
		f := fieldsOf(options)
		if slices.ContainsFunc(get[[]resolver.Builder](f, "resolvers"), isStandIn) {
			return fmt.Errorf("grpcdial/bridge: FromGRPC was given options of ToGRPC: give grpcdial the options that ToGRPC got")
		}
		converted = append(interceptors(f), convert(f)...)
		f.unknown(usual)
		return f.err()
	})
	if err != nil {
		return nil, err
	}
	return grpcdial.JoinDialOptions(converted...), nil
}

// usualOptions returns what grpc-go collects when a connection is given no option.
func usualOptions() (usual reflect.Value, err error) {
	err = collect(nil, func(options reflect.Value) error {
		usual = reflect.New(options.Type()).Elem()
		usual.Set(options)
		return nil
	})
	return usual, err
}

// collect calls f with what grpc-go makes of opts.
func collect(opts []grpc.DialOption, f func(reflect.Value) error) error {
	called := false
	var result error
	last, err := hook(func(options reflect.Value) { called, result = true, f(options) })
	if err != nil {
		return err
	}
	// A connection that is never used. Whether grpc-go finds the options sufficient,
	// credentials included, does not matter: it has collected them by then.
	conn, err := grpc.NewClient("passthrough:///bridge", append(slices.Clip(opts), last)...)
	if err == nil {
		_ = conn.Close()
	}
	if !called {
		return fmt.Errorf("grpcdial/bridge: grpc-go %s did not apply the dial options: %v", grpc.Version, err)
	}
	return result
}

// interceptors converts interceptors.
func interceptors(f *fields) []grpcdial.DialOption {
	var o options
	if first := get[grpc.UnaryClientInterceptor](f, "unaryInt"); first != nil {
		o.add(grpcdial.WithUnaryInterceptor(first))
	}
	if first := get[grpc.StreamClientInterceptor](f, "streamInt"); first != nil {
		o.add(grpcdial.WithStreamInterceptor(first))
	}
	o.add(grpcdial.WithChainUnaryInterceptor(get[[]grpc.UnaryClientInterceptor](f, "chainUnaryInts")...))
	o.add(grpcdial.WithChainStreamInterceptor(get[[]grpc.StreamClientInterceptor](f, "chainStreamInts")...))
	return o
}

// options collects grpcdial's dial options: those that say something else than grpc-go's
// defaults, so that they replace nothing that the program has said before.
type options []grpcdial.DialOption

func (o *options) add(opt grpcdial.DialOption) { *o = append(*o, opt) }

func (o *options) addIf(given bool, opt grpcdial.DialOption) {
	if given {
		o.add(opt)
	}
}

// The values of grpc-go's defaults for which grpcdial has its own.
const (
	usualBuffer            = 32 << 10
	usualIdleTimeout       = 30 * time.Minute
	usualMinConnectTimeout = 20 * time.Second
	usualMaxCallAttempts   = 5
)

// convert converts everything but interceptors.
func convert(f *fields) []grpcdial.DialOption {
	var o options
	convertDial(f, &o)
	convertCalls(f, &o)
	copts := fieldsOf(f.value("copts"))
	if copts.of.IsValid() {
		convertConnections(copts, &o)
		f.errors = append(f.errors, copts.errors...)
	}
	return o
}

// convertDial converts what concerns the dial, names, and the time between attempts.
func convertDial(f *fields, o *options) {
	o.addIf(get[bool](f, "block"), grpcdial.WithBlock())
	o.addIf(get[bool](f, "returnLastError"), grpcdial.WithReturnConnectionError())
	if d := get[time.Duration](f, "timeout"); d != 0 {
		o.add(grpcdial.WithTimeout(d))
	}
	if name := get[string](f, "authority"); name != "" {
		o.add(grpcdial.WithAuthority(name))
	}
	o.add(grpcdial.WithResolvers(get[[]resolver.Builder](f, "resolvers")...))
	if d := get[time.Duration](f, "idleTimeout"); d != usualIdleTimeout {
		o.add(grpcdial.WithIdleTimeout(d))
	}
	o.addIf(get[bool](f, "enableLocalDNSResolution"), grpcdial.WithLocalDNSResolution())
	o.addIf(!get[bool](f, "useProxy"), grpcdial.WithNoProxy())
	if parent := get[channelz.Identifier](f, "channelzParent"); parent != nil {
		o.add(grpcdial.WithChannelzParentID(parent))
	}
	convertBackoff(f, o)
	f.ignore("defaultScheme") // of the constructor that is called
}

// convertBackoff converts grpc.WithConnectParams and its predecessors.
func convertBackoff(f *fields, o *options) {
	params := grpcdial.ConnectParams{MinConnectTimeout: usualMinConnectTimeout}
	least := get[func() time.Duration](f, "minConnectTimeout")
	if least != nil {
		params.MinConnectTimeout = least()
	}
	strategy := f.value("bs")
	if !strategy.IsValid() {
		return
	}
	if strategy.Kind() != reflect.Interface || strategy.IsNil() || strategy.Elem().Kind() != reflect.Struct {
		f.failf("grpc-go %s has a back-off of an unknown kind (dialOptions.bs: %v)", grpc.Version, strategy)
		return
	}
	config := strategy.Elem().FieldByName("Config")
	if !config.IsValid() || config.Type() != reflect.TypeFor[backoff.Config]() || strategy.Elem().NumField() != 1 {
		f.failf("grpc-go %s has a back-off of an unknown kind (dialOptions.bs: %v)", grpc.Version, strategy.Elem().Type())
		return
	}
	params.Backoff = config.Interface().(backoff.Config)
	o.addIf(least != nil || params.Backoff != backoff.DefaultConfig, grpcdial.WithConnectParams(params))
}

// convertCalls converts what concerns RPCs, but for interceptors.
func convertCalls(f *fields, o *options) {
	o.add(grpcdial.WithDefaultCallOptions(get[[]grpc.CallOption](f, "callOptions")...))
	if c := get[grpc.Compressor](f, "compressorV0"); c != nil {
		o.add(grpcdial.WithCompressor(c))
	}
	if c := get[grpc.Decompressor](f, "dc"); c != nil {
		o.add(grpcdial.WithDecompressor(c))
	}
	if n := get[int](f, "maxCallAttempts"); n != usualMaxCallAttempts {
		o.add(grpcdial.WithMaxCallAttempts(n))
	}
	o.addIf(get[bool](f, "disableServiceConfig"), grpcdial.WithDisableServiceConfig())
	o.addIf(get[bool](f, "disableRetry"), grpcdial.WithDisableRetry())
	o.addIf(get[bool](f, "disableHealthCheck"), grpcdial.WithDisableHealthCheck())
	if json := get[*string](f, "defaultServiceConfigRawJSON"); json != nil {
		o.add(grpcdial.WithDefaultServiceConfig(*json))
	}
	f.ignore("defaultServiceConfig") // made of the former
	if log := f.value("binaryLogger"); log.IsValid() && !log.IsNil() {
		f.failf("grpcdial channels do not write grpc-go's binary log (the option that sets dialOptions.binaryLogger)")
	}
}

// convertConnections converts what concerns connections, the fields of
// transport.ConnectOptions.
func convertConnections(f *fields, o *options) {
	// grpc-go puts its own name and version last, as grpcdial does.
	agent := strings.TrimSpace(strings.TrimSuffix(get[string](f, "UserAgent"), "grpc-go/"+grpc.Version))
	o.addIf(agent != "", grpcdial.WithUserAgent(agent))
	if dialer := get[func(context.Context, string) (net.Conn, error)](f, "Dialer"); dialer != nil {
		o.add(grpcdial.WithContextDialer(dialer))
	}
	o.addIf(get[bool](f, "FailOnNonTempDialError"), grpcdial.FailOnNonTempDialError(true))
	for _, c := range get[[]credentials.PerRPCCredentials](f, "PerRPCCredentials") {
		o.add(grpcdial.WithPerRPCCredentials(c))
	}
	if creds := get[credentials.TransportCredentials](f, "TransportCredentials"); creds != nil {
		o.add(grpcdial.WithTransportCredentials(creds))
	}
	if bundle := get[credentials.Bundle](f, "CredsBundle"); bundle != nil {
		o.add(grpcdial.WithCredentialsBundle(bundle))
	}
	if k := get[keepalive.ClientParameters](f, "KeepaliveParams"); k != (keepalive.ClientParameters{}) {
		o.add(grpcdial.WithKeepaliveParams(k))
	}
	for _, h := range get[[]stats.Handler](f, "StatsHandlers") {
		o.add(grpcdial.WithStatsHandler(h))
	}
	if n := get[int32](f, "InitialWindowSize"); n != 0 {
		o.add(grpcdial.WithInitialWindowSize(n))
	}
	if n := get[int32](f, "InitialConnWindowSize"); n != 0 {
		o.add(grpcdial.WithInitialConnWindowSize(n))
	}
	if n := get[int](f, "WriteBufferSize"); n != usualBuffer {
		o.add(grpcdial.WithWriteBufferSize(n))
	}
	if n := get[int](f, "ReadBufferSize"); n != usualBuffer {
		o.add(grpcdial.WithReadBufferSize(n))
	}
	if n := get[*uint32](f, "MaxHeaderListSize"); n != nil {
		o.add(grpcdial.WithMaxHeaderListSize(*n))
	}
	if pool := get[mem.BufferPool](f, "BufferPool"); pool != mem.DefaultBufferPool() {
		f.failf("grpcdial channels take no buffer pool (experimental.WithBufferPool, dialOptions.copts.BufferPool)")
	}
	f.ignore("SharedWriteBuffer", "StaticWindowSize") // windows keep the size that they are given
	f.ignore("ChannelzParent")                        // set for a subchannel
}
