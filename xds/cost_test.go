package xds_test

import (
	"testing"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httpfaultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	managerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// costs are channels of each kind to one backend: without xDS, with it, and with an HTTP
// filter that is in the way of each RPC and does nothing.
var costs = []string{"without xDS", "xDS", "xDS, filter"}

func costChannels(t testing.TB) (ours, theirs map[string]grpc.ClientConnInterface) {
	addr := serve(t, "all")
	ours, theirs = map[string]grpc.ClientConnInterface{}, map[string]grpc.ClientConnInterface{}
	ours[costs[0]], theirs[costs[0]] = newClient(t, addr), newGRPCClient(t, addr)
	for _, kind := range costs[1:] {
		m := manage(t)
		c := config{routes: []*routepb.Route{to("/", "all")}, clusters: map[string][]string{"all": {addr}}}
		if kind == costs[2] {
			c.filters = []*managerpb.HttpFilter{filter(t, "fault", &httpfaultpb.HTTPFault{Abort: &httpfaultpb.FaultAbort{
				Percentage: &typepb.FractionalPercent{Numerator: 100},
				ErrorType:  &httpfaultpb.FaultAbort_HeaderAbort_{HeaderAbort: &httpfaultpb.FaultAbort_HeaderAbort{}},
			}})}
		}
		m.set(t, c)
		ours[kind], theirs[kind] = m.dial(t), newGRPCClient(t, target, grpc.WithResolvers(m.builder(t)))
	}
	for _, side := range []map[string]grpc.ClientConnInterface{ours, theirs} {
		for _, kind := range costs {
			_, err := ask(backendtest.Bounded(t), side[kind], "/shop.Cart/Add")
			require.NoError(t, err, kind)
		}
	}
	return ours, theirs
}

// TestCost counts the allocations of a unary RPC, those of the backend included: what xDS
// adds, and that an HTTP filter, which intercepts the RPC, makes it dearer by less than a
// third. Under the race detector there are a few more.
func TestCost(t *testing.T) {
	ours, theirs := costChannels(t)
	ctx, request, reply := backendtest.Bounded(t), wrapperspb.String("who?"), new(wrapperspb.StringValue)
	count := func(cc grpc.ClientConnInterface) float64 {
		return testing.AllocsPerRun(500, func() {
			if err := cc.Invoke(ctx, "/shop.Cart/Add", request, reply); err != nil {
				t.Error(err)
			}
		})
	}
	counts := map[string]float64{}
	for _, kind := range costs {
		counts[kind] = count(ours[kind])
		there := count(theirs[kind])
		t.Logf("%s: %v allocations, on grpc-go's channel %v", kind, counts[kind], there)
		assert.Less(t, counts[kind], 0.75*there, kind)
	}
	assert.LessOrEqual(t, counts["xDS"]-counts["without xDS"], 36.0)
	assert.LessOrEqual(t, counts["xDS, filter"]-counts["xDS"], 18.0)
	assert.Less(t, counts["xDS, filter"], counts["xDS"]*4/3)
}

// BenchmarkUnary is a unary RPC on each kind of channel; the backend is in the process.
func BenchmarkUnary(b *testing.B) {
	ours, theirs := costChannels(b)
	for _, kind := range costs {
		for name, cc := range map[string]grpc.ClientConnInterface{"grpcdial": ours[kind], "grpc-go": theirs[kind]} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				ctx, request, reply := backendtest.Bounded(b), wrapperspb.String("who?"), new(wrapperspb.StringValue)
				b.ReportAllocs()
				for b.Loop() {
					if err := cc.Invoke(ctx, "/shop.Cart/Add", request, reply); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
