package xds_test

import (
	"context"
	"testing"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// loads is the service of a management server that takes load reports.
type loads struct {
	loadstats.UnimplementedLoadReportingServiceServer
	reports chan *endpointpb.ClusterStats
}

func (l *loads) StreamLoadStats(s loadstats.LoadReportingService_StreamLoadStatsServer) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	if err := s.Send(&loadstats.LoadStatsResponse{SendAllClusters: true, LoadReportingInterval: durationpb.New(20 * time.Millisecond)}); err != nil {
		return err
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		for _, c := range r.ClusterStats {
			select {
			case l.reports <- c:
			case <-s.Context().Done():
				return nil
			}
		}
	}
}

// reported is a sum of load reports.
type reported struct {
	succeeded, failed, dropped uint64
	cpus, queued               float64 // what backends reported
}

// await adds reports up, until they are of as many RPCs as have ended.
func (l *loads) await(ctx context.Context, t *testing.T, ended uint64) (sum reported) {
	t.Helper()
	for sum.succeeded+sum.failed+sum.dropped < ended {
		select {
		case c := <-l.reports:
			assert.Equal(t, "all", c.ClusterName)
			sum.dropped += c.TotalDroppedRequests
			for _, u := range c.UpstreamLocalityStats {
				assert.Equal(t, "region 0", u.Locality.Region)
				sum.succeeded += u.TotalSuccessfulRequests
				sum.failed += u.TotalErrorRequests
				sum.cpus += u.CpuUtilization.GetTotalMetricValue()
				for _, m := range u.LoadMetricStats {
					assert.Equal(t, "named_metrics.queued", m.MetricName)
					sum.queued += m.TotalMetricValue
				}
			}
		case <-ctx.Done():
			t.Fatalf("the reports are of %+v", sum)
		}
	}
	return sum
}

// TestLoadReports: the management server gets how many RPCs ended well and how many did
// not, and what the backends reported with them (gRFC A64, A85).
func TestLoadReports(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes:   []*routepb.Route{to("/", "all")},
		clusters: map[string][]string{"all": {serve(t, "all")}},
		policy: func(c *clusterpb.Cluster) {
			c.LrsServer = &corepb.ConfigSource{ConfigSourceSpecifier: &corepb.ConfigSource_Self{Self: &corepb.SelfConfigSource{}}}
			c.LrsReportEndpointMetrics = []string{"cpu_utilization", "named_metrics.queued"}
		},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		for range 5 {
			for kind, call := range kinds {
				_, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Load")
				require.NoError(t, err, kind)
			}
			_, err := ask(backendtest.Bounded(t), cc, "/shop.Cart/Flaky")
			require.Equal(t, codes.Unavailable, status.Code(err))
		}
		assert.Equal(t, reported{succeeded: 10, failed: 5, cpus: 5, queued: 30}, m.loads.await(backendtest.Bounded(t), t, 15))
	})
}
