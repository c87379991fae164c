// Unixsocket dials a server on a unix socket, by the target unix:///path, and
// shows the error of a dial after the server is gone.
//
//	go run ./examples/unixsocket
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "unixsocket:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "greeter-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "greeter.sock")
	lis, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := service.NewServer(grpc.UnaryInterceptor(printAuthority))
	defer server.Stop()
	go server.Serve(lis) // returns when Stop is called

	// unix:relative/path is a path too; unix-abstract:name is a name in Linux's
	// abstract namespace, without a file.
	target := "unix://" + filepath.ToSlash(path)
	if err := greet(target); err != nil {
		return err
	}

	server.Stop() // which closes the listener, and that removes the socket
	err = greet(target)
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("after the server has stopped: %w", err)
	}
	fmt.Println("after the server has stopped:", err)
	return nil
}

func greet(target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cc, err := grpcdial.DialContext(ctx, target, grpcdial.WithInsecure(), grpcdial.WithBlock())
	if err != nil {
		return err
	}
	defer cc.Close()
	reply, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"})
	if err != nil {
		return fmt.Errorf("SayHello: %w", err)
	}
	fmt.Println("the reply:", reply.GetMessage())
	return nil
}

// printAuthority prints the name that the client calls the server by: a path is
// no authority, so it is localhost.
func printAuthority(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	fmt.Println("the server is called", md[":authority"])
	return handle(ctx, request)
}
