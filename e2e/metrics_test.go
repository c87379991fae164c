package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"
)

// recorder is a stats handler that is a recorder as well, and writes down what
// is recorded.
type recorder struct {
	estats.UnimplementedMetricsRecorder

	mu       sync.Mutex
	recorded []string                           // guarded by mu
	sums     map[string]int64                   // guarded by mu: of whole numbers, by name
	async    map[int]estats.AsyncMetricReporter // guarded by mu
	asyncs   int                                // guarded by mu: registered so far
}

func (*recorder) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*recorder) HandleRPC(context.Context, stats.RPCStats)                         {}
func (*recorder) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*recorder) HandleConn(context.Context, stats.ConnStats)                       {}

func (r *recorder) note(d *estats.MetricDescriptor, value any, labels []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recorded = append(r.recorded, fmt.Sprintf("%s %v %q", d.Name, value, labels))
	if n, ok := value.(int64); ok {
		if r.sums == nil {
			r.sums = make(map[string]int64)
		}
		r.sums[d.Name] += n
	}
}

func (r *recorder) RecordInt64Count(h *estats.Int64CountHandle, n int64, labels ...string) {
	r.note(h.Descriptor(), n, labels)
}
func (r *recorder) RecordInt64UpDownCount(h *estats.Int64UpDownCountHandle, n int64, labels ...string) {
	r.note(h.Descriptor(), n, labels)
}
func (r *recorder) RecordFloat64Count(h *estats.Float64CountHandle, n float64, labels ...string) {
	r.note(h.Descriptor(), n, labels)
}
func (r *recorder) RecordInt64Histo(h *estats.Int64HistoHandle, n int64, labels ...string) {
	r.note(h.Descriptor(), n, labels)
}
func (r *recorder) RecordFloat64Histo(h *estats.Float64HistoHandle, n float64, labels ...string) {
	r.note(h.Descriptor(), n, labels)
}
func (r *recorder) RecordInt64Gauge(h *estats.Int64GaugeHandle, n int64, labels ...string) {
	r.note(h.Descriptor(), n, labels)
}
func (r *recorder) RecordInt64AsyncGauge(h *estats.Int64AsyncGaugeHandle, n int64, labels ...string) {
	r.note(h.Descriptor(), n, labels)
}
func (r *recorder) RegisterAsyncReporter(reporter estats.AsyncMetricReporter, _ ...estats.AsyncMetric) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.async == nil {
		r.async = make(map[int]estats.AsyncMetricReporter)
	}
	r.asyncs++
	key := r.asyncs
	r.async[key] = reporter
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.async, key)
	}
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.recorded)
}

func (r *recorder) sum(name string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sums["grpc.subchannel."+name]
}

// eitherChannel is what grpc-go's channel and ours have in common.
type eitherChannel interface {
	grpc.ClientConnInterface
	Connect()
	Close() error
	GetState() connectivity.State
	WaitForStateChange(context.Context, connectivity.State) bool
}

