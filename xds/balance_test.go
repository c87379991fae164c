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
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestReplacedUnderLoad: endpoints move and clusters are replaced, and no RPC fails. A
// route's cluster is known to the policy before an RPC can select it.
func TestReplacedUnderLoad(t *testing.T) {
	m := manage(t)
	first, second := serve(t, "first"), serve(t, "second")
	route := func(cluster string, clusters map[string][]string) {
		m.set(t, config{routes: []*routepb.Route{to("/", cluster)}, clusters: clusters})
	}
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		route("cluster 0", map[string][]string{"cluster 0": {first}})
		reaches(t, cc, "first")
		ctx, cancel := context.WithCancel(backendtest.Bounded(t))
		var callers sync.WaitGroup
		var ended [4]atomic.Int64 // RPCs of each caller
		for n := range ended {
			call := ask
			if n%2 == 1 {
				call = askStream
			}
			callers.Go(func() {
				for ctx.Err() == nil && !t.Failed() {
					_, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
					noError(t, cc, err)
					ended[n].Add(1)
				}
			})
		}
		defer callers.Wait()
		defer cancel()
		// movesTo waits until RPCs go to a backend and those that went to another are over.
		movesTo := func(name string) {
			t.Helper()
			reaches(t, cc, name)
			for n := range ended {
				before := ended[n].Load()
				require.Eventually(t, func() bool { return ended[n].Load() > before }, time.Minute, time.Millisecond)
			}
		}
		for n := range 5 {
			old, next := fmt.Sprint("cluster ", n), fmt.Sprint("cluster ", n+1)
			route(old, map[string][]string{old: {second}})
			movesTo("second")
			route(old, map[string][]string{old: {first}})
			movesTo("first")
			route(next, map[string][]string{old: {first}, next: {second}})
			movesTo("second")
		}
	})
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
			by, err := ask(metadata.AppendToOutgoingContext(backendtest.Bounded(t), "session", session), cc, "/shop.Cart/Add")
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
			_, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
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
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		first, stop := serveAt(t, "127.0.0.1:0", "first")
		stop()
		m.set(t, config{
			routes:   []*routepb.Route{to("/", "all")},
			clusters: map[string][]string{"all": {first}},
			load: func(e *endpointpb.ClusterLoadAssignment) {
				e.Endpoints = append(e.Endpoints, locality(t, 1, []string{second}))
			},
		})
		reaches(t, cc, "second")
		_, stop = serveAt(t, first, "first")
		reaches(t, cc, "first")
		stop()
		failsOver(t, cc, "second")
	})
}

// TestCircuitBreaking: as many RPCs as the management server allows run at the same time,
// and others fail (gRFC A32).
func TestCircuitBreaking(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes:   []*routepb.Route{to("/", "all")},
		clusters: map[string][]string{"all": {serve(t, "all")}},
		policy: func(c *clusterpb.Cluster) {
			c.CircuitBreakers = &clusterpb.CircuitBreakers{Thresholds: []*clusterpb.CircuitBreakers_Thresholds{{MaxRequests: wrapperspb.UInt32(2)}}}
		},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		var end []context.CancelFunc
		for range 2 {
			ctx, cancel := context.WithCancel(backendtest.Bounded(t))
			end = append(end, cancel)
			s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/shop.Cart/Talk")
			require.NoError(t, err)
			require.NoError(t, s.SendMsg(wrapperspb.String("who?")))
			require.NoError(t, s.RecvMsg(new(wrapperspb.StringValue)))
		}
		for kind, call := range kinds {
			_, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
			assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", kind, err)
			assert.ErrorContains(t, err, "max requests 2 exceeded", kind)
		}
		end[0]()
		failsOver(t, cc, "all")
		for range 10 {
			for kind, call := range kinds { // each counts once
				_, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
				assert.NoError(t, err, kind)
			}
		}
		end[1]()
	})
}

// TestOutlierDetection: a backend that fails many of its RPCs gets none for a while (gRFC
// A50).
func TestOutlierDetection(t *testing.T) {
	m := manage(t)
	good, bad := serve(t, "good"), serve(t, "bad")
	m.set(t, config{
		routes:   []*routepb.Route{to("/", "all")},
		clusters: map[string][]string{"all": {good, bad}},
		policy: func(c *clusterpb.Cluster) {
			c.OutlierDetection = &clusterpb.OutlierDetection{
				Interval:                       durationpb.New(50 * time.Millisecond),
				BaseEjectionTime:               durationpb.New(time.Hour),
				MaxEjectionTime:                durationpb.New(time.Hour),
				MaxEjectionPercent:             wrapperspb.UInt32(50),
				EnforcingSuccessRate:           wrapperspb.UInt32(0),
				FailurePercentageThreshold:     wrapperspb.UInt32(50),
				EnforcingFailurePercentage:     wrapperspb.UInt32(100),
				FailurePercentageMinimumHosts:  wrapperspb.UInt32(2),
				FailurePercentageRequestVolume: wrapperspb.UInt32(1),
			}
		},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		inARow := 0
		require.Eventually(t, func() bool {
			if by, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Good"); err == nil && by == "good" {
				inARow++
			} else {
				inARow = 0
			}
			return inARow == 20 // round robin would have had ten at the other
		}, time.Minute, time.Millisecond)
	})
}
