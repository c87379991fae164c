package bridge_test

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// echo makes a unary RPC to the echo server.
func echo(t *testing.T, cc grpc.ClientConnInterface, method string, opts ...grpc.CallOption) error {
	t.Helper()
	reply, err := backendtest.CallEcho(t, cc, method, opts...)
	if err == nil {
		assert.Equal(t, "hello", reply)
	}
	return err
}

// echoStream sends and receives one message.
func echoStream(t *testing.T, cc grpc.ClientConnInterface) error {
	t.Helper()
	s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Echo")
	if err != nil {
		return err
	}
	if err := s.SendMsg(wrapperspb.String("hello")); err != nil {
		return err
	}
	if err := s.RecvMsg(new(wrapperspb.StringValue)); err != nil {
		return err
	}
	require.NoError(t, s.CloseSend())
	require.ErrorIs(t, s.RecvMsg(new(wrapperspb.StringValue)), io.EOF)
	return nil
}

// tagging returns a unary and a stream interceptor that append name to the metadata
// "step".
func tagging(name string) (grpc.UnaryClientInterceptor, grpc.StreamClientInterceptor) {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoker(metadata.AppendToOutgoingContext(ctx, "step", name), method, req, reply, cc, opts...)
		}, func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(metadata.AppendToOutgoingContext(ctx, "step", name), desc, cc, method, opts...)
		}
}

// tagged returns options with the interceptors of tagging.
func tagged(name string) []grpc.DialOption {
	unary, stream := tagging(name)
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream)}
}

// token is per-RPC credentials.
type token struct{}

func (token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"token": "t"}, nil
}
func (token) RequireTransportSecurity() bool { return false }

// counter counts the ends of attempts that a stats handler gets.
type counter struct {
	finished atomic.Int64 // the calls of OnFinish

	mu   sync.Mutex
	ends int // guarded by mu
}

func (c *counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *counter) HandleConn(context.Context, stats.ConnStats)                       {}
func (c *counter) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ends++
	}
}

func (c *counter) seen() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ends
}

const retries = `{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.001s","maxBackoff":"0.01s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}`

// shared are options as programs share them: one of each kind that changes what a
// server sees, or what the program does.
func shared(c *counter, dialed *int) []grpc.DialOption {
	unary, stream := tagging("first")
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent("shared/1"),
		grpc.WithAuthority("shared.example"),
		grpc.WithPerRPCCredentials(token{}),
		grpc.WithStatsHandler(c),
		grpc.WithDefaultServiceConfig(retries),
		grpc.WithUnaryInterceptor(unary),
		grpc.WithStreamInterceptor(stream),
		grpc.WithDefaultCallOptions(grpc.OnFinish(func(error) { c.finished.Add(1) })),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			*dialed++
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: time.Second}),
		grpc.WithInitialWindowSize(1 << 20),
		grpc.WithReadBufferSize(8 << 10),
		grpc.WithMaxHeaderListSize(1 << 20),
		grpc.WithIdleTimeout(time.Hour),
	}, tagged("second")...)
}

// seenByServer is what a server sees of shared.
func seenByServer(t *testing.T, s *backendtest.Echo) map[string][]string {
	t.Helper()
	_, md, _ := s.Last()
	seen := map[string][]string{}
	for _, key := range []string{"step", "token", ":authority"} {
		seen[key] = md.Get(key)
	}
	return seen
}

// TestFromGRPC: the same options do the same on a connection of grpc-go's and on a
// channel of grpcdial's.
func TestFromGRPC(t *testing.T) {
	s := backendtest.StartEcho(t)
	var theirs, ours counter
	var dialed int
	conn, err := grpc.NewClient(s.Addr, shared(&theirs, &dialed)...)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, echo(t, conn, "Flaky"))
	want := seenByServer(t, s)
	require.Equal(t, 1, dialed)

	opt, err := bridge.FromGRPC(shared(&ours, &dialed)...)
	require.NoError(t, err)
	cc, err := grpcdial.NewClient(s.Addr, opt)
	require.NoError(t, err)
	defer cc.Close()
	require.NoError(t, echo(t, cc, "Flaky"), "the retry policy is in force")
	assert.Equal(t, want, seenByServer(t, s))
	assert.Equal(t, []string{"first", "second"}, want["step"])
	_, md, _ := s.Last()
	assert.Equal(t, []string{"shared/1 grpc-go-grpcdial/0.1.0"}, md.Get("user-agent"))
	assert.EqualValues(t, 4, s.Calls.Load())
	assert.Equal(t, 2, dialed)
	assert.Equal(t, theirs.seen(), ours.seen())
	require.NoError(t, echoStream(t, cc))
	assert.Equal(t, want, seenByServer(t, s))
}

