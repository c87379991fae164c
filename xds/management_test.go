package xds_test

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	managerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	matcherpb "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// management is an xDS management server, for all clients the same.
type management struct {
	bootstrap string
	addr      string
	cache     cache.SnapshotCache
	version   atomic.Int64
	loads     loads
}

// node is the one in bootstrap configurations, and stands for all in the cache.
const node = "test-node"

type anyNode struct{}

func (anyNode) ID(*corepb.Node) string { return node }

// manage starts a management server. The bootstrap configuration has the fields of JSON
// objects in also besides.
func manage(t testing.TB, also ...string) *management {
	t.Helper()
	m := manageBy(t)
	m.bootstrap = bootstrap(also, m.addr)
	return m
}

// bootstrap is a configuration with management servers.
func bootstrap(also []string, addrs ...string) string {
	var servers []string
	for _, addr := range addrs {
		servers = append(servers, fmt.Sprintf(`{"server_uri":%q,"channel_creds":[{"type":"insecure"}],"server_features":["xds_v3"]}`, addr))
	}
	return fmt.Sprintf(`{"xds_servers":[%s],"node":{"id":%q}%s}`, strings.Join(servers, ","), node, strings.Join(append([]string{""}, also...), ","))
}

// manageBy starts a management server with options, without a bootstrap configuration.
func manageBy(t testing.TB, opts ...grpc.ServerOption) *management {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m := &management{
		addr:  lis.Addr().String(),
		cache: cache.NewSnapshotCache(false, anyNode{}, nil),
		loads: loads{reports: make(chan *endpointpb.ClusterStats, 100)},
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := grpc.NewServer(opts...)
	discovery.RegisterAggregatedDiscoveryServiceServer(s, server.NewServer(ctx, m.cache, nil))
	loadstats.RegisterLoadReportingServiceServer(s, &m.loads)
	go s.Serve(lis)
	t.Cleanup(func() {
		cancel()
		s.Stop()
	})
	return m
}

// config is what a management server hands out: a listener "shop" with a route
// configuration in it.
type config struct {
	listener string // its name, "shop" if this is empty
	routes   []*routepb.Route
	rds      bool                                    // the route configuration is a resource of its own
	noRoutes bool                                    // and is missing
	clusters map[string][]string                     // their endpoints' addresses
	policy   func(*clusterpb.Cluster)                // changes a cluster; nil: nothing
	load     func(*endpointpb.ClusterLoadAssignment) // changes its endpoints; nil: nothing
	others   []*clusterpb.Cluster                    // clusters without endpoint resources
	filters  []*managerpb.HttpFilter
	noListen bool
}

func (m *management) set(t testing.TB, c config) {
	t.Helper()
	r := map[resource.Type][]types.Resource{}
	if !c.noListen {
		r[resource.ListenerType] = []types.Resource{listener(t, c)}
	}
	if c.rds && !c.noRoutes {
		r[resource.RouteType] = []types.Resource{routeConfig(c)}
	}
	for _, cl := range c.others {
		r[resource.ClusterType] = append(r[resource.ClusterType], cl)
	}
	for name, addrs := range c.clusters {
		cl := &clusterpb.Cluster{
			Name:                 name,
			ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_EDS},
			EdsClusterConfig:     &clusterpb.Cluster_EdsClusterConfig{EdsConfig: ads()},
		}
		if c.policy != nil {
			c.policy(cl)
		}
		r[resource.ClusterType] = append(r[resource.ClusterType], cl)
		e := &endpointpb.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointpb.LocalityLbEndpoints{locality(t, 0, addrs)}}
		if c.load != nil {
			c.load(e)
		}
		r[resource.EndpointType] = append(r[resource.EndpointType], e)
	}
	snapshot, err := cache.NewSnapshot(strconv.FormatInt(m.version.Add(1), 10), r)
	require.NoError(t, err)
	require.NoError(t, m.cache.SetSnapshot(t.Context(), node, snapshot))
}

func listener(t testing.TB, c config) *listenerpb.Listener {
	m := &managerpb.HttpConnectionManager{
		RouteSpecifier: &managerpb.HttpConnectionManager_RouteConfig{RouteConfig: routeConfig(c)},
		HttpFilters:    append(c.filters, filter(t, "router", &routerpb.Router{})),
	}
	if c.rds {
		m.RouteSpecifier = &managerpb.HttpConnectionManager_Rds{Rds: &managerpb.Rds{RouteConfigName: "routes", ConfigSource: ads()}}
	}
	return &listenerpb.Listener{
		Name:        cmp.Or(c.listener, "shop"),
		ApiListener: &listenerpb.ApiListener{ApiListener: packed(t, m)},
	}
}

func routeConfig(c config) *routepb.RouteConfiguration {
	return &routepb.RouteConfiguration{
		Name:         "routes",
		VirtualHosts: []*routepb.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: c.routes}},
	}
}

// ads says that a resource is had from the server that the one which names it is from.
func ads() *corepb.ConfigSource {
	return &corepb.ConfigSource{ConfigSourceSpecifier: &corepb.ConfigSource_Ads{Ads: &corepb.AggregatedConfigSource{}}}
}

func filter(t testing.TB, name string, m proto.Message) *managerpb.HttpFilter {
	return &managerpb.HttpFilter{Name: name, ConfigType: &managerpb.HttpFilter_TypedConfig{TypedConfig: packed(t, m)}}
}

func locality(t testing.TB, priority uint32, addrs []string) *endpointpb.LocalityLbEndpoints {
	var all []*endpointpb.LbEndpoint
	for _, addr := range addrs {
		all = append(all, &endpointpb.LbEndpoint{HostIdentifier: &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: address(t, addr)}}})
	}
	return &endpointpb.LocalityLbEndpoints{
		Locality:            &corepb.Locality{Region: "region " + strconv.FormatUint(uint64(priority), 10)},
		Priority:            priority,
		LbEndpoints:         all,
		LoadBalancingWeight: wrapperspb.UInt32(1),
	}
}

func address(t testing.TB, addr string) *corepb.Address {
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	n, err := strconv.ParseUint(port, 10, 16)
	require.NoError(t, err)
	return &corepb.Address{Address: &corepb.Address_SocketAddress{SocketAddress: &corepb.SocketAddress{
		Address: host, PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: uint32(n)},
	}}}
}

func packed(t testing.TB, m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	require.NoError(t, err)
	return a
}

// to is a route for RPCs whose method has a prefix, to a cluster.
func to(prefix, cluster string, change ...func(*routepb.Route)) *routepb.Route {
	r := &routepb.Route{
		Match:  &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: prefix}},
		Action: &routepb.Route_Route{Route: &routepb.RouteAction{ClusterSpecifier: &routepb.RouteAction_Cluster{Cluster: cluster}}},
	}
	for _, f := range change {
		f(r)
	}
	return r
}

// withHeader makes a route one for RPCs with a header.
func withHeader(name, value string) func(*routepb.Route) {
	return func(r *routepb.Route) {
		r.Match.Headers = append(r.Match.Headers, &routepb.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routepb.HeaderMatcher_ExactMatch{ExactMatch: value}})
	}
}

// withHeaderLike makes a route one for RPCs with a header that has a prefix, in letters of
// either case.
func withHeaderLike(name, prefix string) func(*routepb.Route) {
	return func(r *routepb.Route) {
		r.Match.Headers = append(r.Match.Headers, &routepb.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routepb.HeaderMatcher_StringMatch{
			StringMatch: &matcherpb.StringMatcher{MatchPattern: &matcherpb.StringMatcher_Prefix{Prefix: prefix}, IgnoreCase: true},
		}})
	}
}
