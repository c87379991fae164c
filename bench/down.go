package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// downBatch is how many small messages one operation of a server stream receives: reading
// the clock for each would be a good part of what it costs.
const downBatch = 64

// downCells are server streams: N streams share one channel, and the server sends on each
// as fast as it can.
var downCells = []cell{
	downCell(1, 16, downBatch),
	downCell(16, 16, downBatch),
	downCell(1, 1<<10, downBatch),
	downCell(16, 1<<10, downBatch),
	downCell(1, 64<<10, 1),
	downCell(16, 64<<10, 1),
	downCell(1, 1<<20, 1),
	downCell(16, 1<<20, 1),
}

func downCell(streams, size, batch int) cell {
	return cell{
		name: fmt.Sprintf("down%s/s=%d", suffixOf(size), streams), noun: "message", workers: streams,
		work: download(size, batch), connect: connectDownload(size, batch), floor: floorDownload(size, batch),
		axis: "streams", at: float64(streams),
	}
}

// download receives messages of size encoded bytes on a stream that each worker keeps for
// the whole round; an operation takes batch of them.
func download(size, batch int) func(target) (worker, error) {
	return func(t target) (worker, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		stream, err := openDown(ctx, t.conn, &pb.Request{Name: downName(size)})
		if err != nil {
			cancel()
			return worker{}, err
		}
		want := len(downReply(size).GetBody())
		return worker{
			batch: batch,
			op: func() error {
				for range batch {
					reply, err := stream.Recv()
					if err != nil {
						return err
					}
					if got := len(reply.GetBody()); got != want {
						return fmt.Errorf("a message with a body of %d bytes, want %d", got, want)
					}
				}
				return nil
			},
			done: func() error {
				cancel() // the server would go on for ever
				return nil
			},
		}, nil
	}
}

// downReply is a message of size encoded bytes.
func downReply(size int) *pb.Reply {
	body := size - 2
	for n := body >> 7; n > 0; n >>= 7 { // the length's further bytes
		body--
	}
	return &pb.Reply{Body: make([]byte, body)}
}

// The service of the cells: the request's name is the size of the messages, and its body
// has a byte for each, or is empty: they go on without end then.

const (
	downService = "grpcdial.bench.Down"
	downMethod  = "Download"
)

var downDesc = grpc.ServiceDesc{
	ServiceName: downService,
	HandlerType: (*any)(nil),
	Streams:     []grpc.StreamDesc{{StreamName: downMethod, ServerStreams: true, Handler: serveDown}},
}

// downName is the name of a request for messages of size bytes.
func downName(size int) string { return strconv.Itoa(size) }

func openDown(ctx context.Context, c conn, request *pb.Request) (grpc.ServerStreamingClient[pb.Reply], error) {
	cs, err := c.NewStream(ctx, &downDesc.Streams[0], "/"+downService+"/"+downMethod)
	if err != nil {
		return nil, err
	}
	stream := &grpc.GenericClientStream[pb.Request, pb.Reply]{ClientStream: cs}
	if err := stream.SendMsg(request); err != nil {
		return nil, err
	}
	return stream, stream.CloseSend()
}

// serveDown sends as many messages as the request's body has bytes, or until the client cancels if
// it has none.
func serveDown(_ any, stream grpc.ServerStream) error {
	var in pb.Request
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	size, err := strconv.Atoi(in.GetName())
	if err != nil {
		return err
	}
	reply := downReply(size)
	for n := len(in.GetBody()); ; n-- {
		if err := stream.SendMsg(reply); err != nil || n == 1 {
			return err
		}
	}
}
