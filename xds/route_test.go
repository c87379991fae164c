package xds_test

import (
	"context"
	"strings"
	"testing"
	"time"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestRoutes: by method and by header, for unary RPCs and streams; an RPC that no route
// is for fails.
func TestRoutes(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes: []*routepb.Route{
			to("/shop.Cart/Pay", "pay"),
			to("/shop.Cart/", "gold", withHeader("tier", "gold")),
			to("/shop.Cart/", "gold", withHeaderLike("tier", "gilt")),
			to("/shop.Cart/", "plain"),
		},
		clusters: map[string][]string{"pay": {serve(t, "pay")}, "gold": {serve(t, "gold")}, "plain": {serve(t, "plain")}},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		gold := metadata.AppendToOutgoingContext(backendtest.Bounded(t), "tier", "gold")
		gilt := metadata.AppendToOutgoingContext(backendtest.Bounded(t), "tier", "GILT edged")
		for _, call := range []func(context.Context, grpc.ClientConnInterface, string) (string, error){ask, askStream} {
			for _, tt := range []struct {
				ctx          context.Context
				method, want string
			}{
				{backendtest.Bounded(t), "/shop.Cart/Add", "plain"},
				{gold, "/shop.Cart/Add", "gold"},
				{gilt, "/shop.Cart/Add", "gold"},
				{gold, "/shop.Cart/Pay", "pay"},
			} {
				by, err := call(tt.ctx, cc, tt.method)
				require.NoError(t, err)
				assert.Equal(t, tt.want, by, tt.method)
			}
			_, err := call(backendtest.Bounded(t), cc, "/shop.Stock/Count")
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.ErrorContains(t, err, "no matched route")
		}
	})
}

// TestContentType: the header is the library's, and routes may match it (gRFC A28). On
// grpc-go's channels they do not: its config selectors are asked before it is there.
func TestContentType(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes:   []*routepb.Route{to("/", "typed", withHeader("content-type", "application/grpc")), to("/", "untyped")},
		clusters: map[string][]string{"typed": {serve(t, "typed")}, "untyped": {serve(t, "untyped")}},
	})
	cc := m.dial(t)
	by, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Add")
	require.NoError(t, err)
	assert.Equal(t, "typed", by)
	by, err = ask(backendtest.Bounded(t), newGRPCClient(t, target, grpc.WithResolvers(m.builder(t))), "/shop.Cart/Add")
	require.NoError(t, err)
	assert.Equal(t, "untyped", by)
}

// TestWeightedClusters: three RPCs of four go to one, give or take.
func TestWeightedClusters(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes: []*routepb.Route{to("/", "", func(r *routepb.Route) {
			r.GetRoute().ClusterSpecifier = &routepb.RouteAction_WeightedClusters{WeightedClusters: &routepb.WeightedCluster{Clusters: []*routepb.WeightedCluster_ClusterWeight{
				{Name: "most", Weight: wrapperspb.UInt32(75)}, {Name: "few", Weight: wrapperspb.UInt32(25)},
			}}}
		})},
		clusters: map[string][]string{"most": {serve(t, "most")}, "few": {serve(t, "few")}},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		got := map[string]int{}
		for range 400 {
			by, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			require.NoError(t, err)
			got[by]++
		}
		assert.InDelta(t, 300, got["most"], 60)
		assert.Equal(t, 400, got["most"]+got["few"])
	})
}

// TestListenerRemoved: RPCs fail from when the listener is removed until it is back. A
// stream that runs goes on.
func TestListenerRemoved(t *testing.T) {
	m := manage(t)
	there := config{routes: []*routepb.Route{to("/", "all")}, clusters: map[string][]string{"all": {serve(t, "all")}}}
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		m.set(t, there)
		_, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Add")
		require.NoError(t, err)
		s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/shop.Cart/Talk")
		require.NoError(t, err)
		talk := func() {
			reply := new(wrapperspb.StringValue)
			require.NoError(t, s.SendMsg(wrapperspb.String("who?")))
			require.NoError(t, s.RecvMsg(reply))
			require.Equal(t, "all", reply.Value)
		}
		talk()
		m.set(t, config{noListen: true, clusters: there.clusters})
		require.Eventually(t, func() bool {
			_, err = ask(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			return err != nil && strings.Contains(err.Error(), "removed")
		}, time.Minute, time.Millisecond)
		assert.Equal(t, codes.Unavailable, status.Code(err))
		talk()
		m.set(t, there)
		require.Eventually(t, func() bool {
			_, err = ask(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			return err == nil
		}, time.Minute, time.Millisecond)
		talk()
	})
}
