package backendtest

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Echo is a grpc-go server on loopback whose methods are
//
//	/test.Echo/Echo    replies with the request
//	/test.Echo/Big     replies with 100,000 bytes
//	/test.Echo/Headers replies with 20,000 bytes of headers
//	/test.Echo/Fail    fails with Unavailable
//	/test.Echo/Flaky   as Fail if the number of calls is odd, as Echo if it is even
//	/test.Echo/Hang    fails when the RPC's time is over or it is cancelled
//
// each as a unary RPC or as a stream of any kind. Messages are StringValues or
// BytesValues, which are the same on the wire. Any other method is Echo.
type Echo struct {
	Addr  string
	Stop  func() // also called when the test ends
	Calls atomic.Int64

	mu          sync.Mutex
	request     string      // guarded by mu: the latest
	metadata    metadata.MD // guarded by mu: of the latest call
	compression string      // guarded by mu: of the latest call
}

// StartEcho runs an Echo until the test ends.
func StartEcho(t testing.TB, opts ...grpc.ServerOption) *Echo {
	t.Helper()
	e := new(Echo)
	e.Addr, e.Stop = Run(t, grpc.NewServer(append(opts, grpc.UnknownServiceHandler(e.Handle), grpc.StatsHandler(e))...))
	return e
}

// Handle handles an RPC (grpc.UnknownServiceHandler), for servers that a test makes.
func (e *Echo) Handle(_ any, s grpc.ServerStream) error {
	n := e.Calls.Add(1)
	method, _ := grpc.MethodFromServerStream(s)
	md, _ := metadata.FromIncomingContext(s.Context())
	for {
		msg := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(msg); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		e.mu.Lock()
		e.request, e.metadata = string(msg.Value), md
		e.mu.Unlock()
		switch method {
		case "/test.Echo/Fail":
			return status.Error(codes.Unavailable, "as asked")
		case "/test.Echo/Flaky":
			if n%2 == 1 {
				return status.Error(codes.Unavailable, "every other time")
			}
		case "/test.Echo/Hang":
			<-s.Context().Done()
			return status.FromContextError(s.Context().Err()).Err()
		case "/test.Echo/Big":
			msg.Value = []byte(strings.Repeat("x", 100_000))
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

// Last returns what was seen of the latest call.
func (e *Echo) Last() (request string, md metadata.MD, compression string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.request, e.metadata, e.compression
}

func (e *Echo) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (e *Echo) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (e *Echo) HandleConn(context.Context, stats.ConnStats) {}

func (e *Echo) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InHeader); ok {
		e.mu.Lock()
		e.compression = in.Compression
		e.mu.Unlock()
	}
}

// CallEcho makes a unary RPC to an Echo and returns the reply.
func CallEcho(t testing.TB, cc grpc.ClientConnInterface, method string, opts ...grpc.CallOption) (string, error) {
	t.Helper()
	reply := new(wrapperspb.StringValue)
	err := cc.Invoke(Bounded(t), "/test.Echo/"+method, wrapperspb.String("hello"), reply, opts...)
	return reply.Value, err
}
