package call

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// testService is grpc-go's test service with functions in place of methods.
type testService struct {
	testpb.UnimplementedTestServiceServer
	unary  func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error)
	client func(testpb.TestService_StreamingInputCallServer) error
	server func(*testpb.StreamingOutputCallRequest, testpb.TestService_StreamingOutputCallServer) error
	bidi   func(testpb.TestService_FullDuplexCallServer) error
}

func (s *testService) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return s.unary(ctx, req)
}

func (s *testService) StreamingInputCall(st testpb.TestService_StreamingInputCallServer) error {
	return s.client(st)
}

func (s *testService) StreamingOutputCall(req *testpb.StreamingOutputCallRequest, st testpb.TestService_StreamingOutputCallServer) error {
	return s.server(req, st)
}

func (s *testService) FullDuplexCall(st testpb.TestService_FullDuplexCallServer) error {
	return s.bidi(st)
}

// echo answers with the request's payload.
func echo(_ context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{Payload: req.Payload}, nil
}

// startServer runs a grpc-go server until the end of the test.
func startServer(t testing.TB, svc *testService, opts ...grpc.ServerOption) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer(opts...)
	testpb.RegisterTestServiceServer(srv, svc)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return ln.Addr().String()
}

// backend is an Endpoint with one connection.
type backend struct {
	balancer.SubConn
	transport atomic.Pointer[Transport]
}

func (b *backend) Transport() *Transport { return b.transport.Load() }

// Conn returns the connection that there is.
func (b *backend) Conn() *h2.Conn { return b.Transport().Conn }

// transportTo is a transport without credentials.
func transportTo(conn *h2.Conn) *Transport { return &Transport{Conn: conn, Authority: "test.example"} }

// having is another backend, with the same connection.
func (b *backend) having(authority string, perRPC ...credentials.PerRPCCredentials) *backend {
	other := &backend{}
	other.transport.Store(&Transport{Conn: b.Conn(), Authority: authority, PerRPC: perRPC})
	return other
}

// connect makes a backend of an address, which is cut at the end of the test.
func connect(t testing.TB, addr string, creds credentials.TransportCredentials) *backend {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	wire := h2.NewWire(nc)
	secured, info, err := creds.ClientHandshake(ctx, "localhost", wire)
	require.NoError(t, err)
	scheme := "http"
	if creds.Info().SecurityProtocol == "tls" {
		scheme = "https"
	}
	conn := h2.New(wire, secured, h2.Config{Scheme: scheme, UserAgent: "test", AuthInfo: info})
	require.NoError(t, conn.Handshake(ctx))
	b := &backend{}
	b.transport.Store(transportTo(conn))
	done := make(chan struct{})
	go func() { defer close(done); _ = conn.Serve(func(error) {}) }()
	t.Cleanup(func() { conn.Close(errors.New("the test has ended"), nil); <-done })
	return b
}

// insecureBackend is a backend without security.
func insecureBackend(t testing.TB, addr string) *backend { return connect(t, addr, nil) }

// pickerFunc is a picker.
type pickerFunc func(balancer.PickInfo) (balancer.PickResult, error)

func (f pickerFunc) Pick(info balancer.PickInfo) (balancer.PickResult, error) { return f(info) }

// fixed always picks the same endpoint.
type fixed struct{ sc balancer.SubConn }

func (p fixed) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{SubConn: p.sc}, nil
}

// ready is a channel that picks b.
func ready(t testing.TB, cfg Config, b *backend) *Channel {
	t.Helper()
	ch := New(cfg)
	ch.SetPicker(fixed{b})
	ch.SetResolved(true)
	t.Cleanup(func() { ch.Close() })
	return ch
}

// serve is a channel to a new grpc-go server.
func serve(t testing.TB, cfg Config, svc *testService, opts ...grpc.ServerOption) *Channel {
	t.Helper()
	return ready(t, cfg, insecureBackend(t, startServer(t, svc, opts...)))
}

// timeout is a context that bounds a test.
func timeout(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// aWhile is the deadline of RPCs that are to be at a certain stage when it passes: long
// enough for them to get there on a busy machine.
const aWhile = time.Second

func soon(t testing.TB) context.Context { return timeout(t, time.Minute) }

func request(body string) *testpb.SimpleRequest {
	return &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte(body)}}
}

const (
	unaryMethod  = "/grpc.testing.TestService/UnaryCall"
	clientMethod = "/grpc.testing.TestService/StreamingInputCall"
	serverMethod = "/grpc.testing.TestService/StreamingOutputCall"
	bidiMethod   = "/grpc.testing.TestService/FullDuplexCall"
)

// requireNoneActive waits until no RPC is counted as running and no stream is enlisted:
// an RPC's caller learns of its end before that.
func requireNoneActive(t testing.TB, ch *Channel) {
	t.Helper()
	require.Eventually(t, func() bool {
		ch.mu.Lock()
		defer ch.mu.Unlock()
		n, _ := ch.Active()
		return n == 0 && ch.streams == nil
	}, time.Minute, time.Millisecond)
}
