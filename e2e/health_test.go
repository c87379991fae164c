package e2e_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
)

// dialChecked makes a channel to all of the backends.
func dialChecked(t *testing.T, config string, backends []*backendtest.Backend, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(backends...))
	return plain(t, target, append(opts, option, grpcdial.WithDefaultServiceConfig(config), fastBackoff())...)
}

// TestHealthDecidesWhoServes: RPCs go only where the health service says SERVING,
// and come back when it does so again.
func TestHealthDecidesWhoServes(t *testing.T) {
	a, b := backendtest.StartChecked(t, "a", serving), backendtest.StartChecked(t, "b", notServing)
	cc := dialChecked(t, backendtest.CheckedConfig, []*backendtest.Backend{a, b})
	backendtest.AwaitNames(t, cc, "a")
	b.SetHealth(serving)
	backendtest.AwaitNames(t, cc, "a", "b")
	a.SetHealth(notServing)
	backendtest.AwaitNames(t, cc, "b")
	for _, e := range cc.Snapshot().Endpoints {
		if e.Addr == a.Addr {
			assert.Equal(t, connectivity.Ready, e.State, "it is connected")
			assert.ErrorContains(t, e.Cause, `service "checked" is NOT_SERVING`)
		} else {
			assert.NoError(t, e.Cause)
		}
	}

	// Without a backend that serves the channel is in TRANSIENT_FAILURE, with the cause.
	b.SetHealth(notServing)
	awaitState(t, cc, connectivity.TransientFailure)
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.Equal(t, codes.Unavailable, status.Code(err))
	var why *grpcdial.DialError
	require.ErrorAs(t, err, &why)
	require.Len(t, why.Attempts, 2)
	for _, attempt := range why.Attempts {
		assert.Equal(t, grpcdial.PhaseHealth, attempt.Phase)
		assert.ErrorContains(t, attempt.Err, `service "checked" is NOT_SERVING`)
		assert.NotEmpty(t, attempt.Hint)
		assert.False(t, attempt.Permanent)
	}
	a.SetHealth(serving)
	backendtest.AwaitNames(t, cc, "a")
}

// TestHealthFallbacks: a backend whose health is not watched, or that has no health
// service, counts as healthy.
func TestHealthFallbacks(t *testing.T) {
	tests := []struct {
		name   string
		config string
		none   bool // the servers have no health service
		opts   []grpcdial.DialOption
		want   []string
	}{
		{name: "checked", config: backendtest.CheckedConfig},
		{name: "no health service", config: backendtest.CheckedConfig, none: true, want: []string{"a", "b"}},
		{name: "disabled", config: backendtest.CheckedConfig, opts: []grpcdial.DialOption{grpcdial.WithDisableHealthCheck()}, want: []string{"a", "b"}},
		{name: "not configured", config: `{"loadBalancingConfig": [{"round_robin": {}}]}`, want: []string{"a", "b"}},
		{name: "the server as a whole", config: `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {}}`, want: []string{"a", "b"}},
		{name: "pick_first alone does not ask", config: `{"loadBalancingConfig": [{"pick_first": {}}], "healthCheckConfig": {"serviceName": "checked"}}`, want: []string{"a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			backends := []*backendtest.Backend{backendtest.StartChecked(t, "a", notServing), backendtest.StartChecked(t, "b", notServing)}
			if tt.none {
				backends = []*backendtest.Backend{backendtest.StartHealth(t, "a", nil), backendtest.StartHealth(t, "b", nil)}
			}
			cc := dialChecked(t, tt.config, backends, tt.opts...)
			if tt.want == nil {
				cc.Connect()
				awaitState(t, cc, connectivity.TransientFailure)
				return
			}
			backendtest.AwaitNames(t, cc, tt.want...)
		})
	}
}

// TestUnknownServiceSaysSo: a name that the server does not know is explained.
func TestUnknownServiceSaysSo(t *testing.T) {
	b := backendtest.StartChecked(t, "a", serving)
	config := strings.Replace(backendtest.CheckedConfig, "checked", "mistyped", 1)
	cc := dialChecked(t, config, []*backendtest.Backend{b})
	cc.Connect()
	awaitState(t, cc, connectivity.TransientFailure)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := cc.AwaitReady(ctx)
	require.ErrorContains(t, err, `service "mistyped" is SERVICE_UNKNOWN`)
	assert.ErrorContains(t, err, "healthCheckConfig")
}

