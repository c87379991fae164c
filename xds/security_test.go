package xds_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherpb "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/xds"
)

// TestMutualTLS: the management server says which certificates connections are made with
// (gRFC A29); they are read from files, and read again when these are replaced.
func TestMutualTLS(t *testing.T) {
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	dir := t.TempDir()
	files := writeCertificate(t, dir, ca, ca.Client("shopper"))
	m := manage(t, `"certificate_providers":{"files":{"plugin_name":"file_watcher","config":`+files+`}}`)

	seen := make(chan string, 100)
	secure, _ := serveAt(t, "127.0.0.1:0", "secure", grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ca.Server("backend.example")}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		VerifyPeerCertificate: func(_ [][]byte, chains [][]*x509.Certificate) error {
			seen <- chains[0][0].DNSNames[0]
			return nil
		},
	})))
	stranger, _ := serveAt(t, "127.0.0.1:0", "stranger", grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{other.Server("backend.example")}})))
	misnamed, _ := serveAt(t, "127.0.0.1:0", "misnamed", grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{ca.Server("another.example")}})))
	m.set(t, config{
		routes:   []*routepb.Route{to("/shop.Stranger", "stranger"), to("/shop.Misnamed", "misnamed"), to("/shop.Plain/", "plain"), to("/", "secure")},
		clusters: map[string][]string{"secure": {secure}, "stranger": {stranger}, "misnamed": {misnamed}, "plain": {serve(t, "plain")}},
		policy: func(c *clusterpb.Cluster) {
			if c.Name != "plain" { // for which the fallback is
				c.TransportSocket = mutualTLS(t, "backend.example")
			}
		},
	})
	run := func(t *testing.T, cc grpc.ClientConnInterface) {
		var p peer.Peer
		for kind, call := range kinds {
			by, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			require.NoError(t, err, kind)
			assert.Equal(t, "secure", by, kind)
			by, err = call(backendtest.Bounded(t), cc, "/shop.Plain/Add")
			require.NoError(t, err, kind)
			assert.Equal(t, "plain", by, kind)
		}
		require.NoError(t, invoke(backendtest.Bounded(t), cc, "/shop.Cart/Add", grpc.Peer(&p)))
		info, ok := p.AuthInfo.(credentials.TLSInfo)
		require.True(t, ok, "%T", p.AuthInfo)
		assert.Equal(t, credentials.PrivacyAndIntegrity, info.SecurityLevel)
		assert.Equal(t, "shopper", <-seen)

		_, err := ask(backendtest.Bounded(t), cc, "/shop.Stranger/Add")
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.ErrorContains(t, err, "certificate signed by unknown authority")
		_, err = ask(backendtest.Bounded(t), cc, "/shop.Misnamed/Add")
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.ErrorContains(t, err, "do not match any of the accepted SANs")
	}
	dial := func(t *testing.T) *grpcdial.ClientConn {
		cc, err := grpcdial.NewClient(target, grpcdial.WithTransportCredentials(xdsCredentials(t)), grpcdial.WithResolvers(xds.Wrap(m.builder(t))))
		require.NoError(t, err)
		t.Cleanup(func() { cc.Close() })
		return cc
	}
	t.Run("grpcdial", func(t *testing.T) {
		cc := dial(t)
		run(t, cc)
		_, err := ask(backendtest.Bounded(t), cc, "/shop.Stranger/Add")
		assert.ErrorAs(t, err, new(x509.UnknownAuthorityError))
	})
	t.Run("grpc-go", func(t *testing.T) {
		run(t, newGRPCClient(t, target, grpc.WithTransportCredentials(xdsCredentials(t)), grpc.WithResolvers(m.builder(t))))
	})
	t.Run("replaced", func(t *testing.T) {
		writeCertificate(t, dir, ca, ca.Client("replaced"))
		require.Eventually(t, func() bool {
			cc := dial(t) // with a connection of its own
			_, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			assert.NoError(t, err)
			assert.NoError(t, cc.Close())
			return <-seen == "replaced"
		}, time.Minute, 20*time.Millisecond)
	})
}

func xdsCredentials(t testing.TB) credentials.TransportCredentials {
	creds, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	require.NoError(t, err)
	return creds
}

// mutualTLS is the security of a cluster whose backends have a certificate for a name.
func mutualTLS(t testing.TB, name string) *corepb.TransportSocket {
	files := &tlspb.CommonTlsContext_CertificateProviderInstance{InstanceName: "files"}
	return &corepb.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corepb.TransportSocket_TypedConfig{TypedConfig: packed(t, &tlspb.UpstreamTlsContext{CommonTlsContext: &tlspb.CommonTlsContext{
		TlsCertificateProviderInstance: &tlspb.CertificateProviderPluginInstance{InstanceName: files.InstanceName},
		ValidationContextType: &tlspb.CommonTlsContext_ValidationContext{ValidationContext: &tlspb.CertificateValidationContext{
			CaCertificateProviderInstance: &tlspb.CertificateProviderPluginInstance{InstanceName: files.InstanceName},
			//lint:ignore SA1019 grpc-go does not read the field that took its place
			MatchSubjectAltNames: []*matcherpb.StringMatcher{{MatchPattern: &matcherpb.StringMatcher_Exact{Exact: name}}},
		}},
	}})}}
}

// writeCertificate writes a certificate and a CA into a directory, and returns the file
// watcher's configuration for them.
func writeCertificate(t testing.TB, dir string, ca *h2test.CA, cert tls.Certificate) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string][]byte{
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"ca.pem":   ca.PEM(),
	} {
		require.NoError(t, os.WriteFile(path(name+".new"), content, 0o600))
		require.NoError(t, os.Rename(path(name+".new"), path(name)))
	}
	return fmt.Sprintf(`{"certificate_file":%q,"private_key_file":%q,"ca_certificate_file":%q,"refresh_interval":"0.02s"}`, path("cert.pem"), path("key.pem"), path("ca.pem"))
}
