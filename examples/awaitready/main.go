// Awaitready dials without waiting, and waits for the channel later, when it has
// to: AwaitReady returns nil once the channel is READY, and the reason why it is not if
// its context ends before that. WaitForStateChange returns when the server is lost, and
// Watch yields every transition with its cause.
//
//	go run ./examples/awaitready
package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "awaitready:", err)
		os.Exit(1)
	}
}

func run() error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	cc, err := grpcdial.Dial(address, // returns at once
		grpcdial.WithInsecure(),
		grpcdial.WithConnectParams(grpcdial.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return err
	}
	defer cc.Close()

	err = await(cc, 2*time.Second)
	var dialErr *grpcdial.DialError
	if !errors.As(err, &dialErr) {
		return fmt.Errorf("no server: %w", err)
	}
	fmt.Println("no server:", err)

	server, err := serve(address)
	if err != nil {
		return err
	}
	defer func() { server.Stop() }()
	if err := await(cc, time.Minute); err != nil {
		return err
	}
	fmt.Println("a server:", cc.GetState())

	// From here on, and until the channel is closed.
	next, stop := iter.Pull(cc.Watch(context.Background()))
	defer stop()
	if _, ok := next(); !ok {
		return errors.New("the watch has ended")
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := greet(ctx, cc); err != nil {
		return err
	}

	// The loss of the connection is a change of state. A channel that has lost
	// its only server is idle until an RPC or AwaitReady needs it.
	server.Stop()
	if !cc.WaitForStateChange(ctx, connectivity.Ready) {
		return fmt.Errorf("the channel is still %v: %w", cc.GetState(), ctx.Err())
	}
	fmt.Println("the server stopped:", cc.GetState())

	if server, err = serve(address); err != nil {
		return err
	}
	if err := await(cc, time.Minute); err != nil {
		return err
	}
	fmt.Println("it runs again:", cc.GetState())
	if err := greet(ctx, cc); err != nil {
		return err
	}

	// A watcher that is late misses nothing.
	if err := cc.Close(); err != nil {
		return err
	}
	fmt.Println("\nthe transitions, and their causes:")
	for change, ok := next(); ok; change, ok = next() {
		fmt.Printf("  %v to %v: %v\n", change.From, change.To, change.Cause)
	}
	return nil
}

func greet(ctx context.Context, cc *grpcdial.ClientConn) error {
	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	if err != nil {
		return fmt.Errorf("SayHello: %w", err)
	}
	fmt.Println("a reply:", reply.GetMessage())
	return nil
}

// await gives the channel at most limit to become READY.
func await(cc *grpcdial.ClientConn, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return cc.AwaitReady(ctx)
}

func serve(address string) (*grpc.Server, error) {
	lis, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := service.NewServer()
	go server.Serve(lis) // returns when Stop is called
	return server, nil
}

// freeAddress returns an address without a listener.
func freeAddress() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return lis.Addr().String(), lis.Close()
}
