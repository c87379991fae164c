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

// Checked is a Backend that has grpc-go's health service, in which the service "checked"
// has a status.
type Checked struct {
	*Backend
	service *health.Server
}

// StartChecked runs such a backend until the test ends.
func StartChecked(t *testing.T, name string, status healthpb.HealthCheckResponse_ServingStatus) *Checked {
	t.Helper()
	service := health.NewServer()
	service.SetServingStatus("checked", status)
	b := StartWith(t, name, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, service) })
	return &Checked{b, service}
}

// Set changes the status of the service "checked".
func (c *Checked) Set(status healthpb.HealthCheckResponse_ServingStatus) {
	c.service.SetServingStatus("checked", status)
}
