// Command example has a management server, two backends and a client in one program: the
// client's RPCs go where the management server's routes say.
//
//	go run ./example
//
// prints the backend that each of three RPCs reached.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	managerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	_ "github.com/grpcdial/grpcdial/xds" // xds targets
)

func main() {
	log.SetFlags(0)
	if os.Getenv("GRPC_XDS_BOOTSTRAP") != "" {
		client()
		return
	}
	// grpc-go reads the variable when the program starts, so the client is a program that
	// this one starts.
	bootstrap := writeBootstrap(manage(serve("one"), serve("two")))
	defer os.Remove(bootstrap)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "GRPC_XDS_BOOTSTRAP="+bootstrap)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Run(); err != nil {
		log.Print(err)
	}
}

func client() {
	cc, err := grpcdial.NewClient("xds:///shop", grpcdial.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := cc.AwaitReady(ctx); err != nil {
		log.Fatal(err) // a listener that is missing, or a management server that is down
	}
	for _, method := range []string{"/shop.Cart/Add", "/shop.Stock/Count", "/shop.Cart/Pay"} {
		reply := new(wrapperspb.StringValue)
		if err := cc.Invoke(ctx, method, wrapperspb.String("who?"), reply); err != nil {
			log.Fatal(err)
		}
		fmt.Println(method, "reached backend", reply.GetValue())
	}
}

// serve starts a backend that answers every message with its name.
func serve(name string) net.Addr {
	return start(grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		for {
			if err := s.RecvMsg(new(wrapperspb.StringValue)); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(wrapperspb.String(name)); err != nil {
				return err
			}
		}
	})))
}

// manage starts a management server. Its routes take the service shop.Cart to the first
// backend, and all others to the second.
func manage(cart, others net.Addr) net.Addr {
	resources := cache.NewSnapshotCache(false, cache.IDHash{}, nil)
	snapshot, err := cache.NewSnapshot("1", map[resource.Type][]types.Resource{
		resource.ListenerType: {&listenerpb.Listener{Name: "shop", ApiListener: &listenerpb.ApiListener{ApiListener: packed(&managerpb.HttpConnectionManager{
			RouteSpecifier: &managerpb.HttpConnectionManager_RouteConfig{RouteConfig: &routepb.RouteConfiguration{
				Name:         "routes",
				VirtualHosts: []*routepb.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routepb.Route{route("/shop.Cart/", "cart"), route("/", "others")}}},
			}},
			HttpFilters: []*managerpb.HttpFilter{{Name: "router", ConfigType: &managerpb.HttpFilter_TypedConfig{TypedConfig: packed(&routerpb.Router{})}}},
		})}}},
		resource.ClusterType:  {cluster("cart"), cluster("others")},
		resource.EndpointType: {endpoint("cart", cart), endpoint("others", others)},
	})
	if err == nil {
		err = resources.SetSnapshot(context.Background(), "example", snapshot)
	}
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(s, server.NewServer(context.Background(), resources, nil))
	return start(s)
}

func start(s *grpc.Server) net.Addr {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go s.Serve(lis)
	return lis.Addr()
}

func route(prefix, cluster string) *routepb.Route {
	return &routepb.Route{
		Match:  &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: prefix}},
		Action: &routepb.Route_Route{Route: &routepb.RouteAction{ClusterSpecifier: &routepb.RouteAction_Cluster{Cluster: cluster}}},
	}
}

func cluster(name string) *clusterpb.Cluster {
	return &clusterpb.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_EDS},
		EdsClusterConfig:     &clusterpb.Cluster_EdsClusterConfig{EdsConfig: &corepb.ConfigSource{ConfigSourceSpecifier: &corepb.ConfigSource_Ads{}}},
	}
}

func endpoint(cluster string, addr net.Addr) *endpointpb.ClusterLoadAssignment {
	tcp := addr.(*net.TCPAddr)
	return &endpointpb.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointpb.LocalityLbEndpoints{{
		Locality:            &corepb.Locality{Region: "here"},
		LoadBalancingWeight: wrapperspb.UInt32(1),
		LbEndpoints: []*endpointpb.LbEndpoint{{HostIdentifier: &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{
			Address: &corepb.Address{Address: &corepb.Address_SocketAddress{SocketAddress: &corepb.SocketAddress{
				Address: tcp.IP.String(), PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: uint32(tcp.Port)},
			}}},
		}}}},
	}}}
}

func packed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		log.Fatal(err)
	}
	return a
}

func writeBootstrap(management net.Addr) string {
	f, err := os.CreateTemp("", "bootstrap-*.json")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintf(f, `{
  "xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
  "node": {"id": "example"}
}`, management.String())
	return f.Name()
}
