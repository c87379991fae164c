// Package service implements the Greeter service that the greeter examples
// call.
package service

import (
	"context"

	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial/examples/greeter/pb"
)

// Reply is the message of every SayHello reply.
const Reply = "ccccc"

// NewServer returns a grpc-go server with the Greeter service registered. It
// does not listen yet: call Serve on it.
func NewServer(options ...grpc.ServerOption) *grpc.Server {
	server := grpc.NewServer(options...)
	pb.RegisterGreeterServer(server, greeter{})
	return server
}

// greeter holds no state, so that any number of calls may run on it at once.
type greeter struct {
	pb.UnimplementedGreeterServer
}

func (greeter) SayHello(context.Context, *pb.HelloRequest) (*pb.HelloReply, error) {
	return &pb.HelloReply{Message: Reply}, nil
}
