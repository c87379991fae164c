package backendtest

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"
)

// Agents notes which client each RPC of a server came from, by its user agent.
type Agents struct {
	mu   sync.Mutex
	seen map[string][]string // guarded by mu: of each method
}

// Note notes an RPC.
func (a *Agents) Note(method, agent string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		a.seen = make(map[string][]string)
	}
	a.seen[method] = append(a.seen[method], agent)
}

// Option makes a grpc-go server note its RPCs, those of methods that it does not have
// too.
func (a *Agents) Option() grpc.ServerOption {
	return grpc.InTapHandle(func(ctx context.Context, rpc *tap.Info) (context.Context, error) {
		a.Note(rpc.FullMethodName, strings.Join(rpc.Header.Get("user-agent"), ","))
		return ctx, nil
	})
}

// AssertOurs asserts that there were RPCs of each method, given by the end of its name,
// and that all RPCs that there were came from channels of grpcdial's.
func (a *Agents) AssertOurs(t *testing.T, methods ...string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, want := range methods {
		found := false
		for method := range a.seen {
			found = found || strings.HasSuffix(method, want)
		}
		assert.True(t, found, "no RPC of %s, there were %v", want, a.seen)
	}
	assert.NotEmpty(t, a.seen)
	for method, agents := range a.seen {
		for _, agent := range agents {
			assert.Contains(t, agent, "grpc-go-grpcdial/", "%s", method)
		}
	}
}

// Serve runs a grpc-go server with the services that register gives it until the test
// ends, and returns its address and the clients of its RPCs.
func Serve(t *testing.T, register func(*grpc.Server), opts ...grpc.ServerOption) (string, *Agents) {
	t.Helper()
	lis := Listen(t)
	return lis.Addr().String(), ServeOn(t, lis, register, opts...)
}

// ServeOn is Serve on a listener.
func ServeOn(t *testing.T, lis net.Listener, register func(*grpc.Server), opts ...grpc.ServerOption) *Agents {
	t.Helper()
	agents := new(Agents)
	srv := grpc.NewServer(append(opts, agents.Option())...)
	register(srv)
	RunOn(t, srv, lis)
	return agents
}

// Relay runs a server that hands all RPCs on to another one, which is of a kind that
// does not let a test see its clients. It returns the address to dial in place of that
// of the other.
func Relay(t *testing.T, to string) (string, *Agents) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return Serve(t, func(*grpc.Server) {}, grpc.ForceServerCodec(rawCodec{}),
		grpc.UnknownServiceHandler(func(_ any, from grpc.ServerStream) error { return relay(conn, from) }))
}

// relay hands one RPC on.
func relay(conn *grpc.ClientConn, from grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(from)
	md, _ := metadata.FromIncomingContext(from.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(from.Context(), md))
	defer cancel()
	to, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	go func() { // ends with the RPC at the latest: from.RecvMsg fails then
		for {
			var m []byte
			if err := from.RecvMsg(&m); err == io.EOF {
				_ = to.CloseSend()
				return
			} else if err != nil {
				cancel()
				return
			}
			if to.SendMsg(&m) != nil {
				return
			}
		}
	}()
	for first := true; ; first = false {
		var m []byte
		err := to.RecvMsg(&m)
		if first {
			if header, failed := to.Header(); failed == nil {
				_ = from.SetHeader(header)
			}
		}
		if err != nil {
			from.SetTrailer(to.Trailer())
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := from.SendMsg(&m); err != nil {
			return err
		}
	}
}

// rawCodec takes messages as they are.
type rawCodec struct{}

var _ encoding.Codec = rawCodec{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (rawCodec) Name() string { return "proto" }
