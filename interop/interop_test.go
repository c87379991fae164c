package interop

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/testdata"

	"github.com/grpcdial/grpcdial"
)

// caseTimeout bounds one case, so that one that hangs fails.
const caseTimeout = time.Minute

// interopCase is one of grpc-go's cases.
type interopCase struct {
	name string
	run  func(ctx context.Context, ch channel)
}

// testService is a case that needs no more than stubs for the test service.
func testService(name string, run func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) interopCase {
	return interopCase{name, func(ctx context.Context, ch channel) {
		run(ctx, testgrpc.NewTestServiceClient(ch))
	}}
}

var interopCases = []interopCase{
	testService("empty_unary", interop.DoEmptyUnaryCall),
	testService("large_unary", interop.DoLargeUnaryCall),
	testService("client_streaming", interop.DoClientStreaming),
	testService("server_streaming", interop.DoServerStreaming),
	testService("ping_pong", interop.DoPingPong),
	testService("empty_stream", interop.DoEmptyStream),
	testService("timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer),
	testService("cancel_after_begin", interop.DoCancelAfterBegin),
	testService("cancel_after_first_response", interop.DoCancelAfterFirstResponse),
	testService("status_code_and_message", interop.DoStatusCodeAndMessage),
	testService("special_status_message", interop.DoSpecialStatusMessage),
	testService("custom_metadata", interop.DoCustomMetadata),
	{"unimplemented_method", func(ctx context.Context, ch channel) {
		interop.DoUnimplementedMethod(ctx, ch.bridge)
	}},
	{"unimplemented_service", func(ctx context.Context, ch channel) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(ch))
	}},
	{"pick_first_unary", func(ctx context.Context, ch channel) {
		interop.DoPickFirstUnary(ctx, testgrpc.NewTestServiceClient(ch))
	}},
}

// channel is the client under test.
type channel struct {
	grpc.ClientConnInterface
	bridge *grpc.ClientConn // for the case that insists on grpc-go's type
}

// clients dial the target with the resolver given and close the channel with
// the test.
var clients = []struct {
	name string
	dial func(ctx context.Context, t *testing.T, target string, creds credentials.TransportCredentials, r resolver.Builder) channel
}{
	{"grpcdial", func(ctx context.Context, t *testing.T, target string, creds credentials.TransportCredentials, r resolver.Builder) channel {
		cc := dialGrpcdial(ctx, t, target, creds, r)
		return channel{cc, cc.GRPC()}
	}},
	{"bridge", func(ctx context.Context, t *testing.T, target string, creds credentials.TransportCredentials, r resolver.Builder) channel {
		bridge := dialGrpcdial(ctx, t, target, creds, r).GRPC()
		return channel{bridge, bridge}
	}},
	{"grpc-go", func(_ context.Context, t *testing.T, target string, creds credentials.TransportCredentials, r resolver.Builder) channel {
		cc, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithResolvers(r))
		require.NoError(t, err)
		t.Cleanup(func() { cc.Close() })
		return channel{cc, cc}
	}},
}

func dialGrpcdial(ctx context.Context, t *testing.T, target string, creds credentials.TransportCredentials, r resolver.Builder) *grpcdial.ClientConn {
	t.Helper()
	cc, err := grpcdial.DialContext(ctx, target,
		grpcdial.WithTransportCredentials(creds), grpcdial.WithResolvers(r), grpcdial.WithBlock())
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

func TestInterop(t *testing.T) {
	const serverName = "foo.test.google.fr" // the certificate below is for *.test.google.fr
	serverTLS, err := credentials.NewServerTLSFromFile(testdata.Path("server1.pem"), testdata.Path("server1.key"))
	require.NoError(t, err)
	clientTLS, err := credentials.NewClientTLSFromFile(testdata.Path("ca.pem"), serverName)
	require.NoError(t, err)

	for _, security := range []struct {
		name           string
		server, client credentials.TransportCredentials
	}{
		{"plaintext", insecure.NewCredentials(), insecure.NewCredentials()},
		{"tls", serverTLS, clientTLS},
	} {
		t.Run(security.name, func(t *testing.T) {
			// Two backends, so that pick_first has something to pick from.
			addresses := []resolver.Address{
				{Addr: startBackend(t, "first", security.server)},
				{Addr: startBackend(t, "second", security.server)},
			}
			for _, client := range clients {
				t.Run(client.name, func(t *testing.T) {
					for _, c := range interopCases {
						t.Run(c.name, func(t *testing.T) {
							ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
							defer cancel()
							r := manual.NewBuilderWithScheme("interop")
							r.InitialState(resolver.State{Addresses: addresses})
							ch := client.dial(ctx, t, "interop:///backends", security.client, r)

							// The case starts on a READY channel: one that is about a
							// deadline would otherwise spend it on connecting.
							_, err := testgrpc.NewTestServiceClient(ch).EmptyCall(ctx, &testgrpc.Empty{}, grpc.WaitForReady(true))
							require.NoError(t, err)

							if text := failure(func() { c.run(ctx, ch) }); text != "" {
								t.Fatal(text)
							}
						})
					}
				})
			}
		})
	}
}

// startBackend serves grpc-go's interoperability service on a loopback port
// until the test ends and returns its address.
func startBackend(t *testing.T, id string, creds credentials.TransportCredentials) string {
	t.Helper()
	server := grpc.NewServer(grpc.Creds(creds))
	testgrpc.RegisterTestServiceServer(server, backend{interop.NewTestServer(), id})
	return serve(t, server)
}

// serve runs a server on a loopback port until the test ends and returns its address.
func serve(t *testing.T, server *grpc.Server) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			require.NoError(t, err)
		}
	})
	return lis.Addr().String()
}

// backend is the interoperability service, completed for two cases.
type backend struct {
	testgrpc.TestServiceServer
	id string
}

// UnaryCall fills in the server id, which pick_first_unary asks for and
// grpc-go's in-process service leaves empty.
func (b backend) UnaryCall(ctx context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	out, err := b.TestServiceServer.UnaryCall(ctx, in)
	if err == nil && in.GetFillServerId() {
		out.ServerId = b.id
	}
	return out, err
}

// StreamingInputCall answers a client that sends no message only after the
// client has cancelled. cancel_after_begin cancels and half-closes at once; a
// server that answers the half-close at times beats the cancellation, with
// grpc-go's client too, and the case fails for nothing.
func (b backend) StreamingInputCall(stream testgrpc.TestService_StreamingInputCallServer) error {
	return b.TestServiceServer.StreamingInputCall(&cancelFirst{TestService_StreamingInputCallServer: stream})
}

type cancelFirst struct {
	testgrpc.TestService_StreamingInputCallServer
	received bool // the handler's goroutine only
}

func (s *cancelFirst) Recv() (*testgrpc.StreamingInputCallRequest, error) {
	in, err := s.TestService_StreamingInputCallServer.Recv()
	if errors.Is(err, io.EOF) && !s.received {
		<-s.Context().Done()
	}
	s.received = true
	return in, err
}
