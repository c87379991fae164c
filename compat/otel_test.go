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
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// observed is otelgrpc's client handler with what it has recorded.
type observed struct {
	spans  *tracetest.InMemoryExporter
	reader *metric.ManualReader
	tracer trace.Tracer
	set    settings
}

func observe(t *testing.T) *observed {
	t.Helper()
	o := &observed{spans: tracetest.NewInMemoryExporter(), reader: metric.NewManualReader()}
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(o.spans))
	meters := metric.NewMeterProvider(metric.WithReader(o.reader))
	o.tracer = tracers.Tracer("test")
	o.set.stats = otelgrpc.NewClientHandler(
		otelgrpc.WithTracerProvider(tracers),
		otelgrpc.WithMeterProvider(meters),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
	)
	o.set.serviceConfig = `{"methodConfig": [{"name": [{"service": "grpc.testing.TestService"}], "retryPolicy": {
		"maxAttempts": 3, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
	return o
}

// rendered renders the spans that have ended, in order, and the metrics.
func (o *observed) rendered(t *testing.T, addr string) (spans, metrics []string) {
	t.Helper()
	stubs := o.spans.GetSpans()
	slices.SortStableFunc(stubs, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	for _, s := range stubs {
		var attributes []string
		for _, a := range s.Attributes {
			attributes = append(attributes, fmt.Sprintf("%s=%v", a.Key, a.Value.Emit()))
		}
		slices.Sort(attributes)
		spans = append(spans, fmt.Sprintf("%s %v child=%t %v %v", s.Name, s.SpanKind, s.Parent.IsValid(), s.Status, attributes))
	}
	var all metricdata.ResourceMetrics
	require.NoError(t, o.reader.Collect(context.Background(), &all))
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			h, ok := m.Data.(metricdata.Histogram[float64])
			require.True(t, ok, "%T", m.Data)
			for _, p := range h.DataPoints {
				metrics = append(metrics, fmt.Sprintf("%s %s count=%d %s", m.Name, m.Unit, p.Count, p.Attributes.Encoded(attribute.DefaultEncoder())))
			}
		}
	}
	slices.Sort(metrics)
	_, port, _ := strings.Cut(addr, ":")
	for _, lines := range [][]string{spans, metrics} {
		for i := range lines {
			lines[i] = strings.ReplaceAll(lines[i], port, "PORT")
		}
	}
	return spans, metrics
}

// TestOTelClientHandler: spans and metrics are those that grpc-go's channel gives,
// and the trace goes on at the server.
func TestOTelClientHandler(t *testing.T) {
	spans, metrics := map[string][]string{}, map[string][]string{}
	for name, channel := range channels {
		t.Run(name, func(t *testing.T) {
			srv, o := serve(t), observe(t)
			client := testpb.NewTestServiceClient(channel(t, srv.addr, o.set))
			_, err := client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{Payload: payload("x")}, grpc.WaitForReady(true))
			require.NoError(t, err)

			ctx, parent := o.tracer.Start(backendtest.Bounded(t), "parent")
			_, err = client.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.NotFound), Message: "nothing"}})
			require.Error(t, err)
			parent.End()
			seen := srv.seen()
			require.Len(t, seen, 2)
			assert.Contains(t, seen[1].Get("traceparent")[0], parent.SpanContext().TraceID().String())

			stream, err := client.FullDuplexCall(backendtest.Bounded(t))
			require.NoError(t, err)
			for range 3 {
				require.NoError(t, stream.Send(&testpb.StreamingOutputCallRequest{Payload: payload("x")}))
				_, err = stream.Recv()
				require.NoError(t, err)
			}
			require.NoError(t, stream.CloseSend())
			_, err = stream.Recv()
			require.Equal(t, io.EOF, err)

			// Each attempt has its span, and its own place in the trace.
			srv.fail(2)
			_, err = client.UnaryCall(backendtest.Bounded(t), &testpb.SimpleRequest{Payload: payload("x")})
			require.NoError(t, err)
			seen = srv.seen()
			require.Len(t, seen, 4)
			assert.NotEqual(t, seen[1].Get("traceparent"), seen[2].Get("traceparent"))

			_, err = client.EmptyCall(backendtest.Bounded(t), &testpb.Empty{})
			require.Equal(t, codes.Unimplemented, status.Code(err))
			spans[name], metrics[name] = o.rendered(t, srv.addr)
		})
	}
	assert.Len(t, spans["grpcdial"], 8)
	assert.Equal(t, spans["grpc-go"], spans["grpcdial"])
	assert.NotEmpty(t, metrics["grpcdial"])
	assert.Equal(t, metrics["grpc-go"], metrics["grpcdial"])
}
