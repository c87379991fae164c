package grpcdial

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/channelz"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial/internal/subchannel"
)

// DialOption sets one thing about a channel. The functions whose names begin
// with With, and [FailOnNonTempDialError], make them. Options are applied in
// the order in which they are given; of two that set the same thing the last
// one wins, unless their documentation says that they add up.
//
// Options hold no state of a channel: one value may be used for any number of
// channels, at the same time.
type DialOption interface {
	// The name is for the compiler to show when a grpc.DialOption is given.
	passGrpcOptionsThroughBridgeFromGRPC(*dialOptions)
}

// EmptyDialOption changes nothing. Embed it in a struct to make a type of
// one's own that can be passed where a [DialOption] is expected.
type EmptyDialOption struct{}

func (EmptyDialOption) passGrpcOptionsThroughBridgeFromGRPC(*dialOptions) {}

// ConnectParams says how long a connection attempt may take and how long to
// wait between attempts. It is grpc-go's type.
type ConnectParams = grpc.ConnectParams

// MethodConfig is what a service config says about one method. It is grpc-go's
// type.
type MethodConfig = grpc.MethodConfig

// optionFunc is a DialOption made of a function.
type optionFunc func(*dialOptions)

func (f optionFunc) passGrpcOptionsThroughBridgeFromGRPC(o *dialOptions) { f(o) }

// dialOptions is everything that options can say about one channel: one field
// for each option, with the value in force. It is filled by newDialOptions, only
// read after that, and goes with the constructor: a channel has settings.
type dialOptions struct {
	channelOptions
	connectionOptions
	connectionLimits
	connectParams ConnectParams // WithConnectParams, WithBackoffConfig, WithBackoffMaxDelay

	// The dial itself.
	block                 bool                // WithBlock, WithReturnConnectionError
	returnConnectionError bool                // WithReturnConnectionError
	insecure              bool                // WithInsecure
	localDNS              bool                // WithLocalDNSResolution
	timeout               time.Duration       // WithTimeout; 0: none
	channelzParent        channelz.Identifier // WithChannelzParentID; nil: none

	invalid error // what JoinDialOptions was given; nil: nothing wrong

	traces []*DialTrace // WithDialTrace, copies, in order
	logger *slog.Logger // WithLogger; nil: not given

	// checkCredentials makes the channel's credentials of this and others.
	transportCreds credentials.TransportCredentials // WithTransportCredentials; nil: not given

	// Names.
	resolvers []resolver.Builder // WithResolvers, in order
	dns       *DNSOptions        // WithDNS; nil: not given
	proxy     proxyOption        // WithProxy, WithNoProxy

	// Calls.
	defaultServiceConfig *string                        // WithDefaultServiceConfig, JSON; nil: not given
	callOptions          []grpc.CallOption              // WithDefaultCallOptions, WithMaxMsgSize, WithCodec, in order
	compressor           grpc.Compressor                // WithCompressor; nil: not given
	decompressor         grpc.Decompressor              // WithDecompressor; nil: not given
	disableRetry         bool                           // WithDisableRetry
	unary                grpc.UnaryClientInterceptor    // WithUnaryInterceptor; nil: none
	stream               grpc.StreamClientInterceptor   // WithStreamInterceptor; nil: none
	chainUnary           []grpc.UnaryClientInterceptor  // WithChainUnaryInterceptor, outermost first
	chainStream          []grpc.StreamClientInterceptor // WithChainStreamInterceptor, outermost first
}

// channelOptions is the options that a channel reads after its constructor.
type channelOptions struct {
	failOnNonTempDialError bool                                            // FailOnNonTempDialError
	disableServiceConfig   bool                                            // WithDisableServiceConfig
	disableHealthCheck     bool                                            // WithDisableHealthCheck
	giveUp                 func(Attempt) bool                              // WithGiveUp; nil: not given
	bundle                 credentials.Bundle                              // WithCredentialsBundle; nil: not given
	perRPCCreds            []credentials.PerRPCCredentials                 // WithPerRPCCredentials, in order
	authority              string                                          // WithAuthority; "": not given
	userAgent              string                                          // WithUserAgent and ours: the header's whole value
	dialer                 func(context.Context, string) (net.Conn, error) // WithContextDialer, WithDialer; nil: TCP and unix sockets
	proxyTLS               *tls.Config                                     // WithProxyTLSConfig; nil: the default
	connectCheck           func(context.Context, ConnectCheckInfo) error   // WithConnectCheck; nil: not given
	idleTimeout            time.Duration                                   // WithIdleTimeout; 0: never idle
	serviceConfig          <-chan ServiceConfig                            // WithServiceConfig; nil: not given
	statsHandlers          []stats.Handler                                 // WithStatsHandler, in order
	maxCallAttempts        int                                             // WithMaxCallAttempts; at least 2
}