// legacyPolicy publishes the state of one subchannel that was made with
// HealthCheckEnabled.
func legacyPolicy(t *testing.T, states chan<- balancer.SubConnState) *backendtest.SpyPolicy {
	p := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
		if s.Sub != nil {
			s.Sub.UpdateAddresses(state.ResolverState.Addresses)
			return nil
		}
		var sc balancer.SubConn
		sc, err := s.CC.NewSubConn(state.ResolverState.Addresses, balancer.NewSubConnOptions{
			HealthCheckEnabled: true,
			StateListener: func(state balancer.SubConnState) {
				s.CC.UpdateState(balancer.State{ConnectivityState: state.ConnectivityState, Picker: backendtest.PickerFor(sc, state)})
				states <- state
			},
		})
		s.Sub = sc
		sc.Connect()
		return err
	}}
	balancer.Register(p)
	return p
}

func configChecked(p *backendtest.SpyPolicy) string {
	return strings.Replace(backendtest.CheckedConfig, "round_robin", p.As, 1)
}

// TestLegacyHealthChecking: the subchannel itself is READY only while the backend
// is healthy, and its connection stays.
func TestLegacyHealthChecking(t *testing.T) {
	states := make(chan balancer.SubConnState, 100)
	p := legacyPolicy(t, states)
	b := backendtest.StartChecked(t, "a", notServing)
	cc := dialChecked(t, configChecked(p), []*backendtest.Backend{b})
	cc.Connect()
	failed := backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.TransientFailure)
	assert.ErrorContains(t, failed.ConnectionError, "NOT_SERVING")
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assert.ErrorContains(t, err, "NOT_SERVING")

	b.SetHealth(serving)
	backendtest.ExpectStates(t, states, connectivity.Ready)
	got, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true)) // the policy has yet to report it
	require.NoError(t, err)
	assert.Equal(t, "a", got)

	b.SetHealth(notServing)
	backendtest.ExpectStates(t, states, connectivity.TransientFailure)
	b.SetHealth(serving)
	backendtest.ExpectStates(t, states, connectivity.Ready)
}

// TestLegacyHealthCheckingWithoutService: the subchannel is READY.
func TestLegacyHealthCheckingWithoutService(t *testing.T) {
	for name, opts := range map[string][]grpcdial.DialOption{"no service": nil, "disabled": {grpcdial.WithDisableHealthCheck()}} {
		t.Run(name, func(t *testing.T) {
			states := make(chan balancer.SubConnState, 100)
			p := legacyPolicy(t, states)
			cc := dialChecked(t, configChecked(p), []*backendtest.Backend{backendtest.StartHealth(t, "a", nil)}, opts...)
			cc.Connect()
			backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
		})
	}
}

// watchFunc is a health service whose Watch is a function.
type watchFunc struct {
	healthpb.UnimplementedHealthServer
	watch func(*healthpb.HealthCheckRequest, healthpb.Health_WatchServer) error
}

func (f watchFunc) Watch(r *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	return f.watch(r, s)
}

// sayAndWait is a Watch that says one thing and waits for the client to go.
func sayAndWait(what healthpb.HealthCheckResponse_ServingStatus, gone chan<- string) watchFunc {
	return watchFunc{watch: func(r *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
		if err := s.Send(&healthpb.HealthCheckResponse{Status: what}); err != nil {
			return err
		}
		<-s.Context().Done()
		gone <- r.Service
		return s.Context().Err()
	}}
}

// TestLegacyHealthOnAnotherAddress: however unhealthy the backend, a subchannel
// that gets another address lets go of the connection, and of the stream on it.
func TestLegacyHealthOnAnotherAddress(t *testing.T) {
	states, gone := make(chan balancer.SubConnState, 100), make(chan string, 10)
	p := legacyPolicy(t, states)
	sick, other := backendtest.StartHealth(t, "sick", sayAndWait(notServing, gone)), backendtest.StartChecked(t, "other", serving)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: sick.Addr}}})
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(configChecked(p)), fastBackoff())
	cc.Connect()
	backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.TransientFailure)
	r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: sick.Addr}, {Addr: other.Addr}}})
	assert.Empty(t, gone, "the address is still there")
	r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: other.Addr}}})
	assert.Equal(t, "checked", <-gone)
	backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
}

// TestLegacyHealthAndLoss: when the server goes, the subchannel is IDLE.
func TestLegacyHealthAndLoss(t *testing.T) {
	states := make(chan balancer.SubConnState, 100)
	p := legacyPolicy(t, states)
	b := backendtest.StartChecked(t, "a", notServing)
	cc := dialChecked(t, configChecked(p), []*backendtest.Backend{b})
	cc.Connect()
	backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.TransientFailure)
	b.Stop()
	backendtest.ExpectStates(t, states, connectivity.Idle)
}

