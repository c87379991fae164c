// Client calls SayHello on the greeter server (see ../server) and prints the
// reply. The dial does not wait: the channel connects while the call is
// already under way.
//
//	go run ./examples/greeter/client
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
)

const target = "127.0.0.1:50001"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "greeter client:", err)
		os.Exit(1)
	}
}

func run() error {
	cc, err := grpcdial.Dial(target, grpcdial.WithInsecure())
	if err != nil {
		return err
	}
	defer cc.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	if err != nil {
		return fmt.Errorf("SayHello on %q: %w", target, err)
	}
	fmt.Println(reply.GetMessage())
	return nil
}
