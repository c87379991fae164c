// Package docs_test holds what docs/migration.md says to what grpc-go and
// grpcdial do. Each test is named after the part that it holds.
package docs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/examples/greeter/pb"
	"github.com/grpcdial/grpcdial/examples/greeter/service"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// channel is what the two types have in common.
type channel interface {
	grpc.ClientConnInterface
	Target() string
	CanonicalTarget() string
	GetState() connectivity.State
	WaitForStateChange(context.Context, connectivity.State) bool
	Connect()
	ResetConnectBackoff()
	GetMethodConfig(method string) grpc.MethodConfig
	Close() error
}

var _, _ channel = (*grpc.ClientConn)(nil), (*grpcdial.ClientConn)(nil)

func plaintext() grpc.DialOption {
	return grpc.WithTransportCredentials(insecure.NewCredentials())
}

// serve runs the greeter until the test ends and returns its address.
func serve(t *testing.T, options ...grpc.ServerOption) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := service.NewServer(options...)
	t.Cleanup(server.Stop)
	go server.Serve(lis) // returns when Stop is called
	return lis.Addr().String()
}

// unserved returns an address on which no server listens.
func unserved(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, lis.Close())
	return lis.Addr().String()
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func greet(t *testing.T, cc grpc.ClientConnInterface, options ...grpc.CallOption) error {
	t.Helper()
	_, err := pb.NewGreeterClient(cc).SayHello(within(t, time.Minute), &pb.HelloRequest{Name: "dddd"}, options...)
	return err
}

func TestErrorOfABlockingDial(t *testing.T) {
	address := unserved(t)
	// what is compared with is deprecated
	_, err := grpc.DialContext(within(t, 50*time.Millisecond), address, plaintext(), grpc.WithBlock())
	assert.True(t, err == context.DeadlineExceeded, "%v", err)

	refused := backendtest.NewUntilNow() // its deadline passes when the first attempt has failed
	_, err = grpcdial.DialContext(refused, address, grpcdial.WithInsecure(), grpcdial.WithBlock(),
		grpcdial.WithDialTrace(&grpcdial.DialTrace{Failed: func(grpcdial.DialEvent) { refused.End() }}))
	assert.False(t, err == context.DeadlineExceeded)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorAs(t, err, new(*grpcdial.DialError))
	assert.ErrorAs(t, err, new(*net.OpError))
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))

	_, err = grpcdial.DialContext(within(t, 50*time.Millisecond), address, grpcdial.WithInsecure(), grpcdial.WithReturnConnectionError())
	assert.ErrorAs(t, err, new(*grpcdial.DialError))
}

