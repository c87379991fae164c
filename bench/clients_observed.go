package main

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial"
)

// observed makes an idle channel with what programs observe and authenticate their calls by: three
// interceptors and a stats handler that do as little as they can, and a token.
func (c client) observed(target string, creds credentials.TransportCredentials) (stateful, error) {
	pass := func(ctx context.Context, method string, in, out any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return next(ctx, method, in, out, cc, opts...)
	}
	counter, token := new(countingHandler), constantToken{"authorization": bearer(200)}
	if c.name == ours.name {
		return grpcdial.NewClient(target, grpcdial.WithTransportCredentials(creds), grpcdial.WithChainUnaryInterceptor(pass, pass, pass),
			grpcdial.WithStatsHandler(counter), grpcdial.WithPerRPCCredentials(token))
	}
	return grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithChainUnaryInterceptor(pass, pass, pass),
		grpc.WithStatsHandler(counter), grpc.WithPerRPCCredentials(token))
}

// constantToken is what per-RPC credentials add to each call.
type constantToken map[string]string

func (t constantToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return t, nil
}

func (constantToken) RequireTransportSecurity() bool { return false }

// countingHandler counts events.
type countingHandler struct{ events atomic.Int64 }

func (h *countingHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, h, h) // as handlers do that keep something for each RPC
}

func (h *countingHandler) HandleRPC(context.Context, stats.RPCStats) { h.events.Add(1) }

func (h *countingHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}

func (h *countingHandler) HandleConn(context.Context, stats.ConnStats) {}
