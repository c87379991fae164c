// Blocking dials with WithBlock, which returns a channel that is READY or an
// error with the reason why there is none. It shows a dial that succeeds and two that
// fail: one whose context ends while no server listens, and one that ends at once
// because the server does not speak gRPC.
//
//	go run ./examples/blocking
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "blocking:", err)
		os.Exit(1)
	}
}

func run() error {
	if err := succeed(); err != nil {
		return err
	}
	if err := nothingListens(); err != nil {
		return err
	}
	return notGRPC()
}

// succeed dials a server and calls it.
func succeed() error {
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
		return err
	}
	defer cc.Close()
	fmt.Println("a server:", cc.GetState())

	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	if err != nil {
		return fmt.Errorf("SayHello: %w", err)
	}
	fmt.Println("its reply:", reply.GetMessage())
	return nil
}

// nothingListens dials a port where nothing listens. Attempts go on until the
// context ends, as a server may come up at any time.
func nothingListens() error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := lis.Addr().String()
	if err := lis.Close(); err != nil {
		return err
	}

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	cc, err := grpcdial.DialContext(ctx, address, grpcdial.WithInsecure(), grpcdial.WithBlock())
	if err == nil {
		cc.Close()
		return fmt.Errorf("something listens on %s", address)
	}
	fmt.Println("\nnothing listens:", err)
	return explain(err)
}

// notGRPC dials a web server, with FailOnNonTempDialError: the dial does not
// wait for the end of its context when waiting will not help.
func notGRPC() error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{
		Handler:           http.NotFoundHandler(),
		ReadHeaderTimeout: time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	defer web.Close()
	go web.Serve(lis) // returns when Close is called

	const limit = 10 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	begun := time.Now()
	cc, err := grpcdial.DialContext(ctx, lis.Addr().String(),
		grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true))
	if err == nil {
		cc.Close()
		return errors.New("a web server passed for a gRPC server")
	}
	fmt.Println("\na web server:", err)
	fmt.Println("  before the context ended:", time.Since(begun) < limit/2)
	return explain(err)
}

// explain prints what a program can read from the error of a blocking dial.
func explain(err error) error {
	var dialErr *grpcdial.DialError
	if !errors.As(err, &dialErr) {
		return err // of an option or of the target: no attempt was made
	}
	for _, a := range dialErr.Attempts {
		fmt.Printf("  attempt: %s, phase %s, permanent: %t\n", a.Addr, a.Phase, a.Permanent)
	}
	fmt.Println("  the context's deadline:", errors.Is(err, context.DeadlineExceeded))

	var opErr *net.OpError // the causes are in the chain too
	if errors.As(err, &opErr) {
		fmt.Printf("  a network error: %s %s\n", opErr.Op, opErr.Net)
	}
	return nil
}
