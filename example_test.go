package grpcdial_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/url"
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

// How long TLS handshakes take, and how long their certificates last.
func ExampleWithDialTrace() {
	trace := &grpcdial.DialTrace{
		TLSDone: func(e grpcdial.DialEvent) {
			if e.Err != nil {
				return
			}
			certificate := e.TLS.PeerCertificates[0]
			log.Printf("%s: %v, the certificate ends in %v", e.Addr, e.Elapsed, time.Until(certificate.NotAfter))
		},
		Lost: func(e grpcdial.DialEvent) { log.Print(e) },
	}
	cc, err := grpcdial.NewClient("dns:///api.example.com:443",
		grpcdial.WithTransportCredentials(credentials.NewTLS(nil)), grpcdial.WithDialTrace(trace))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
}

func ExampleWithLogger() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cc, err := grpcdial.NewClient("dns:///api.example.com:443", grpcdial.WithInsecure(), grpcdial.WithLogger(logger))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
}

// What a failed wait says: where it stopped at each address, why, and what to do.
func ExampleDialError() {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	_ = lis.Close() // no server listens on that address

	_, err = grpcdial.Dial(lis.Addr().String(), grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true))
	if failed := (*grpcdial.DialError)(nil); errors.As(err, &failed) {
		for _, a := range failed.Attempts {
			fmt.Println("phase:", a.Phase)
			fmt.Println("why:", errors.Is(a.Err, syscall.ECONNREFUSED))
			fmt.Println("hint:", a.Hint)
		}
	}
	// Output:
	// phase: dial
	// why: true
	// hint: nothing listens there, or a firewall rejects it: is the server running, is the port right?
}

// A dial that waits through restarts of the server, and does not wait for a
// certificate that will not become right by itself.
func ExampleWithGiveUp() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cc, err := grpcdial.DialContext(ctx, "api.example.com:443", grpcdial.WithInsecure(), grpcdial.WithBlock(),
		grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool { return a.Permanent || a.Phase == grpcdial.PhaseTLS }))
	if failed := (*grpcdial.DialError)(nil); errors.As(err, &failed) {
		for _, a := range failed.Attempts {
			log.Print(a.Addr, ": ", a.Err, ": ", a.Hint)
		}
		return
	}
	defer cc.Close()
}

func ExampleClientConn_Snapshot() {
	cc, err := grpcdial.NewClient("dns:///api.example.com:443", grpcdial.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	s := cc.Snapshot()
	fmt.Println(s.Target, s.State)
	for _, e := range s.Endpoints {
		if e.State == connectivity.TransientFailure {
			fmt.Println(e.Addr, e.Cause, "next attempt", time.Until(e.NextAttempt))
		}
	}
	// Output: dns:///api.example.com:443 IDLE
}

func ExampleClientConn_Watch() {
	cc, err := grpcdial.NewClient("dns:///api.example.com:443", grpcdial.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for c := range cc.Watch(context.Background()) {
			log.Println(c.From, "to", c.To, c.Cause)
		}
	}()
	// It ends when the channel is closed.
	_ = cc.Close()
}

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

// A dial that waits until one backend is READY, for a minute at most.
func ExampleDialContext() {
	addr, stop := startGreeter()
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := cc.AwaitReady(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(cc.GetState())
	// Output: READY
}

// The end of a program that lets its RPCs finish, for a minute at most.
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

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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

func ExampleWithConnectCheck() {
	cc, err := grpcdial.NewClient("localhost:50051", grpcdial.WithInsecure(),
		grpcdial.WithConnectCheck(func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
			reply, err := healthpb.NewHealthClient(info.Conn).Check(ctx, &healthpb.HealthCheckRequest{})
			if err == nil && reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				err = fmt.Errorf("its health is %v", reply.GetStatus())
			}
			return err
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	// RPCs reach a server once it has answered that it serves.
}
