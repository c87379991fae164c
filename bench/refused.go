package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

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
		c, err := t.client.resolved(r, policy, t.creds, nil)
		if err != nil {
			return worker{}, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		if err := awaitState(ctx, c, connectivity.TransientFailure); err != nil {
			c.Close()
			return worker{}, fmt.Errorf("closed ports: %w", err)
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

// unansweredTimeout is the deadline of a call on a channel that waits for its backends.
const unansweredTimeout = 100 * time.Millisecond

// unanswered calls on one channel, which all workers share, while every backend takes its
// time with the network connection. So each call ends at its deadline: the latency beyond
// that is how late its caller learns of it.
func unanswered(backends int, policy string) func(target) (worker, error) {
	var channel sharedChannel
	hang := func(ctx context.Context, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return func(t target) (worker, error) {
		c, err := channel.open(func() (stateful, error) {
			addrs, err := closedPorts(backends)
			if err != nil {
				return nil, err
			}
			r := manual.NewBuilderWithScheme("unanswered")
			r.InitialState(resolver.State{Addresses: addrs})
			return t.client.resolved(r, policy, t.creds, hang)
		})
		if err != nil {
			return worker{}, err
		}
		stub := pb.NewBenchClient(c)
		request := newRequest(0)
		return worker{
			op: func() error {
				ctx, cancel := context.WithTimeout(context.Background(), unansweredTimeout)
				defer cancel()
				if _, err := stub.Unary(ctx, request); status.Code(err) != codes.DeadlineExceeded {
					return fmt.Errorf("the error is %v, want DeadlineExceeded", err)
				}
				return nil
			},
			done: channel.close,
		}, nil
	}
}

// sharedChannel is a channel of one cell's workers: the first opens it and the last
// closes it.
type sharedChannel struct {
	mu      sync.Mutex
	c       stateful
	workers int
}

func (s *sharedChannel) open(dial func() (stateful, error)) (stateful, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.workers == 0 {
		c, err := dial()
		if err != nil {
			return nil, err
		}
		s.c = c
	}
	s.workers++
	return s.c, nil
}

func (s *sharedChannel) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.workers--; s.workers > 0 {
		return nil
	}
	return s.c.Close()
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

// awaitState connects c and waits until it is in a state.
func awaitState(ctx context.Context, c stateful, want connectivity.State) error {
	c.Connect()
	for state := c.GetState(); state != want; state = c.GetState() {
		if !c.WaitForStateChange(ctx, state) {
			return fmt.Errorf("the channel is %v, not %v: %w", state, want, ctx.Err())
		}
	}
	return nil
}

// resolved makes an idle channel to the addresses that r returns. dialer makes its network
// connections; nil: the client's own.
func (c client) resolved(r *manual.Resolver, policy string, creds credentials.TransportCredentials,
	dialer func(context.Context, string) (net.Conn, error)) (stateful, error) {
	config := fmt.Sprintf(`{"loadBalancingConfig":[{%q:{}}]}`, policy)
	return c.configured(r.Scheme()+":///backends", creds, config, r, dialer)
}

// configured makes an idle channel with a service config. r and dialer may be nil.
func (c client) configured(target string, creds credentials.TransportCredentials, config string, r *manual.Resolver,
	dialer func(context.Context, string) (net.Conn, error)) (stateful, error) {
	if c.name == ours.name {
		opts := []grpcdial.DialOption{grpcdial.WithTransportCredentials(creds), grpcdial.WithDefaultServiceConfig(config)}
		if r != nil {
			opts = append(opts, grpcdial.WithResolvers(r))
		}
		if dialer != nil {
			opts = append(opts, grpcdial.WithContextDialer(dialer))
		}
		return grpcdial.NewClient(target, opts...)
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithDefaultServiceConfig(config)}
	if r != nil {
		opts = append(opts, grpc.WithResolvers(r))
	}
	if dialer != nil {
		opts = append(opts, grpc.WithContextDialer(dialer))
	}
	return grpc.NewClient(target, opts...)
}
