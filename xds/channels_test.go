package xds_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	grpcxds "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/xds"
)

// serve starts a backend that answers every message with its name, and returns its address.
// A method whose name ends in Hang answers nothing; in Flaky, only the third attempt.
func serve(t testing.TB, name string) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		if strings.HasSuffix(method, "Hang") {
			<-s.Context().Done()
			return status.FromContextError(s.Context().Err()).Err()
		}
		md, _ := metadata.FromIncomingContext(s.Context())
		if attempts := md.Get("grpc-previous-rpc-attempts"); strings.HasSuffix(method, "Flaky") && (len(attempts) == 0 || attempts[0] != "2") {
			return status.Error(codes.Unavailable, "not yet")
		}
		for {
			if err := s.RecvMsg(new(wrapperspb.StringValue)); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(wrapperspb.String(name)); err != nil {
				return err
			}
		}
	}))
	go s.Serve(lis)
	t.Cleanup(s.Stop)
	return lis.Addr().String()
}

// builder is grpc-go's for xDS, with m's bootstrap configuration.
func (m *management) builder(t testing.TB) resolver.Builder {
	t.Helper()
	b, err := grpcxds.NewXDSResolverWithConfigForTesting([]byte(m.bootstrap))
	require.NoError(t, err)
	return b
}

// dial makes a channel of grpcdial's to the listener shop.
func (m *management) dial(t testing.TB, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	cc, err := grpcdial.NewClient("xds:///shop", append(opts, grpcdial.WithInsecure(), grpcdial.WithResolvers(xds.Wrap(m.builder(t))))...)
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

// dialGRPC makes one of grpc-go's.
func dialGRPC(t testing.TB, b resolver.Builder) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("xds:///shop", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(b))
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

// onEach runs f with a channel of each kind: grpcdial's, grpc-go's, and grpc-go's with a
// builder that is wrapped for grpcdial's.
func onEach(t *testing.T, m *management, f func(*testing.T, grpc.ClientConnInterface)) {
	t.Helper()
	t.Run("grpcdial", func(t *testing.T) { f(t, m.dial(t)) })
	t.Run("grpc-go", func(t *testing.T) { f(t, dialGRPC(t, m.builder(t))) })
	t.Run("grpc-go, wrapped", func(t *testing.T) { f(t, dialGRPC(t, xds.Wrap(m.builder(t)))) })
}

// ask makes a unary RPC and returns the name of the backend that had it.
func ask(ctx context.Context, cc grpc.ClientConnInterface, method string) (string, error) {
	reply := new(wrapperspb.StringValue)
	err := cc.Invoke(ctx, method, wrapperspb.String("who?"), reply)
	return reply.GetValue(), err
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