// connectionOptions is how a connection speaks HTTP/2.
type connectionOptions struct {
	keepalive     keepalive.ClientParameters // WithKeepaliveParams, after the floor; Time 0: no keepalive
	streamWindow  int32                      // WithInitialWindowSize, WithStaticStreamWindowSize; 0: the default
	connWindow    int32                      // WithInitialConnWindowSize, WithStaticConnWindowSize; 0: the default
	maxHeaderList *uint32                    // WithMaxHeaderListSize; nil: the default
	readBuffer    int                        // WithReadBufferSize, in bytes; 0: the default
	writeBuffer   int                        // WithWriteBufferSize, in bytes; 0: the default
}

// connectionLimits is how many connections there may be, and how old.
type connectionLimits struct {
	maxConnections int            // WithMaxConnectionsPerSubchannel; 0: not given
	age            subchannel.Age // WithMaxConnectionAge
}

// settings is what is kept of the options. Channels that leave a group of them as it is
// share it.
type settings struct {
	channelOptions
	connection    *connectionOptions
	limits        *connectionLimits
	connectParams *ConnectParams
}

func (o *dialOptions) settings() settings {
	return settings{
		channelOptions: o.channelOptions,
		connection:     shared(o.connectionOptions, &usual.connectionOptions),
		limits:         shared(o.connectionLimits, &usual.connectionLimits),
		connectParams:  shared(o.connectParams, &usual.connectParams),
	}
}

// usual is the options in force when none is given.
var usual = defaultDialOptions()

// shared returns a pointer to usual, if that is v, or to a copy of v.
func shared[T comparable](v T, usual *T) *T {
	if v == *usual {
		return usual
	}
	return &v
}

// Values in force when no option says otherwise.
const (
	defaultMinConnectTimeout = 20 * time.Second // gRPC's connection-backoff document
	defaultMaxCallAttempts   = 5                // gRFC A6
	defaultIdleTimeout       = 30 * time.Minute // as in grpc-go
	leastReadBuffer          = 1 << 10
	minKeepaliveTime         = 10 * time.Second // gRFC A8
	defaultKeepaliveTimeout  = 20 * time.Second
	minWindow                = 64<<10 - 1 // HTTP/2's initial window, RFC 9113 §6.9.2
)

// version is this module's version, sent to servers in the user agent.
const version = "0.1.0"

// baseUserAgent follows the form that gRPC's HTTP/2 document recommends:
// "grpc-", the language, the variant, the version.
const baseUserAgent = "grpc-go-grpcdial/" + version

func defaultDialOptions() dialOptions {
	return dialOptions{
		connectParams: ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: defaultMinConnectTimeout},
		channelOptions: channelOptions{
			userAgent:       baseUserAgent,
			idleTimeout:     defaultIdleTimeout,
			maxCallAttempts: defaultMaxCallAttempts,
		},
	}
}

// constructor is the function that a channel is made by. It decides the
// default scheme and which options make sense.
type constructor uint8

const (
	byDial      constructor = iota // Dial, DialContext
	byNewClient                    // NewClient
)

// newDialOptions applies opts to the defaults and validates the outcome.
func newDialOptions(by constructor, opts []DialOption) (*dialOptions, error) {
	o := defaultDialOptions()
	for i, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("grpcdial: dial option %d of %d is nil", i+1, len(opts))
		}
		opt.passGrpcOptionsThroughBridgeFromGRPC(&o)
	}
	if err := validate(&o, by); err != nil {
		return nil, err
	}
	return &o, nil
}

