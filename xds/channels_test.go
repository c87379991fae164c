package xds_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	grpcxds "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/xds"
)

// serve starts a backend that answers every message with its name, and returns its address.
// A method whose name ends in Hang answers nothing; in Flaky, only the third attempt, once the message has come; in
// Good, only if that is the backend's name; in Authority, with that of the RPC; in Load,
// with a report of half a CPU and a queue of three.
func serve(t testing.TB, name string) string {
	addr, _ := serveAt(t, "127.0.0.1:0", name)
	return addr
}

// serveAt is serve at an address; stop ends it before the test does.
func serveAt(t testing.TB, addr, name string, opts ...grpc.ServerOption) (at string, stop func()) {
	t.Helper()
	var lis net.Listener
	require.Eventually(t, func() (ok bool) {
		var err error
		lis, err = net.Listen("tcp", addr)
		return err == nil
	}, time.Minute, 10*time.Millisecond, "%s", addr)
	s := grpc.NewServer(append(opts, orca.CallMetricsServerOption(nil), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		if strings.HasSuffix(method, "Hang") {
			<-s.Context().Done()
			return status.FromContextError(s.Context().Err()).Err()
		}
		md, _ := metadata.FromIncomingContext(s.Context())
		if attempts := md.Get("grpc-previous-rpc-attempts"); strings.HasSuffix(method, "Flaky") && (len(attempts) == 0 || attempts[0] != "2") {
			if err := s.RecvMsg(new(wrapperspb.StringValue)); err != nil { // the client's SendMsg returns nil then
				return err
			}
			return status.Error(codes.Unavailable, "not yet")
		}
		if strings.HasSuffix(method, "Good") && name != "good" {
			return status.Error(codes.Unknown, "bad")
		}
		if load := orca.CallMetricsRecorderFromContext(s.Context()); strings.HasSuffix(method, "Load") {
			load.SetCPUUtilization(0.5)
			load.SetNamedMetric("queued", 3)
		}
		reply := name
		if strings.HasSuffix(method, "Authority") {
			reply = strings.Join(md.Get(":authority"), ",")
		}
		for {
			if err := s.RecvMsg(new(wrapperspb.StringValue)); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(wrapperspb.String(reply)); err != nil {
				return err
			}
		}
	}))...)
	go s.Serve(lis)
	t.Cleanup(s.Stop)
	return lis.Addr().String(), s.Stop
}

// builder is grpc-go's for xDS, with m's bootstrap configuration.
func (m *management) builder(t testing.TB) resolver.Builder {
	t.Helper()
	b, err := grpcxds.NewXDSResolverWithConfigForTesting([]byte(m.bootstrap))
	require.NoError(t, err)
	return b
}

// target is that of the channels, if nothing is said of it.
const target = "xds:///shop"

// dial makes a channel of grpcdial's to the listener shop.
func (m *management) dial(t testing.TB, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	return newClient(t, target, append(opts, grpcdial.WithResolvers(xds.Wrap(m.builder(t))))...)
}

// newClient makes a channel of grpcdial's, an insecure one if opts do not say otherwise.
func newClient(t testing.TB, target string, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	cc, err := grpcdial.NewClient(target, append([]grpcdial.DialOption{grpcdial.WithInsecure()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

// newGRPCClient makes one of grpc-go's.
func newGRPCClient(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

// onEach runs f with a channel of each kind: grpcdial's, grpc-go's, and grpc-go's with a
// builder that is wrapped for grpcdial's.
func onEach(t *testing.T, m *management, f func(*testing.T, grpc.ClientConnInterface)) {
	t.Helper()
	onEachTarget(t, target, m, f)
}

// onEachTarget is onEach for channels to a target.
func onEachTarget(t *testing.T, target string, m *management, f func(*testing.T, grpc.ClientConnInterface)) {
	t.Helper()
	t.Run("grpcdial", func(t *testing.T) {
		f(t, newClient(t, target, grpcdial.WithResolvers(xds.Wrap(m.builder(t)))))
	})
	t.Run("grpc-go", func(t *testing.T) { f(t, newGRPCClient(t, target, grpc.WithResolvers(m.builder(t)))) })
	t.Run("grpc-go, wrapped", func(t *testing.T) {
		f(t, newGRPCClient(t, target, grpc.WithResolvers(xds.Wrap(m.builder(t)))))
	})
}

// ask makes a unary RPC and returns the name of the backend that had it.
func ask(ctx context.Context, cc grpc.ClientConnInterface, method string) (string, error) {
	reply := new(wrapperspb.StringValue)
	err := cc.Invoke(ctx, method, wrapperspb.String("who?"), reply)
	return reply.GetValue(), err
}

// invoke is ask with call options.
func invoke(ctx context.Context, cc grpc.ClientConnInterface, method string, opts ...grpc.CallOption) error {
	return cc.Invoke(ctx, method, wrapperspb.String("who?"), new(wrapperspb.StringValue), opts...)
}

// askStream makes a stream of one message each way.
func askStream(ctx context.Context, cc grpc.ClientConnInterface, method string) (string, error) {
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return "", err
	}
	if err := s.SendMsg(wrapperspb.String("who?")); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if err := s.CloseSend(); err != nil {
		return "", err
	}
	reply := new(wrapperspb.StringValue)
	if err := s.RecvMsg(reply); err != nil {
		return "", err
	}
	if err := s.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		return "", err
	}
	return reply.GetValue(), nil
}

// reaches waits until RPCs reach a backend. None fails.
func reaches(t *testing.T, cc grpc.ClientConnInterface, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		by, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Add")
		return noError(t, cc, err) && by == name
	}, time.Minute, time.Millisecond)
}

// noError asserts that an RPC has not failed. Those of grpc-go's channels may fail when
// clusters are replaced: there a new config selector is in force before the policy has the
// clusters that it selects.
func noError(t *testing.T, cc grpc.ClientConnInterface, err error) bool {
	if _, theirs := cc.(*grpc.ClientConn); theirs && err != nil && strings.Contains(err.Error(), "unknown cluster selected for RPC") {
		return false
	}
	return assert.NoError(t, err)
}

// failsOver waits until RPCs reach a backend. They may fail before.
func failsOver(t *testing.T, cc grpc.ClientConnInterface, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		by, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Add")
		return err == nil && by == name
	}, time.Minute, time.Millisecond)
	reaches(t, cc, name)
}
