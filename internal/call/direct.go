package call

import (
	"context"

	"google.golang.org/grpc"
)

// Direct makes RPCs on one subchannel: for producers of load reports and
// health checks. There is no picker, no service config, no default call
// option, no other attempt, and stats handlers and Active do not see them; the
// channel's credentials apply. It is a grpc.ClientConnInterface.
type Direct struct {
	Channel  *Channel
	Endpoint Endpoint
}

// Invoke makes a unary RPC.
func (d Direct) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	r := rpc{ch: d.Channel, method: method, opts: opts, via: d.Endpoint, began: d.Channel.now()}
	return r.unary(ctx, args, reply)
}

// NewStream opens a stream.
func (d Direct) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cs := &clientStream{rpc: rpc{ch: d.Channel, method: method, opts: opts, via: d.Endpoint, began: d.Channel.now()}}
	return cs.start(ctx, desc)
}

var _ grpc.ClientConnInterface = Direct{}