func TestFailuresThatWaitingDoesNotMend(t *testing.T) {
	cert := h2test.NewCA(t).Server("greeter.example")
	address := serve(t, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	stranger := credentials.NewTLS(&tls.Config{RootCAs: x509.NewCertPool(), ServerName: "greeter.example"})

	// what is compared with is deprecated
	_, err := grpc.DialContext(within(t, 100*time.Millisecond), address, grpc.WithTransportCredentials(stranger), grpc.WithBlock(),
		grpc.FailOnNonTempDialError(true)) // likewise
	assert.ErrorIs(t, err, context.DeadlineExceeded)

	_, err = grpcdial.DialContext(within(t, time.Minute), address, grpcdial.WithTransportCredentials(stranger), grpcdial.WithBlock(),
		grpcdial.FailOnNonTempDialError(true))
	assert.NotErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorAs(t, err, new(x509.UnknownAuthorityError))
}

func TestContextThatHasEnded(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	theirs, err := grpc.DialContext(ended, unserved(t), plaintext()) // what is compared with is deprecated
	require.NoError(t, err)
	theirs.Close()
	_, err = grpcdial.DialContext(ended, unserved(t), grpcdial.WithInsecure())
	assert.ErrorIs(t, err, context.Canceled)
}

func TestNewClientAndOptionsOfABlockingDial(t *testing.T) {
	// what is compared with is deprecated
	theirs, err := grpc.NewClient("localhost:1", plaintext(), grpc.WithBlock(), grpc.WithTimeout(time.Second), grpc.FailOnNonTempDialError(true))
	require.NoError(t, err)
	theirs.Close()
	for _, option := range []grpcdial.DialOption{
		grpcdial.WithBlock(), grpcdial.WithReturnConnectionError(), grpcdial.WithTimeout(time.Second), grpcdial.FailOnNonTempDialError(true),
	} {
		_, err := grpcdial.NewClient("localhost:1", grpcdial.WithInsecure(), option)
		assert.ErrorContains(t, err, "AwaitReady")
	}
}

func TestDefaultSchemes(t *testing.T) {
	dialed, err := grpcdial.Dial("localhost:1", grpcdial.WithInsecure())
	require.NoError(t, err)
	defer dialed.Close()
	assert.Equal(t, "passthrough:///localhost:1", dialed.CanonicalTarget())
	theirDialed, err := grpc.Dial("localhost:1", plaintext()) // what is compared with is deprecated
	require.NoError(t, err)
	defer theirDialed.Close()
	assert.Equal(t, dialed.CanonicalTarget(), theirDialed.CanonicalTarget())

	client, err := grpcdial.NewClient("localhost:1", grpcdial.WithInsecure())
	require.NoError(t, err)
	defer client.Close()
	assert.Equal(t, "dns:///localhost:1", client.CanonicalTarget())
	assert.Equal(t, connectivity.Idle, client.GetState())
	theirClient, err := grpc.NewClient("localhost:1", plaintext())
	require.NoError(t, err)
	defer theirClient.Close()
	assert.Equal(t, client.CanonicalTarget(), theirClient.CanonicalTarget())
	assert.Equal(t, connectivity.Idle, theirClient.GetState())
}

func TestTargetsThatCannotWork(t *testing.T) {
	for _, target := range []string{"http://localhost:1", "https://localhost:1", "", "localhost:", "xds:///backend"} {
		if target != "" {
			// what is compared with is deprecated
			theirs, err := grpc.Dial(target, plaintext())
			require.NoError(t, err, target)
			theirs.Close()
		}
		_, err := grpcdial.Dial(target, grpcdial.WithInsecure())
		assert.Error(t, err, target)
		_, err = grpcdial.NewClient(target, grpcdial.WithInsecure())
		assert.Error(t, err, target)
	}
}

func TestCustomDialerAndABareTarget(t *testing.T) {
	lis := bufconn.Listen(1 << 16)
	server := service.NewServer()
	t.Cleanup(server.Stop)
	go server.Serve(lis) // returns when Stop is called
	dialer := func(asked *string) func(context.Context, string) (net.Conn, error) {
		return func(ctx context.Context, address string) (net.Conn, error) {
			*asked = address
			return lis.DialContext(ctx)
		}
	}

	var asked string
	theirs, err := grpc.NewClient("127.0.0.1", plaintext(), grpc.WithContextDialer(dialer(&asked)))
	require.NoError(t, err)
	defer theirs.Close()
	require.NoError(t, greet(t, theirs))
	assert.Equal(t, "127.0.0.1:443", asked)

	cc, err := grpcdial.NewClient("127.0.0.1", grpcdial.WithInsecure(), grpcdial.WithContextDialer(dialer(&asked)))
	require.NoError(t, err)
	defer cc.Close()
	require.NoError(t, greet(t, cc))
	assert.Equal(t, "127.0.0.1", asked)
}

func TestSecurityGivenTwice(t *testing.T) {
	secure := credentials.NewTLS(nil)
	theirs, err := grpc.NewClient("localhost:1", plaintext(), grpc.WithTransportCredentials(secure))
	require.NoError(t, err)
	theirs.Close()
	_, err = grpcdial.NewClient("localhost:1", grpcdial.WithInsecure(), grpcdial.WithTransportCredentials(secure))
	assert.ErrorIs(t, err, grpcdial.ErrInsecureWithTransportCredentials)
}

func TestErrorOfAnRPC(t *testing.T) {
	address := unserved(t)
	theirs, err := grpc.NewClient(address, plaintext())
	require.NoError(t, err)
	defer theirs.Close()
	err = greet(t, theirs)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.False(t, errors.As(err, new(*net.OpError)))

	cc, err := grpcdial.NewClient(address, grpcdial.WithInsecure())
	require.NoError(t, err)
	defer cc.Close()
	err = greet(t, cc)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorAs(t, err, new(*net.OpError))
	assert.ErrorAs(t, err, new(*grpcdial.DialError))
}

func TestDeadlineOfAnRPC(t *testing.T) {
	cc, err := grpcdial.NewClient(unserved(t), grpcdial.WithInsecure())
	require.NoError(t, err)
	defer cc.Close()
	cc.Connect()
	for ctx := within(t, time.Minute); cc.GetState() != connectivity.TransientFailure; {
		require.NoError(t, ctx.Err())
		cc.WaitForStateChange(ctx, cc.GetState())
	}
	_, err = pb.NewGreeterClient(cc).SayHello(within(t, time.Second), &pb.HelloRequest{}, grpc.WaitForReady(true))
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "waiting for a connection")
}

