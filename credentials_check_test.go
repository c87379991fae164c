package grpcdial

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// testPerRPC are per-RPC credentials that put one value into an RPC.
type testPerRPC struct {
	token  string
	secure bool // RequireTransportSecurity
}

func (p testPerRPC) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": p.token}, nil
}
func (p testPerRPC) RequireTransportSecurity() bool { return p.secure }

// countingBundle counts how often it is asked for its parts.
type countingBundle struct {
	testBundle
	asked *int
}

func (b countingBundle) TransportCredentials() credentials.TransportCredentials {
	*b.asked++
	return b.transport
}

func TestCheckCredentials(t *testing.T) {
	plain, secure := insecure.NewCredentials(), credentials.NewTLS(&tls.Config{ServerName: "x"})
	free, strict, other := testPerRPC{token: "free"}, testPerRPC{token: "strict", secure: true}, testPerRPC{token: "other"}
	tests := []struct {
		name      string
		opts      []DialOption
		err       error
		says      string // further part of the error
		transport credentials.TransportCredentials
		perRPC    []credentials.PerRPCCredentials
		insecure  bool
	}{
		{name: "nothing", err: ErrNoTransportSecurity, says: "WithInsecure"},
		{name: "per-RPC only", opts: []DialOption{WithPerRPCCredentials(free)}, err: ErrNoTransportSecurity},
		{name: "nil credentials", opts: []DialOption{WithTransportCredentials(nil)}, err: ErrNoTransportSecurity},
		{name: "nil bundle", opts: []DialOption{WithCredentialsBundle(nil)}, err: ErrNoTransportSecurity},
		{name: "credentials, bundle", opts: []DialOption{WithTransportCredentials(secure), WithCredentialsBundle(testBundle{transport: secure})},
			err: ErrTransportCredentialsWithBundle},
		{name: "bundle, credentials", opts: []DialOption{WithCredentialsBundle(testBundle{}), WithTransportCredentials(plain)},
			err: ErrTransportCredentialsWithBundle},
		{name: "empty bundle", opts: []DialOption{WithCredentialsBundle(testBundle{perRPC: free})}, err: ErrBundleWithoutTransportCredentials},
		{name: "insecure, credentials", opts: []DialOption{WithInsecure(), WithTransportCredentials(secure)}, err: ErrInsecureWithTransportCredentials},
		{name: "credentials, insecure", opts: []DialOption{WithTransportCredentials(plain), WithInsecure()}, err: ErrInsecureWithTransportCredentials},
		{name: "insecure, bundle", opts: []DialOption{WithInsecure(), WithCredentialsBundle(testBundle{transport: plain})}, err: ErrInsecureWithBundle},
		{name: "insecure, empty bundle", opts: []DialOption{WithInsecure(), WithCredentialsBundle(testBundle{})}, err: ErrInsecureWithBundle},
		{name: "all three", opts: []DialOption{WithInsecure(), WithTransportCredentials(secure), WithCredentialsBundle(testBundle{transport: secure})},
			err: ErrInsecureWithTransportCredentials},
		{name: "insecure, strict", opts: []DialOption{WithInsecure(), WithPerRPCCredentials(free), WithPerRPCCredentials(strict)},
			err: ErrPerRPCNeedsTransportSecurity, says: "grpcdial.testPerRPC of WithPerRPCCredentials contradicts WithInsecure"},
		{name: "plain credentials, strict", opts: []DialOption{WithTransportCredentials(plain), WithPerRPCCredentials(strict)}, err: ErrPerRPCNeedsTransportSecurity,
			says: "of WithPerRPCCredentials contradicts the insecure credentials of WithTransportCredentials"},
		{name: "plain bundle, strict", opts: []DialOption{WithCredentialsBundle(testBundle{transport: plain}), WithPerRPCCredentials(strict)},
			err: ErrPerRPCNeedsTransportSecurity, says: "of WithPerRPCCredentials contradicts the insecure credentials of the bundle of WithCredentialsBundle"},
		{name: "plain bundle with strict", opts: []DialOption{WithCredentialsBundle(testBundle{transport: plain, perRPC: strict})},
			err: ErrPerRPCNeedsTransportSecurity, says: "of the bundle of WithCredentialsBundle contradicts its own"},

		{name: "insecure", opts: []DialOption{WithInsecure()}, transport: plain, insecure: true},
		{name: "insecure twice", opts: []DialOption{WithInsecure(), WithInsecure()}, transport: plain, insecure: true},
		{name: "insecure, per-RPC", opts: []DialOption{WithInsecure(), WithPerRPCCredentials(free)}, transport: plain, insecure: true,
			perRPC: []credentials.PerRPCCredentials{free}},
		{name: "plain credentials", opts: []DialOption{WithTransportCredentials(plain)}, transport: plain, insecure: true},
		{name: "TLS", opts: []DialOption{WithTransportCredentials(secure)}, transport: secure},
		{name: "last credentials win", opts: []DialOption{WithTransportCredentials(plain), WithTransportCredentials(secure)}, transport: secure},
		{name: "TLS, per-RPC", opts: []DialOption{WithPerRPCCredentials(strict), WithTransportCredentials(secure), WithPerRPCCredentials(free)}, transport: secure,
			perRPC: []credentials.PerRPCCredentials{strict, free}},
		{name: "bundle", opts: []DialOption{WithCredentialsBundle(testBundle{transport: secure})}, transport: secure},
		{name: "bundle, per-RPC of both", opts: []DialOption{WithCredentialsBundle(testBundle{transport: secure, perRPC: strict}), WithPerRPCCredentials(other)},
			transport: secure, perRPC: []credentials.PerRPCCredentials{other, strict}},
		{name: "plain bundle with free", opts: []DialOption{WithCredentialsBundle(testBundle{transport: plain, perRPC: free})},
			transport: plain, insecure: true, perRPC: []credentials.PerRPCCredentials{free}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := newDialOptions(byNewClient, tt.opts)
			require.NoError(t, err)
			got, err := checkCredentials(o)
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
				assert.ErrorContains(t, err, tt.says)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.transport, got.transport)
			assert.Equal(t, tt.perRPC, got.perRPC)
			assert.Equal(t, tt.insecure, got.insecure)
		})
	}
}

