package call

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// token is a credential that needs no secure connection.
type token string

func (c token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"Authorization": string(c)}, nil
}

func (token) RequireTransportSecurity() bool { return false }

// credFunc is a credential made of a function.
type credFunc struct {
	get    func(ctx context.Context, uri ...string) (map[string]string, error)
	secure bool
}

func (c credFunc) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	return c.get(ctx, uri...)
}

func (c credFunc) RequireTransportSecurity() bool { return c.secure }

// credentialsEcho says which authorization and authority came.
func credentialsEcho(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return &testpb.SimpleResponse{Username: strings.Join(md["authorization"], ","), OauthScope: strings.Join(md[":authority"], ",")}, nil
}

// serveTLS is a channel to a grpc-go server that speaks TLS.
func serveTLS(t *testing.T, svc *testService, authority string, perRPC ...credentials.PerRPCCredentials) *Channel {
	t.Helper()
	ca := h2test.DefaultCA()
	addr := startServer(t, svc, grpc.Creds(credentials.NewTLS(ca.ServerConfig("localhost", "other.example"))))
	return ready(t, Config{}, connect(t, addr, credentials.NewTLS(ca.ClientConfig("localhost"))).having(authority, perRPC...))
}

func TestPerRPCCredentials(t *testing.T) {
	var uris []string
	var info credentials.RequestInfo
	asking := credFunc{secure: true, get: func(ctx context.Context, uri ...string) (map[string]string, error) {
		uris = uri
		info, _ = credentials.RequestInfoFromContext(ctx)
		_, ok := peer.FromContext(ctx)
		assert.True(t, ok)
		return map[string]string{"AUTHORIZATION": "call"}, nil
	}}
	ch := serveTLS(t, &testService{unary: credentialsEcho}, "localhost:443", token("first"), token("second"))
	reply := new(testpb.SimpleResponse)
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), reply))
	assert.Equal(t, "second", reply.Username, "of the channel's credentials the last one that sets a key wins")

	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), reply, grpc.PerRPCCredentials(asking)))
	assert.Equal(t, "second,call", reply.Username, "the call's are sent besides")
	assert.Equal(t, []string{"https://localhost/grpc.testing.TestService"}, uris)
	assert.Equal(t, unaryMethod, info.Method)
	assert.Equal(t, "tls", info.AuthInfo.AuthType())

	ctx := metadata.AppendToOutgoingContext(soon(t), "authorization", "mine")
	require.NoError(t, ch.Invoke(ctx, unaryMethod, request(""), reply))
	assert.ElementsMatch(t, []string{"second", "mine"}, strings.Split(reply.Username, ","))
}

// TestPeerOfASecureConnection: the Peer option and a stream's context have the server's
// identity.
func TestPeerOfASecureConnection(t *testing.T) {
	ch := serveTLS(t, streamService(), "localhost")
	check := func(p *peer.Peer) {
		t.Helper()
		info, ok := p.AuthInfo.(credentials.TLSInfo)
		require.True(t, ok, "%T", p.AuthInfo)
		assert.Equal(t, credentials.PrivacyAndIntegrity, info.SecurityLevel)
		assert.NoError(t, info.State.PeerCertificates[0].VerifyHostname("other.example"))
		assert.NotNil(t, p.LocalAddr)
	}
	var unary, stream peer.Peer
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse), grpc.Peer(&unary)))
	check(&unary)
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, grpc.Peer(&stream))
	require.NoError(t, err)
	p, ok := peer.FromContext(cs.Context())
	require.True(t, ok)
	check(p)
	require.NoError(t, cs.CloseSend())
	require.Equal(t, io.EOF, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)))
	check(&stream)
}

