package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// uploadCells send on client streams as fast as they can. One operation is one
// message.
var uploadCells = []cell{
	uploadCell(1, 16),
	uploadCell(16, 16),
	uploadCell(1, 1<<10),
	uploadCell(16, 1<<10),
	uploadCell(1, 64<<10),
	uploadCell(16, 64<<10),
	uploadCell(1, 1<<20),
	uploadCell(16, 1<<20),
}

func uploadCell(streams, size int) cell {
	return cell{
		name: fmt.Sprintf("upload%s/s=%d", suffixOf(size), streams), noun: "message", workers: streams,
		work: upload(size), connect: connectUpload(size), floor: floorUpload(size),
		axis: "streams", at: float64(streams),
	}
}

// oneWayBytes is about how much a worker sends or receives before it looks at the
// clock: reading it for each small message would be a good part of what is measured.
const oneWayBytes = 32 << 10

// uploadBatch is how many messages of the given size one operation sends.
func uploadBatch(size int) int { return max(1, oneWayBytes/size) }

// upload sends messages with a body of the given size on a stream that each worker
// keeps for the whole round. At its end the server says how much it got.
func upload(size int) func(target) (worker, error) {
	return func(t target) (worker, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		stream, err := pb.NewBenchClient(t.conn).Upload(ctx)
		if err != nil {
			cancel()
			return worker{}, err
		}
		request := &pb.Request{Body: newBody(size)}
		batch, sent := uploadBatch(size), int64(0)
		return worker{
			batch: batch,
			op: func() error {
				for range batch {
					if err := stream.Send(request); err != nil {
						if errors.Is(err, io.EOF) { // the reason comes with the reply
							_, err = stream.CloseAndRecv()
						}
						return err
					}
				}
				sent += int64(batch * size)
				return nil
			},
			flush: func() error {
				defer cancel()
				reply, err := stream.CloseAndRecv()
				if err != nil {
					return err
				}
				if got := reply.GetReceived(); got != sent {
					return fmt.Errorf("the server got %d bytes of %d", got, sent)
				}
				return nil
			},
		}, nil
	}
}
