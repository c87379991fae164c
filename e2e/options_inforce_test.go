package e2e_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// token are per-RPC credentials.
type token struct {
	value  string
	secure bool
}

func (c token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"token-" + c.value: c.value}, nil
}
func (c token) RequireTransportSecurity() bool { return c.secure }

type bundle struct {
	transport credentials.TransportCredentials
	perRPC    credentials.PerRPCCredentials
}

func (b bundle) TransportCredentials() credentials.TransportCredentials { return b.transport }
func (b bundle) PerRPCCredentials() credentials.PerRPCCredentials       { return b.perRPC }
func (b bundle) NewWithMode(string) (credentials.Bundle, error)         { return b, nil }

// shouting is a codec that sends upper case.
type shouting struct{}

func (shouting) Marshal(v any) ([]byte, error) {
	return proto.Marshal(wrapperspb.String(strings.ToUpper(v.(*wrapperspb.StringValue).Value)))
}
func (shouting) Unmarshal(data []byte, v any) error { return proto.Unmarshal(data, v.(proto.Message)) }
func (shouting) String() string                     { return "shouting" }

// flipping compresses by flipping every bit.
type flipping struct{}

func (flipping) Do(w io.Writer, p []byte) error {
	flipped := make([]byte, len(p))
	for i, c := range p {
		flipped[i] = ^c
	}
	_, err := w.Write(flipped)
	return err
}
func (flipping) Type() string { return "flip" }

// unflipping is what undoes flipping.
type unflipping struct{}

func (unflipping) Do(r io.Reader) ([]byte, error) {
	p, err := io.ReadAll(r)
	for i, c := range p {
		p[i] = ^c
	}
	return p, err
}
func (unflipping) Type() string { return "flip" }

// TestOptionsReachTheServer: what a server sees of the options.
func TestOptionsReachTheServer(t *testing.T) {
	// the deprecated options are tested too
	srv := backendtest.StartEcho(t, grpc.RPCDecompressor(unflipping{}))
	_, port, err := net.SplitHostPort(srv.Addr)
	require.NoError(t, err)
	plain := grpcdial.WithTransportCredentials(insecure.NewCredentials())
	tests := []struct {
		name        string
		target      string
		opts        []grpcdial.DialOption
		header      string
		want        string
		request     string // "": hello
		compression string
	}{
		{name: "no user agent", opts: []grpcdial.DialOption{plain}, header: "user-agent", want: "grpc-go-grpcdial/0.1.0"},
		{name: "WithUserAgent", opts: []grpcdial.DialOption{plain, grpcdial.WithUserAgent("me/1")}, header: "user-agent", want: "me/1 grpc-go-grpcdial/0.1.0"},
		{name: "authority of the target", opts: []grpcdial.DialOption{plain}, header: ":authority", want: srv.Addr},
		{name: "authority of a port", target: "passthrough:///:" + port, opts: []grpcdial.DialOption{plain}, header: ":authority", want: "localhost:" + port},
		{name: "WithAuthority", opts: []grpcdial.DialOption{plain, grpcdial.WithAuthority("my.name")}, header: ":authority", want: "my.name"},
		{name: "WithInsecure", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}},
		{name: "WithPerRPCCredentials", opts: []grpcdial.DialOption{plain, grpcdial.WithPerRPCCredentials(token{value: "a"}), grpcdial.WithPerRPCCredentials(token{value: "b"})},
			header: "token-a", want: "a"},
		{name: "WithPerRPCCredentials, the second", opts: []grpcdial.DialOption{plain, grpcdial.WithPerRPCCredentials(token{value: "a"}), grpcdial.WithPerRPCCredentials(token{value: "b"})},
			header: "token-b", want: "b"},
		{name: "WithCredentialsBundle", opts: []grpcdial.DialOption{grpcdial.WithCredentialsBundle(bundle{insecure.NewCredentials(), token{value: "a"}})},
			header: "token-a", want: "a"},
		{name: "WithCredentialsBundle, WithPerRPCCredentials", opts: []grpcdial.DialOption{
			grpcdial.WithCredentialsBundle(bundle{insecure.NewCredentials(), token{value: "a"}}), grpcdial.WithPerRPCCredentials(token{value: "b"})},
			header: "token-b", want: "b"},
		{name: "WithDefaultCallOptions", opts: []grpcdial.DialOption{plain, grpcdial.WithDefaultCallOptions(grpc.CallContentSubtype("proto"))},
			header: "content-type", want: "application/grpc+proto"},
		{name: "WithCodec", opts: []grpcdial.DialOption{plain, grpcdial.WithCodec(shouting{})}, request: "HELLO"},
		{name: "WithCompressor", opts: []grpcdial.DialOption{plain, grpcdial.WithCompressor(flipping{})}, compression: "flip"},
		{name: "WithReadBufferSize, WithWriteBufferSize", opts: []grpcdial.DialOption{plain, grpcdial.WithReadBufferSize(100), grpcdial.WithWriteBufferSize(100)}},
		{name: "no buffers", opts: []grpcdial.DialOption{plain, grpcdial.WithReadBufferSize(0), grpcdial.WithWriteBufferSize(0)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.target == "" {
				tt.target = srv.Addr
			}
			_, err := backendtest.CallEcho(t, newClient(t, tt.target, tt.opts...), "Echo")
			require.NoError(t, err)
			request, md, compression := srv.Last()
			if tt.header != "" {
				assert.Equal(t, []string{tt.want}, md.Get(tt.header))
			}
			if tt.request == "" {
				tt.request = "hello"
			}
			assert.Equal(t, tt.request, request)
			assert.Equal(t, tt.compression, compression)
		})
	}
}

