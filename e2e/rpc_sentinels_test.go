package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// sentinels are values by which programs recognise how something of their own went.
var sentinels = []error{
	io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, io.ErrNoProgress, io.ErrShortWrite,
	context.Canceled, context.DeadlineExceeded,
	fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrClosed, fs.ErrInvalid,
	os.ErrDeadlineExceeded, net.ErrClosed, http.ErrServerClosed, http.ErrHandlerTimeout, errors.ErrUnsupported,
}

// errOwn is a value of the program's own, and errOf an error that has it and a sentinel.
var errOwn = errors.New("the program's own")

func errOf(sentinel error) error { return fmt.Errorf("%w: %w", errOwn, sentinel) }

// failureWay is a way in which RPCs fail.
type failureWay struct {
	name   string
	target string
	dial   []grpcdial.DialOption
	call   []grpc.CallOption
	ctx    func(*testing.T) context.Context // nil: one that does not end
	code   codes.Code
	own    error   // the sentinel that the RPC's own context ended it with
	finds  []error // what errors.Is finds all the same
	as     func(error) bool
}

// kindsOfRPC run an RPC each until it fails, and return its error.
var kindsOfRPC = map[string]func(context.Context, grpc.ClientConnInterface, ...grpc.CallOption) error{
	"unary": func(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) error {
		return cc.Invoke(ctx, "/test.Service/Unary", wrapperspb.String("x"), new(wrapperspb.StringValue), opts...)
	},
	"server stream": func(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) error {
		return drain(ctx, cc, &grpc.StreamDesc{ServerStreams: true}, opts)
	},
	"client stream": func(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) error {
		return drain(ctx, cc, &grpc.StreamDesc{ClientStreams: true}, opts)
	},
	"both streams": func(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) error {
		return drain(ctx, cc, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, opts)
	},
}

// drain sends a message and receives as programs do, until an error.
func drain(ctx context.Context, cc grpc.ClientConnInterface, desc *grpc.StreamDesc, opts []grpc.CallOption) error {
	s, err := cc.NewStream(ctx, desc, "/test.Service/Stream", opts...)
	if err != nil {
		return err
	}
	if err := s.SendMsg(wrapperspb.String("x")); err != nil && err != io.EOF {
		return err
	}
	_ = s.CloseSend()
	for {
		if err := s.RecvMsg(new(wrapperspb.StringValue)); err != nil {
			return err
		}
	}
}

// TestRPCErrorsMatchNoSentinel: whatever an RPC fails of, its error is not one by which a
// program knows that all went well, or that something of its own ended.
func TestRPCErrorsMatchNoSentinel(t *testing.T) {
	for _, way := range failureWays(t) {
		for kind, run := range kindsOfRPC {
			t.Run(way.name+"/"+kind, func(t *testing.T) {
				ends := new(endsOfRPCs)
				opts := append([]grpcdial.DialOption{grpcdial.WithTransportCredentials(insecure.NewCredentials()), grpcdial.WithStatsHandler(ends)}, way.dial...)
				cc, err := grpcdial.NewClient(way.target, opts...)
				require.NoError(t, err)
				defer cc.Close()
				ctx := backendtest.Bounded(t)
				if way.ctx != nil {
					ctx = way.ctx(t)
				}
				err = run(ctx, cc, append(way.call, grpc.OnFinish(ends.add))...)
				require.NoError(t, cc.Close())
				for _, err := range append(ends.all(), err) {
					way.check(t, err)
				}
			})
		}
	}
}

func (way *failureWay) check(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	st, ok := status.FromError(err)
	assert.True(t, ok, "%v", err)
	assert.Equal(t, way.code, st.Code(), "%v", err)
	assert.ErrorIs(t, err, st.Err(), "errors.Is with a status error")
	for _, s := range sentinels {
		assert.Equal(t, s == way.own, errors.Is(err, s), "errors.Is(err, %q)\nerr: %v", s, err)
	}
	for _, s := range way.finds {
		assert.ErrorIs(t, err, s)
	}
	if way.as != nil {
		assert.True(t, way.as(err), "errors.As: %v", err)
	}
}

