package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// opTimeout is the deadline of every operation. Real calls have one, and it
// costs a timer and a header; none is ever reached.
const opTimeout = 10 * time.Second

// cell is one load that both clients are put under.
type cell struct {
	name    string
	noun    string // what one operation is
	workers int    // goroutines that operate at the same time on one connection
	work    func(t target) (worker, error)
}

// target is what a worker operates on.
type target struct {
	client client
	conn   conn // READY, shared by the cell's workers
	at     endpoint
	creds  credentials.TransportCredentials
}

// worker belongs to one goroutine.
type worker struct {
	op    func() error // batch operations; their duration is the latency
	batch int          // 0: one
	done  func() error // what is left to do after the last one; may be nil
}

var cells = slices.Concat(callCells, tokenCells, uploadCells, downCells)

var callCells = []cell{
	{"unary/c=1", "call", 1, unary(0)},
	{"unary/c=16", "call", 16, unary(0)},
	{"unary/c=64", "call", 64, unary(0)},
	{"unary-1kB/c=1", "call", 1, unary(1 << 10)},
	{"unary-1kB/c=64", "call", 64, unary(1 << 10)},
	{"unary-1MB/c=1", "call", 1, unary(1 << 20)},
	{"unary-1MB/c=16", "call", 16, unary(1 << 20)},
	{"pingpong/s=1", "round trip", 1, pingPong(0)},
	{"pingpong/s=16", "round trip", 16, pingPong(0)},
	{"pingpong-1kB/s=1", "round trip", 1, pingPong(1 << 10)},
	{"pingpong-1MB/s=1", "round trip", 1, pingPong(1 << 20)},
	{"dial", "dial", 1, dial},
	{"refused/b=1", "call", 1, refused(1, "pick_first")},
	{"refused/b=20", "call", 1, refused(20, "pick_first")},
	{"refused-rr/b=20", "call", 1, refused(20, "round_robin")},
	{"refused-rr/b=20,c=16", "call", 16, refused(20, "round_robin")},
	{"unanswered/b=20,c=1000", "call", 1000, unanswered(20, "round_robin")},
}

// unary calls with a body of the given size, 0 for a greeting of 4 bytes that
// is answered by one of 5.
func unary(size int) func(target) (worker, error) {
	return func(t target) (worker, error) {
		stub := pb.NewBenchClient(t.conn)
		request := newRequest(size)
		return worker{op: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
			defer cancel()
			reply, err := stub.Unary(ctx, request)
			if err != nil {
				return err
			}
			return check(reply, size)
		}}, nil
	}
}

// pingPong sends one message and receives one, on a stream that each worker
// keeps for the whole round.
func pingPong(size int) func(target) (worker, error) {
	return func(t target) (worker, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		stream, err := pb.NewBenchClient(t.conn).PingPong(ctx)
		if err != nil {
			cancel()
			return worker{}, err
		}
		request := newRequest(size)
		return worker{
			op: func() error {
				if err := stream.Send(request); err != nil {
					if errors.Is(err, io.EOF) { // the reason comes from Recv
						_, err = stream.Recv()
					}
					return err
				}
				reply, err := stream.Recv()
				if err != nil {
					return err
				}
				return check(reply, size)
			},
			done: func() error {
				defer cancel()
				if err := stream.CloseSend(); err != nil {
					return err
				}
				if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
					return fmt.Errorf("the stream ended with %v, want EOF", err)
				}
				return nil
			},
		}, nil
	}
}

// dial makes a channel, waits until it is READY and closes it.
func dial(t target) (worker, error) {
	return worker{op: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		c, err := t.client.dial(ctx, t.at.Target, t.creds)
		if err != nil {
			return err
		}
		return c.Close()
	}}, nil
}

func newRequest(size int) *pb.Request {
	if size == 0 {
		return &pb.Request{Name: "dddd"}
	}
	return &pb.Request{Name: "dddd", Body: make([]byte, size)}
}

func check(reply *pb.Reply, size int) error {
	if got := len(reply.GetBody()); reply.GetMessage() != "ccccc" || got != size {
		return fmt.Errorf("the reply is %q with a body of %d bytes, want %q and %d", reply.GetMessage(), got, "ccccc", size)
	}
	return nil
}
