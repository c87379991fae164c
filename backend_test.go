package grpcdial

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// backend is a grpc-go server on loopback that can be stopped and come back.
// Its methods are
//
//	/test.Backend/Name   replies with the server's name
//	/test.Backend/Stream replies to each message with the server's name
//	/test.Backend/Hold   replies when the RPC is cancelled
type backend struct {
	t    *testing.T
	name string
	addr string
	opts []grpc.ServerOption
	held chan struct{} // one element for each Hold that has begun

	mu     sync.Mutex
	srv    *grpc.Server
	conns  map[net.Conn]struct{}
	served int // connections accepted
	done   *sync.WaitGroup
}

func startBackend(t *testing.T, name string, opts ...grpc.ServerOption) *backend {
	t.Helper()
	return startBackendAt(t, name, "127.0.0.1:0", opts...)
}

func startBackendAt(t *testing.T, name, addr string, opts ...grpc.ServerOption) *backend {
	t.Helper()
	b := &backend{t: t, name: name, addr: addr, opts: opts, held: make(chan struct{}, 1000)}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func startBackends(t *testing.T, names ...string) []*backend {
	t.Helper()
	var all []*backend
	for _, name := range names {
		all = append(all, startBackend(t, name))
	}
	return all
}

// start listens, at the address that the backend had before if it had one.
func (b *backend) start() {
	b.t.Helper()
	lis, err := net.Listen("tcp", b.addr)
	require.NoError(b.t, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addr = lis.Addr().String()
	b.srv = grpc.NewServer(append(b.opts, grpc.UnknownServiceHandler(b.handle))...)
	b.conns = make(map[net.Conn]struct{})
	b.done = new(sync.WaitGroup)
	srv := b.srv
	b.done.Go(func() { _ = srv.Serve(&countingListener{lis, b}) })
}

// stop cuts all connections and frees the port.
func (b *backend) stop() {
	b.mu.Lock()
	srv, done := b.srv, b.done
	b.mu.Unlock()
	srv.Stop()
	done.Wait()
}

// drain has the server say GOAWAY to its clients and returns once they have gone.
func (b *backend) drain() {
	b.mu.Lock()
	srv, done := b.srv, b.done
	b.mu.Unlock()
	srv.GracefulStop()
	done.Wait()
}

// cut closes the connections there are, without a word.
func (b *backend) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	b.conns = make(map[net.Conn]struct{})
}

func (b *backend) accepted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.served
}

func (b *backend) handle(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	for {
		m := new(wrapperspb.StringValue)
		if err := s.RecvMsg(m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if method == "/test.Backend/Hold" {
			b.held <- struct{}{}
			<-s.Context().Done()
		}
		m.Value = b.name
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}

type countingListener struct {
	net.Listener
	b *backend
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.b.mu.Lock()
		l.b.served++
		l.b.conns[c] = struct{}{}
		l.b.mu.Unlock()
	}
	return c, err
}

// askName returns the name of the backend that an RPC went to.
func askName(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) (string, error) {
	reply := new(wrapperspb.StringValue)
	err := cc.Invoke(ctx, "/test.Backend/Name", new(wrapperspb.StringValue), reply, opts...)
	return reply.Value, err
}

// bounded is a context for what is expected to happen well before it ends.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// plain makes a plaintext channel that the test closes, if it does not do so
// itself.
func plain(t *testing.T, target string, opts ...DialOption) *ClientConn {
	t.Helper()
	cc, err := NewClient(target, append([]DialOption{WithInsecure()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// handResolver is a channel option and a target for a resolver whose updates the
// test makes.
func handResolver(t *testing.T) (r *manual.Resolver, target string, option DialOption) {
	t.Helper()
	r = manual.NewBuilderWithScheme("hand")
	return r, "hand:///backends", WithResolvers(r)
}

func addresses(backends ...*backend) resolver.State {
	var s resolver.State
	for _, b := range backends {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: b.addr})
	}
	return s
}

// awaitState waits until the channel is in state.
func awaitState(t *testing.T, cc *ClientConn, state connectivity.State) {
	t.Helper()
	ctx := bounded(t)
	for {
		now := cc.GetState()
		if now == state {
			return
		}
		if !cc.WaitForStateChange(ctx, now) {
			require.FailNow(t, "state not reached", "still %v, want %v", now, state)
		}
	}
}

func awaitReady(t *testing.T, cc *ClientConn) {
	t.Helper()
	require.NoError(t, cc.AwaitReady(bounded(t)))
}

// Conn returns the connection of a subchannel that is READY, else nil.
func (sc *subConn) Conn() *h2.Conn {
	if line := sc.Line(); line != nil {
		return line.Conn
	}
	return nil
}

// eventually waits for something that is on its way.
func eventually(t *testing.T, cond func() bool, what string) {
	t.Helper()
	require.Eventually(t, cond, 10*time.Second, time.Millisecond, what)
}