// validate returns the error of options that conflict, and of values that would only
// fail later, in a call. checkCredentials checks the credentials and chooseAuthority
// the authority.
func validate(o *dialOptions, by constructor) error {
	if by == byNewClient {
		if names := o.blockingOnly(); len(names) > 0 {
			return fmt.Errorf("grpcdial: NewClient does not wait for a connection, so it cannot honour %s: "+
				"leave the option out and call AwaitReady, or use DialContext", strings.Join(names, ", "))
		}
	}
	return cmp.Or(
		o.invalid,
		refuseNil("WithResolvers", o.resolvers, func(b resolver.Builder) bool { return b == nil }),
		refuseNil("WithPerRPCCredentials", o.perRPCCreds, func(c credentials.PerRPCCredentials) bool { return c == nil }),
		refuseNil("WithDefaultCallOptions", o.callOptions, func(c grpc.CallOption) bool { return c == nil }),
		refuseNil("WithChainUnaryInterceptor", o.chainUnary, func(f grpc.UnaryClientInterceptor) bool { return f == nil }),
		refuseNil("WithChainStreamInterceptor", o.chainStream, func(f grpc.StreamClientInterceptor) bool { return f == nil }),
		refuseNilCodec(o.callOptions),
		refuseNoTime(o.connectParams),
		refuseControlBytes("WithUserAgent", o.userAgent),
		refuseControlBytes("WithAuthority", o.authority),
	)
}

// blockingOnly names the options in force that only a dial that waits honours.
func (o *dialOptions) blockingOnly() []string {
	var names []string
	switch {
	case o.returnConnectionError:
		names = append(names, "WithReturnConnectionError")
	case o.block:
		names = append(names, "WithBlock")
	}
	if o.failOnNonTempDialError {
		names = append(names, "FailOnNonTempDialError")
	}
	if o.timeout > 0 {
		names = append(names, "WithTimeout")
	}
	return names
}

func refuseNil[T any](option string, values []T, isNil func(T) bool) error {
	for i, v := range values {
		if isNil(v) {
			return fmt.Errorf("grpcdial: %s: value %d of %d is nil", option, i+1, len(values))
		}
	}
	return nil
}

func refuseNilCodec(options []grpc.CallOption) error {
	for _, c := range options {
		switch c := c.(type) {
		case grpc.CustomCodecCallOption:
			if c.Codec == nil {
				return errors.New("grpcdial: WithCodec: the codec is nil")
			}
		case grpc.ForceCodecCallOption:
			if c.Codec == nil {
				return errors.New("grpcdial: WithDefaultCallOptions: the codec of ForceCodec is nil")
			}
		}
	}
	return nil
}

// refuseNoTime refuses parameters with which each attempt has ended before it begins: one may
// take the longer of the two, and no back-off grows from a base of zero.
func refuseNoTime(p ConnectParams) error {
	if max(p.MinConnectTimeout, p.Backoff.BaseDelay) > 0 {
		return nil
	}
	return fmt.Errorf("grpcdial: WithConnectParams: no attempt can connect, with a MinConnectTimeout of %v and a Backoff.BaseDelay of %v: "+
		"set one of them, or begin with backoff.DefaultConfig", p.MinConnectTimeout, p.Backoff.BaseDelay)
}

// refuseControlBytes refuses bytes that are illegal in a header's value (RFC 9113
// §8.2.1): a server would end the stream or the connection because of them.
func refuseControlBytes(option, value string) error {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("grpcdial: %s: %q holds a control character, which no header may", option, value)
		}
	}
	return nil
}

// JoinDialOptions returns an option that applies opts in order, so that several can be
// passed as one. A nil among them is an error of the constructor.
func JoinDialOptions(opts ...DialOption) DialOption {
	opts = append([]DialOption(nil), opts...)
	return optionFunc(func(o *dialOptions) {
		for i, opt := range opts {
			if opt == nil {
				o.invalid = fmt.Errorf("grpcdial: JoinDialOptions: dial option %d of %d is nil", i+1, len(opts))
				continue
			}
			opt.passGrpcOptionsThroughBridgeFromGRPC(o)
		}
	})
}
