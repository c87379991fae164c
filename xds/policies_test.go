package xds_test

import (
	"encoding/json"
	"testing"
	"time"

	typedpb "github.com/cncf/xds/go/xds/type/v3"
	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	weightedpb "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/client_side_weighted_round_robin/v3"
	leastrequestpb "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	pickfirstpb "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/pick_first/v3"
	ringhashpb "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinpb "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	localitypb "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestPolicies: the policies that a management server may choose, those of programs among
// them (gRFCs A42, A48, A52, A58, A62).
func TestPolicies(t *testing.T) {
	one, two, three := serve(t, "one"), serve(t, "two"), serve(t, "three")
	roundRobin := policy(t, &roundrobinpb.RoundRobin{})
	for name, tt := range map[string]struct {
		policy *clusterpb.LoadBalancingPolicy
		want   int // backends
	}{
		"round robin":   {roundRobin, 3},
		"wrr locality":  {policy(t, &localitypb.WrrLocality{EndpointPickingPolicy: roundRobin}), 3},
		"weighted":      {policy(t, &localitypb.WrrLocality{EndpointPickingPolicy: policy(t, &weightedpb.ClientSideWeightedRoundRobin{})}), 3},
		"least request": {policy(t, &localitypb.WrrLocality{EndpointPickingPolicy: policy(t, &leastrequestpb.LeastRequest{})}), 3},
		"ring hash":     {policy(t, &ringhashpb.RingHash{HashFunction: ringhashpb.RingHash_XX_HASH}), 3},
		"pick first":    {policy(t, &pickfirstpb.PickFirst{ShuffleAddressList: true}), 1},
		"a program's": {policy(t, &localitypb.WrrLocality{EndpointPickingPolicy: policy(t, &typedpb.TypedStruct{
			TypeUrl: "type.googleapis.com/first_of_two", Value: new(structpb.Struct),
		}, &leastrequestpb.LeastRequest{})}), 2},
	} {
		t.Run(name, func(t *testing.T) {
			m := manage(t)
			m.set(t, config{
				routes:   []*routepb.Route{to("/", "all")},
				clusters: map[string][]string{"all": {one, two, three}},
				policy:   func(c *clusterpb.Cluster) { c.LoadBalancingPolicy = tt.policy },
			})
			onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
				used := map[string]bool{}
				require.Eventually(t, func() bool {
					by, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Load")
					require.NoError(t, err)
					used[by] = true
					return len(used) == tt.want
				}, time.Minute, time.Microsecond)
				for range 50 {
					by, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Load")
					require.NoError(t, err)
					used[by] = true
				}
				assert.Len(t, used, tt.want)
			})
		})
	}
}

// policy is a list of policies, of which the first that is known is taken.
func policy(t testing.TB, of ...proto.Message) *clusterpb.LoadBalancingPolicy {
	p := new(clusterpb.LoadBalancingPolicy)
	for _, m := range of {
		p.Policies = append(p.Policies, &clusterpb.LoadBalancingPolicy_Policy{TypedExtensionConfig: &corepb.TypedExtensionConfig{TypedConfig: packed(t, m)}})
	}
	return p
}

// firstOfTwo is a policy of the program's: round robin of the first two endpoints.
type firstOfTwo struct{ balancer.Builder }

func init() { balancer.Register(firstOfTwo{balancer.Get("round_robin")}) }

func (firstOfTwo) Name() string { return "first_of_two" }

func (b firstOfTwo) Build(cc balancer.ClientConn, o balancer.BuildOptions) balancer.Balancer {
	return firstOfTwoBalancer{b.Builder.Build(cc, o)}
}

func (firstOfTwo) ParseConfig(json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	return nil, nil
}

type firstOfTwoBalancer struct{ balancer.Balancer }

func (b firstOfTwoBalancer) UpdateClientConnState(s balancer.ClientConnState) error {
	s.ResolverState.Endpoints = s.ResolverState.Endpoints[:min(2, len(s.ResolverState.Endpoints))]
	s.ResolverState.Addresses = nil
	return b.Balancer.UpdateClientConnState(s)
}