// TestFromGRPCReplacesNothing: what the options do not speak of stays as the program
// has said before, and what they speak of may be said again.
func TestFromGRPCReplacesNothing(t *testing.T) {
	s := backendtest.StartEcho(t)
	none, err := bridge.FromGRPC()
	require.NoError(t, err)
	agent, err := bridge.FromGRPC(grpc.WithUserAgent("theirs"))
	require.NoError(t, err)
	for want, opts := range map[string][]grpcdial.DialOption{
		"mine":   {grpcdial.WithUserAgent("mine"), none},
		"theirs": {grpcdial.WithUserAgent("mine"), agent},
		"last":   {agent, grpcdial.WithUserAgent("last")},
	} {
		cc, err := grpcdial.NewClient(s.Addr, append(opts, grpcdial.WithInsecure())...)
		require.NoError(t, err)
		require.NoError(t, echo(t, cc, "Echo"))
		_, md, _ := s.Last()
		assert.Equal(t, []string{want + " grpc-go-grpcdial/0.1.0"}, md.Get("user-agent"))
		require.NoError(t, cc.Close())
	}
}

func TestFromGRPCRefuses(t *testing.T) {
	var calm noPool
	for name, tt := range map[string]struct {
		opts []grpc.DialOption
		want string
	}{
		"nil":         {[]grpc.DialOption{grpc.WithDisableRetry(), nil}, "dial option 2 of 2 is nil"},
		"buffer pool": {[]grpc.DialOption{experimental.WithBufferPool(calm)}, "experimental.WithBufferPool"},
		"ToGRPC":      {bridge.ToGRPC(), "was given options of ToGRPC"},
	} {
		_, err := bridge.FromGRPC(tt.opts...)
		assert.ErrorContains(t, err, tt.want, name)
	}

	// What grpcdial refuses of its own options it refuses of these.
	block, err := bridge.FromGRPC(grpc.WithBlock(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	_, err = grpcdial.NewClient("passthrough:///nowhere", block)
	require.ErrorContains(t, err, "WithBlock")
	config, err := bridge.FromGRPC(grpc.WithDefaultServiceConfig("{"))
	require.NoError(t, err)
	_, err = grpcdial.NewClient("passthrough:///nowhere", config, grpcdial.WithInsecure())
	require.Error(t, err)
}

type noPool struct{}

func (noPool) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (noPool) Put(*[]byte)       {}

var _ mem.BufferPool = noPool{}

// library is code that makes its connection itself: with options of its own before and
// after those of the program.
func library(target string, before, given, after []grpc.DialOption) (*grpc.ClientConn, error) {
	opts := append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, before...)
	return grpc.NewClient(target, append(append(opts, given...), after...)...)
}

// TestToGRPC: the RPCs of a library's connection run on a grpcdial channel with all that
// the library asked for, wherever in its list of options.
func TestToGRPC(t *testing.T) {
	var c counter
	var dialed int
	all := shared(&c, &dialed)[1:]
	for name, place := range map[string]func(given []grpc.DialOption) (before, after []grpc.DialOption){
		"options before": func([]grpc.DialOption) (_, _ []grpc.DialOption) { return all, nil },
		"options after":  func([]grpc.DialOption) (_, _ []grpc.DialOption) { return nil, all },
	} {
		t.Run(name, func(t *testing.T) {
			s := backendtest.StartEcho(t)
			given := bridge.ToGRPC()
			before, after := place(given)
			conn, err := library(s.Addr, before, given, after)
			require.NoError(t, err)
			defer conn.Close()
			ends, dials, finished := c.seen(), dialed, c.finished.Load()
			require.NoError(t, echo(t, conn, "Flaky"), "the library's retry policy is in force")
			_, md, _ := s.Last()
			assert.EqualValues(t, 2, s.Calls.Load())
			assert.Equal(t, []string{"shared/1 grpc-go-grpcdial/0.1.0"}, md.Get("user-agent"))
			assert.Equal(t, map[string][]string{
				"step": {"first", "second"}, "token": {"t"}, ":authority": {"shared.example"},
			}, seenByServer(t, s))
			require.NoError(t, echoStream(t, conn))
			assert.Equal(t, []string{"first", "second"}, seenByServer(t, s)["step"])
			assert.Equal(t, 3, c.seen()-ends)
			assert.EqualValues(t, 2, c.finished.Load()-finished)
			assert.Equal(t, 1, dialed-dials)
			backendtest.AwaitState(t, conn, connectivity.Ready)
		})
	}
}

// TestToGRPCOptionsWin: those of the program are for the channel.
func TestToGRPCOptionsWin(t *testing.T) {
	s := backendtest.StartEcho(t)
	conn, err := library(s.Addr, []grpc.DialOption{grpc.WithUserAgent("library")}, bridge.ToGRPC(grpcdial.WithUserAgent("program")), nil)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, echo(t, conn, "Echo"))
	_, md, _ := s.Last()
	assert.Equal(t, []string{"program grpc-go-grpcdial/0.1.0"}, md.Get("user-agent"))
}

