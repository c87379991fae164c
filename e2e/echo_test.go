package e2e_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echo is a grpc-go server on loopback whose methods are
//
//	/test.Echo/Echo    replies with the request
//	/test.Echo/Big     replies with 100,000 bytes
//	/test.Echo/Headers replies with 20,000 bytes of headers
//	/test.Echo/Fail    fails with Unavailable
//	/test.Echo/Hang    fails when the RPC's time is over or it is cancelled
//
// each as a unary RPC or as a stream of any kind.
type echo struct {
	addr  string
	stop  func() // also called when the test ends
	calls atomic.Int64

	mu          sync.Mutex
	request     string      // guarded by mu: the latest
	metadata    metadata.MD // guarded by mu: of the latest call
	compression string      // guarded by mu: of the latest call
}

func serveEcho(t *testing.T, opts ...grpc.ServerOption) *echo {
	t.Helper()
	e := &echo{}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	e.addr = lis.Addr().String()
	srv := grpc.NewServer(append(opts, grpc.UnknownServiceHandler(e.handle), grpc.StatsHandler(e))...)
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(lis) })
	e.stop = func() {
		srv.Stop()
		done.Wait()
	}
	t.Cleanup(e.stop)
	return e
}

func (e *echo) handle(_ any, s grpc.ServerStream) error {
	e.calls.Add(1)
	method, _ := grpc.MethodFromServerStream(s)
	md, _ := metadata.FromIncomingContext(s.Context())
	for {
		msg := new(wrapperspb.StringValue)
		if err := s.RecvMsg(msg); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		e.mu.Lock()
		e.request, e.metadata = msg.Value, md
		e.mu.Unlock()
		switch method {
		case "/test.Echo/Fail":
			return status.Error(codes.Unavailable, "as asked")
		case "/test.Echo/Hang":
			<-s.Context().Done()
			return status.FromContextError(s.Context().Err()).Err()
		case "/test.Echo/Big":
			msg.Value = strings.Repeat("x", 100_000)
		case "/test.Echo/Headers":
			if err := s.SetHeader(metadata.Pairs("filler", strings.Repeat("x", 20_000))); err != nil {
				return err
			}
		}
		if err := s.SendMsg(msg); err != nil {
			return err
		}
	}
}

// last returns what was seen of the latest call.
func (e *echo) last() (request string, md metadata.MD, compression string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.request, e.metadata, e.compression
}

func (e *echo) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (e *echo) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (e *echo) HandleConn(context.Context, stats.ConnStats)                       {}
func (e *echo) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InHeader); ok {
		e.mu.Lock()
		e.compression = in.Compression
		e.mu.Unlock()
	}
}

// soon bounds an RPC that is expected to end well before.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// call makes a unary RPC to the echo server.
func call(t *testing.T, cc grpc.ClientConnInterface, method string, opts ...grpc.CallOption) (string, error) {
	t.Helper()
	reply := new(wrapperspb.StringValue)
	err := cc.Invoke(soon(t), "/test.Echo/"+method, wrapperspb.String("hello"), reply, opts...)
	return reply.Value, err
}
