// Bufconn dials a server in the same process through a custom dialer, without a
// network: grpc's bufconn is a listener that lives in memory. Tests of clients
// do the same.
//
//	go run ./examples/bufconn
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bufconn:", err)
		os.Exit(1)
	}
}

func run() error {
	lis := bufconn.Listen(64 << 10) // bytes that a connection holds in each direction
	server := service.NewServer()
	defer server.Stop()
	go server.Serve(lis) // returns when Stop is called

	// The dialer gets a target without a scheme as it is written, from NewClient
	// too: no passthrough:/// is needed, and nothing is looked up.
	cc, err := grpcdial.NewClient("a name of my own",
		grpcdial.WithInsecure(),
		grpcdial.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			fmt.Printf("the dialer is asked for %q\n", address)
			return lis.DialContext(ctx)
		}))
	if err != nil {
		return err
	}
	defer cc.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	if err != nil {
		return fmt.Errorf("SayHello: %w", err)
	}
	fmt.Println("the reply:", reply.GetMessage())
	return nil
}
