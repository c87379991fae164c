package libraries

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// traces, metrics and logs are the services of an OTLP collector. They keep a name out of
// what they get.
type traces struct {
	coltrace.UnimplementedTraceServiceServer
	names chan string
}

func (s traces) Export(_ context.Context, r *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	s.names <- r.ResourceSpans[0].ScopeSpans[0].Spans[0].Name
	return new(coltrace.ExportTraceServiceResponse), nil
}

type metrics struct {
	colmetrics.UnimplementedMetricsServiceServer
	names chan string
}

func (s metrics) Export(_ context.Context, r *colmetrics.ExportMetricsServiceRequest) (*colmetrics.ExportMetricsServiceResponse, error) {
	s.names <- r.ResourceMetrics[0].ScopeMetrics[0].Metrics[0].Name
	return new(colmetrics.ExportMetricsServiceResponse), nil
}

type logs struct {
	collogs.UnimplementedLogsServiceServer
	names chan string
}

func (s logs) Export(_ context.Context, r *collogs.ExportLogsServiceRequest) (*collogs.ExportLogsServiceResponse, error) {
	s.names <- r.ResourceLogs[0].ScopeLogs[0].LogRecords[0].Body.GetStringValue()
	return new(collogs.ExportLogsServiceResponse), nil
}

// exporters are OTLP's three, as a program sets them up.
type exporters struct {
	trace  []otlptracegrpc.Option
	metric []otlpmetricgrpc.Option
	log    []otlploggrpc.Option
}

// TestOTLPExporters: traces, metrics and logs get to a collector, on a channel that is
// given to the exporters and on connections that they make.
func TestOTLPExporters(t *testing.T) {
	for name, set := range map[string]func(addr string) exporters{
		"WithGRPCConn": func(addr string) exporters {
			conn := dial(t, addr).GRPC()
			return exporters{
				[]otlptracegrpc.Option{otlptracegrpc.WithGRPCConn(conn)},
				[]otlpmetricgrpc.Option{otlpmetricgrpc.WithGRPCConn(conn)},
				[]otlploggrpc.Option{otlploggrpc.WithGRPCConn(conn)},
			}
		},
		"WithDialOption": func(addr string) exporters {
			opts := bridge.ToGRPC()
			return exporters{
				[]otlptracegrpc.Option{otlptracegrpc.WithEndpoint(addr), otlptracegrpc.WithInsecure(), otlptracegrpc.WithDialOption(opts...)},
				[]otlpmetricgrpc.Option{otlpmetricgrpc.WithEndpoint(addr), otlpmetricgrpc.WithInsecure(), otlpmetricgrpc.WithDialOption(opts...)},
				[]otlploggrpc.Option{otlploggrpc.WithEndpoint(addr), otlploggrpc.WithInsecure(), otlploggrpc.WithDialOption(opts...)},
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			names := make(chan string, 3)
			addr, agents := backendtest.Serve(t, func(s *grpc.Server) {
				coltrace.RegisterTraceServiceServer(s, traces{names: names})
				colmetrics.RegisterMetricsServiceServer(s, metrics{names: names})
				collogs.RegisterLogsServiceServer(s, logs{names: names})
			})
			export(t, set(addr))
			close(names)
			var got []string
			for name := range names {
				got = append(got, name)
			}
			assert.ElementsMatch(t, []string{"a span", "a.counter", "a record"}, got)
			agents.AssertOurs(t, "TraceService/Export", "MetricsService/Export", "LogsService/Export")
		})
	}
}

// export sends one of each kind.
func export(t *testing.T, e exporters) {
	t.Helper()
	ctx := backendtest.Bounded(t)
	spans, err := otlptracegrpc.New(ctx, e.trace...)
	require.NoError(t, err)
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	_, span := tracers.Tracer("test").Start(ctx, "a span")
	span.End()
	require.NoError(t, tracers.Shutdown(ctx))

	counts, err := otlpmetricgrpc.New(ctx, e.metric...)
	require.NoError(t, err)
	meters := metric.NewMeterProvider(metric.WithReader(metric.NewPeriodicReader(counts)))
	counter, err := meters.Meter("test").Int64Counter("a.counter")
	require.NoError(t, err)
	counter.Add(ctx, 1)
	require.NoError(t, meters.Shutdown(ctx))

	records, err := otlploggrpc.New(ctx, e.log...)
	require.NoError(t, err)
	loggers := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewSimpleProcessor(records)))
	var record log.Record
	record.SetBody(attribute.StringValue("a record"))
	loggers.Logger("test").Emit(ctx, record)
	require.NoError(t, loggers.Shutdown(ctx))
}
