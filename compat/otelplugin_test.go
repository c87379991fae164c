package compat

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	experimental "google.golang.org/grpc/experimental/opentelemetry"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats/opentelemetry"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// plugin is gRPC's own OpenTelemetry plugin, which exists as a grpc.DialOption only,
// with all that it measures.
type plugin struct {
	spans  *tracetest.InMemoryExporter
	reader *metric.ManualReader
	option grpc.DialOption
}

func newPlugin() *plugin {
	p := &plugin{spans: tracetest.NewInMemoryExporter(), reader: metric.NewManualReader()}
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(p.spans))
	metrics := opentelemetry.DefaultMetrics().Add(
		"grpc.subchannel.connection_attempts_succeeded",
		"grpc.subchannel.connection_attempts_failed",
		"grpc.subchannel.disconnections",
		"grpc.subchannel.open_connections",
	)
	p.option = opentelemetry.DialOption(opentelemetry.Options{
		MetricsOptions: opentelemetry.MetricsOptions{MeterProvider: metric.NewMeterProvider(metric.WithReader(p.reader)), Metrics: metrics},
		TraceOptions:   experimental.TraceOptions{TracerProvider: tracers, TextMapPropagator: propagation.TraceContext{}},
	})
	return p
}

// reported renders the names of the metrics with their attributes and counts, and the
// spans with their events.
func (p *plugin) reported(t *testing.T, addr string) (metrics, spans []string) {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, p.reader.Collect(context.Background(), &all))
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, point := range d.DataPoints {
					metrics = append(metrics, fmt.Sprintf("%s count=%d %s", m.Name, point.Count, point.Attributes.Encoded(attribute.DefaultEncoder())))
				}
			case metricdata.Histogram[int64]:
				for _, point := range d.DataPoints {
					metrics = append(metrics, fmt.Sprintf("%s count=%d %s", m.Name, point.Count, point.Attributes.Encoded(attribute.DefaultEncoder())))
				}
			case metricdata.Sum[int64]:
				for _, point := range d.DataPoints {
					metrics = append(metrics, fmt.Sprintf("%s sum=%d %s", m.Name, point.Value, point.Attributes.Encoded(attribute.DefaultEncoder())))
				}
			default:
				t.Fatalf("%s: %T", m.Name, d)
			}
		}
	}
	slices.Sort(metrics)
	stubs := p.spans.GetSpans()
	slices.SortStableFunc(stubs, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	for _, s := range stubs {
		var events []string
		for _, e := range s.Events {
			events = append(events, e.Name)
		}
		spans = append(spans, fmt.Sprintf("%s %v child=%t %v %q", s.Name, s.SpanKind, s.Parent.IsValid(), s.Status.Code, events))
	}
	for _, lines := range [][]string{metrics, spans} {
		for i := range lines {
			// grpc-go's metrics of subchannels have the target as it was written, the
			// others have the canonical one, as gRFC A94 and A66 ask.
			lines[i] = strings.ReplaceAll(strings.ReplaceAll(lines[i], "dns:///"+addr, "TARGET"), addr, "TARGET")
		}
	}
	return metrics, spans
}

// connectable is what both kinds of channel offer.
type connectable interface {
	Connect()
	GetState() connectivity.State
	WaitForStateChange(context.Context, connectivity.State) bool
}

func becomeReady(t *testing.T, cc connectable) {
	t.Helper()
	ctx := backendtest.Bounded(t)
	cc.Connect()
	for s := cc.GetState(); s != connectivity.Ready; s = cc.GetState() {
		require.True(t, cc.WaitForStateChange(ctx, s))
	}
}

// TestOTelPlugin: gRPC's OpenTelemetry plugin reports on a grpcdial channel what it
// reports on a connection of grpc-go's.
func TestOTelPlugin(t *testing.T) {
	const retries = `{"methodConfig": [{"name": [{"service": "grpc.testing.TestService"}], "retryPolicy": {
		"maxAttempts": 3, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
	metrics, spans := map[string][]string{}, map[string][]string{}
	for name, channel := range map[string]func(t *testing.T, target string, option grpc.DialOption) (grpc.ClientConnInterface, func() error){
		"grpc-go": func(t *testing.T, target string, option grpc.DialOption) (grpc.ClientConnInterface, func() error) {
			cc, err := grpc.NewClient(target, option, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(retries))
			require.NoError(t, err)
			return cc, cc.Close
		},
		"grpcdial": func(t *testing.T, target string, option grpc.DialOption) (grpc.ClientConnInterface, func() error) {
			opt, err := bridge.FromGRPC(option)
			require.NoError(t, err)
			cc, err := grpcdial.NewClient(target, opt, grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(retries))
			require.NoError(t, err)
			return cc, cc.Close
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv, p := serve(t), newPlugin()
			cc, closeIt := channel(t, srv.addr, p.option)
			// An RPC on an idle channel waits for the resolver, which is an event of its span.
			becomeReady(t, cc.(connectable))
			client := testpb.NewTestServiceClient(cc)
			_, err := client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{Payload: payload("x")}, grpc.WaitForReady(true))
			require.NoError(t, err)
			srv.fail(2)
			_, err = client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{Payload: payload("x")})
			require.NoError(t, err)
			stream, err := client.FullDuplexCall(backendtest.Bounded(t))
			require.NoError(t, err)
			require.NoError(t, stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload("x")}))
			_, err = stream.Recv()
			require.NoError(t, err)
			require.NoError(t, stream.CloseSend())
			_, err = stream.Recv()
			require.Equal(t, io.EOF, err)
			require.NoError(t, closeIt())
			metrics[name], spans[name] = p.reported(t, srv.addr)
		})
	}
	assert.Equal(t, metrics["grpc-go"], metrics["grpcdial"])
	assert.Equal(t, spans["grpc-go"], spans["grpcdial"])
	names := map[string]bool{}
	for _, m := range metrics["grpcdial"] {
		name, _, _ := strings.Cut(m, " ")
		names[name] = true
	}
	assert.Len(t, names, 8, "%v", names)
}