// TestSubchannelMetricsParity: both channels record the same over the life of a
// connection.
func TestSubchannelMetricsParity(t *testing.T) {
	dials := map[string]func(target string, r *recorder) eitherChannel{
		"grpc-go": func(target string, r *recorder) eitherChannel {
			cc, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(r))
			require.NoError(t, err)
			return cc
		},
		"grpcdial": func(target string, r *recorder) eitherChannel { return plain(t, target, grpcdial.WithStatsHandler(r)) },
	}
	const (
		opened = `grpc.subchannel.open_connections 1 ["TARGET" "" "NoSecurity" ""]`
		gone   = `grpc.subchannel.open_connections -1 ["TARGET" "" "NoSecurity" ""]`
		made   = `grpc.subchannel.connection_attempts_succeeded 1 ["TARGET" "" ""]`
	)
	lives := []struct {
		name string
		end  func(*backendtest.Backend, eitherChannel) // after an RPC; nil: there is no server
		want []string
	}{
		{"closed", func(_ *backendtest.Backend, cc eitherChannel) { _ = cc.Close() },
			[]string{made, opened, `grpc.subchannel.disconnections 1 ["TARGET" "" "" "subchannel shutdown"]`, gone}},
		{"GOAWAY", func(b *backendtest.Backend, _ eitherChannel) { b.Drain() },
			[]string{made, opened, `grpc.subchannel.disconnections 1 ["TARGET" "" "" "GOAWAY NO_ERROR"]`, gone}},
		{"reset", func(b *backendtest.Backend, _ eitherChannel) { b.Cut() },
			[]string{made, opened, `grpc.subchannel.disconnections 1 ["TARGET" "" "" "connection reset"]`, gone}},
		{"no server", nil, []string{`grpc.subchannel.connection_attempts_failed 1 ["TARGET" "" ""]`}},
	}
	for _, life := range lives {
		for name, dial := range dials {
			t.Run(life.name+"/"+name, func(t *testing.T) {
				got := recordLife(t, dial, life.end, len(life.want))
				for try := 1; name == "grpc-go"; try++ {
					for i := range got { // it knows a reset at times, and says "unknown" at others
						got[i] = strings.Replace(got[i], `"unknown"`, `"connection reset"`, 1)
					}
					if try == 3 || slices.Equal(got, life.want) {
						break
					}
					got = recordLife(t, dial, life.end, len(life.want)) // on a machine that is busy it may connect twice
				}
				assert.Equal(t, life.want, got)
			})
		}
	}
}

// recordLife returns the n records that a channel makes until end has ended its
// connection. The target is called TARGET.
func recordLife(t *testing.T, dial func(string, *recorder) eitherChannel, end func(*backendtest.Backend, eitherChannel), n int) (got []string) {
	b, r := backendtest.Start(t, "b"), new(recorder)
	target := "passthrough:///" + b.Addr
	cc := dial(target, r)
	defer cc.Close()
	if end == nil {
		b.Stop()
		cc.Connect()
	} else {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		end(b, cc)
	}
	backendtest.Eventually(t, func() bool { return len(r.all()) == n }, "all is recorded")
	for _, s := range r.all() {
		got = append(got, strings.Replace(s, target, "TARGET", 1))
	}
	return got
}

// TestOpenConnectionsAddUp: whatever ends a connection, it is taken off the count
// once.
func TestOpenConnectionsAddUp(t *testing.T) {
	backends, r := backendtest.StartAll(t, "a", "b", "c"), new(recorder)
	hand, target, option := handResolver(t)
	hand.InitialState(backendtest.Addresses(backends...))
	cc := plain(t, target, option, grpcdial.WithStatsHandler(r), grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin), fastBackoff())
	backendtest.AwaitNames(t, cc, "a", "b", "c")
	assert.EqualValues(t, 3, r.sum("open_connections"))

	backends[0].Cut()
	backendtest.AwaitNames(t, cc, "a", "b", "c")
	backends[1].Drain()
	backendtest.AwaitNames(t, cc, "a", "c")
	backendtest.Eventually(t, func() bool { return r.sum("connection_attempts_failed") > 0 }, "it is tried again")
	hand.UpdateState(backendtest.Addresses(backends[2]))
	backendtest.AwaitNames(t, cc, "c")
	backendtest.Eventually(t, func() bool { return r.sum("open_connections") == 1 }, "one is left")
	assert.EqualValues(t, 3, r.sum("disconnections"))

	require.NoError(t, cc.Close())
	assert.Zero(t, r.sum("open_connections"))
	assert.EqualValues(t, 4, r.sum("disconnections"))
	assert.EqualValues(t, 4, r.sum("connection_attempts_succeeded"))
}

// TestIdleIsADisconnection: a channel that goes idle lets its connection go.
func TestIdleIsADisconnection(t *testing.T) {
	b, r := backendtest.Start(t, "b"), new(recorder)
	cc := plain(t, b.Addr, grpcdial.WithStatsHandler(r), grpcdial.WithIdleTimeout(time.Millisecond))
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	awaitState(t, cc, connectivity.Idle)
	backendtest.Eventually(t, func() bool { return r.sum("disconnections") == 1 }, "the end is recorded")
	assert.Zero(t, r.sum("open_connections"))
}