func TestUserAgent(t *testing.T) {
	agents := make(chan string, 2)
	address := serve(t, grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		agents <- md["user-agent"][0]
		return handle(ctx, request)
	}))
	theirs, err := grpc.NewClient(address, plaintext(), grpc.WithUserAgent("mine/1"))
	require.NoError(t, err)
	defer theirs.Close()
	require.NoError(t, greet(t, theirs))
	assert.Equal(t, "mine/1 grpc-go/"+grpc.Version, <-agents)

	cc, err := grpcdial.NewClient(address, grpcdial.WithInsecure(), grpcdial.WithUserAgent("mine/1"))
	require.NoError(t, err)
	defer cc.Close()
	require.NoError(t, greet(t, cc))
	assert.Regexp(t, `^mine/1 grpc-go-grpcdial/\d+\.\d+\.\d+$`, <-agents)
}

// TestConnectionsThatServedNothing: connections that the server ends before an RPC was
// served are spaced, and those that it resets count as failed attempts.
func TestConnectionsThatServedNothing(t *testing.T) {
	for _, tt := range []struct {
		name    string
		connect func(address string) (channel, error)
		spaced  bool
	}{
		{"grpc-go", func(a string) (channel, error) { return grpc.NewClient(a, plaintext()) }, false},
		{"grpcdial", func(a string) (channel, error) { return grpcdial.NewClient(a, grpcdial.WithInsecure()) }, true},
	} {
		connections := func(t *testing.T, n int, end func(*h2test.Conn)) (channel, *h2test.Server) {
			srv := h2test.Listen(t)
			cc, err := tt.connect(srv.Addr())
			require.NoError(t, err)
			t.Cleanup(func() { _ = cc.Close() })
			for range n {
				cc.Connect()
				conn := srv.Accept()
				conn.Handshake()
				reach(t, cc, connectivity.Ready)
				end(conn)
				reach(t, cc, connectivity.Idle)
			}
			return cc, srv
		}
		t.Run(tt.name+", closed", func(t *testing.T) {
			begun := time.Now()
			cc, srv := connections(t, 5, (*h2test.Conn).Close)
			cc.Connect()
			srv.Accept().Handshake()
			reach(t, cc, connectivity.Ready)
			if tt.spaced {
				assert.Greater(t, time.Since(begun), 700*time.Millisecond, "50, 100, 200 and 400 ms between them")
			}
		})
		t.Run(tt.name+", reset", func(t *testing.T) {
			cc, srv := connections(t, 2, (*h2test.Conn).CloseHard)
			cc.Connect()
			if tt.spaced {
				reach(t, cc, connectivity.TransientFailure)
				return
			}
			srv.Accept().Handshake()
			reach(t, cc, connectivity.Ready)
		})
	}
}

// reach waits until cc is in state want.
func reach(t *testing.T, cc channel, want connectivity.State) {
	t.Helper()
	ctx := within(t, time.Minute)
	for now := cc.GetState(); now != want; now = cc.GetState() {
		require.True(t, cc.WaitForStateChange(ctx, now), "%v, want %v", now, want)
	}
}

func TestWindows(t *testing.T) {
	for _, tt := range []struct {
		name      string
		connect   func(address string) (channel, error)
		stream    uint32
		announced bool
	}{
		{"grpc-go", func(a string) (channel, error) { return grpc.NewClient(a, plaintext()) }, 0, false},
		{"grpcdial", func(a string) (channel, error) { return grpcdial.NewClient(a, grpcdial.WithInsecure()) }, 512 << 10, true},
	} {
		srv := h2test.Listen(t)
		cc, err := tt.connect(srv.Addr())
		require.NoError(t, err)
		cc.Connect()
		settings := srv.Accept().Handshake()
		stream, announced := settings.Setting(http2.SettingInitialWindowSize)
		assert.Equal(t, tt.announced, announced, tt.name)
		assert.Equal(t, tt.stream, stream, tt.name)
		require.NoError(t, cc.Close())
	}
}

