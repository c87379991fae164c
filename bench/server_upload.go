package main

import (
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// Upload implements pb.BenchServer.
func (service) Upload(stream grpc.ClientStreamingServer[pb.Request, pb.Reply]) error {
	reply := &pb.Reply{Message: "ccccc"}
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(reply)
		}
		if err != nil {
			return err
		}
		reply.Received += int64(len(in.GetBody()))
	}
}
