package xds_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	statuspb "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/xds/csds"
	_ "google.golang.org/grpc/xds/googledirectpath"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/xds"
)

// inChild says that the process was started by inProcess.
const inChild = "GRPCDIAL_XDS_TEST_CHILD"

// inProcess runs a test of this package in a process with an environment: grpc-go reads
// what it takes from there when the program starts.
func inProcess(t *testing.T, test string, env ...string) {
	t.Helper()
	child := exec.CommandContext(backendtest.Bounded(t), os.Args[0], "-test.run=^"+test+"$", "-test.count=1", "-test.v")
	child.Env = append(append(os.Environ(), inChild+"=1"), env...)
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "--- PASS: "+test+"/grpc-go")
}

// onRegistered runs f with a channel of each kind to a target of a scheme that is
// registered.
func onRegistered(t *testing.T, target string, f func(*testing.T, grpc.ClientConnInterface)) {
	t.Helper()
	t.Run("grpcdial", func(t *testing.T) { f(t, newClient(t, target)) })
	t.Run("grpc-go", func(t *testing.T) { f(t, newGRPCClient(t, target)) })
}

// TestRegistered: the import alone makes xds targets work, on grpc-go's channels too, with
// the bootstrap configuration of the environment.
func TestRegistered(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes: []*routepb.Route{to("/shop.Rewritten/", "all", func(r *routepb.Route) {
			r.GetRoute().HostRewriteSpecifier = &routepb.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
		}), to("/", "all")},
		clusters: map[string][]string{"all": {serve(t, "all")}},
		load: func(e *endpointpb.ClusterLoadAssignment) {
			e.Endpoints[0].LbEndpoints[0].GetEndpoint().Hostname = "backend.example"
		},
	})
	trusted := strings.Replace(m.bootstrap, `"xds_v3"`, `"xds_v3","trusted_xds_server"`, 1)
	inProcess(t, "TestInChild", "GRPC_XDS_BOOTSTRAP_CONFIG="+trusted, "GRPC_XDS_BOOTSTRAP=", "GRPC_EXPERIMENTAL_XDS_AUTHORITY_REWRITE=true")
}

func TestInChild(t *testing.T) {
	if os.Getenv(inChild) == "" {
		return // TestRegistered runs it
	}
	assert.Equal(t, xds.Resolver(), resolver.Get("xds"))
	status, err := csds.NewClientStatusDiscoveryServer()
	require.NoError(t, err)
	defer status.Close()
	onRegistered(t, target, func(t *testing.T, cc grpc.ClientConnInterface) {
		for kind, call := range kinds {
			by, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			require.NoError(t, err, kind)
			assert.Equal(t, "all", by, kind)
			// gRFC A81: a route may have the endpoint's host name as the authority.
			authority, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Authority")
			require.NoError(t, err, kind)
			assert.Equal(t, "shop", authority, kind)
			authority, err = call(backendtest.Bounded(t), cc, "/shop.Rewritten/Authority")
			require.NoError(t, err, kind)
			assert.Equal(t, "backend.example", authority, kind)
		}
		// gRFC A40: the client's status has the resources that the channel uses.
		seen, err := status.FetchClientStatus(backendtest.Bounded(t), new(statuspb.ClientStatusRequest))
		require.NoError(t, err)
		require.Len(t, seen.Config, 1)
		assert.Equal(t, target, seen.Config[0].ClientScope)
		var names []string
		for _, c := range seen.Config[0].GenericXdsConfigs {
			names = append(names, c.Name)
		}
		assert.ElementsMatch(t, []string{"shop", "all", "all"}, names)
	})
}

// TestGoogleC2P: targets of google-c2p, with the management server, certificate and token
// of a test in the places of Google's.
func TestGoogleC2P(t *testing.T) {
	ca, dir := h2test.NewCA(t), t.TempDir()
	cert := ca.Server("127.0.0.1")
	m := manageBy(t, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	m.set(t, config{
		listener: "xdstp://traffic-director-c2p.xds.googleapis.com/envoy.config.listener.v3.Listener/shop",
		routes:   []*routepb.Route{to("/shop.Cart/", "cart"), to("/", "all")},
		clusters: map[string][]string{"cart": {serve(t, "cart")}, "all": {serve(t, "all")}},
	})
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"a test's","token_type":"Bearer","expires_in":3600}`)
	}))
	t.Cleanup(tokens.Close)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	account, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "test@example", "token_uri": tokens.URL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
	})
	require.NoError(t, err)
	accountFile, caFile := filepath.Join(dir, "account.json"), filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(accountFile, account, 0o600))
	require.NoError(t, os.WriteFile(caFile, ca.PEM(), 0o600))
	inProcess(t, "TestGoogleC2PInChild", "GRPC_TEST_ONLY_GOOGLE_C2P_RESOLVER_TRAFFIC_DIRECTOR_URI="+m.addr,
		"GOOGLE_APPLICATION_CREDENTIALS="+accountFile, "SSL_CERT_FILE="+caFile, "GRPC_XDS_BOOTSTRAP=", "GRPC_XDS_BOOTSTRAP_CONFIG=")
}

func TestGoogleC2PInChild(t *testing.T) {
	if os.Getenv(inChild) == "" {
		return // TestGoogleC2P runs it
	}
	onRegistered(t, "google-c2p:///shop?force-xds", func(t *testing.T, cc grpc.ClientConnInterface) {
		for kind, call := range kinds {
			by, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			require.NoError(t, err, kind)
			assert.Equal(t, "cart", by, kind)
			by, err = call(backendtest.Bounded(t), cc, "/shop.Stock/Count")
			require.NoError(t, err, kind)
			assert.Equal(t, "all", by, kind)
		}
	})
}
