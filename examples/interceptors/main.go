// Interceptors shows in which order the interceptors of a channel run, those of
// unary RPCs and those of streams, and what they are good for: metadata for
// every call, and a look at every message of a stream.
//
//	go run ./examples/interceptors
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "interceptors:", err)
		os.Exit(1)
	}
}

func run() error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := service.NewServer(grpc.UnaryInterceptor(printRequestID))
	healthServer := health.NewServer() // has a method that streams: Watch
	healthpb.RegisterHealthServer(server, healthServer)
	defer server.Stop()
	go server.Serve(lis) // returns when Stop is called

	// The single interceptor is called first, then the chained ones from left to
	// right; the last one calls the RPC.
	cc, err := grpcdial.Dial(lis.Addr().String(),
		grpcdial.WithInsecure(),
		grpcdial.WithUnaryInterceptor(traceUnary("single")),
		grpcdial.WithChainUnaryInterceptor(traceUnary("chain 1"), addRequestID, traceUnary("chain 2")),
		grpcdial.WithStreamInterceptor(traceStream("single")),
		grpcdial.WithChainStreamInterceptor(traceStream("chain 1"), countMessages))
	if err != nil {
		return err
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	fmt.Println("a unary RPC:")
	if _, err := pb.NewGreeterClient(cc).SayHello(ctx, &pb.HelloRequest{Name: "dddd"}); err != nil {
		return fmt.Errorf("SayHello: %w", err)
	}

	fmt.Println("a stream:")
	watching, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := healthpb.NewHealthClient(cc).Watch(watching, &healthpb.HealthCheckRequest{})
	if err != nil {
		return fmt.Errorf("watch health: %w", err)
	}
	if _, err := stream.Recv(); err != nil {
		return fmt.Errorf("watch health: %w", err)
	}
	healthServer.Shutdown() // makes the server send another message
	if _, err := stream.Recv(); err != nil {
		return fmt.Errorf("watch health: %w", err)
	}
	stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		return fmt.Errorf("watch health, cancelled: %w", err)
	}
	return nil
}

// traceUnary prints when an RPC passes it, on the way out and on the way back.
func traceUnary(name string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		fmt.Printf("  %s: begin %s\n", name, method)
		err := invoke(ctx, method, request, reply, cc, options...)
		fmt.Printf("  %s: end %v\n", name, status.Code(err))
		return err
	}
}

// addRequestID adds metadata to every unary RPC.
func addRequestID(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "request-id", "42")
	return invoke(ctx, method, request, reply, cc, options...)
}

// printRequestID is the server's.
func printRequestID(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	fmt.Println("  the server: request-id", md["request-id"])
	return handle(ctx, request)
}

// traceStream prints when a stream is opened. It ends long after the interceptor
// has returned.
func traceStream(name string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		fmt.Printf("  %s: open %s\n", name, method)
		stream, err := open(ctx, desc, cc, method, options...)
		fmt.Printf("  %s: opened %v\n", name, status.Code(err))
		return stream, err
	}
}

// countMessages wraps the stream, which is how an interceptor sees messages and
// the end.
func countMessages(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, cc, method, options...)
	if err != nil {
		return nil, err
	}
	return &countedStream{ClientStream: stream}, nil
}

// countedStream counts what is received. As with every grpc.ClientStream, one
// goroutine at a time may receive.
type countedStream struct {
	grpc.ClientStream
	received int
}

func (s *countedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	switch {
	case err == nil:
		s.received++
		fmt.Printf("  received message %d\n", s.received)
	case errors.Is(err, io.EOF):
		fmt.Printf("  ended after %d messages\n", s.received)
	default:
		fmt.Printf("  ended after %d messages: %v\n", s.received, status.Code(err))
	}
	return err
}
