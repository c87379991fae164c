package compat

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// settings are what a test asks of both channels.
type settings struct {
	stats         stats.Handler // nil: none
	unary         []grpc.UnaryClientInterceptor
	stream        []grpc.StreamClientInterceptor
	serviceConfig string // empty: none
}

// channels makes a channel of each kind.
var channels = map[string]func(t *testing.T, target string, s settings) grpc.ClientConnInterface{
	"grpc-go": func(t *testing.T, target string, s settings) grpc.ClientConnInterface {
		opts := []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithChainUnaryInterceptor(s.unary...),
			grpc.WithChainStreamInterceptor(s.stream...),
		}
		if s.stats != nil {
			opts = append(opts, grpc.WithStatsHandler(s.stats))
		}
		if s.serviceConfig != "" {
			opts = append(opts, grpc.WithDefaultServiceConfig(s.serviceConfig))
		}
		cc, err := grpc.NewClient(target, opts...)
		require.NoError(t, err)
		t.Cleanup(func() { _ = cc.Close() })
		return cc
	},
	"grpcdial": func(t *testing.T, target string, s settings) grpc.ClientConnInterface {
		return dial(t, target, s)
	},
}

func dial(t *testing.T, target string, s settings) *grpcdial.ClientConn {
	t.Helper()
	opts := []grpcdial.DialOption{
		grpcdial.WithTransportCredentials(insecure.NewCredentials()),
		grpcdial.WithChainUnaryInterceptor(s.unary...),
		grpcdial.WithChainStreamInterceptor(s.stream...),
		grpcdial.WithStatsHandler(s.stats),
	}
	if s.serviceConfig != "" {
		opts = append(opts, grpcdial.WithDefaultServiceConfig(s.serviceConfig))
	}
	cc, err := grpcdial.NewClient(target, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// server answers RPCs of the test service: a unary one with its payload, or with
// the status that it asks for; a bidirectional stream message by message.
type server struct {
	testpb.UnimplementedTestServiceServer
	addr string

	mu       sync.Mutex
	metadata []metadata.MD // guarded by mu: of each RPC, in order
	failures int           // guarded by mu: RPCs to come that end with Unavailable
	delay    time.Duration // guarded by mu: before unary RPCs are answered
}

func serve(t *testing.T) *server {
	t.Helper()
	s, srv := new(server), grpc.NewServer()
	testpb.RegisterTestServiceServer(srv, s)
	s.addr, _ = backendtest.Run(t, srv)
	return s
}

// fail makes the next n RPCs end with Unavailable.
func (s *server) fail(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = n
}

func (s *server) wait(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// seen returns the metadata of the RPCs since the last time.
func (s *server) seen() []metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.metadata
	s.metadata = nil
	return seen
}

// begin notes an RPC.
func (s *server) begin(ctx context.Context) (time.Duration, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metadata = append(s.metadata, md)
	if s.failures > 0 {
		s.failures--
		return 0, status.Error(codes.Unavailable, "not now")
	}
	return s.delay, nil
}

func (s *server) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	delay, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	if st := r.ResponseStatus; st != nil {
		return nil, status.Error(codes.Code(st.Code), st.Message)
	}
	return &testpb.SimpleResponse{Payload: r.Payload}, nil
}

func (s *server) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	if _, err := s.begin(stream.Context()); err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

func (s *server) StreamingOutputCall(r *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	if _, err := s.begin(stream.Context()); err != nil {
		return err
	}
	for range r.ResponseParameters {
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
	return nil
}

func payload(text string) *testpb.Payload { return &testpb.Payload{Body: []byte(text)} }
