package bridge

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/intercept"
)

// channel is the grpcdial channel of a connection, or the reason why there is none. It
// is read only.
type channel struct {
	of  *grpc.ClientConn
	cc  *grpcdial.ClientConn
	err error // not nil: cc is nil

	unary  grpc.UnaryInvoker // the library's interceptors that follow the forwarding one, then cc
	stream grpc.Streamer     // likewise
}

// open returns the connection's channel, which is made if there is none.
func (c *connection) open() *channel {
	c.once.Do(func() {
		ch := &channel{of: c.conn}
		if ch.cc, ch.err = c.newChannel(); ch.err == nil {
			f := fieldsOf(c.asked)
			ch.unary = intercept.Unary(get[[]grpc.UnaryClientInterceptor](f, "chainUnaryInts")[c.unary+1:], ch.invoke)
			ch.stream = intercept.Stream(get[[]grpc.StreamClientInterceptor](f, "chainStreamInts")[c.stream+1:], ch.newStream)
		}
		c.channel.Store(ch)
	})
	return c.channel.Load()
}

// usable returns the channel of a connection that is not closed. A connection that is
// idle leaves that.
func (c *connection) usable() (*channel, error) {
	ch := c.channel.Load()
	if ch == nil {
		c.conn.Connect() // returns when the policy has opened the channel
		ch = c.channel.Load()
	}
	switch {
	case ch == nil && c.conn.GetState() == connectivity.Shutdown:
		return nil, grpc.ErrClientConnClosing
	case ch == nil:
		return nil, status.Error(codes.Unavailable, "grpcdial/bridge: grpc-go did not choose the load-balancing policy of ToGRPC")
	case ch.err != nil:
		return nil, status.Error(codes.Unavailable, ch.err.Error())
	}
	return ch, nil
}

// invoke is the interceptor that takes unary RPCs from a connection to its channel. It
// does not call the next interceptor of grpc-go's chain but runs those that follow it
// by itself: at the end of grpc-go's is no backend.
func (c *connection) invoke(ctx context.Context, method string, args, reply any, conn *grpc.ClientConn, _ grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ch, err := c.usable()
	if err != nil {
		return err
	}
	return ch.unary(ctx, method, args, reply, conn, opts...)
}

// newStream is invoke for streams.
func (c *connection) newStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, _ grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ch, err := c.usable()
	if err != nil {
		return nil, err
	}
	return ch.stream(ctx, desc, conn, method, opts...)
}

// invoke is the last invoker. An interceptor may pass another connection than the one
// that it got: the RPC is for that.
func (ch *channel) invoke(ctx context.Context, method string, args, reply any, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
	if conn != nil && conn != ch.of {
		return conn.Invoke(ctx, method, args, reply, opts...)
	}
	return ch.cc.Invoke(ctx, method, args, reply, opts...)
}

// newStream is invoke for streams.
func (ch *channel) newStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if conn != nil && conn != ch.of {
		return conn.NewStream(ctx, desc, method, opts...)
	}
	return ch.cc.NewStream(ctx, desc, method, opts...)
}
