package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// shapeCells are what programs have besides calls and long streams: streams of one message,
// metadata, calls that fail, observers, several backends, connections that are no plain sockets.
var shapeCells = []cell{
	shapeCell("short-client", 1, shortClient),
	shapeCell("short-server", 1, shortServer),
	shapeCell("short-bidi", 16, shortBidi),
	shapeCell("cancelled", 16, cancelled),
	shapeCell("metadata", 64, withMetadata),
	shapeCell("status", 64, failing),
	shapeCell("unary-16kB", 64, unary(16<<10)),
	shapeCell("observed", 64, onChannel(observed)),
	shapeCell("round-robin-10", 64, onChannel(balanced(10))),
	shapeCell("wrapped", 64, onChannel(wrapped)),
	shapeCell("beside-download", 16, besideDownload()),
}

func shapeCell(name string, callers int, work func(target) (worker, error)) cell {
	return cell{
		name: fmt.Sprintf("%s/c=%d", name, callers), noun: "call", workers: callers, work: work,
		axis: "callers", at: float64(callers), share: 0.5, plain: true,
	}
}

// shortClient sends one message on a client stream and takes the reply.
func shortClient(t target) (worker, error) {
	stub, request := pb.NewBenchClient(t.conn), newRequest(0)
	return worker{op: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		stream, err := stub.Upload(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(request); err != nil {
			return err
		}
		_, err = stream.CloseAndRecv()
		return err
	}}, nil
}

// shortServer receives the one message of a server stream, and its end.
func shortServer(t target) (worker, error) {
	return worker{op: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		stream, err := openDown(ctx, t.conn, &pb.Request{Name: downName(16), Body: []byte{1}})
		if err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		return wantEOF(stream.Recv())
	}}, nil
}

// shortBidi sends and receives one message on a bidirectional stream.
func shortBidi(t target) (worker, error) {
	stub, request := pb.NewBenchClient(t.conn), newRequest(0)
	return worker{op: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		stream, err := stub.PingPong(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(request); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		return wantEOF(stream.Recv())
	}}, nil
}

func wantEOF(_ *pb.Reply, err error) error {
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("the stream ended with %v, want EOF", err)
	}
	return nil
}

// cancelled opens a stream and gives it up at once.
func cancelled(t target) (worker, error) {
	stub := pb.NewBenchClient(t.conn)
	return worker{op: func() error {
		ctx, cancel := context.WithCancel(context.Background())
		stream, err := stub.PingPong(ctx)
		cancel()
		if err != nil {
			return err
		}
		if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
			return fmt.Errorf("the stream ended with %v, want Canceled", err)
		}
		return nil
	}}, nil
}

// withMetadata makes calls with ten entries of metadata and a request id both ways, and looks at
// what comes.
func withMetadata(t target) (worker, error) {
	stub, request := pb.NewBenchClient(t.conn), &pb.Request{Name: metadataName}
	var constant []string
	for key, values := range tenEntries {
		constant = append(constant, key, values[0])
	}
	return worker{op: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, append(constant, "x-request-id", strconv.FormatUint(rand.Uint64(), 16))...)
		var header, trailer metadata.MD
		var server peer.Peer
		if _, err := stub.Unary(ctx, request, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&server)); err != nil {
			return err
		}
		if len(header) < len(tenEntries) || len(trailer) < len(tenEntries) || server.Addr == nil {
			return fmt.Errorf("%d header and %d trailer entries from %v", len(header), len(trailer), server.Addr)
		}
		return nil
	}}, nil
}

// failing makes calls that the server answers with a status and its details.
func failing(t target) (worker, error) {
	stub, request := pb.NewBenchClient(t.conn), &pb.Request{Name: statusName}
	return worker{op: func() error {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		_, err := stub.Unary(ctx, request)
		if s := status.Convert(err); s.Code() != codes.NotFound || len(s.Details()) != 1 {
			return fmt.Errorf("the call ended with %v, want NotFound and its details", err)
		}
		return nil
	}}, nil
}

// onChannel makes small calls on a channel of the cell's own, which its workers share.
func onChannel(dial func(t target) (stateful, error)) func(target) (worker, error) {
	var channel sharedChannel
	return func(t target) (worker, error) {
		c, err := channel.open(func() (stateful, error) {
			c, err := dial(t)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
			defer cancel()
			if err := awaitState(ctx, c, connectivity.Ready); err != nil {
				c.Close()
				return nil, err
			}
			return c, nil
		})
		if err != nil {
			return worker{}, err
		}
		w := unaryOn(c, newRequest(0), 0)
		w.done = channel.close
		return w, nil
	}
}

// observed is a channel that has three interceptors, a stats handler and per-RPC credentials.
func observed(t target) (stateful, error) { return t.client.observed(t.at.Target, t.creds) }

// balanced is a channel with round_robin over backends that are one server's, with a connection
// to each.
func balanced(backends int) func(target) (stateful, error) {
	return func(t target) (stateful, error) {
		var dialed atomic.Int64
		r := manual.NewBuilderWithScheme("balanced")
		addrs := make([]resolver.Address, backends)
		for i := range addrs {
			addrs[i].Addr = fmt.Sprintf("10.0.0.%d:443", i)
		}
		r.InitialState(resolver.State{Addresses: addrs})
		c, err := t.client.resolved(r, "round_robin", t.creds, func(ctx context.Context, _ string) (net.Conn, error) {
			defer dialed.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", t.at.Target)
		})
		if err != nil {
			return nil, err
		}
		c.Connect()
		for began := time.Now(); dialed.Load() < int64(backends) && time.Since(began) < opTimeout; {
			time.Sleep(time.Millisecond)
		}
		return c, nil
	}
}

// wrapped is a channel whose dialer wraps its sockets, as programs do that count bytes.
func wrapped(t target) (stateful, error) {
	r := manual.NewBuilderWithScheme("wrapped")
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: t.at.Target}}})
	return t.client.resolved(r, "pick_first", t.creds, func(ctx context.Context, addr string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return struct{ net.Conn }{nc}, nil
	})
}

// besideDownload makes small calls on a channel on which a stream takes messages of 64 kB at the
// same time, as fast as they come.
func besideDownload() func(target) (worker, error) {
	var download sharedDownload
	return func(t target) (worker, error) {
		if err := download.start(t.conn); err != nil {
			return worker{}, err
		}
		w := unaryOn(t.conn, newRequest(0), 0)
		w.done = download.stop
		return w, nil
	}
}

// sharedDownload is a stream that runs while a cell's workers do: the first starts it and the last
// ends it.
type sharedDownload struct {
	mu      sync.Mutex
	workers int
	cancel  context.CancelFunc
	ended   chan error
}

func (d *sharedDownload) start(c conn) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.workers++; d.workers > 1 {
		return nil
	}
	var ctx context.Context
	ctx, d.cancel = context.WithCancel(context.Background())
	stream, err := openDown(ctx, c, &pb.Request{Name: downName(64 << 10)})
	if err != nil {
		d.cancel()
		return err
	}
	d.ended = make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				d.ended <- err
				return
			}
		}
	}()
	return nil
}

func (d *sharedDownload) stop() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.workers--; d.workers > 0 {
		return nil
	}
	d.cancel()
	if err := <-d.ended; status.Code(err) != codes.Canceled {
		return fmt.Errorf("the download ended with %w, want Canceled", err)
	}
	return nil
}
