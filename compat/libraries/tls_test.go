package libraries

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/security/advancedtls"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestAdvancedTLS: credentials of advancedtls, with a check of their own.
func TestAdvancedTLS(t *testing.T) {
	ca := h2test.NewCA(t)
	addr, agents := testService(t, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{ca.Server("backend.test")}})))
	checked := false
	creds, err := advancedtls.NewClientCreds(&advancedtls.Options{
		RootOptions: advancedtls.RootCertificateOptions{RootCertificates: ca.Pool()},
		AdditionalPeerVerification: func(p *advancedtls.HandshakeVerificationInfo) (*advancedtls.PostHandshakeVerificationResults, error) {
			checked = p.ServerName == "backend.test"
			return new(advancedtls.PostHandshakeVerificationResults), nil
		},
	})
	require.NoError(t, err)
	cc, err := grpcdial.NewClient(addr, grpcdial.WithTransportCredentials(creds), grpcdial.WithAuthority("backend.test"))
	require.NoError(t, err)
	defer cc.Close()
	exercise(t, cc)
	assert.True(t, checked)
	agents.AssertOurs(t, "UnaryCall", "FullDuplexCall")

	wrong, err := grpcdial.NewClient(addr, grpcdial.WithTransportCredentials(creds), grpcdial.WithAuthority("other.test"))
	require.NoError(t, err)
	defer wrong.Close()
	_, err = testpb.NewTestServiceClient(wrong).UnaryCall(backendtest.Bounded(t), new(testpb.SimpleRequest))
	require.ErrorContains(t, err, "other.test")
}

// workloads is a SPIFFE Workload API that gives each client the same identity.
type workloads struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	identity *workload.X509SVIDResponse
}

func (w workloads) FetchX509SVID(_ *workload.X509SVIDRequest, s workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if err := s.Send(w.identity); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

// identify makes an X.509 identity, signed by an authority of its own.
func identify(t *testing.T, id string) *workload.X509SVIDResponse {
	t.Helper()
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org"}}, NotAfter: time.Now().Add(time.Hour)}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	bundle, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	require.NoError(t, err)
	uri, err := url.Parse(id)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	certificate, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}, authority, key.Public(), authorityKey)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{SpiffeId: id, X509Svid: certificate, X509SvidKey: private, Bundle: bundle}}}
}

// identified replies with the SPIFFE ID of its client.
type identified struct {
	testpb.UnimplementedTestServiceServer
}

func (identified) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	id, _ := grpccredentials.PeerIDFromContext(ctx)
	return &testpb.SimpleResponse{Username: id.String()}, nil
}

// TestSPIFFE: the workload API is asked over our channel, and what it says makes the
// credentials of another one.
func TestSPIFFE(t *testing.T) {
	const me = "spiffe://example.org/me"
	api, asked := backendtest.Serve(t, func(s *grpc.Server) {
		workload.RegisterSpiffeWorkloadAPIServer(s, workloads{identity: identify(t, me)})
	})
	source, err := workloadapi.NewX509Source(backendtest.Bounded(t),
		workloadapi.WithClientOptions(workloadapi.WithAddr("tcp://"+api), workloadapi.WithDialOptions(bridge.ToGRPC()...)))
	require.NoError(t, err)
	defer source.Close()
	asked.AssertOurs(t, "FetchX509SVID")

	addr, agents := backendtest.Serve(t, func(s *grpc.Server) { testpb.RegisterTestServiceServer(s, identified{}) },
		grpc.Creds(grpccredentials.MTLSServerCredentials(source, source, tlsconfig.AuthorizeAny())))
	for id, want := range map[string]string{me: "", "spiffe://example.org/another": "unexpected ID"} {
		creds := grpccredentials.MTLSClientCredentials(source, source, tlsconfig.AuthorizeID(spiffeid.RequireFromString(id)))
		cc, err := grpcdial.NewClient(addr, grpcdial.WithTransportCredentials(creds))
		require.NoError(t, err)
		defer cc.Close()
		var p peer.Peer
		reply, err := testpb.NewTestServiceClient(cc).UnaryCall(backendtest.Bounded(t), new(testpb.SimpleRequest), grpc.Peer(&p))
		if want != "" {
			require.ErrorContains(t, err, want)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, me, reply.Username)
		server, ok := grpccredentials.PeerIDFromPeer(&p)
		assert.True(t, ok)
		assert.Equal(t, me, server.String())
	}
	agents.AssertOurs(t, "UnaryCall")
}
