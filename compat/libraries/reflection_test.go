package libraries

import (
	"strings"
	"testing"

	"github.com/fullstorydev/grpcurl"
	"github.com/jhump/protoreflect/grpcreflect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// describe runs a server of the test service that describes itself.
func describe(t *testing.T) (string, *backendtest.Agents) {
	return backendtest.Serve(t, func(s *grpc.Server) {
		testpb.RegisterTestServiceServer(s, echo{})
		reflection.Register(s)
	})
}

// TestGRPCReflect: grpcreflect asks a server for what it serves.
func TestGRPCReflect(t *testing.T) {
	addr, agents := describe(t)
	client := grpcreflect.NewClientAuto(backendtest.Bounded(t), dial(t, addr))
	defer client.Reset()
	services, err := client.ListServices()
	require.NoError(t, err)
	assert.Contains(t, services, "grpc.testing.TestService")
	service, err := client.ResolveService("grpc.testing.TestService")
	require.NoError(t, err)
	assert.NotNil(t, service.FindMethodByName("UnaryCall"))
	_, err = client.ResolveService("no.Such")
	assert.True(t, grpcreflect.IsElementNotFoundError(err), "%v", err)
	agents.AssertOurs(t, "ServerReflection/ServerReflectionInfo")
}

// TestGRPCurl: grpcurl calls methods that it learns of from the server, on a channel and
// on a connection that it dials.
func TestGRPCurl(t *testing.T) {
	for name, channel := range map[string]func(addr string) grpc.ClientConnInterface{
		"InvokeRPC": func(addr string) grpc.ClientConnInterface { return dial(t, addr) },
		"BlockingDial": func(addr string) grpc.ClientConnInterface {
			conn, err := grpcurl.BlockingDial(backendtest.Bounded(t), "", addr, nil, bridge.ToGRPC()...)
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr, agents := describe(t)
			cc := channel(addr)
			source := grpcurl.DescriptorSourceFromServer(t.Context(), grpcreflect.NewClientAuto(backendtest.Bounded(t), cc))
			ask := func(method, request string) (string, codes.Code) {
				parse, format, err := grpcurl.RequestParserAndFormatter(grpcurl.FormatJSON, source, strings.NewReader(request), grpcurl.FormatOptions{})
				require.NoError(t, err)
				var out strings.Builder
				handler := grpcurl.NewDefaultEventHandler(&out, source, format, false)
				require.NoError(t, grpcurl.InvokeRPC(backendtest.Bounded(t), source, cc, "grpc.testing.TestService/"+method, nil, handler, parse.Next))
				return out.String(), handler.Status.Code()
			}
			reply, code := ask("UnaryCall", `{"payload": {"body": "eA=="}}`)
			assert.Equal(t, codes.OK, code)
			assert.Contains(t, reply, `"body": "eA=="`)
			reply, code = ask("FullDuplexCall", `{"payload": {"body": "eA=="}} {"payload": {"body": "eQ=="}}`)
			assert.Equal(t, codes.OK, code)
			assert.Contains(t, reply, `"body": "eQ=="`)
			_, code = ask("UnaryCall", `{"responseStatus": {"code": 5}}`)
			assert.Equal(t, codes.NotFound, code)
			agents.AssertOurs(t, "ServerReflectionInfo", "UnaryCall", "FullDuplexCall")
		})
	}
}

// TestGRPCurlDialFails: a handshake that fails ends a dial of grpcurl's at once, with the
// reason.
func TestGRPCurlDialFails(t *testing.T) {
	addr, _ := describe(t)
	_, err := grpcurl.BlockingDial(backendtest.Bounded(t), "", addr, credentials.NewTLS(nil), bridge.ToGRPC()...)
	require.ErrorContains(t, err, "does not look like a TLS handshake")
}
