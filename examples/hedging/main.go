// Hedging sends a call that has had no reply for a while to a second server, without
// giving up on the first, and takes the reply that comes first. The service config asks
// for it, for methods that may run twice. Here each call's first attempt meets a server
// that is stuck: without hedging the call waits until its deadline.
//
//	go run ./examples/hedging
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
)

// greeter is stuck on the first attempt of each call until that is cancelled, and answers
// the others. Servers see in the metadata which attempt it is.
type greeter struct {
	pb.UnimplementedGreeterServer
	cancelled chan time.Duration // one element for each attempt that was, and how long it ran
}

func (g greeter) SayHello(ctx context.Context, _ *pb.HelloRequest) (*pb.HelloReply, error) {
	began := time.Now()
	md, _ := metadata.FromIncomingContext(ctx)
	previous := md.Get("grpc-previous-rpc-attempts")
	if len(previous) == 0 {
		<-ctx.Done()
		g.cancelled <- time.Since(began)
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &pb.HelloReply{Message: "hello, after " + previous[0] + " other attempt"}, nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hedging:", err)
		os.Exit(1)
	}
}

func run() error {
	service := greeter{cancelled: make(chan time.Duration, 10)}
	var addresses []string
	for range 2 {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		server := grpc.NewServer()
		pb.RegisterGreeterServer(server, service)
		defer server.Stop()
		go server.Serve(lis) // returns when Stop is called
		addresses = append(addresses, lis.Addr().String())
	}
	target := "ipv4:" + strings.Join(addresses, ",")

	// round_robin, so that the second attempt has another server to go to.
	config := grpcdial.ServiceConfig{LoadBalancing: []grpcdial.LoadBalancingPolicy{{Name: "round_robin"}}}
	if _, err := greet(target, config, 2*time.Second); status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("a call that is not hedged ended with %w", err)
	}
	<-service.cancelled
	fmt.Println("not hedged: DeadlineExceeded")

	config.MethodSettings = []grpcdial.MethodSettings{{
		Names: []grpcdial.MethodName{{Service: "grpcdial.examples.greeter.Greeter", Method: "SayHello"}},
		Hedging: &grpcdial.HedgingPolicy{
			MaxAttempts:  2,
			HedgingDelay: 50 * time.Millisecond, // the time that 95 % of the replies need, say
			// An attempt that fails so does not end the call: the next one is made at once.
			NonFatalStatusCodes: []codes.Code{codes.Unavailable},
		},
	}}
	// Hedging stops while servers fail more than every tenth attempt.
	config.RetryThrottling = &grpcdial.RetryThrottling{MaxTokens: 10, TokenRatio: 0.1}
	reply, err := greet(target, config, 2*time.Minute)
	if err != nil {
		return err
	}
	fmt.Println("hedged:", reply)
	fmt.Println("  the other attempt was cancelled at its server, long before the deadline:", <-service.cancelled < time.Minute)
	return nil
}

func greet(target string, config grpcdial.ServiceConfig, patience time.Duration) (string, error) {
	cc, err := grpcdial.NewClient(target, grpcdial.WithInsecure(), grpcdial.WithDefaultConfig(config))
	if err != nil {
		return "", err
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"}, grpc.WaitForReady(true))
	return reply.GetMessage(), err
}
