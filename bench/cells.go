package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// opTimeout is the deadline of every operation. Real calls have one, and it
// costs a timer and a header; none is ever reached.
const opTimeout = 10 * time.Second

// cell is one load that the sides are put under.
type cell struct {
	name    string // over TLS it has the prefix "tls/"
	noun    string // what one operation is
	workers int    // goroutines that operate at the same time on one connection

	work    func(t target) (worker, error)        // grpcdial and grpc-go
	connect func(c connectClient) (worker, error) // connect-go; nil: it does not have the cell
	floor   func(c *floorConn) (worker, error)    // the bare socket; nil: likewise

	axis      string // what distinguishes the cells of the group; may be empty
	at        float64
	tls       bool
	roundTrip time.Duration // added by a relay
	streams   int           // that the server allows on a connection; 0: any number
	config    string        // a service config; may be empty
	share     float64       // of the time that a cell gets; 0: 1
	large     bool          // not with -quick
	plain     bool          // not over TLS as well
}

// groupOf is a cell's name without "tls/" and without what follows the last slash.
func groupOf(name string) string {
	name = strings.TrimPrefix(name, tlsPrefix)
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return name
}

const tlsPrefix = "tls/"

// overTLS is the same load over TLS, for half the time.
func (c cell) overTLS() cell {
	c.name, c.tls, c.share = tlsPrefix+c.name, true, 0.5
	return c
}

// target is what a worker of grpcdial's or grpc-go's operates on.
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
	// flush ends what the operations began and returned from, and is measured with them, as a part
	// of no latency; may be nil. A client that only queues its messages is not the cheaper for it.
	flush func() error
	done  func() error // what is left to do after the last one; may be nil; several workers' run at the same time
}

// cells are all loads: over plaintext, over TLS, and those that grow.
var cells = slices.Concat(plainCells, tlsCells(), shapeCells, growthCells(), scalingCells())

// plainCells are the loads that run over plaintext and over TLS.
var plainCells = slices.Concat(callCells, tokenCells, uploadCells, downCells)

func tlsCells() []cell {
	var over []cell
	for _, c := range plainCells {
		if !c.plain {
			over = append(over, c.overTLS())
		}
	}
	return over
}

var callCells = []cell{
	unaryCell(1, 0),
	unaryCell(16, 0),
	unaryCell(64, 0),
	unaryCell(1, 1<<10),
	unaryCell(64, 1<<10),
	unaryCell(1, 1<<20),
	unaryCell(16, 1<<20),
	pingPongCell(1, 0),
	pingPongCell(16, 0),
	pingPongCell(1, 1<<10),
	pingPongCell(1, 1<<20),
	{name: "dial", noun: "dial", workers: 1, work: dial, floor: floorDial},
	{name: "first-call", noun: "call", workers: 1, work: firstCall},
	{name: "refused/b=1", noun: "call", plain: true, workers: 1, work: refused(1, "pick_first"), axis: "addresses", at: 1},
	{name: "refused/b=20", noun: "call", plain: true, workers: 1, work: refused(20, "pick_first"), axis: "addresses", at: 20},
	{name: "refused-rr/b=20", noun: "call", plain: true, workers: 1, work: refused(20, "round_robin")},
	{name: "refused-rr/b=20,c=16", noun: "call", plain: true, workers: 16, work: refused(20, "round_robin")},
	{name: "unanswered/b=20,c=1000", noun: "call", plain: true, workers: 1000, work: unanswered(20, "round_robin")},
	{name: "hedged/c=4", noun: "call", plain: true, workers: 4, work: hedged, config: hedgingConfig},
}

func unaryCell(callers, size int) cell {
	return cell{
		name: fmt.Sprintf("unary%s/c=%d", suffixOf(size), callers), noun: "call", workers: callers,
		work: unary(size), connect: connectUnary(size), floor: floorUnary(size),
		axis: "callers", at: float64(callers),
	}
}

func pingPongCell(streams, size int) cell {
	return cell{
		name: fmt.Sprintf("pingpong%s/s=%d", suffixOf(size), streams), noun: "round trip", workers: streams,
		work: pingPong(size), connect: connectPingPong(size), floor: floorPingPong(size),
		axis: "streams", at: float64(streams),
	}
}

// suffixOf is the size as it stands in a cell's name.
func suffixOf(size int) string {
	switch {
	case size == 0:
		return ""
	case size < 1<<10:
		return fmt.Sprintf("-%dB", size)
	case size < 1<<20:
		return fmt.Sprintf("-%dkB", size>>10)
	default:
		return fmt.Sprintf("-%dMB", size>>20)
	}
}

// unary calls with a body of the given size, 0 for a greeting of 4 bytes that
// is answered by one of 5.
func unary(size int, opts ...grpc.CallOption) func(target) (worker, error) {
	return func(t target) (worker, error) {
		return unaryOn(t.conn, newRequest(size), size, opts...), nil
	}
}

// unaryOn makes unary calls on c whose replies have a body of the given size.
func unaryOn(c grpc.ClientConnInterface, request *pb.Request, size int, opts ...grpc.CallOption) worker {
	stub := pb.NewBenchClient(c)
	return worker{op: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		reply, err := stub.Unary(ctx, request, opts...)
		if err != nil {
			return err
		}
		return check(reply, size)
	}}
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
		c, err := t.client.dial(ctx, t.at.Target, t.creds, "")
		if err != nil {
			return err
		}
		return c.Close()
	}}, nil
}

// firstCall is what a program does that makes a channel for one call.
func firstCall(t target) (worker, error) {
	request := newRequest(0)
	return worker{op: func() error {
		c, err := t.client.idle("dns:///"+t.at.Target, t.creds)
		if err != nil {
			return err
		}
		if err := unaryOn(c, request, 0).op(); err != nil {
			return err
		}
		return c.Close()
	}}, nil
}

func newRequest(size int) *pb.Request {
	if size == 0 {
		return &pb.Request{Name: "dddd"}
	}
	return &pb.Request{Name: "dddd", Body: newBody(size)}
}

// newBody returns a body whose bytes were written: memory that never was is one page of zeros, all
// of which is in the processor's nearest cache.
func newBody(size int) []byte { return bytes.Repeat([]byte{'b'}, size) }

func check(reply *pb.Reply, size int) error {
	if got := len(reply.GetBody()); reply.GetMessage() != "ccccc" || got != size {
		return fmt.Errorf("the reply is %q with a body of %d bytes, want %q and %d", reply.GetMessage(), got, "ccccc", size)
	}
	return nil
}
