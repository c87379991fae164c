// Roundrobin spreads calls over three servers. Their addresses come from a
// resolver of the program's own, and the service config chooses the policy
// round_robin in place of pick_first, which would use one server only. Then one
// server stops, and the calls go to the other two without one of them failing.
//
//	go run ./examples/roundrobin
package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/roundrobin" // registers round_robin
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
)

// listBuilder makes resolvers for targets that list their addresses:
// list:///host:port,host:port.
type listBuilder struct{}

func (listBuilder) Scheme() string { return "list" }

func (listBuilder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	var state resolver.State
	for address := range strings.SplitSeq(target.Endpoint(), ",") {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}})
	}
	if err := cc.UpdateState(state); err != nil {
		return nil, err
	}
	return list{}, nil
}

// list has said all it knows when it was built.
type list struct{}

func (list) ResolveNow(resolver.ResolveNowOptions) {}
func (list) Close()                                {}

// greeter signs its replies with its name.
type greeter struct {
	pb.UnimplementedGreeterServer
	name string
}

func (g greeter) SayHello(context.Context, *pb.HelloRequest) (*pb.HelloReply, error) {
	return &pb.HelloReply{Message: g.name}, nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "roundrobin:", err)
		os.Exit(1)
	}
}

func run() error {
	servers := map[string]*grpc.Server{}
	var addresses []string
	for _, name := range []string{"Ada", "Bea", "Cleo"} {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		server := grpc.NewServer()
		pb.RegisterGreeterServer(server, greeter{name: name})
		defer server.Stop()
		go server.Serve(lis) // returns when Stop or GracefulStop is called
		servers[name] = server
		addresses = append(addresses, lis.Addr().String())
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cc, err := grpcdial.DialContext(ctx, "list:///"+strings.Join(addresses, ","),
		grpcdial.WithInsecure(),
		grpcdial.WithBlock(),
		grpcdial.WithResolvers(listBuilder{}), // for this channel; resolver.Register is for all
		grpcdial.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		return err
	}
	defer cc.Close()
	client := pb.NewGreeterClient(cc)

	// The channel is READY as soon as one server is, so the first calls may all
	// be answered by one. Call until every server has answered.
	seen := map[string]int{}
	for len(seen) < len(servers) {
		if err := greet(ctx, client, 1, seen); err != nil {
			return err
		}
	}
	fmt.Println("these have answered:", slices.Sorted(maps.Keys(seen)))

	// From then on they take turns.
	seen = map[string]int{}
	if err := greet(ctx, client, 30, seen); err != nil {
		return err
	}
	fmt.Println("30 calls:", seen)

	// A server that stops gracefully lets the calls end that it has begun to
	// handle; those that it will not handle go to another one.
	servers["Bea"].GracefulStop()
	seen = map[string]int{}
	if err := greet(ctx, client, 30, seen); err != nil {
		return err
	}
	fmt.Println("30 calls after Bea has stopped, answered by:", slices.Sorted(maps.Keys(seen)))
	fmt.Println("the channel:", cc.GetState())
	return nil
}

// greet calls n times, one call after the other, and counts the answers of each backend. It
// ends at the first call that fails.
func greet(ctx context.Context, client pb.GreeterClient, n int, seen map[string]int) error {
	for range n {
		reply, err := client.SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
		if err != nil {
			return fmt.Errorf("SayHello: %w", err)
		}
		seen[reply.GetMessage()]++
	}
	return nil
}
