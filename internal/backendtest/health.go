package backendtest

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// CheckedConfig is the service config that asks for round_robin and for the health of
// the service "checked".
const CheckedConfig = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "checked"}}`

// StartChecked runs a backend until the test ends that has grpc-go's health service, in
// which the service "checked" has a status.
func StartChecked(t *testing.T, name string, status healthpb.HealthCheckResponse_ServingStatus) *Backend {
	t.Helper()
	service := health.NewServer()
	b := StartHealth(t, name, service)
	b.checked = service
	b.SetHealth(status)
	return b
}

// SetHealth changes the status of the service "checked" of StartChecked.
func (b *Backend) SetHealth(status healthpb.HealthCheckResponse_ServingStatus) {
	b.checked.SetServingStatus("checked", status)
}

// StartHealth runs a backend with a health service of the test's own until the test ends;
// nil means that it has none.
func StartHealth(t *testing.T, name string, service healthpb.HealthServer) *Backend {
	t.Helper()
	if service == nil {
		service = healthpb.UnimplementedHealthServer{}
	}
	return startWith(t, name, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, service) })
}
