// Server serves the Greeter service on 127.0.0.1:50001 until it is
// interrupted; then it lets the running calls end and exits.
//
//	go run ./examples/greeter/server
package main

import (
	"context"
	"log"
	"net"
	"os"
	"os/signal"

	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

const address = "127.0.0.1:50001"

func main() {
	log.SetPrefix("greeter server: ")
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	// Before the listener, so that an interrupt right after the first log line
	// already ends the server gracefully.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	lis, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	log.Printf("started, listening on %s", lis.Addr())

	server := service.NewServer()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		<-ctx.Done()
		stop() // a second interrupt ends the process at once
		log.Print("stopping")
		server.GracefulStop()
	}()
	if err := server.Serve(lis); err != nil {
		return err
	}
	<-drained
	return nil
}
