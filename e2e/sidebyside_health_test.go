package e2e_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // without it grpc-go does not ask
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// healthScript is a health service that sends what the test gives it: a status, or an
// error that ends the stream; nil ends it well.
type healthScript struct {
	healthpb.UnimplementedHealthServer
	say chan any
}

func (h *healthScript) Watch(_ *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	for {
		select {
		case what := <-h.say:
			switch what := what.(type) {
			case healthpb.HealthCheckResponse_ServingStatus:
				if err := s.Send(&healthpb.HealthCheckResponse{Status: what}); err != nil {
					return err
				}
			case error:
				return what
			default:
				return nil
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// TestHealthSideBySide: what becomes of a channel as its backend's health changes.
func TestHealthSideBySide(t *testing.T) {
	const (
		serving    = healthpb.HealthCheckResponse_SERVING
		notServing = healthpb.HealthCheckResponse_NOT_SERVING
		unknown    = healthpb.HealthCheckResponse_UNKNOWN
		noService  = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		ready      = connectivity.Ready
		failure    = connectivity.TransientFailure
		connecting = connectivity.Connecting
	)
	steps := []struct {
		say   any
		state connectivity.State
	}{
		{notServing, failure}, {serving, ready}, {notServing, failure}, {unknown, failure}, {serving, ready},
		{noService, failure}, {serving, ready},
		// It is asked again at once, if it had said something.
		{status.Error(codes.Internal, "broken"), connecting}, {serving, ready},
		{nil, connecting}, {notServing, failure}, {nil, connecting}, {serving, ready},
		{status.Error(codes.Unimplemented, "no more"), ready},
	}
	const config = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "s"}}`
	type channel interface {
		grpc.ClientConnInterface
		Connect()
		GetState() connectivity.State
		Close() error
	}
	for name, dial := range map[string]func(addr string) (channel, error){
		"grpc-go": func(addr string) (channel, error) {
			return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(config))
		},
		"ours": func(addr string) (channel, error) {
			return grpcdial.NewClient(addr, grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(config))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := &healthScript{say: make(chan any)}
			srv := grpc.NewServer(grpc.UnknownServiceHandler(new(backendtest.Echo).Handle))
			healthpb.RegisterHealthServer(srv, h)
			addr, stop := backendtest.Run(t, srv)
			defer stop()
			cc, err := dial(addr)
			require.NoError(t, err)
			defer cc.Close()
			cc.Connect()
			for n, step := range steps {
				h.say <- step.say
				require.Eventually(t, func() bool { return cc.GetState() == step.state }, time.Minute, time.Millisecond,
					"step %d: %v", n, step.say)
				switch step.state {
				case ready:
					_, err := backendtest.CallEcho(t, cc, "Echo")
					require.NoError(t, err, "step %d", n)
				case failure:
					_, err := backendtest.CallEcho(t, cc, "Echo")
					require.Equal(t, codes.Unavailable, status.Code(err), "step %d: %v", n, err)
				}
			}
		})
	}
}