func TestPerRPCCredentialErrors(t *testing.T) {
	broken := errors.New("no token")
	failing := func(err error) credFunc {
		return credFunc{get: func(context.Context, ...string) (map[string]string, error) { return nil, err }}
	}
	sending := func(k, v string) credFunc {
		return credFunc{get: func(context.Context, ...string) (map[string]string, error) { return map[string]string{k: v}, nil }}
	}
	secure := credFunc{secure: true, get: token("x").GetRequestMetadata}
	tests := []struct {
		name          string
		channel, call credentials.PerRPCCredentials
		code          codes.Code
		is            error
	}{
		{"the channel's fail", failing(broken), nil, codes.Unauthenticated, broken},
		{"the call's fail", nil, failing(broken), codes.Internal, broken},
		{"with a status", nil, failing(status.Error(codes.PermissionDenied, "no")), codes.PermissionDenied, status.Error(codes.PermissionDenied, "no")},
		{"with a status that A54 forbids", failing(status.Error(codes.NotFound, "no")), nil, codes.Internal, status.Error(codes.NotFound, "no")},
		{"the call's need a secure connection", nil, secure, codes.Unauthenticated, nil},
		{"the channel's need a secure connection", secure, nil, codes.Unauthenticated, nil},
		{"a key that is not allowed", nil, sending("a b", "c"), codes.Internal, nil},
		{"a value that is not allowed", nil, sending("a", "\x01"), codes.Internal, nil},
	}
	addr := startServer(t, streamService())
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			unsafe := errors.New("not secure")
			b := insecureBackend(t, addr)
			if tt.channel != nil {
				b = b.having("test.example", tt.channel)
			}
			ch := ready(t, Config{Hooks: &Hooks{Insecure: unsafe}}, b)
			d := &dones{sc: b}
			ch.SetPicker(d)
			var opts []grpc.CallOption
			if tt.call != nil {
				opts = append(opts, grpc.PerRPCCredentials(tt.call))
			}
			var f, f2 finished
			err := ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse), append(opts, f.option())...)
			require.Equal(t, tt.code, status.Code(err), "%v", err)
			if tt.is != nil {
				assert.ErrorIs(t, err, tt.is)
			}
			assert.Equal(t, strings.Contains(tt.name, "secure"), errors.Is(err, unsafe))
			f.require(t, tt.code)
			require.Len(t, d.infos, 1)
			assert.False(t, d.infos[0].BytesSent)
			assert.Equal(t, err, d.infos[0].Err)

			_, err = ch.NewStream(soon(t), bidiDesc, bidiMethod, append(opts, f2.option())...)
			require.Equal(t, tt.code, status.Code(err), "%v", err)
			f2.require(t, tt.code)
			require.Len(t, d.infos, 2)
			requireNoneActive(t, ch)
		})
	}
}

func TestDeadlineInCredentials(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	waiting := credFunc{get: func(ctx context.Context, _ ...string) (map[string]string, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	err := ch.Invoke(timeout(t, 20*1e6), unaryMethod, request(""), new(testpb.SimpleResponse), grpc.PerRPCCredentials(waiting))
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
	assert.Equal(t, StageCredentials, err.(*Error).Stage)
}

func TestAuthorityOverride(t *testing.T) {
	ch := serveTLS(t, &testService{unary: credentialsEcho}, "localhost")
	reply := new(testpb.SimpleResponse)
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), reply, grpc.CallAuthority("other.example")))
	assert.Equal(t, "other.example", reply.OauthScope)

	err := ch.Invoke(soon(t), unaryMethod, request(""), reply, grpc.CallAuthority("evil.example"))
	assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)

	// The picker's, unless the call says otherwise.
	b := ch.picker.Load().picker.(fixed).sc
	ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
		return balancer.PickResult{SubConn: b, Metadata: metadata.MD{":authority": {"other.example"}, "authorization": {"picked"}}}, nil
	}))
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), reply))
	assert.Equal(t, "other.example", reply.OauthScope)
	assert.Equal(t, "picked", reply.Username)
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), reply, grpc.CallAuthority("localhost")))
	assert.Equal(t, "localhost", reply.OauthScope)

	ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
		return balancer.PickResult{SubConn: b, Metadata: metadata.MD{"Bad": {"x"}}}, nil
	}))
	err = ch.Invoke(soon(t), unaryMethod, request(""), reply)
	assert.Equal(t, codes.Internal, status.Code(err), "%v", err)
}

func TestAuthorityOfTheEndpoint(t *testing.T) {
	b := insecureBackend(t, startServer(t, &testService{unary: credentialsEcho}))
	ch := ready(t, Config{}, b.having("address.example"))
	reply := new(testpb.SimpleResponse)
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(""), reply))
	assert.Equal(t, "address.example", reply.OauthScope)
}

func TestOutgoingMetadataIsValidated(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	for _, md := range []metadata.MD{{"": {"x"}}, {"a b": {"x"}}, {"a": {"\n"}}, {"ä": {"x"}}} {
		var f finished
		err := ch.Invoke(metadata.NewOutgoingContext(soon(t), md), unaryMethod, request(""), new(testpb.SimpleResponse), f.option())
		assert.Equal(t, codes.Internal, status.Code(err), "%v: %v", md, err)
		f.require(t, codes.Internal)
	}
	// Reserved names are not sent, and no error.
	md := metadata.MD{":path": {"/x"}, "grpc-timeout": {"1n"}, "te": {"x"}, "content-type": {"text/plain"}, "a-bin": {"\n"}}
	require.NoError(t, ch.Invoke(metadata.NewOutgoingContext(soon(t), md), unaryMethod, request(""), new(testpb.SimpleResponse)))
}

func TestAudience(t *testing.T) {
	assert.Equal(t, "https://a:80/s", audience("a:80", "/s/m"))
	assert.Equal(t, "https://a/s", audience("a:443", "/s/m"))
	assert.Equal(t, "https://am", audience("a", "m"))
}