// TestOptionsRuleReplies: what the options make of what a server sends.
func TestOptionsRuleReplies(t *testing.T) {
	srv := backendtest.StartEcho(t)
	plain := grpcdial.WithTransportCredentials(insecure.NewCredentials())

	t.Run("message size", func(t *testing.T) {
		reply, err := backendtest.CallEcho(t, newClient(t, srv.Addr, plain), "Big")
		require.NoError(t, err)
		assert.Len(t, reply, 100_000)
		for _, option := range []grpcdial.DialOption{grpcdial.WithMaxMsgSize(99_000), grpcdial.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(99_000))} {
			cc := newClient(t, srv.Addr, plain, option)
			_, err := backendtest.CallEcho(t, cc, "Big")
			assert.Equal(t, codes.ResourceExhausted, status.Code(err))
			_, err = backendtest.CallEcho(t, cc, "Big", grpc.MaxCallRecvMsgSize(200_000))
			require.NoError(t, err, "the call's own option comes after")
		}
	})
	t.Run("header list", func(t *testing.T) {
		_, err := backendtest.CallEcho(t, newClient(t, srv.Addr, plain, grpcdial.WithMaxHeaderListSize(40_000)), "Headers")
		require.NoError(t, err)
		_, err = backendtest.CallEcho(t, newClient(t, srv.Addr, plain, grpcdial.WithMaxHeaderListSize(10_000)), "Headers")
		require.Error(t, err)
		assert.NotEqual(t, codes.DeadlineExceeded, status.Code(err))
	})
	t.Run("decompressor", func(t *testing.T) {
		srv := backendtest.StartEcho(t, grpc.RPCCompressor(flipping{})) // the deprecated option is tested too
		_, err := backendtest.CallEcho(t, newClient(t, srv.Addr, plain), "Echo")
		require.Error(t, err)
		reply, err := backendtest.CallEcho(t, newClient(t, srv.Addr, plain, grpcdial.WithDecompressor(unflipping{})), "Echo")
		require.NoError(t, err)
		assert.Equal(t, "hello", reply)
	})
}

func TestRetryOptions(t *testing.T) {
	policy := func(attempts int) grpcdial.DialOption {
		return grpcdial.WithDefaultServiceConfig(fmt.Sprintf(`{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": %d,
			"initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`, attempts))
	}
	retries, generous := policy(4), policy(9)
	for _, tt := range []struct {
		name string
		opts []grpcdial.DialOption
		want int64
	}{
		{"policy", nil, 4},
		{"WithMaxCallAttempts", []grpcdial.DialOption{grpcdial.WithMaxCallAttempts(3)}, 3},
		{"WithMaxCallAttempts, more than the policy", []grpcdial.DialOption{grpcdial.WithMaxCallAttempts(9)}, 4},
		{"WithMaxCallAttempts, below the policy's bound of 5", []grpcdial.DialOption{generous, grpcdial.WithMaxCallAttempts(2)}, 2},
		{"more than the default bound", []grpcdial.DialOption{generous}, 5},
		{"WithMaxCallAttempts, above the default", []grpcdial.DialOption{generous, grpcdial.WithMaxCallAttempts(7)}, 7},
		{"WithMaxCallAttempts, too few", []grpcdial.DialOption{grpcdial.WithMaxCallAttempts(1)}, 4},
		{"WithDisableRetry", []grpcdial.DialOption{grpcdial.WithDisableRetry()}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := backendtest.StartEcho(t)
			_, err := backendtest.CallEcho(t, newClient(t, srv.Addr, append([]grpcdial.DialOption{retries, grpcdial.WithTransportCredentials(insecure.NewCredentials())}, tt.opts...)...), "Fail")
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.Equal(t, tt.want, srv.Calls.Load())
		})
	}
}

