package xds_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/stats"

	"github.com/grpcdial/grpcdial"
)

// subchannelMetrics records with which labels grpc.subchannel.* are recorded.
type subchannelMetrics struct {
	estats.UnimplementedMetricsRecorder

	mu   sync.Mutex
	seen map[string]int64 // guarded by mu: the sums, by metric and labels
}

func (m *subchannelMetrics) note(d *estats.MetricDescriptor, n int64, labels []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen == nil {
		m.seen = make(map[string]int64)
	}
	if name, ok := strings.CutPrefix(string(d.Name), "grpc.subchannel."); ok {
		m.seen[fmt.Sprintf("%s %q", name, labels)] += n
	}
}

// all are the metrics with their labels; those that count what is open only if it is not 0.
func (m *subchannelMetrics) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.seen, func(_ string, n int64) bool { return n == 0 })
	return slices.Sorted(maps.Keys(m.seen))
}

func (m *subchannelMetrics) RecordInt64Count(h *estats.Int64CountHandle, n int64, labels ...string) {
	m.note(h.Descriptor(), n, labels)
}

func (m *subchannelMetrics) RecordInt64UpDownCount(h *estats.Int64UpDownCountHandle, n int64, labels ...string) {
	m.note(h.Descriptor(), n, labels)
}

func (*subchannelMetrics) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return ctx
}
func (*subchannelMetrics) HandleRPC(context.Context, stats.RPCStats) {}
func (*subchannelMetrics) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (*subchannelMetrics) HandleConn(context.Context, stats.ConnStats) {}

// TestSubchannelMetrics: the channel's own metrics have the labels of xDS that they have on
// grpc-go's channels, for connections, attempts that fail, and the end of connections.
func TestSubchannelMetrics(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	refuses := lis.Addr().String()
	require.NoError(t, lis.Close())
	m := manage(t)
	m.set(t, config{routes: []*routepb.Route{to("/", "all")}, clusters: map[string][]string{"all": {serve(t, "a"), refuses}}})

	var theirs, ours subchannelMetrics
	want := []string{
		`connection_attempts_failed ["xds:///shop" "all" "{region=\"region 0\", zone=\"\", sub_zone=\"\"}"]`,
		`connection_attempts_succeeded ["xds:///shop" "all" "{region=\"region 0\", zone=\"\", sub_zone=\"\"}"]`,
		`open_connections ["xds:///shop" "all" "NoSecurity" "{region=\"region 0\", zone=\"\", sub_zone=\"\"}"]`,
	}
	for name, c := range map[string]struct {
		cc interface {
			grpc.ClientConnInterface
			Close() error
		}
		seen *subchannelMetrics
	}{
		"grpc-go":  {newGRPCClient(t, target, grpc.WithResolvers(m.builder(t)), grpc.WithStatsHandler(&theirs)), &theirs},
		"grpcdial": {m.dial(t, grpcdial.WithStatsHandler(&ours)), &ours},
	} {
		reaches(t, c.cc, "a")
		require.Eventually(t, func() bool { return len(c.seen.all()) >= len(want) }, time.Minute, time.Millisecond, name)
		assert.Equal(t, want, c.seen.all(), name)
		require.NoError(t, c.cc.Close())
		assert.Equal(t, append(slices.Clone(want[:2]), `disconnections ["xds:///shop" "all" "{region=\"region 0\", zone=\"\", sub_zone=\"\"}" "subchannel shutdown"]`), c.seen.all(), name)
	}
}