// as reports whether errors.As finds a T.
func as[T error](err error) bool { var e T; return errors.As(err, &e) }

func failureWays(t *testing.T) []failureWay {
	// cut makes a server that has each RPC's stream opened, and what end does to its
	// connection when the request is there.
	cut := func(begin, end func(*h2test.Stream), opts ...h2test.Option) *h2test.Server {
		srv := h2test.Listen(t, opts...)
		srv.Serve(func(s *h2test.Stream) {
			switch {
			case s.Ended:
				end(s)
			case s.Frame == s.Headers:
				begin(s)
			}
		})
		return srv
	}
	says := func(s *h2test.Stream) { s.SendHeaders() }
	closes := func(s *h2test.Stream) { s.Conn().Close() }
	fin := cut(says, closes)
	secure := cut(says, closes, h2test.WithTLS())
	answers := cut(says, func(s *h2test.Stream) { s.Reply([]byte("x")) })
	ways := []failureWay{
		{name: "FIN", target: fin.Addr(), code: codes.Unavailable},
		{name: "FIN after GOAWAY", code: codes.Unavailable, target: cut(func(s *h2test.Stream) {
			says(s)
			s.Conn().GoAway(s.ID, http2.ErrCodeNo, "")
		}, closes).Addr()},
		{name: "FIN within a frame", code: codes.Unavailable, target: cut(func(s *h2test.Stream) {
			says(s)
			s.Conn().RawBytes([]byte{0, 0, 9, 0, 0})
		}, closes).Addr()},
		{name: "FIN under TLS", target: secure.Addr(), code: codes.Unavailable,
			dial: []grpcdial.DialOption{grpcdial.WithTransportCredentials(credentials.NewTLS(secure.ClientTLS()))}},
		{name: "reset", code: codes.Unavailable, finds: []error{syscall.ECONNRESET}, as: as[*net.OpError],
			target: cut(says, func(s *h2test.Stream) { s.Conn().CloseHard() }).Addr()},
		{name: "a status that speaks of EOF", code: codes.Unavailable,
			target: cut(says, func(s *h2test.Stream) { s.SendTrailers(codes.Unavailable, "EOF") }).Addr()},
		{name: "retries used up", target: fin.Addr(), code: codes.Unavailable,
			dial: []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 2,
				"initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`)}},
		{name: "nothing listens", target: h2test.RefusedAddr(t), code: codes.Unavailable,
			finds: []error{syscall.ECONNREFUSED}, as: as[*net.OpError]},
		{name: "no such socket", target: "unix:///absent/socket", code: codes.Unavailable,
			finds: []error{syscall.ENOENT}, as: as[*grpcdial.DialError]},
		{name: "a server that accepts and closes", code: codes.Unavailable, as: as[*grpcdial.DialError],
			target: closing(t)},
		{name: "the deadline, connecting", target: h2test.RefusedAddr(t), code: codes.DeadlineExceeded, own: context.DeadlineExceeded,
			call: []grpc.CallOption{grpc.WaitForReady(true)}, finds: []error{syscall.ECONNREFUSED},
			ctx: func(t *testing.T) context.Context { return endsAfter(t, 500*time.Millisecond) }},
		{name: "the deadline, sent", code: codes.DeadlineExceeded, own: context.DeadlineExceeded, target: cut(says, func(*h2test.Stream) {}).Addr(),
			ctx: func(t *testing.T) context.Context { return endsAfter(t, 500*time.Millisecond) }},
		{name: "cancelled because of EOF", code: codes.Canceled, own: context.Canceled, finds: []error{errOwn}, target: cut(says, func(*h2test.Stream) {}).Addr(),
			ctx: func(t *testing.T) context.Context {
				ctx, cancel := context.WithCancelCause(backendtest.Bounded(t))
				time.AfterFunc(300*time.Millisecond, func() { cancel(errOf(io.EOF)) })
				return ctx
			}},
	}
	for _, s := range sentinels {
		bad := errOf(s)
		ways = append(ways,
			failureWay{name: fmt.Sprintf("the dialer returns %v", s), target: "passthrough:///x:1", code: codes.Unavailable,
				dial: []grpcdial.DialOption{grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, s })}},
			failureWay{name: fmt.Sprintf("the dialer's own, with %v", s), target: "passthrough:///x:1", code: codes.Unavailable, finds: []error{errOwn},
				dial: []grpcdial.DialOption{grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, bad })}},
			failureWay{name: fmt.Sprintf("the handshake, %v", s), target: fin.Addr(), code: codes.Unavailable, finds: []error{errOwn},
				dial: []grpcdial.DialOption{grpcdial.WithTransportCredentials(badHandshake{insecure.NewCredentials(), bad})}},
			failureWay{name: fmt.Sprintf("per-RPC credentials, %v", s), target: fin.Addr(), code: codes.Internal, finds: []error{errOwn},
				call: []grpc.CallOption{grpc.PerRPCCredentials(perRPC{get: func(context.Context, ...string) (map[string]string, error) { return nil, bad }})}},
			failureWay{name: fmt.Sprintf("per-RPC credentials, a status with %v", s), target: fin.Addr(), code: codes.PermissionDenied, finds: []error{errOwn},
				call: []grpc.CallOption{grpc.PerRPCCredentials(perRPC{get: func(context.Context, ...string) (map[string]string, error) {
					return nil, fmt.Errorf("%w: %w", status.Error(codes.PermissionDenied, "no"), bad)
				}})}},
			failureWay{name: fmt.Sprintf("the codec, %v", s), target: fin.Addr(), code: codes.Internal, finds: []error{errOwn},
				call: []grpc.CallOption{grpc.ForceCodec(badCodec{bad, bad})}},
			failureWay{name: fmt.Sprintf("the codec, of the reply, %v", s), target: answers.Addr(), code: codes.Internal, finds: []error{errOwn},
				call: []grpc.CallOption{grpc.ForceCodec(badCodec{nil, bad})}},
			failureWay{name: fmt.Sprintf("the picker, %v", s), target: fin.Addr(), code: codes.Unavailable, finds: []error{errOwn},
				dial: []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(badPolicy(t, bad))}},
			failureWay{name: fmt.Sprintf("the picker, a status with %v", s), target: fin.Addr(), code: codes.Unavailable, finds: []error{errOwn},
				dial: []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(badPolicy(t, fmt.Errorf("%w: %w", status.Error(codes.Unavailable, "no"), bad)))}},
		)
	}
	return ways
}