// Metrics of the test's own: registered once, as policies and resolvers do.
var (
	testLabels = estats.MetricDescriptor{Labels: []string{"one"}, OptionalLabels: []string{"two"}}
	testCount  = estats.RegisterInt64Count(named("count"))
	testFloat  = estats.RegisterFloat64Count(named("float"))
	testHisto  = estats.RegisterInt64Histo(named("histo"))
	testFHisto = estats.RegisterFloat64Histo(named("fhisto"))
	testGauge  = estats.RegisterInt64Gauge(named("gauge"))
	testUpDown = estats.RegisterInt64UpDownCount(named("updown"))
	testAsync  = estats.RegisterInt64AsyncGauge(named("async"))
	otherAsync = estats.RegisterInt64AsyncGauge(named("other"))
)

func named(name string) estats.MetricDescriptor {
	d := testLabels
	d.Name = "test." + name
	return d
}

func recordAll(to estats.MetricsRecorder, labels ...string) {
	testCount.Record(to, 1, labels...)
	testFloat.Record(to, 2.5, labels...)
	testHisto.Record(to, 3, labels...)
	testFHisto.Record(to, 4.5, labels...)
	testGauge.Record(to, 5, labels...)
	testUpDown.Record(to, -6, labels...)
}

// TestPoliciesRecord: what policies record reaches each handler that is a
// recorder.
func TestPoliciesRecord(t *testing.T) {
	b := backendtest.Start(t, "b")
	first, second := new(recorder), new(recorder)
	registered := make(chan func(), 1)
	p := &backendtest.SpyPolicy{As: t.Name(), OnBuild: func(s *backendtest.Spy) {
		m := s.CC.MetricsRecorder()
		recordAll(m, "l1", "l2")
		recordAll(m, "too few")
		registered <- m.RegisterAsyncReporter(estats.AsyncMetricReporterFunc(func(to estats.AsyncMetricsRecorder) error {
			testAsync.Record(to, 7, "l1", "l2")
			testAsync.Record(to, 8)
			otherAsync.Record(to, 9, "l1", "l2")
			return nil
		}), testAsync)
	}}
	balancer.Register(p)
	cc := plain(t, b.Addr, grpcdial.WithStatsHandler(first), grpcdial.WithStatsHandler(&eventsOnly{}), grpcdial.WithStatsHandler(second), grpcdial.WithDefaultServiceConfig(p.Config()))
	cc.Connect()
	unregister := <-registered
	first.report(t)
	second.report(t)
	want := []string{
		`test.count 1 ["l1" "l2"]`, `test.float 2.5 ["l1" "l2"]`, `test.histo 3 ["l1" "l2"]`, `test.fhisto 4.5 ["l1" "l2"]`,
		`test.gauge 5 ["l1" "l2"]`, `test.updown -6 ["l1" "l2"]`, `test.async 7 ["l1" "l2"]`,
	}
	assert.Equal(t, want, first.all())
	assert.Equal(t, want, second.all())
	unregister()
	unregister()
	first.report(t)
	assert.Equal(t, want, first.all())
}

// report has the reporters that are registered report.
func (r *recorder) report(t *testing.T) {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.async))
	r.mu.Unlock()
	for _, reporter := range all {
		assert.NoError(t, reporter.Report(r))
	}
}

// eventsOnly is a stats handler that is no recorder.
type eventsOnly struct{ stats.Handler }

func (*eventsOnly) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*eventsOnly) HandleConn(context.Context, stats.ConnStats)                       {}

// TestResolversRecord: so does what resolvers record.
func TestResolversRecord(t *testing.T) {
	r := new(recorder)
	hand, target, option := handResolver(t)
	hand.BuildCallback = func(_ resolver.Target, _ resolver.ClientConn, o resolver.BuildOptions) {
		recordAll(o.MetricsRecorder, "l1", "l2")
	}
	cc := plain(t, target, option, grpcdial.WithStatsHandler(r))
	cc.Connect()
	backendtest.Eventually(t, func() bool { return len(r.all()) == 6 }, "the resolver is built")
}
