package main

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/bench/pb"
)

// refused calls on a channel, one for each worker, that is in TRANSIENT_FAILURE
// because none of its backends accepts connections. It goes on connecting meanwhile.
// The program looks at the status's code, as interceptors do.
func refused(backends int, policy string) func(target) (worker, error) {
	return func(t target) (worker, error) {
		addrs, err := closedPorts(backends)
		if err != nil {
			return worker{}, err
		}
		r := manual.NewBuilderWithScheme("refused")
		r.InitialState(resolver.State{Addresses: addrs})
		c, err := t.client.resolved(r, policy, t.creds)
		if err != nil {
			return worker{}, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		c.Connect()
		for state := c.GetState(); state != connectivity.TransientFailure; state = c.GetState() {
			if !c.WaitForStateChange(ctx, state) {
				c.Close()
				return worker{}, fmt.Errorf("the channel to closed ports is %v", state)
			}
		}
		stub := pb.NewBenchClient(c)
		request := newRequest(0)
		return worker{
			op: func() error {
				ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
				defer cancel()
				if _, err := stub.Unary(ctx, request); status.Code(err) != codes.Unavailable {
					return fmt.Errorf("the error is %v, want Unavailable", err)
				}
				return nil
			},
			done: c.Close,
		}, nil
	}
}

// closedPorts returns n addresses that refuse connections.
func closedPorts(n int) ([]resolver.Address, error) {
	var addrs []resolver.Address
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // after the last one is open, so that no two are the same
		addrs = append(addrs, resolver.Address{Addr: l.Addr().String()})
	}
	return addrs, nil
}

// stateful is a conn that shows its state.
type stateful interface {
	conn
	Connect()
	GetState() connectivity.State
	WaitForStateChange(ctx context.Context, source connectivity.State) bool
}

// resolved makes an idle channel to the addresses that r returns.
func (c client) resolved(r *manual.Resolver, policy string, creds credentials.TransportCredentials) (stateful, error) {
	target, config := r.Scheme()+":///backends", fmt.Sprintf(`{"loadBalancingConfig":[{%q:{}}]}`, policy)
	if c.name == ours.name {
		return grpcdial.NewClient(target, grpcdial.WithTransportCredentials(creds), grpcdial.WithResolvers(r),
			grpcdial.WithDefaultServiceConfig(config))
	}
	return grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithResolvers(r), grpc.WithDefaultServiceConfig(config))
}
