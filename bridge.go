package grpcdial

import (
	"context"
	"net/url"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
)

// bridge is the *grpc.ClientConn that the interceptors of one channel get, made when
// the first RPC has need of it. RPCs on it run on the channel. It was closed as soon
// as it was made, so that it has no goroutine and an interceptor costs a channel no
// more than that: its GetState is SHUTDOWN, and Close returns an error.
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