// endsAfter is a context that ends soon.
func endsAfter(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// closing is the address of a server that accepts connections and closes them.
func closing(t *testing.T) string {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = lis.Close(); done.Wait() })
	return lis.Addr().String()
}

// endsOfRPCs keeps what stats handlers and OnFinish get as the error of RPCs.
type endsOfRPCs struct {
	mu   sync.Mutex
	errs []error // guarded by mu
}

func (e *endsOfRPCs) add(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.errs = append(e.errs, err)
}

func (e *endsOfRPCs) all() []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.errs)
}

func (e *endsOfRPCs) HandleRPC(_ context.Context, s stats.RPCStats) {
	if end, ok := s.(*stats.End); ok {
		e.add(end.Error)
	}
}

func (*endsOfRPCs) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*endsOfRPCs) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*endsOfRPCs) HandleConn(context.Context, stats.ConnStats)                       {}

// badHandshake are transport credentials whose handshake fails.
type badHandshake struct {
	credentials.TransportCredentials
	err error
}

func (b badHandshake) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, b.err
}

func (b badHandshake) Clone() credentials.TransportCredentials { return b }

// badCodec fails to marshal, or to unmarshal.
type badCodec struct{ marshal, unmarshal error }

func (c badCodec) Marshal(any) ([]byte, error)     { return nil, c.marshal }
func (c badCodec) Unmarshal(_ []byte, _ any) error { return c.unmarshal }
func (c badCodec) Name() string                    { return "bad" }

