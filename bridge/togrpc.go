package bridge

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
)

// ToGRPC returns options for a library that makes its *grpc.ClientConn itself. The RPCs
// of that connection run on a grpcdial channel, which is made with what the library's
// own options say, in the way of [FromGRPC], then with opts: of two that set the same
// thing, that of opts wins. Resolvers, load balancing, connections and retries are the
// channel's. The library's interceptors run before the RPC comes to the channel, in
// their order, those that it gives after these options too. The connection has the
// channel's states, Connect makes the channel connect, and Close closes it. Each
// connection that is made with the options has a channel of its own.
//
// What cannot be carried over fails the library's grpc.NewClient or grpc.DialContext,
// with an error that names it; so do options of ToGRPC that are given twice, opts that
// contradict the library's, and a grpc-go that this package does not know. WithBlock
// and what belongs to it is left to grpc-go, which waits for the connection to be
// READY. Of the connection's methods ResetConnectBackoff has no effect and
// GetMethodConfig returns the zero value.
//
// ToGRPC is safe for concurrent use, and so are the options.
func ToGRPC(opts ...grpcdial.DialOption) []grpc.DialOption {
	opts = slices.Clone(opts)
	usual, err := usualOptions()
	if err == nil {
		err = shapeError(usual)
	}
	var option grpc.DialOption
	if err == nil {
		option, err = hook(func(options reflect.Value) { install(options, usual, opts) })
	}
	if err != nil {
		return refusal(err)
	}
	return []grpc.DialOption{option}
}

// refusal returns options that fail a dial with why, and the RPCs of a connection whose
// dial does not look at them.
func refusal(why error) []grpc.DialOption {
	st := status.New(codes.Unavailable, why.Error())
	return []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig(policyConfig{Refused: why.Error()})),
		grpc.WithChainUnaryInterceptor(func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
			return st.Err()
		}),
		grpc.WithChainStreamInterceptor(func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
			return nil, st.Err()
		}),
	}
}

var errTwice = errors.New("grpcdial/bridge: the options of ToGRPC were given twice")

// connection is one *grpc.ClientConn that was made with options of ToGRPC. This is how
// it comes about, within grpc-go's constructor:
//
//	install  when the options of ToGRPC are applied: the forwarding interceptors take
//	         their place among the library's, and a resolver that stands in for others
//	settle   when all options have been applied and grpc-go looks for a resolver: what
//	         they say is kept for the channel, and replaced by what makes grpc-go's
//	         part of the connection idle and choose our policy
//	check    when grpc-go parses that policy's config: what cannot be carried over fails
//	         the constructor
//
// The channel is made when the connection leaves idle for the first time.
type connection struct {
	conn    *grpc.ClientConn        // set by install
	options reflect.Value           // conn's own, not a copy; set by install
	usual   reflect.Value           // those of a connection that was given none; set by install
	own     []grpcdial.DialOption   // what ToGRPC got; set by install
	twice   bool                    // another ToGRPC's options were applied; set by install
	unary   int                     // which of the unary interceptors forwards; set by install
	stream  int                     // which of the stream interceptors does; set by install
	settled sync.Once               // of settle
	asked   reflect.Value           // a copy of options as the library gave them; set by settle
	number  uint64                  // in connections; set by settle
	once    sync.Once               // of channel
	channel atomic.Pointer[channel] // set by once
}

// install makes a connection of the *grpc.ClientConn that options are applied to. That
// their fields are as expected has been seen before.
func install(options, usual reflect.Value, own []grpcdial.DialOption) {
	f := fieldsOf(options)
	resolvers := get[[]resolver.Builder](f, "resolvers")
	if i := slices.IndexFunc(resolvers, isStandIn); i >= 0 {
		resolvers[i].(standIn).c.twice = true
		return
	}
	c := &connection{conn: connOf(options), options: options, usual: usual, own: own}
	unary := get[[]grpc.UnaryClientInterceptor](f, "chainUnaryInts")
	stream := get[[]grpc.StreamClientInterceptor](f, "chainStreamInts")
	c.unary, c.stream = len(unary), len(stream)
	set(f, "chainUnaryInts", append(slices.Clip(unary), c.invoke))
	set(f, "chainStreamInts", append(slices.Clip(stream), c.newStream))
	set(f, "resolvers", append([]resolver.Builder{standIn{c}}, resolvers...))
}

// settle keeps what the library's options say and replaces what grpc-go is not to act
// upon.
func (c *connection) settle() {
	c.settled.Do(func() {
		c.asked = reflect.New(c.options.Type()).Elem()
		c.asked.Set(c.options)
		c.number = connections.enter(c)
		f := fieldsOf(c.options)
		config := serviceConfig(policyConfig{Connection: c.number})
		set(f, "defaultServiceConfigRawJSON", &config)
		set(f, "disableServiceConfig", true)      // the stand-in has none
		set(f, "useProxy", false)                 // the channel does that
		set(f, "idleTimeout", time.Duration(0))   // likewise
		set(f, "enableLocalDNSResolution", false) // likewise
	})
}

// shapeError reports what install and settle would not find in options.
func shapeError(options reflect.Value) error {
	f := fieldsOf(options)
	get[[]resolver.Builder](f, "resolvers")
	get[[]grpc.UnaryClientInterceptor](f, "chainUnaryInts")
	get[[]grpc.StreamClientInterceptor](f, "chainStreamInts")
	get[*string](f, "defaultServiceConfigRawJSON")
	get[time.Duration](f, "idleTimeout")
	get[time.Duration](f, "timeout")
	get[string](f, "defaultScheme")
	get[[]grpc.CallOption](f, "callOptions")
	for _, name := range []string{"disableServiceConfig", "useProxy", "enableLocalDNSResolution", "block", "returnLastError"} {
		get[bool](f, name)
	}
	return errors.Join(f.err(), placeError(options.Type()))
}

// check reports what of the library's options a grpcdial channel cannot honour.
func (c *connection) check() error {
	if c.twice {
		return errTwice
	}
	cc, err := c.newChannel()
	if err != nil {
		return err
	}
	return cc.Close()
}

// newChannel makes a channel as the library's options and c.own say.
func (c *connection) newChannel() (*grpcdial.ClientConn, error) {
	asked := reflect.New(c.asked.Type()).Elem()
	asked.Set(c.asked)
	f := fieldsOf(asked)
	set(f, "resolvers", c.builders())
	set(f, "callOptions", []grpc.CallOption(nil)) // grpc-go puts them in front of each RPC's
	set(f, "block", false)                        // grpc-go waits
	set(f, "returnLastError", false)
	set(f, "timeout", time.Duration(0))
	if copts := fieldsOf(f.value("copts")); copts.of.IsValid() {
		set(copts, "FailOnNonTempDialError", false)
	}
	converted := convert(f)
	f.ignore("unaryInt", "streamInt", "chainUnaryInts", "chainStreamInts") // grpc-go calls them
	f.unknown(c.usual)
	if err := f.err(); err != nil {
		return nil, err
	}
	return grpcdial.NewClient(c.conn.CanonicalTarget(), append(converted, c.own...)...)
}

// builders returns the library's resolver builders.
func (c *connection) builders() []resolver.Builder {
	return slices.DeleteFunc(slices.Clone(get[[]resolver.Builder](fieldsOf(c.asked), "resolvers")), isStandIn)
}