// TestCredentialErrorsDiffer: each combination has an error of its own.
func TestCredentialErrorsDiffer(t *testing.T) {
	all := []error{
		ErrNoTransportSecurity, ErrTransportCredentialsWithBundle, ErrBundleWithoutTransportCredentials,
		ErrInsecureWithTransportCredentials, ErrInsecureWithBundle, ErrPerRPCNeedsTransportSecurity,
	}
	for i, a := range all {
		for j, b := range all {
			if i != j {
				assert.NotErrorIs(t, a, b)
				assert.NotEqual(t, a.Error(), b.Error())
			}
		}
	}
}

func TestBundleIsAskedOnce(t *testing.T) {
	var asked int
	o, err := newDialOptions(byDial, []DialOption{WithCredentialsBundle(countingBundle{testBundle{transport: insecure.NewCredentials()}, &asked})})
	require.NoError(t, err)
	_, err = checkCredentials(o)
	require.NoError(t, err)
	assert.Equal(t, 1, asked)
}

// TestBundleLeavesTheOptionsAlone: the bundle's credentials are not appended
// into the array that the options hold.
func TestBundleLeavesTheOptionsAlone(t *testing.T) {
	o, err := newDialOptions(byDial, []DialOption{
		WithPerRPCCredentials(testPerRPC{token: "1"}), WithPerRPCCredentials(testPerRPC{token: "2"}), WithPerRPCCredentials(testPerRPC{token: "3"}),
		WithCredentialsBundle(testBundle{transport: insecure.NewCredentials(), perRPC: testPerRPC{token: "bundle"}}),
	})
	require.NoError(t, err)
	require.Greater(t, cap(o.perRPCCreds), len(o.perRPCCreds), "there is room to append in place")
	_, err = checkCredentials(o)
	require.NoError(t, err)
	assert.Nil(t, o.perRPCCreds[:4][3])
}