func TestMirror(t *testing.T) {
	var intercepted []*grpc.ClientConn
	cc, err := grpcdial.NewClient(serve(t), grpcdial.WithInsecure(),
		grpcdial.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "timeout": "9s"}]}`),
		grpcdial.WithUnaryInterceptor(func(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			intercepted = append(intercepted, cc)
			return invoke(ctx, method, request, reply, cc, options...)
		}))
	require.NoError(t, err)
	defer cc.Close()

	mirror := cc.GRPC()
	require.NoError(t, greet(t, mirror), "an RPC on the mirror runs on the channel")
	require.Len(t, intercepted, 1)
	assert.Equal(t, connectivity.Shutdown, intercepted[0].GetState())
	require.NoError(t, greet(t, intercepted[0]), "RPCs run on what interceptors get")
	assert.Same(t, mirror, cc.GRPC())

	stream, err := grpc.NewClientStream(within(t, time.Minute), &grpc.StreamDesc{ServerStreams: true}, mirror, pb.Greeter_SayHello_FullMethodName)
	require.NoError(t, err)
	require.NoError(t, stream.SendMsg(&pb.HelloRequest{}))
	require.NoError(t, stream.CloseSend())
	reply := new(pb.HelloReply)
	require.NoError(t, stream.RecvMsg(reply))
	assert.Equal(t, service.Reply, reply.GetMessage())
	require.ErrorIs(t, stream.RecvMsg(reply), io.EOF)

	assert.Equal(t, connectivity.Ready, cc.GetState())
	assert.Equal(t, connectivity.Ready, mirror.GetState())
	assert.Equal(t, cc.Target(), mirror.Target())
	assert.NotNil(t, cc.GetMethodConfig("/a/b").Timeout)
	assert.Nil(t, mirror.GetMethodConfig("/a/b").Timeout)
	require.NoError(t, mirror.Close())
	assert.Equal(t, codes.Canceled, status.Code(greet(t, mirror)))
	require.NoError(t, greet(t, cc), "the channel is open still")
}

// nosyCredentials are insecure ones that look at the address's attributes.
type nosyCredentials struct {
	credentials.TransportCredentials
	found chan any
}

func (c nosyCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var found any
	if a := credentials.ClientHandshakeInfoFromContext(ctx).Attributes; a != nil {
		found = a.Value("key")
	}
	select {
	case c.found <- found:
	default:
	}
	return c.TransportCredentials.ClientHandshake(ctx, authority, conn)
}

func (c nosyCredentials) Clone() credentials.TransportCredentials {
	return nosyCredentials{c.TransportCredentials.Clone(), c.found}
}

func TestClientHandshakeInfo(t *testing.T) {
	builder := manual.NewBuilderWithScheme("whatever")
	builder.InitialState(resolver.State{Endpoints: []resolver.Endpoint{{
		Addresses: []resolver.Address{{Addr: serve(t), Attributes: attributes.New("key", "value")}},
	}}})
	creds := nosyCredentials{insecure.NewCredentials(), make(chan any, 1)}

	theirs, err := grpc.NewClient("whatever:///", grpc.WithTransportCredentials(creds), grpc.WithResolvers(builder))
	require.NoError(t, err)
	defer theirs.Close()
	require.NoError(t, greet(t, theirs))
	assert.Equal(t, "value", <-creds.found)

	cc, err := grpcdial.NewClient("whatever:///", grpcdial.WithTransportCredentials(creds), grpcdial.WithResolvers(builder))
	require.NoError(t, err)
	defer cc.Close()
	require.NoError(t, greet(t, cc))
	assert.Equal(t, "value", <-creds.found)
}

func TestPreparedMsg(t *testing.T) {
	cc, err := grpcdial.NewClient(serve(t), grpcdial.WithInsecure())
	require.NoError(t, err)
	defer cc.Close()
	stream, err := cc.NewStream(within(t, time.Minute), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, healthpb.Health_Watch_FullMethodName)
	require.NoError(t, err)
	assert.Equal(t, codes.Internal, status.Code(new(grpc.PreparedMsg).Encode(stream, new(pb.HelloRequest))))
	err = stream.SendMsg(new(grpc.PreparedMsg))
	if errors.Is(err, io.EOF) { // the server was faster to say that it has no such method
		t.Fatal(err)
	}
	assert.Equal(t, codes.Internal, status.Code(err))
	assert.ErrorContains(t, err, "PreparedMsg")
}
