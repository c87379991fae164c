package xds_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// TestReplacedUnderLoad: endpoints move and clusters are replaced, and no RPC fails. A
// route's cluster is known to the policy before an RPC can select it.
// grpc-go's channels are left out: the test has not been run on them in this form.
func TestReplacedUnderLoad(t *testing.T) {
	m := manage(t)
	first, second := serve(t, "first"), serve(t, "second")
	route := func(cluster string, clusters map[string][]string) {
		m.set(t, config{routes: []*routepb.Route{to("/", cluster)}, clusters: clusters})
	}
	route("cluster 0", map[string][]string{"cluster 0": {first}})
	cc := m.dial(t)
	require.NoError(t, cc.AwaitReady(soon(t)))
	ctx, cancel := context.WithCancel(soon(t))
	var callers sync.WaitGroup
	var ended [4]atomic.Int64 // RPCs of each caller
	for n := range ended {
		call := ask
		if n%2 == 1 {
			call = askStream
		}
		callers.Go(func() {
			for ctx.Err() == nil {
				if _, err := call(soon(t), cc, "/shop.Cart/Add"); !assert.NoError(t, err) {
					return
				}
				ended[n].Add(1)
			}
		})
	}
	defer callers.Wait()
	defer cancel()
	// reaches waits until RPCs go to a backend and those that went to another are over.
	reaches := func(name string) {
		t.Helper()
		require.Eventually(t, func() bool {
			by, err := ask(soon(t), cc, "/shop.Cart/Add")
			return assert.NoError(t, err) && by == name
		}, 20*time.Second, time.Millisecond)
		for n := range ended {
			before := ended[n].Load()
			require.Eventually(t, func() bool { return ended[n].Load() > before }, 20*time.Second, time.Millisecond)
		}
	}
	for n := range 5 {
		old, next := fmt.Sprint("cluster ", n), fmt.Sprint("cluster ", n+1)
		route(old, map[string][]string{old: {second}})
		reaches("second")
		route(old, map[string][]string{old: {first}})
		reaches("first")
		route(next, map[string][]string{old: {first}, next: {second}})
		reaches("second")
	}
}

// TestRingHash: RPCs with the same header go to the same backend, the one that grpc-go's
// channels choose.
func TestRingHash(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes: []*routepb.Route{to("/", "all", func(r *routepb.Route) {
			r.GetRoute().HashPolicy = []*routepb.RouteAction_HashPolicy{{PolicySpecifier: &routepb.RouteAction_HashPolicy_Header_{Header: &routepb.RouteAction_HashPolicy_Header{HeaderName: "session"}}}}
		})},
		clusters: map[string][]string{"all": {serve(t, "1"), serve(t, "2"), serve(t, "3")}},
		policy:   func(c *clusterpb.Cluster) { c.LbPolicy = clusterpb.Cluster_RING_HASH },
	})
	chosen, used := map[string]string{}, map[string]bool{}
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		for n := range 60 {
			session := fmt.Sprint("session ", n%20)
			by, err := ask(metadata.AppendToOutgoingContext(soon(t), "session", session), cc, "/shop.Cart/Add")
			require.NoError(t, err)
			if before, ok := chosen[session]; ok {
				assert.Equal(t, before, by, session)
			}
			chosen[session], used[by] = by, true
		}
	})
	assert.Greater(t, len(used), 1)
}

// TestDrops: the RPCs that the management server wants dropped are.
func TestDrops(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes:   []*routepb.Route{to("/", "all")},
		clusters: map[string][]string{"all": {serve(t, "all")}},
		load: func(e *endpointpb.ClusterLoadAssignment) {
			e.Policy = &endpointpb.ClusterLoadAssignment_Policy{DropOverloads: []*endpointpb.ClusterLoadAssignment_Policy_DropOverload{
				{Category: "all", DropPercentage: &typepb.FractionalPercent{Numerator: 100}},
			}}
		},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		for kind, call := range kinds {
			_, err := call(soon(t), cc, "/shop.Cart/Add")
			assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", kind, err)
			assert.ErrorContains(t, err, "dropped", kind)
		}
	})
}

// TestPriorities: the backends of the second priority serve while those of the first do
// not.
func TestPriorities(t *testing.T) {
	m := manage(t)
	second := serve(t, "second")
	m.set(t, config{
		routes:   []*routepb.Route{to("/", "all")},
		clusters: map[string][]string{"all": {"127.0.0.1:1"}}, // nothing listens there
		load: func(e *endpointpb.ClusterLoadAssignment) {
			e.Endpoints = append(e.Endpoints, locality(t, 1, []string{second}))
		},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		by, err := ask(soon(t), cc, "/shop.Cart/Add")
		require.NoError(t, err)
		assert.Equal(t, "second", by)
	})
}
