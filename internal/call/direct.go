package call

import (
	"context"

	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial/internal/h2"
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

// ConnOf returns the connection that a stream of [Direct] runs on: that of its endpoint, or
// if the stream had to wait, the one of the same server that it waited for.
func ConnOf(s grpc.ClientStream) *h2.Conn {
	cs := s.(*clientStream)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.att.conn
}

var _ grpc.ClientConnInterface = Direct{}
