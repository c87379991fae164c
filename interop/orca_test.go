package interop

import (
	"context"
	"testing"
	"time"

	v3orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	orcaservice "github.com/cncf/xds/go/xds/service/orca/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"

	"github.com/grpcdial/grpcdial"
)

// orcaConfig selects the policy that the cases of backend metrics are written for.
const orcaConfig = `{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`

// TestOrca runs the cases of backend metrics: reports with a reply, and reports on a stream of
// the policy's own.
func TestOrca(t *testing.T) {
	addr := startOrcaBackend(t)
	for _, client := range []struct {
		name string
		dial func() (channel, error)
	}{
		{"grpcdial", func() (channel, error) {
			cc, err := grpcdial.NewClient(addr, grpcdial.WithTransportCredentials(insecure.NewCredentials()), grpcdial.WithDefaultServiceConfig(orcaConfig))
			if err != nil {
				return channel{}, err
			}
			t.Cleanup(func() { cc.Close() })
			return channel{cc, cc.GRPC()}, nil
		}},
		{"grpc-go", func() (channel, error) {
			cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(orcaConfig))
			if err != nil {
				return channel{}, err
			}
			t.Cleanup(func() { cc.Close() })
			return channel{cc, cc}, nil
		}},
	} {
		t.Run(client.name, func(t *testing.T) {
			for _, c := range []interopCase{
				testService("orca_per_rpc", func(ctx context.Context, tc testgrpc.TestServiceClient, _ ...grpc.CallOption) {
					interop.DoORCAPerRPCTest(ctx, tc)
				}),
				testService("orca_oob", func(ctx context.Context, tc testgrpc.TestServiceClient, _ ...grpc.CallOption) {
					interop.DoORCAOOBTest(ctx, tc)
				}),
			} {
				t.Run(c.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
					defer cancel()
					ch, err := client.dial()
					require.NoError(t, err)
					if text := failure(func() { c.run(ctx, ch) }); text != "" {
						t.Fatal(text)
					}
				})
			}
		})
	}
}

// orcaBackend is the interoperability service, and that of the reports that come without an RPC
// of the program's: grpc-go's sends one in 30 seconds at most.
type orcaBackend struct {
	testgrpc.TestServiceServer
	orcaservice.UnimplementedOpenRcaServiceServer
	metrics orca.ServerMetricsProvider
}

func startOrcaBackend(t *testing.T) string {
	t.Helper()
	metrics := orca.NewServerMetricsRecorder()
	b := orcaBackend{
		TestServiceServer: interop.NewTestServer(interop.NewTestServerOptions{MetricsRecorder: metrics}),
		metrics:           metrics.(orca.ServerMetricsProvider),
	}
	server := grpc.NewServer(orca.CallMetricsServerOption(nil))
	testgrpc.RegisterTestServiceServer(server, b)
	orcaservice.RegisterOpenRcaServiceServer(server, b)
	return serve(t, server)
}

// StreamCoreMetrics reports the metrics in force ten times a second.
func (b orcaBackend) StreamCoreMetrics(_ *orcaservice.OrcaLoadReportRequest, stream orcaservice.OpenRcaService_StreamCoreMetricsServer) error {
	for {
		now := b.metrics.ServerMetrics()
		if err := stream.Send(&v3orcapb.OrcaLoadReport{
			CpuUtilization: max(now.CPUUtilization, 0),
			MemUtilization: max(now.MemUtilization, 0),
			Utilization:    now.Utilization,
		}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}