// badPolicy is a service config for a policy whose picker fails RPCs.
func badPolicy(t *testing.T, err error) string {
	name := fmt.Sprintf("bad_policy_%p", err)
	balancer.Register(base.NewBalancerBuilder(name, badPicker{err}, base.Config{}))
	return fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, name)
}

type badPicker struct{ err error }

func (b badPicker) Build(base.PickerBuildInfo) balancer.Picker { return b }
func (b badPicker) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, b.err
}

// TestCausesMatchNoSentinel: nor is the cause of a state, in Watch and in Snapshot.
func TestCausesMatchNoSentinel(t *testing.T) {
	none := func(t *testing.T, err error) {
		t.Helper()
		require.Error(t, err)
		for _, s := range sentinels {
			assert.NotErrorIs(t, err, s)
		}
	}
	// causeOf is that of the first transition to a state after begin has begun.
	causeOf := func(t *testing.T, cc *grpcdial.ClientConn, to connectivity.State, begin func()) error {
		t.Helper()
		begun := false
		for c := range cc.Watch(backendtest.Bounded(t)) {
			if !begun {
				begun = true
				go begin()
			} else if c.To == to {
				return c.Cause
			}
		}
		require.FailNow(t, "no such transition")
		return nil
	}
	once := grpcdial.WithConnectParams(grpcdial.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Hour, MaxDelay: time.Hour}})
	for _, s := range sentinels {
		t.Run(fmt.Sprintf("the dialer returns %v", s), func(t *testing.T) {
			cc := newClient(t, "passthrough:///x:1", grpcdial.WithInsecure(), once,
				grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errOf(s) }))
			cause := causeOf(t, cc, connectivity.TransientFailure, cc.Connect)
			none(t, cause)
			assert.ErrorIs(t, cause, errOwn)
			for _, err := range []error{cc.Snapshot().Cause, cc.Snapshot().Endpoints[0].Cause} {
				none(t, err)
				assert.ErrorIs(t, err, errOwn)
			}
		})
		t.Run(fmt.Sprintf("the resolver reports %v", s), func(t *testing.T) {
			r := manual.NewBuilderWithScheme("hand")
			cc := newClient(t, "hand:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
			r.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) { cc.ReportError(errOf(s)) }
			cause := causeOf(t, cc, connectivity.TransientFailure, cc.Connect)
			none(t, cause)
			assert.ErrorIs(t, cause, errOwn)
			none(t, cc.Snapshot().ResolveErr)
			assert.ErrorIs(t, cc.Snapshot().ResolveErr, errOwn)
		})
	}
	for name, opts := range map[string][]h2test.Option{"FIN": nil, "FIN under TLS": {h2test.WithTLS()}} {
		t.Run(name, func(t *testing.T) {
			srv := h2test.Listen(t, opts...)
			srv.Serve(func(s *h2test.Stream) { s.Conn().Close() })
			creds := insecure.NewCredentials()
			if opts != nil {
				creds = credentials.NewTLS(srv.ClientTLS())
			}
			cc := newClient(t, srv.Addr(), grpcdial.WithTransportCredentials(creds))
			require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
			none(t, causeOf(t, cc, connectivity.Idle, func() { _ = kindsOfRPC["unary"](context.Background(), cc) }))
			none(t, cc.Snapshot().Cause)
			none(t, cc.Snapshot().Endpoints[0].Cause)
		})
	}
}
