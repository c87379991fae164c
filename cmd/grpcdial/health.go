package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/text"
)

// notOffered is what is said of the health of a server without a health service.
const notOffered = "UNIMPLEMENTED"

// health is what the server's health service said.
type health struct {
	step
	offered bool // the server has such a service
	serving bool
}

// checkHealth asks the server for the health of service; "" stands for the whole
// server (gRPC's health checking document).
func checkHealth(ctx context.Context, cc grpc.ClientConnInterface, service string) health {
	h := health{offered: true}
	h.phase, h.start = grpcdial.PhaseHealth, time.Now()
	answer, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	h.end = time.Now()
	switch status.Code(err) {
	case codes.OK:
		h.health = answer.Status.String()
		h.serving = answer.Status == healthpb.HealthCheckResponse_SERVING
	case codes.Unimplemented: // gRFC A17 takes such a server for healthy
		h.offered, h.health = false, notOffered
		return h
	case codes.NotFound:
		h.health = healthpb.HealthCheckResponse_SERVICE_UNKNOWN.String()
	default:
		h.err = text.Error(err)
	}
	if !h.serving && h.err == nil {
		h.err = fmt.Errorf("the health service says %s", h.health)
	}
	return h
}

// failure is why service counts as not healthy; nil if it is, and if the server has
// no health service: gRFC A17 takes such a server for healthy.
func (h *health) failure(service string) error {
	server, of := cmp.Or(h.addr, "the server"), ""
	if service != "" {
		of = fmt.Sprintf(" of %q", service)
	}
	switch {
	case h.serving || !h.offered:
		return nil
	case h.health == healthpb.HealthCheckResponse_SERVICE_UNKNOWN.String():
		return fmt.Errorf("grpcdial: connected to %s, whose health service does not know %q: is --service right?", server, service)
	case h.health != "":
		return fmt.Errorf("grpcdial: connected to %s, whose health service says %s%s", server, h.health, of)
	default:
		return fmt.Errorf("grpcdial: connected to %s, whose health service says nothing%s: %w", server, of, h.err)
	}
}