// TestHealthStreamDoesNotOutliveItsUse: what is drained is not kept open by the
// watch of its health.
func TestHealthStreamDoesNotOutliveItsUse(t *testing.T) {
	gone := make(chan string, 10)
	b, other := backendtest.StartHealth(t, "b", sayAndWait(serving, gone)), backendtest.StartHealth(t, "other", nil)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: b.Addr}}})
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.CheckedConfig))
	backendtest.AwaitNames(t, cc, "b")
	r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: other.Addr}}})
	backendtest.AwaitNames(t, cc, "other")
	assert.Equal(t, "checked", <-gone)
}

// TestHealthStreamFails: a stream that fails means unhealthy, and another one is
// opened: with back-off as of connections, or at once if the server had said
// something on it.
func TestHealthStreamFails(t *testing.T) {
	for _, tt := range []struct {
		name  string
		says  bool
		after error
	}{
		{"without a word", false, status.Error(codes.Internal, "sick")},
		{"ended well", false, nil},
		{"after a word", true, status.Error(codes.Internal, "sick")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []time.Time
				service := watchFunc{watch: func(r *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
					asked = append(asked, time.Now())
					if len(asked) == 6 {
						_ = s.Send(&healthpb.HealthCheckResponse{Status: serving})
						<-s.Context().Done()
					} else if tt.says {
						_ = s.Send(&healthpb.HealthCheckResponse{Status: notServing})
					}
					return tt.after
				}}
				lis := bufconn.Listen(1 << 16)
				srv := grpc.NewServer()
				healthpb.RegisterHealthServer(srv, service)
				go func() { _ = srv.Serve(lis) }()
				defer srv.Stop()
				cc, err := grpcdial.NewClient("passthrough:///a:1", grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(backendtest.CheckedConfig),
					grpcdial.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
				require.NoError(t, err)
				defer cc.Close()
				began := time.Now()
				require.NoError(t, cc.AwaitReady(t.Context()))
				require.Len(t, asked, 6)
				want := time.Second
				for i := range 5 {
					if gap := asked[i+1].Sub(asked[i]); tt.says {
						assert.Zero(t, gap)
					} else {
						assert.InDelta(t, want, gap, 0.2*float64(want)+1, "gap %d", i)
					}
					want = time.Duration(float64(want) * 1.6)
				}
				assert.Equal(t, asked[0], began)
			})
		})
	}
}

// TestHealthFailureIsExplained: the error of the stream is part of the channel's.
func TestHealthFailureIsExplained(t *testing.T) {
	b := backendtest.StartHealth(t, "b", watchFunc{watch: func(*healthpb.HealthCheckRequest, healthpb.Health_WatchServer) error {
		return status.Error(codes.PermissionDenied, "not for you")
	}})
	cc := dialChecked(t, backendtest.CheckedConfig, []*backendtest.Backend{b})
	cc.Connect()
	awaitState(t, cc, connectivity.TransientFailure)
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assert.Equal(t, codes.Unavailable, status.Code(err), "the health service's status is not the RPC's")
	assert.ErrorContains(t, err, "not for you")
}

// TestCloseEndsHealthWatches: whatever a watch is waiting for.
func TestCloseEndsHealthWatches(t *testing.T) {
	hangs := watchFunc{watch: func(_ *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
		<-s.Context().Done()
		return s.Context().Err()
	}}
	fails := watchFunc{watch: func(*healthpb.HealthCheckRequest, healthpb.Health_WatchServer) error {
		return errors.New("no")
	}}
	all := []*backendtest.Backend{backendtest.StartHealth(t, "hangs", hangs), backendtest.StartHealth(t, "fails", fails), backendtest.StartChecked(t, "serves", serving)}
	cc := dialChecked(t, backendtest.CheckedConfig, all)
	backendtest.AwaitNames(t, cc, "serves")
	require.NoError(t, cc.Close())
	backendtest.AssertNothingRuns(t)
}

// The end of the channel ends the watch's stream, for which the backend is not to
// blame: what it last said of itself stays the reason.
func TestCloseIsNoVerdict(t *testing.T) {
	var backends []*backendtest.Backend // so many that the first watches end before the last connection does
	for range 20 {
		backends = append(backends, backendtest.StartChecked(t, "a", notServing))
	}
	for range 20 {
		var s backendtest.Record[grpcdial.DialEvent]
		cc := dialChecked(t, backendtest.CheckedConfig, backends, grpcdial.WithDialTrace(&grpcdial.DialTrace{Failed: s.Add}))
		cc.Connect()
		awaitState(t, cc, connectivity.TransientFailure)
		require.NoError(t, cc.Close())
		for _, e := range s.All() {
			assert.ErrorContains(t, e.Err, "NOT_SERVING")
		}
	}
}
