package xds_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	aggregatepb "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/xds"
)

// TestRouteResource: a route configuration that is a resource of its own, apart from the
// listener, and is changed.
func TestRouteResource(t *testing.T) {
	m := manage(t)
	c := config{rds: true, clusters: map[string][]string{"one": {serve(t, "one")}, "two": {serve(t, "two")}}}
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		for _, cluster := range []string{"one", "two", "one"} {
			c.routes = []*routepb.Route{to("/", cluster)}
			m.set(t, c)
			reaches(t, cc, cluster)
		}
	})
}

// TestAggregateCluster: RPCs go to the first of its clusters of which a backend is there,
// whether its endpoints are a resource or come from the DNS.
func TestAggregateCluster(t *testing.T) {
	m := manage(t)
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		first, stop := serveAt(t, "127.0.0.1:0", "first")
		m.set(t, config{
			routes:   []*routepb.Route{to("/", "all")},
			clusters: map[string][]string{"first": {first}},
			others:   []*clusterpb.Cluster{aggregate(t, "all", "first", "second"), logicalDNS(t, "second", serve(t, "second"))},
		})
		reaches(t, cc, "first")
		stop()
		failsOver(t, cc, "second")
		serveAt(t, first, "first")
		reaches(t, cc, "first")
	})
}

func aggregate(t testing.TB, name string, of ...string) *clusterpb.Cluster {
	return &clusterpb.Cluster{
		Name: name,
		ClusterDiscoveryType: &clusterpb.Cluster_ClusterType{ClusterType: &clusterpb.Cluster_CustomClusterType{
			Name: "envoy.clusters.aggregate", TypedConfig: packed(t, &aggregatepb.ClusterConfig{Clusters: of}),
		}},
	}
}

// logicalDNS is a cluster whose endpoints are those that the host localhost has.
func logicalDNS(t testing.TB, name, addr string) *clusterpb.Cluster {
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	all := locality(t, 0, []string{net.JoinHostPort("localhost", port)})
	all.Locality = nil
	return &clusterpb.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_LOGICAL_DNS},
		LoadAssignment:       &endpointpb.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointpb.LocalityLbEndpoints{all}},
	}
}

// TestAdditionalAddresses: a backend that is not there at its address is reached at another
// of its own (gRFC A61).
func TestAdditionalAddresses(t *testing.T) {
	m := manage(t)
	there := serve(t, "all")
	m.set(t, config{
		routes:   []*routepb.Route{to("/", "all")},
		clusters: map[string][]string{"all": {"127.0.0.1:1"}},
		load: func(e *endpointpb.ClusterLoadAssignment) {
			e.Endpoints[0].LbEndpoints[0].GetEndpoint().AdditionalAddresses = []*endpointpb.Endpoint_AdditionalAddress{{Address: address(t, there)}}
		},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) { reaches(t, cc, "all") })
}

// TestFederation: the listener of a target with an authority is had from the management
// server that the bootstrap configuration has for that.
func TestFederation(t *testing.T) {
	others := manageBy(t)
	m := manage(t, fmt.Sprintf(`"authorities":{"shops.example":{"xds_servers":[{"server_uri":%q,"channel_creds":[{"type":"insecure"}],"server_features":["xds_v3"]}]}}`, others.addr))
	const name = "xdstp://shops.example/envoy.config.%s/%s"
	cluster := fmt.Sprintf(name, "cluster.v3.Cluster", "all")
	others.set(t, config{
		listener: fmt.Sprintf(name, "listener.v3.Listener", "shop"),
		routes:   []*routepb.Route{to("/", cluster)},
		clusters: map[string][]string{cluster: {serve(t, "all")}},
		policy: func(c *clusterpb.Cluster) {
			c.EdsClusterConfig.ServiceName = fmt.Sprintf(name, "endpoint.v3.ClusterLoadAssignment", "all")
		},
		load: func(e *endpointpb.ClusterLoadAssignment) {
			e.ClusterName = fmt.Sprintf(name, "endpoint.v3.ClusterLoadAssignment", "all")
		},
	})
	onEachTarget(t, "xds://shops.example/shop", m, func(t *testing.T, cc grpc.ClientConnInterface) { reaches(t, cc, "all") })
}

// TestSecondServer: a client goes to the second management server of its bootstrap
// configuration while the first is not there (gRFC A71).
func TestSecondServer(t *testing.T) {
	m := manage(t)
	m.bootstrap = bootstrap(nil, "127.0.0.1:1", m.addr)
	m.set(t, config{routes: []*routepb.Route{to("/", "all")}, clusters: map[string][]string{"all": {serve(t, "all")}}})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) { reaches(t, cc, "all") })
}

// TestNoServer: the management server is not there. RPCs fail with that; on grpc-go's
// channel, for a moment, they fail without.
func TestNoServer(t *testing.T) {
	m := &management{bootstrap: bootstrap(nil, "127.0.0.1:1")}
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		for kind, call := range kinds {
			_, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", kind, err)
			if _, theirs := cc.(*grpc.ClientConn); !theirs || !strings.Contains(err.Error(), "produced zero addresses") {
				assert.ErrorContains(t, err, "connection refused", kind)
			}
		}
	})
	err := m.dial(t).AwaitReady(backendtest.Bounded(t), grpcdial.GiveUpOn(func(a grpcdial.Attempt) bool { return a.Phase == grpcdial.PhaseResolve }))
	dialErr := (*grpcdial.DialError)(nil)
	require.ErrorAs(t, err, &dialErr)
	assert.ErrorContains(t, err, "connection refused")
	_, err = grpcdial.Dial("xds:///shop", grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithTimeout(5*time.Second), grpcdial.WithResolvers(xds.Wrap(m.builder(t))))
	require.ErrorAs(t, err, &dialErr)
	assert.ErrorContains(t, err, "connection refused")
}
