// Greeter starts a gRPC server on a loopback port, dials it, waits until the
// channel is READY, calls SayHello and prints the reply:
//
//	go run ./examples/greeter
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "greeter:", err)
		os.Exit(1)
	}
}

func run() error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := service.NewServer()
	defer server.Stop()
	go server.Serve(lis) // returns when Stop is called

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	cc, err := grpcdial.DialContext(ctx, lis.Addr().String(), grpcdial.WithInsecure(), grpcdial.WithBlock())
	if err != nil {
		return err // a *grpcdial.DialError: it names each address tried and why it failed
	}
	defer cc.Close()

	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	if err != nil {
		return fmt.Errorf("SayHello: %w", err)
	}
	fmt.Println(reply.GetMessage())
	return nil
}
