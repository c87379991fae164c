package grpcdial

import (
	"context"

	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial/internal/intercept"
)

// callChain is the way of an RPC from a stub to the call path: the default
// call options are put before the RPC's own, so that interceptors see all of
// them, then the interceptors run, then core begins the RPC.
//
// The chain is built once, at the dial. An interceptor's invoker says
// everything about the RPC in its arguments, so the same invokers serve all
// RPCs, and a chain of any length allocates nothing for one.
//
// Set once before the channel is handed out; safe for concurrent use then.
type callChain struct {
	core         grpc.ClientConnInterface
	defaults     []grpc.CallOption
	interceptors *interceptors // nil: there are none
}

// interceptors is what a chain has if there are interceptors.
type interceptors struct {
	unary  grpc.UnaryInvoker // nil: none of unary RPCs
	stream grpc.Streamer     // nil: none of streams

	bridge  func() *grpc.ClientConn // returns what interceptors get as their *grpc.ClientConn
	mirrors *mirrors                // the channel's other ones; nil: there are none
}

// intercepts reports whether there are interceptors.
func (o *dialOptions) intercepts() bool {
	return o.unary != nil || o.stream != nil || len(o.chainUnary) > 0 || len(o.chainStream) > 0
}

// init makes it the chain that o asks for. bridge is called for each RPC, never
// before, and may be nil if there are no interceptors.
func (c *callChain) init(o *dialOptions, core grpc.ClientConnInterface, bridge func() *grpc.ClientConn) {
	c.core, c.defaults = core, o.callOptions
	if !o.intercepts() {
		return
	}
	i := &interceptors{bridge: bridge}
	c.interceptors = i

	unary := o.chainUnary
	if o.unary != nil {
		unary = append([]grpc.UnaryClientInterceptor{o.unary}, unary...)
	}
	if len(unary) > 0 {
		i.unary = intercept.Unary(unary, c.lastUnary)
	}

	stream := o.chainStream
	if o.stream != nil {
		stream = append([]grpc.StreamClientInterceptor{o.stream}, stream...)
	}
	if len(stream) > 0 {
		i.stream = intercept.Stream(stream, c.lastStream)
	}
}

// Invoke runs a unary RPC.
func (c *callChain) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	opts = withDefaults(c.defaults, opts)
	if i := c.interceptors; i != nil && i.unary != nil {
		return i.unary(ctx, method, args, reply, i.bridge(), opts...)
	}
	return c.core.Invoke(ctx, method, args, reply, opts...)
}

// NewStream opens a stream.
func (c *callChain) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	opts = withDefaults(c.defaults, opts)
	if i := c.interceptors; i != nil && i.stream != nil {
		return i.stream(ctx, desc, i.bridge(), method, opts...)
	}
	return c.core.NewStream(ctx, desc, method, opts...)
}

// lastUnary is the invoker of the innermost interceptor. An interceptor that
// passes another connection than the one it got sends the RPC there.
func (c *callChain) lastUnary(ctx context.Context, method string, args, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
	if !c.leadsHere(cc) {
		return cc.Invoke(ctx, method, args, reply, opts...)
	}
	return c.core.Invoke(ctx, method, args, reply, opts...)
}

// lastStream is lastUnary for streams.
func (c *callChain) lastStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if !c.leadsHere(cc) {
		return cc.NewStream(ctx, desc, method, opts...)
	}
	return c.core.NewStream(ctx, desc, method, opts...)
}

// leadsHere reports whether RPCs on conn are the channel's. An interceptor may pass the
// mirror in place of what it got; through that, the RPC would meet the interceptor again.
func (c *callChain) leadsHere(conn *grpc.ClientConn) bool {
	i := c.interceptors
	return conn == nil || conn == i.bridge() || i.mirrors != nil && i.mirrors.include(conn)
}

// withDefaults returns defaults followed by opts. The result must not be
// appended to in place: it may be either slice.
func withDefaults(defaults, opts []grpc.CallOption) []grpc.CallOption {
	switch {
	case len(defaults) == 0:
		return opts
	case len(opts) == 0:
		// Clipped, so that an interceptor that appends gets a copy instead
		// of writing into what all RPCs share.
		return defaults[:len(defaults):len(defaults)]
	}
	all := make([]grpc.CallOption, 0, len(defaults)+len(opts))
	return append(append(all, defaults...), opts...)
}