// TestToGRPCStates: a library sees its connection connect, fail and end.
func TestToGRPCStates(t *testing.T) {
	s := backendtest.StartEcho(t)
	conn, err := library(s.Addr, nil, bridge.ToGRPC(), nil)
	require.NoError(t, err)
	assert.Equal(t, connectivity.Idle, conn.GetState())
	conn.Connect()
	backendtest.AwaitState(t, conn, connectivity.Ready)
	require.NoError(t, conn.Close())
	assert.Equal(t, connectivity.Shutdown, conn.GetState())
	require.ErrorIs(t, echo(t, conn, "Echo"), grpc.ErrClientConnClosing)

	dead, err := library("127.0.0.1:1", nil, bridge.ToGRPC(), nil)
	require.NoError(t, err)
	defer dead.Close()
	err = echo(t, dead, "Echo")
	assert.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "connection refused")
	var failed *grpcdial.DialError
	require.ErrorAs(t, err, &failed)
	backendtest.AwaitState(t, dead, connectivity.TransientFailure)

	unused, err := library(s.Addr, nil, bridge.ToGRPC(), nil)
	require.NoError(t, err)
	require.NoError(t, unused.Close())
	require.ErrorIs(t, echo(t, unused, "Echo"), grpc.ErrClientConnClosing)
}

// TestToGRPCBlocks: a library that waits for its connection, with grpc-go's means.
func TestToGRPCBlocks(t *testing.T) {
	s := backendtest.StartEcho(t)
	opts := append(bridge.ToGRPC(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithBlock())
	conn, err := grpc.DialContext(backendtest.Bounded(t), s.Addr, opts...)
	require.NoError(t, err)
	assert.Equal(t, connectivity.Ready, conn.GetState())
	require.NoError(t, echo(t, conn, "Echo"))
	require.NoError(t, conn.Close())

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = grpc.DialContext(ctx, "127.0.0.1:1", opts...)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestToGRPCTwoTargets: the same options make a channel for each connection.
func TestToGRPCTwoTargets(t *testing.T) {
	a, b := backendtest.StartEcho(t), backendtest.StartEcho(t)
	given := bridge.ToGRPC()
	for _, s := range []*backendtest.Echo{a, b} {
		conn, err := library(s.Addr, nil, given, nil)
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, echo(t, conn, "Echo"))
		assert.EqualValues(t, 1, s.Calls.Load())
	}
}

// TestToGRPCResolvers: the library's own, given before or after, with a scheme that
// only it knows.
func TestToGRPCResolvers(t *testing.T) {
	s := backendtest.StartEcho(t)
	builder := manual.NewBuilderWithScheme("library")
	builder.InitialState(resolver.State{Endpoints: []resolver.Endpoint{{Addresses: []resolver.Address{{Addr: s.Addr}}}}})
	own := []grpc.DialOption{grpc.WithResolvers(builder)}
	for _, place := range [][2][]grpc.DialOption{{own, nil}, {nil, own}} {
		conn, err := library("library:///shop", place[0], bridge.ToGRPC(), place[1])
		require.NoError(t, err)
		require.NoError(t, echo(t, conn, "Echo"))
		assert.Equal(t, "library:///shop", conn.CanonicalTarget())
		require.NoError(t, conn.Close())
	}
}

func TestToGRPCRefuses(t *testing.T) {
	given := bridge.ToGRPC()
	for name, tt := range map[string]struct {
		given, after []grpc.DialOption
		want         string
	}{
		"twice":          {append(given, given...), nil, "given twice"},
		"contradiction":  {bridge.ToGRPC(grpcdial.WithInsecure()), nil, "WithInsecure and WithTransportCredentials were both given"},
		"blocking":       {bridge.ToGRPC(grpcdial.WithBlock()), nil, "WithBlock"},
		"buffer pool":    {given, []grpc.DialOption{experimental.WithBufferPool(noPool{})}, "experimental.WithBufferPool"},
		"service config": {given, []grpc.DialOption{grpc.WithDefaultServiceConfig("{")}, "service config"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := library("passthrough:///nowhere", nil, tt.given, tt.after)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

// TestToGRPCNeverIdle: grpc-go's part of a connection does not go idle by itself, which
// would cut the RPCs that run on the channel, but the channel does.
func TestToGRPCNeverIdle(t *testing.T) {
	s := backendtest.StartEcho(t)
	conn, err := library(s.Addr, nil, bridge.ToGRPC(), []grpc.DialOption{grpc.WithIdleTimeout(50 * time.Millisecond)})
	require.NoError(t, err)
	defer conn.Close()
	stream, err := conn.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Echo")
	require.NoError(t, err)
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		require.NoError(t, stream.SendMsg(wrapperspb.String("still there")))
		require.NoError(t, stream.RecvMsg(new(wrapperspb.StringValue)))
	}
	require.NoError(t, stream.CloseSend())
	require.ErrorIs(t, stream.RecvMsg(new(wrapperspb.StringValue)), io.EOF)
	backendtest.AwaitState(t, conn, connectivity.Idle)
	require.NoError(t, echo(t, conn, "Echo"))
}