// configured is a resolver builder that gives one address and a service config.
type configured struct{ addr, config string }

func (configured) Scheme() string { return "configured" }
func (b configured) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	return b, cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: b.addr}}, ServiceConfig: cc.ParseServiceConfig(b.config)})
}
func (configured) ResolveNow(resolver.ResolveNowOptions) {}
func (configured) Close()                                {}

func TestServiceConfigOptions(t *testing.T) {
	srv := backendtest.StartEcho(t)
	timeout := func(seconds string) string {
		return `{"methodConfig": [{"name": [{"service": "test.Echo"}], "timeout": "` + seconds + `s"}]}`
	}
	common := []grpcdial.DialOption{
		grpcdial.WithTransportCredentials(insecure.NewCredentials()),
		grpcdial.WithResolvers(configured{srv.Addr, timeout("11")}),
	}
	for _, tt := range []struct {
		name   string
		target string
		opts   []grpcdial.DialOption
		want   time.Duration // 0: none
	}{
		{"resolver", "configured:///x", nil, 11 * time.Second},
		{"resolver and default", "configured:///x", []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(timeout("22"))}, 11 * time.Second},
		{"default", srv.Addr, []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(timeout("22"))}, 22 * time.Second},
		{"disabled", "configured:///x", []grpcdial.DialOption{grpcdial.WithDisableServiceConfig()}, 0},
		{"disabled, default", "configured:///x", []grpcdial.DialOption{grpcdial.WithDisableServiceConfig(), grpcdial.WithDefaultServiceConfig(timeout("22"))}, 22 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cc := newClient(t, tt.target, append(tt.opts, common...)...)
			_, err := backendtest.CallEcho(t, cc, "Echo")
			require.NoError(t, err)
			got := cc.GetMethodConfig("/test.Echo/Echo").Timeout
			if tt.want == 0 {
				assert.Nil(t, got)
				return
			}
			require.NotNil(t, got)
			assert.Equal(t, tt.want, *got)
		})
	}

	for _, wrong := range []string{"", "{", `{"methodConfig": [{"timeout": "soon"}]}`} {
		_, err := grpcdial.NewClient(srv.Addr, append(common, grpcdial.WithDefaultServiceConfig(wrong))...)
		require.Error(t, err, "%q", wrong)
		assert.ErrorContains(t, err, "WithDefaultServiceConfig")
	}
}

func TestSecurityOptions(t *testing.T) {
	ca := h2test.NewCA(t)
	srv := backendtest.StartEcho(t, grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example"))))
	secure := credentials.NewTLS(&tls.Config{RootCAs: ca.Pool()})
	for _, tt := range []struct {
		name      string
		opts      []grpcdial.DialOption
		authority string // seen by the server; "": the RPC fails
		token     string
	}{
		{name: "another name", opts: []grpcdial.DialOption{grpcdial.WithTransportCredentials(secure)}},
		{name: "plaintext", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}},
		{name: "WithAuthority", opts: []grpcdial.DialOption{grpcdial.WithTransportCredentials(secure), grpcdial.WithAuthority("backend.example")}, authority: "backend.example"},
		{name: "name in the credentials", opts: []grpcdial.DialOption{grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example")))}, authority: "backend.example"},
		{name: "per-RPC credentials", authority: "backend.example", token: "a",
			opts: []grpcdial.DialOption{grpcdial.WithTransportCredentials(secure), grpcdial.WithAuthority("backend.example"), grpcdial.WithPerRPCCredentials(token{"a", true})}},
		{name: "bundle", authority: "backend.example", token: "b",
			opts: []grpcdial.DialOption{grpcdial.WithCredentialsBundle(bundle{secure, token{"b", true}}), grpcdial.WithAuthority("backend.example")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := backendtest.CallEcho(t, newClient(t, srv.Addr, tt.opts...), "Echo")
			if tt.authority == "" {
				assert.Equal(t, codes.Unavailable, status.Code(err))
				return
			}
			require.NoError(t, err)
			_, md, _ := srv.Last()
			assert.Equal(t, []string{tt.authority}, md.Get(":authority"))
			if tt.token != "" {
				assert.Equal(t, []string{tt.token}, md.Get("token-"+tt.token))
			}
		})
	}

	_, err := grpcdial.NewClient(srv.Addr, grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("a.example"))), grpcdial.WithAuthority("b.example"))
	require.Error(t, err)
	assert.ErrorContains(t, err, "a.example")
	assert.ErrorContains(t, err, "b.example")
}

