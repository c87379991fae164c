package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/resolver"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Backend is a grpc-go server on loopback that can be stopped and come back.
// Its methods are
//
//	/test.Backend/Name   replies with the server's name
//	/test.Backend/Stream replies to each message with the server's name
//	/test.Backend/Hold   replies when the RPC is cancelled; not when its deadline has passed,
//	                     which a reply could overtake at a client that is slow to notice it
type Backend struct {
	t    *testing.T
	Name string
	Addr string
	opts []grpc.ServerOption
	Held chan struct{} // one element for each Hold that has begun

	register func(*grpc.Server) // nil: no other services
	checked  *health.Server     // of StartChecked, else nil

	mu     sync.Mutex
	srv    *grpc.Server
	conns  map[net.Conn]struct{}
	served int // connections accepted
	done   *sync.WaitGroup
}

// Start runs a backend until the test ends.
func Start(t *testing.T, name string, opts ...grpc.ServerOption) *Backend {
	t.Helper()
	return StartAt(t, name, "127.0.0.1:0", opts...)
}

// StartAt is Start at an address.
func StartAt(t *testing.T, name, addr string, opts ...grpc.ServerOption) *Backend {
	t.Helper()
	return start(t, &Backend{Name: name, Addr: addr, opts: opts})
}

// startWith is Start with other services, which register adds to the server.
func startWith(t *testing.T, name string, register func(*grpc.Server)) *Backend {
	t.Helper()
	return start(t, &Backend{Name: name, Addr: "127.0.0.1:0", register: register})
}

func start(t *testing.T, b *Backend) *Backend {
	t.Helper()
	b.t, b.Held = t, make(chan struct{}, 1000)
	b.Start()
	t.Cleanup(b.Stop)
	return b
}

// StartAll runs a backend for each name.
func StartAll(t *testing.T, names ...string) []*Backend {
	t.Helper()
	var all []*Backend
	for _, name := range names {
		all = append(all, Start(t, name))
	}
	return all
}

// Start listens, at the address that the backend had before if it had one.
func (b *Backend) Start() {
	b.t.Helper()
	lis, err := net.Listen("tcp", b.Addr)
	require.NoError(b.t, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Addr = lis.Addr().String()
	b.srv = grpc.NewServer(append(b.opts, grpc.UnknownServiceHandler(b.handle))...)
	if b.register != nil {
		b.register(b.srv)
	}
	b.conns = make(map[net.Conn]struct{})
	b.done = new(sync.WaitGroup)
	srv := b.srv
	b.done.Go(func() { _ = srv.Serve(&countingListener{lis, b}) })
}

// Stop cuts all connections and frees the port.
func (b *Backend) Stop() {
	b.mu.Lock()
	srv, done := b.srv, b.done
	b.mu.Unlock()
	srv.Stop()
	done.Wait()
}

// Drain has the server say GOAWAY to its clients and returns once they have gone.
func (b *Backend) Drain() {
	b.mu.Lock()
	srv, done := b.srv, b.done
	b.mu.Unlock()
	srv.GracefulStop()
	done.Wait()
}

// Cut closes the connections there are, without a word.
func (b *Backend) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	b.conns = make(map[net.Conn]struct{})
}

// Accepted returns how many connections the backend has accepted.
func (b *Backend) Accepted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.served
}

func (b *Backend) handle(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	for {
		m := new(wrapperspb.StringValue)
		if err := s.RecvMsg(m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if method == "/test.Backend/Hold" {
			b.Held <- struct{}{}
			<-s.Context().Done()
			if errors.Is(s.Context().Err(), context.DeadlineExceeded) {
				<-b.t.Context().Done()
			}
		}
		m.Value = b.Name
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}

type countingListener struct {
	net.Listener
	b *Backend
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

// AskName returns the name of the backend that an RPC went to.
func AskName(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) (string, error) {
	reply := new(wrapperspb.StringValue)
	err := cc.Invoke(ctx, "/test.Backend/Name", new(wrapperspb.StringValue), reply, opts...)
	return reply.Value, err
}

// Bounded is a context for what is expected to happen well before it ends.
func Bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Addresses is a resolver's state with the backends' addresses.
func Addresses(backends ...*Backend) resolver.State {
	var s resolver.State
	for _, b := range backends {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: b.Addr})
	}
	return s
}

// Eventually waits for something that is on its way.
func Eventually(t *testing.T, cond func() bool, what string) {
	t.Helper()
	require.Eventually(t, cond, Patience, time.Millisecond, what)
}

// AwaitNames waits until RPCs in a row reach just these backends, in equal shares.
func AwaitNames(t *testing.T, cc grpc.ClientConnInterface, names ...string) {
	t.Helper()
	Eventually(t, func() bool {
		got := make(map[string]int)
		for range 10 * len(names) {
			name, err := AskName(Bounded(t), cc, grpc.WaitForReady(true))
			if err != nil {
				return false
			}
			got[name]++
		}
		for _, name := range names {
			if got[name] != 10 {
				return false
			}
		}
		return true
	}, fmt.Sprint("RPCs reach ", names))
}
