package grpcdial

import (
	"context"
	"net/url"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
)

// GRPC returns a *grpc.ClientConn whose RPCs run on cc, for code that insists
// on grpc-go's type: interceptors, and libraries such as grpc-gateway. It is
// made at the first call and the same from then on.
//
// Only its Invoke, NewStream and Target have something to do with cc. It is a
// connection that was closed as soon as it was made, so that it has no
// goroutine: its GetState says SHUTDOWN, whatever the state of cc;
// WaitForStateChange, Connect and ResetConnectBackoff do nothing for cc; Close
// returns an error and leaves cc open. Its Target is that of cc, unless grpc-go
// refuses such a target: then it is a passthrough target that quotes it. Its
// CanonicalTarget need not be that of cc.
//
// It is safe for concurrent use.
func (cc *ClientConn) GRPC() *grpc.ClientConn { return cc.bridge.get() }

// bridge is the *grpc.ClientConn of one channel, made when it is first asked
// for.
type bridge struct {
	calls  grpc.ClientConnInterface // where its RPCs go
	target string                   // the channel's, as the program wrote it
	scheme string                   // of the channel's canonical target

	once sync.Once
	conn *grpc.ClientConn // set by once
}

func (b *bridge) get() *grpc.ClientConn {
	b.once.Do(b.build)
	return b.conn
}

func (b *bridge) build() {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(b.forwardUnary),
		grpc.WithStreamInterceptor(b.forwardStream),
		// The scheme may be one that only the channel knows.
		grpc.WithResolvers(unbuilt(b.scheme), unbuilt(schemePassthrough)),
	}
	conn, err := grpc.NewClient(b.target, options...)
	if err != nil {
		conn, err = grpc.NewClient(schemePassthrough+":///"+url.PathEscape(b.target), options...)
	}
	if err != nil {
		// Nothing is left that grpc-go could refuse, but for dial options
		// that the program forces on all of its connections.
		panic("grpcdial: grpc.NewClient does not make a connection that is never used: " + err.Error())
	}
	conn.Close()
	b.conn = conn
}

func (b *bridge) forwardUnary(ctx context.Context, method string, args, reply any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return b.calls.Invoke(ctx, method, args, reply, opts...)
}

func (b *bridge) forwardStream(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, method string, _ grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return b.calls.NewStream(ctx, desc, method, opts...)
}

// unbuilt is a resolver builder for the scheme it is named after. A connection
// that never leaves idle has its target's scheme looked up and no resolver
// built.
type unbuilt string

func (u unbuilt) Scheme() string { return string(u) }

func (u unbuilt) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, grpc.ErrClientConnClosing
}