// TestServerNames: the name that is verified, and the :authority that a server sees,
// of every way to say it, beside what grpc-go does.
func TestServerNames(t *testing.T) {
	ca := h2test.NewCA(t)
	srv := backendtest.StartEcho(t, grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example", "other.example", "127.0.0.1"))))
	overridden := func() credentials.TransportCredentials {
		creds := credentials.NewTLS(&tls.Config{RootCAs: ca.Pool()})
		_ = creds.OverrideServerName("backend.example") // deprecated, and used
		return creds
	}
	free := func() credentials.TransportCredentials { return credentials.NewTLS(&tls.Config{RootCAs: ca.Pool()}) }
	named := func() credentials.TransportCredentials { return credentials.NewTLS(ca.ClientConfig("backend.example")) }
	for _, tt := range []struct {
		name      string
		creds     func() credentials.TransportCredentials
		authority string // WithAuthority
		call      string // grpc.CallAuthority
		want      string // the server sees; "": the RPC fails
	}{
		{name: "the target's", creds: free, want: srv.Addr},
		{name: "the credentials'", creds: named, want: "backend.example"},
		{name: "OverrideServerName", creds: overridden, want: "backend.example"},
		{name: "WithAuthority", creds: free, authority: "other.example", want: "other.example"},
		{name: "WithAuthority and the credentials'", creds: named, authority: "backend.example", want: "backend.example"},
		{name: "WithAuthority that the certificate has not", creds: free, authority: "third.example"},
		{name: "CallAuthority", creds: free, call: "other.example", want: "other.example"},
		{name: "CallAuthority beside WithAuthority", creds: free, authority: "backend.example", call: "other.example", want: "other.example"},
		{name: "CallAuthority that the certificate has not", creds: free, call: "third.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := []grpcdial.DialOption{grpcdial.WithTransportCredentials(tt.creds())}, []grpc.DialOption{grpc.WithTransportCredentials(tt.creds())}
			if tt.authority != "" {
				ours, theirs = append(ours, grpcdial.WithAuthority(tt.authority)), append(theirs, grpc.WithAuthority(tt.authority))
			}
			var options []grpc.CallOption
			if tt.call != "" {
				options = append(options, grpc.CallAuthority(tt.call))
			}
			other, err := grpc.NewClient(srv.Addr, theirs...)
			require.NoError(t, err)
			defer other.Close()
			for name, cc := range map[string]grpc.ClientConnInterface{"ours": newClient(t, srv.Addr, ours...), "theirs": other} {
				_, err := backendtest.CallEcho(t, cc, "Echo", options...)
				if tt.want == "" {
					assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", name, err)
					continue
				}
				require.NoError(t, err, name)
				_, md, _ := srv.Last()
				assert.Equal(t, []string{tt.want}, md.Get(":authority"), name)
			}
		})
	}
}

// TestMutualTLS: a server that asks for a certificate gets the channel's.
func TestMutualTLS(t *testing.T) {
	ca := h2test.NewCA(t)
	demanding := ca.ServerConfig("backend.example")
	demanding.ClientAuth, demanding.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	srv := backendtest.StartEcho(t, grpc.Creds(credentials.NewTLS(demanding)))
	known := ca.ClientConfig("backend.example")
	known.Certificates = []tls.Certificate{ca.Client("me")}
	reply, err := backendtest.CallEcho(t, newClient(t, srv.Addr, grpcdial.WithTransportCredentials(credentials.NewTLS(known))), "Echo")
	require.NoError(t, err)
	assert.Equal(t, "hello", reply)

	_, err = grpcdial.DialContext(backendtest.Bounded(t), srv.Addr, grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example"))),
		grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true))
	var alert tls.AlertError
	require.ErrorAs(t, err, &alert)
	assert.ErrorContains(t, err, "requires a client certificate")
}

func TestIdleTimeoutOption(t *testing.T) {
	srv := backendtest.StartEcho(t)
	cc := newClient(t, srv.Addr, grpcdial.WithTransportCredentials(insecure.NewCredentials()), grpcdial.WithIdleTimeout(20*time.Millisecond))
	for range 2 {
		_, err := backendtest.CallEcho(t, cc, "Echo")
		require.NoError(t, err)
		for s := cc.GetState(); s != connectivity.Idle; s = cc.GetState() {
			require.True(t, cc.WaitForStateChange(backendtest.Bounded(t), s), "still %v", s)
		}
	}
}
