package grpcdial_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

// startGreeter serves the Greeter of the examples on a free port of this machine.
func startGreeter() (addr string, stop func()) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := service.NewServer()
	go server.Serve(lis) // returns when Stop is called
	return lis.Addr().String(), server.Stop
}

// A channel over TLS, verified with the system's roots. NewClient does no I/O: the first
// RPC connects.
func ExampleNewClient() {
	cc, err := grpcdial.NewClient("dns:///api.example.com:443",
		grpcdial.WithTransportCredentials(credentials.NewTLS(nil)))
	if err != nil {
		log.Fatal(err) // an option or a target that cannot work
	}
	defer cc.Close()
	fmt.Println(cc.CanonicalTarget(), cc.GetState())
	// Output: dns:///api.example.com:443 IDLE
}

// A dial that waits until one backend is READY, for five seconds at most.
func ExampleDialContext() {
	addr, stop := startGreeter()
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cc, err := grpcdial.DialContext(ctx, addr, grpcdial.WithInsecure(), grpcdial.WithBlock())
	if err != nil {
		log.Fatal(err) // a *DialError: which address failed, in which phase, why, and what to do
	}
	defer cc.Close()
	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	fmt.Println(cc.GetState(), reply.GetMessage(), err)
	// Output: READY ccccc <nil>
}

// A wait for READY on a channel that exists, in place of a loop of GetState and
// WaitForStateChange.
func ExampleClientConn_AwaitReady() {
	addr, stop := startGreeter()
	defer stop()
	cc, err := grpcdial.NewClient(addr, grpcdial.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := cc.AwaitReady(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(cc.GetState())
	// Output: READY
}

// The end of a program that lets its RPCs finish, for ten seconds at most.
func ExampleClientConn_Shutdown() {
	addr, stop := startGreeter()
	defer stop()
	cc, err := grpcdial.NewClient(addr, grpcdial.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	if _, err := pb.NewGreeterClient(cc).SayHello(context.Background(), &pb.HelloRequest{}); err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := cc.Shutdown(ctx); err != nil {
		log.Print(err) // how many RPCs were cut
	}
	fmt.Println(cc.GetState())
	// Output: SHUTDOWN
}

// A library that takes grpc-go's type gets a mirror of the channel.
func ExampleClientConn_GRPC() {
	addr, stop := startGreeter()
	defer stop()
	cc, err := grpcdial.NewClient(addr, grpcdial.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()

	conn := cc.GRPC() // a *grpc.ClientConn
	_, err = pb.NewGreeterClient(conn).SayHello(context.Background(), &pb.HelloRequest{})
	fmt.Println(conn.GetState(), err)
	// Output: READY <nil>
}

// Connections through a proxy that the program chooses, for some targets.
func ExampleWithProxy() {
	proxy := &url.URL{Scheme: "http", Host: "proxy.example:3128", User: url.UserPassword("user", "secret")}
	cc, err := grpcdial.NewClient("dns:///api.example.com:443",
		grpcdial.WithTransportCredentials(credentials.NewTLS(nil)),
		grpcdial.WithProxy(func(target string) (*url.URL, error) {
			if host, _, _ := net.SplitHostPort(target); host == "localhost" {
				return nil, nil // none
			}
			return proxy, nil
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	fmt.Println(cc.Target())
	// Output: dns:///api.example.com:443
}

// Service configs that the program makes, the first of which is in force from the start.
func ExampleWithServiceConfig() {
	addr, stop := startGreeter()
	defer stop()
	configs := make(chan grpcdial.ServiceConfig, 1)
	roundRobin, timeout := "round_robin", time.Second
	configs <- grpcdial.ServiceConfig{
		LB:      &roundRobin,
		Methods: map[string]grpcdial.MethodConfig{"/grpcdial.examples.greeter.Greeter/": {Timeout: &timeout}},
	}
	cc, err := grpcdial.Dial(addr, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithServiceConfig(configs))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	fmt.Println(*cc.GetMethodConfig("/grpcdial.examples.greeter.Greeter/SayHello").Timeout)
	// Output: 1s
}

// A service config as a Go value, and as text.
func ExampleServiceConfig_JSON() {
	text, err := grpcdial.ServiceConfig{
		LoadBalancing: []grpcdial.LoadBalancingPolicy{{Name: "round_robin"}},
		MethodSettings: []grpcdial.MethodSettings{{
			Names:   []grpcdial.MethodName{{Service: "grpcdial.examples.greeter.Greeter"}},
			Hedging: &grpcdial.HedgingPolicy{MaxAttempts: 2, HedgingDelay: 50 * time.Millisecond},
		}},
	}.JSON()
	fmt.Println(text, err)
	// Output: {"loadBalancingConfig":[{"round_robin":{}}],"methodConfig":[{"name":[{"service":"grpcdial.examples.greeter.Greeter"}],"hedgingPolicy":{"maxAttempts":2,"hedgingDelay":"0.05s"}}]} <nil>
}
