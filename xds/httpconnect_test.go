package xds_test

import (
	"os"
	"os/exec"
	"testing"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	http11pb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/http_11_proxy/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// httpConnect is the variable that makes grpc-go's xDS read a cluster's HTTP proxies. It
// is read when the program starts.
const httpConnect = "GRPC_EXPERIMENTAL_XDS_HTTP_CONNECT"

// TestHTTPConnect: an endpoint behind an HTTP proxy, as the management server has it, is
// reached through that (gRFC A86).
func TestHTTPConnect(t *testing.T) {
	if os.Getenv(httpConnect) == "" {
		child := exec.CommandContext(backendtest.Bounded(t), os.Args[0], "-test.run=^TestHTTPConnect$", "-test.count=1", "-test.v")
		child.Env = append(os.Environ(), httpConnect+"=true")
		out, err := child.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestHTTPConnect/grpcdial")
		return
	}
	backend := serve(t, "behind")
	proxy := proxytest.ListenHTTP(t, map[string]string{backend: backend}, "", nil)
	m := manage(t)
	m.set(t, config{
		routes:   []*routepb.Route{to("/", "all")},
		clusters: map[string][]string{"all": {backend}},
		policy: func(c *clusterpb.Cluster) {
			c.TransportSocket = &corepb.TransportSocket{
				Name:       "envoy.transport_sockets.http_11_proxy",
				ConfigType: &corepb.TransportSocket_TypedConfig{TypedConfig: packed(t, &http11pb.Http11ProxyUpstreamTransport{})},
			}
		},
		load: func(l *endpointpb.ClusterLoadAssignment) {
			l.Endpoints[0].LbEndpoints[0].Metadata = &corepb.Metadata{TypedFilterMetadata: map[string]*anypb.Any{
				"envoy.http11_proxy_transport_socket.proxy_address": packed(t, address(t, proxy.Addr)),
			}}
		},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		before := len(proxy.Requests())
		by, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Add")
		require.NoError(t, err)
		assert.Equal(t, "behind", by)
		seen := proxy.Requests()[before:]
		require.Len(t, seen, 1)
		assert.Equal(t, backend, seen[0].Host)
	})
}
