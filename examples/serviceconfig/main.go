// Serviceconfig sets how calls of a method behave, by a service config that the
// program brings along (the resolver's, if it gives one, would win): a time-out
// for calls without a deadline, waiting for a server that is not there yet, and
// retries. It shows each of them in effect.
//
//	go run ./examples/serviceconfig
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
)

// serviceConfig has an entry for one method, and one for all others of its
// service. A method takes all it has from one entry: they are not merged.
const serviceConfig = `{
	"methodConfig": [{
		"name": [{"service": "grpcdial.examples.greeter.Greeter", "method": "SayHello"}],
		"timeout": "2s",
		"waitForReady": true,
		"retryPolicy": {
			"maxAttempts": 4,
			"initialBackoff": "0.01s",
			"maxBackoff": "0.1s",
			"backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}, {
		"name": [{"service": "grpcdial.examples.greeter.Greeter"}],
		"timeout": "1s"
	}]
}`

// greeter answers by the name in the request.
type greeter struct {
	pb.UnimplementedGreeterServer
	calls atomic.Int32 // of "busy"
}

func (g *greeter) SayHello(ctx context.Context, request *pb.HelloRequest) (*pb.HelloReply, error) {
	switch request.GetName() {
	case "busy": // for the first two attempts
		n := g.calls.Add(1)
		if n < 3 {
			return nil, status.Error(codes.Unavailable, "busy")
		}
		return &pb.HelloReply{Message: fmt.Sprintf("hello at attempt %d", n)}, nil
	case "slow": // until the caller gives up
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	default:
		return &pb.HelloReply{Message: "hello"}, nil
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "serviceconfig:", err)
		os.Exit(1)
	}
}

func run() error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	params := grpcdial.ConnectParams{MinConnectTimeout: time.Second}
	params.Backoff.BaseDelay = 20 * time.Millisecond // try often: the server comes soon
	params.Backoff.MaxDelay = 20 * time.Millisecond
	params.Backoff.Multiplier = 1

	cc, err := grpcdial.Dial(address,
		grpcdial.WithInsecure(),
		grpcdial.WithConnectParams(params),
		grpcdial.WithDefaultServiceConfig(serviceConfig))
	if err != nil {
		return err // a service config that is invalid is an error here
	}
	defer cc.Close()
	client := pb.NewGreeterClient(cc)

	for _, method := range []string{"SayHello", "SayGoodbye"} {
		config := cc.GetMethodConfig("/grpcdial.examples.greeter.Greeter/" + method)
		if config.Timeout == nil {
			return fmt.Errorf("no time-out is in force for %s", method)
		}
		fmt.Printf("%s: time-out %v, wait for ready %t\n", method, *config.Timeout, config.WaitForReady != nil && *config.WaitForReady)
	}

	// No server listens yet. A call that does not wait fails; options of the call
	// win over the service config.
	ctx := context.Background()
	_, err = client.SayHello(ctx, &pb.HelloRequest{Name: "dddd"}, grpc.WaitForReady(false))
	fmt.Println("no server, not waiting:", status.Code(err))

	type result struct {
		reply *pb.HelloReply
		err   error
	}
	waiting := make(chan result, 1)
	go func() {
		reply, err := client.SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
		waiting <- result{reply, err}
	}()
	lis, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	pb.RegisterGreeterServer(server, new(greeter))
	defer server.Stop()
	go server.Serve(lis) // returns when Stop is called
	r := <-waiting
	if r.err != nil {
		return fmt.Errorf("SayHello that waits: %w", r.err)
	}
	fmt.Println("waiting until it is there:", r.reply.GetMessage())

	// The server turns the first two attempts down. The caller sees neither.
	reply, err := client.SayHello(ctx, &pb.HelloRequest{Name: "busy"})
	if err != nil {
		return fmt.Errorf("SayHello with retries: %w", err)
	}
	fmt.Println("a busy server:", reply.GetMessage())

	// The caller sets no deadline, the service config does. A deadline of the
	// caller's that comes earlier would hold.
	begun := time.Now()
	_, err = client.SayHello(ctx, &pb.HelloRequest{Name: "slow"})
	if status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("SayHello with a time-out: %w", err)
	}
	fmt.Printf("a slow server: %v after %v\n", status.Code(err), time.Since(begun).Round(time.Second))

	// A service config that cannot be right is refused by the dial.
	_, err = grpcdial.NewClient(address, grpcdial.WithInsecure(),
		grpcdial.WithDefaultServiceConfig(`{"methodConfig": [{"timeout": "soon"}]}`))
	if err == nil {
		return errors.New("a wrong service config was accepted")
	}
	fmt.Println("a wrong one:", err)
	return nil
}

// freeAddress returns an address without a listener.
func freeAddress() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return lis.Addr().String(), lis.Close()
}
