package e2e_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// askStream asks on a stream, and returns the error that it comes to.
func askStream(ctx context.Context, cc grpc.ClientConnInterface) error {
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Backend/Stream")
	if err != nil {
		return err
	}
	if err := s.SendMsg(new(wrapperspb.StringValue)); err != nil && err != io.EOF {
		return err
	}
	return s.RecvMsg(new(wrapperspb.StringValue))
}

// waitedFor is an UntilNow that notes when an RPC waits for its end.
type waitedFor struct {
	*backendtest.UntilNow
	waited atomic.Bool
}

func (c *waitedFor) Done() <-chan struct{} {
	c.waited.Store(true)
	return c.UntilNow.Done()
}

// What RPCs say that found no connection, or whose deadline passed. The texts are
// in testdata/rpc.golden.
func TestRPCErrorsGolden(t *testing.T) {
	g := golden{file: "rpc.golden"}
	wait := grpc.WaitForReady(true)
	resolved := func(cc *grpcdial.ClientConn) *grpcdial.ClientConn { // so that RPCs do not wait for the resolver
		cc.Connect()
		backendtest.Eventually(t, func() bool { return len(cc.Snapshot().Endpoints) > 0 }, "the policy has addresses")
		return cc
	}
	// once is a context whose deadline passes when an RPC waits for its end and cond holds,
	// and the RPC has had the time to notice that.
	once := func(cond func() bool) *waitedFor {
		ctx := &waitedFor{UntilNow: backendtest.NewUntilNow()}
		t.Cleanup(ctx.End)
		go func() {
			for !ctx.waited.Load() || !cond() {
				select {
				case <-ctx.UntilNow.Done(): // the test has ended
					return
				case <-time.After(time.Millisecond):
				}
			}
			time.Sleep(300 * time.Millisecond)
			ctx.End()
		}()
		return ctx
	}
	is := func(cc *grpcdial.ClientConn, state connectivity.State) func() bool {
		return func() bool { return cc.GetState() == state }
	}
	// hanging is a dialer that waits until its context ends; dialing reports whether it runs.
	hanging := func() (option grpcdial.DialOption, dialing func() bool) {
		var begun atomic.Bool
		return grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			begun.Store(true)
			return backendtest.Hang(ctx, addr)
		}), begun.Load
	}
	addr := backendtest.UnusedAddr(t)
	two := func() (string, grpcdial.DialOption) {
		r, target, option := handResolver(t)
		r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: addr}, {Addr: "unix:///absent/socket"}}})
		return target, option
	}
	target, option := two()
	oneByOne := plain(t, target, option)
	roundRobin := plain(t, addr, grpcdial.WithDefaultServiceConfig(backendtest.PolicyConfig("round_robin")))
	names := dnstest.Listen(t, dnstest.Zone{})
	// silent starts a server that allows one stream and answers nothing; arrived reports
	// whether there was one.
	silent := func() (addr string, arrived func() bool) {
		var streams atomic.Int32
		srv := h2test.Listen(t)
		srv.Serve(func(*h2test.Stream) { streams.Add(1) }, h2test.MaxConcurrentStreams(1))
		return srv.Addr(), func() bool { return streams.Load() > 0 }
	}
	// sent is a channel to such a server, and a context that ends when a request is there.
	sent := func() (*grpcdial.ClientConn, context.Context) {
		addr, arrived := silent()
		cc := plain(t, addr)
		awaitReady(t, cc)
		return cc, once(arrived)
	}
	dies := h2test.Listen(t)
	dies.Serve(func(s *h2test.Stream) { s.Conn().CloseHard() })
	closes := h2test.Listen(t)
	closes.Serve(func(s *h2test.Stream) { s.Conn().Close() })

	for _, tt := range []struct {
		name string
		call func() error
		code codes.Code
		dial bool // a *DialError is in the chain
	}{
		{"no connection", func() error { _, err := backendtest.AskName(backendtest.Bounded(t), plain(t, addr)); return err }, codes.Unavailable, true},
		{"no connection, two addresses", func() error { _, err := backendtest.AskName(backendtest.Bounded(t), oneByOne); return err }, codes.Unavailable, true},
		{"no connection, round_robin", func() error { _, err := backendtest.AskName(backendtest.Bounded(t), roundRobin); return err }, codes.Unavailable, true},
		{"no such host", func() error {
			_, err := backendtest.AskName(backendtest.Bounded(t), plain(t, "dns://"+names.Addr()+"/absent.example:443"))
			return err
		}, codes.Unavailable, true},
		{"deadline, resolving", func() error {
			cc := plain(t, "scripted:///x", grpcdial.WithResolvers(backendtest.Scripted{}))
			_, err := backendtest.AskName(once(is(cc, connectivity.Connecting)), cc)
			return err
		}, codes.DeadlineExceeded, true},
		{"deadline, connecting", func() error {
			hang, dialing := hanging()
			cc := resolved(plain(t, "backend.example:443", hang))
			_, err := backendtest.AskName(once(dialing), cc)
			return err
		}, codes.DeadlineExceeded, true},
		{"deadline, connecting after a slow resolver", func() error {
			r, target, option := handResolver(t)
			r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "backend.example:443"}}})
			r.BuildCallback = func(resolver.Target, resolver.ClientConn, resolver.BuildOptions) { time.Sleep(10 * time.Millisecond) }
			hang, dialing := hanging()
			cc := plain(t, target, option, hang)
			_, err := backendtest.AskName(once(dialing), cc)
			return err
		}, codes.DeadlineExceeded, true},
		{"deadline, waiting for a connection after failures", func() error {
			cc := resolved(plain(t, addr))
			_, err := backendtest.AskName(once(is(cc, connectivity.TransientFailure)), cc, wait)
			return err
		}, codes.DeadlineExceeded, true},
		{"deadline, sent", func() error {
			cc, ctx := sent()
			_, err := backendtest.AskName(ctx, cc)
			return err
		}, codes.DeadlineExceeded, false},
		{"deadline, waiting for a stream", func() error {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			addr, _ := silent()
			cc := plain(t, addr)
			awaitReady(t, cc)
			_, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Backend/Stream")
			require.NoError(t, err)
			_, err = backendtest.AskName(once(func() bool { return true }), cc)
			return err
		}, codes.DeadlineExceeded, false},
		{"deadline, a slow connection and a silent server", func() error {
			addr, arrived := silent()
			rpc := once(arrived)
			cc := plain(t, addr, grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				backendtest.Eventually(t, rpc.waited.Load, "the RPC has begun")
				time.Sleep(10 * time.Millisecond)
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			}))
			resolved(cc)
			_, err := backendtest.AskName(rpc, cc)
			return err
		}, codes.DeadlineExceeded, false},
		{"cancelled, sent", func() error {
			ctx, cancel := context.WithCancel(context.Background())
			cc, isSent := sent()
			context.AfterFunc(isSent, cancel)
			_, err := backendtest.AskName(ctx, cc)
			return err
		}, codes.Canceled, false},
		{"a stream, no connection", func() error { return askStream(backendtest.Bounded(t), plain(t, addr)) }, codes.Unavailable, true},
		{"a stream, deadline, connecting", func() error {
			hang, dialing := hanging()
			cc := resolved(plain(t, "backend.example:443", hang))
			return askStream(once(dialing), cc)
		}, codes.DeadlineExceeded, true},
		{"a stream, deadline, sent", func() error { cc, ctx := sent(); return askStream(ctx, cc) }, codes.DeadlineExceeded, false},
		{"connection lost", func() error { _, err := backendtest.AskName(backendtest.Bounded(t), plain(t, dies.Addr())); return err }, codes.Unavailable, false},
		{"connection closed", func() error {
			_, err := backendtest.AskName(backendtest.Bounded(t), plain(t, closes.Addr()))
			return err
		}, codes.Unavailable, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call()
			assert.Equal(t, tt.code, status.Code(err))
			st, ok := status.FromError(err)
			assert.True(t, ok)
			assert.ErrorIs(t, err, st.Err(), "errors.Is with a status error")
			var e *grpcdial.DialError
			assert.Equal(t, tt.dial, errors.As(err, &e), "%v", err)
			if tt.dial {
				assert.NotEmpty(t, e.Attempts)
			}
			assert.Equal(t, tt.code == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded))
			assert.Equal(t, tt.code == codes.Canceled, errors.Is(err, context.Canceled))
			assert.NotContains(t, err.Error(), "\n")
			g.add(tt.name, err.Error())
		})
	}
	_, err := backendtest.AskName(backendtest.Bounded(t), oneByOne)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.ErrorIs(t, err, syscall.ENOENT, "every address's cause is found")
	g.check(t)
}
