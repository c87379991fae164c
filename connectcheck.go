package grpcdial

import (
	"context"
	"crypto/tls"

	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/subchannel"
)

// ConnectCheckInfo is a new connection, for the function of [WithConnectCheck].
//
// It may get more fields, and cannot be compared with ==.
type ConnectCheckInfo struct {
	_ [0]func()

	// Conn makes RPCs on this very connection, for generated stubs: whatever the
	// load-balancing policy and the states of the channel are. The channel's codec,
	// credentials, authority and default call options apply; its interceptors, stats
	// handlers and service config do not, and there is no other attempt. RPCs on it end
	// when the check returns, streams too, and later ones fail.
	Conn grpc.ClientConnInterface

	Target     string // the channel's canonical target
	Addr       string // the address that was dialed, as in Attempt
	ServerName string // the authority that the credentials were asked to verify

	// Attributes are those of the address, as the resolver gave them to the
	// load-balancing policy and that to the subchannel; they may be nil.
	Attributes *attributes.Attributes

	// Peer has the connection's addresses and what the credentials found out about the
	// server. It must not be changed.
	Peer *peer.Peer

	// TLS is the state of the TLS session, with the server's certificates, if the
	// credentials return a credentials.TLSInfo; else nil. It must not be changed.
	TLS *tls.ConnectionState
}

// WithConnectCheck makes the channel call f with each new connection before that counts
// as READY. f can run an RPC on the connection, as one of the health service, or look at
// the server's certificate. RPCs of the program reach the connection only after f has
// returned nil. Its error makes the attempt a failed one with Phase [PhaseCheck]: the
// connection is closed, the server gets a GOAWAY, and what follows is as after other
// failures: the next address, the back-off, the error's place in a [DialError].
//
// The attempt is Permanent if the error, or one in its chain, has a method Temporary()
// bool that returns false, as the errors of dialers and credentials may; those that have
// also a method Timeout() bool, as the errors of package net, do not count.
//
// ctx ends when the attempt has taken too long, see [WithConnectParams], when another
// address of the same name was faster, when the channel is closed, and when f has
// returned. f must return then. The channel does not wait for a check that does not: the
// attempt has failed and Close returns.
//
// Each call runs on a goroutine of its own with no lock held, several at the same time if
// several connections are being made. A panic is not recovered. f must not wait for RPCs
// of the channel itself, which may be waiting for the connection. The last of several
// WithConnectCheck counts. nil means that connections are not checked, which is the
// default.
func WithConnectCheck(f func(ctx context.Context, info ConnectCheckInfo) error) DialOption {
	return optionFunc(func(o *dialOptions) { o.connectCheck = f })
}

// connectCheck returns what internal/connect calls for the check of connections whose
// RPCs have the credentials perRPC; nil if there is none.
func (cc *ClientConn) connectCheck(perRPC []credentials.PerRPCCredentials) connect.Check {
	f := cc.opts.connectCheck
	if f == nil {
		return nil
	}
	return func(ctx context.Context, c connect.Checked) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		info := ConnectCheckInfo{
			Conn: &checkedConn{
				ctx:      ctx,
				defaults: cc.chain.defaults,
				direct:   call.Direct{Channel: cc.calls, Endpoint: fixedTransport{subchannel.NewTransport(c.Conn, c.Addr, cc.serverName(c.Addr), perRPC)}},
			},
			Target:     cc.shownTarget(),
			Addr:       c.Shown,
			ServerName: c.Authority,
			Attributes: c.Addr.Attributes,
			Peer:       c.Conn.Peer(),
		}
		if t, ok := info.Peer.AuthInfo.(credentials.TLSInfo); ok {
			info.TLS = &t.State
		}
		return f(ctx, info)
	}
}

// fixedTransport is the endpoint of RPCs that go to one connection.
type fixedTransport struct{ transport *call.Transport }

func (f fixedTransport) Transport() *call.Transport { return f.transport }

// checkedConn makes RPCs on a connection while it is being checked.
type checkedConn struct {
	ctx      context.Context // ends with the check
	defaults []grpc.CallOption
	direct   call.Direct
}

// Invoke makes a unary RPC.
func (c *checkedConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, end := c.bounded(ctx)
	defer end()
	return c.direct.Invoke(ctx, method, args, reply, withDefaults(c.defaults, opts)...)
}

// NewStream opens a stream.
func (c *checkedConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, _ = c.bounded(ctx) // the check ends soon, the stream with it
	return c.direct.NewStream(ctx, desc, method, withDefaults(c.defaults, opts)...)
}

// bounded returns ctx with the check's end as another end of it. end releases what that
// takes, which the check's end does too.
func (c *checkedConn) bounded(ctx context.Context) (both context.Context, end func()) {
	both, cancel := context.WithCancel(ctx)
	if c.ctx.Err() != nil {
		cancel() // AfterFunc would, but not at once
		return both, cancel
	}
	stop := context.AfterFunc(c.ctx, cancel)
	return both, func() { stop(); cancel() }
}
