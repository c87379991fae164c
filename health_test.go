package grpcdial

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
)

// checkedConfig asks for the health of the service "checked".
const checkedConfig = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "checked"}}`

// checkedBackend is a server that has a health service and answers all RPCs but
// those of the health service with its name.
type checkedBackend struct {
	name   string
	addr   string
	health *health.Server
	stop   func()
}

// startChecked starts a server whose service "checked" has a status.
func startChecked(t *testing.T, name string, status healthpb.HealthCheckResponse_ServingStatus) *checkedBackend {
	t.Helper()
	b := &checkedBackend{name: name, health: health.NewServer()}
	b.health.SetServingStatus("checked", status)
	b.serve(t, b.health)
	return b
}

// startWith starts a server with a health service of the test's; nil: it has none.
func startWith(t *testing.T, name string, service healthpb.HealthServer) *checkedBackend {
	t.Helper()
	b := &checkedBackend{name: name}
	b.serve(t, service)
	return b
}

func (b *checkedBackend) serve(t *testing.T, service healthpb.HealthServer) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.addr = lis.Addr().String()
	srv := grpc.NewServer(grpc.UnknownServiceHandler(b.handle))
	if service != nil {
		healthpb.RegisterHealthServer(srv, service)
	}
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(lis) })
	b.stop = func() {
		srv.Stop()
		done.Wait()
	}
	t.Cleanup(b.stop)
}

func (b *checkedBackend) handle(_ any, s grpc.ServerStream) error {
	if method, _ := grpc.MethodFromServerStream(s); strings.HasPrefix(method, "/grpc.health") {
		return status.Error(codes.Unimplemented, "no such service")
	}
	if err := s.RecvMsg(new(wrapperspb.StringValue)); err != nil {
		return err
	}
	return s.SendMsg(wrapperspb.String(b.name))
}

func (b *checkedBackend) set(s healthpb.HealthCheckResponse_ServingStatus) {
	b.health.SetServingStatus("checked", s)
}

// dialChecked makes a channel to all of the backends.
func dialChecked(t *testing.T, config string, backends []*checkedBackend, opts ...DialOption) *ClientConn {
	t.Helper()
	var s resolver.State
	for _, b := range backends {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: b.addr})
	}
	r, target, option := handResolver(t)
	r.InitialState(s)
	return plain(t, target, append(opts, option, WithDefaultServiceConfig(config), fastBackoff())...)
}

// TestHealthDecidesWhoServes: RPCs go only where the health service says SERVING,
// and come back when it does so again.
func TestHealthDecidesWhoServes(t *testing.T) {
	a, b := startChecked(t, "a", serving), startChecked(t, "b", notServing)
	cc := dialChecked(t, checkedConfig, []*checkedBackend{a, b})
	backendtest.AwaitNames(t, cc, "a")
	b.set(serving)
	backendtest.AwaitNames(t, cc, "a", "b")
	a.set(notServing)
	backendtest.AwaitNames(t, cc, "b")
	for _, e := range cc.Snapshot().Endpoints {
		if e.Addr == a.addr {
			assert.Equal(t, connectivity.Ready, e.State, "it is connected")
			assert.ErrorContains(t, e.Cause, `service "checked" is NOT_SERVING`)
		} else {
			assert.NoError(t, e.Cause)
		}
	}

	// Nobody serves: the channel says so, and why.
	b.set(notServing)
	awaitState(t, cc, connectivity.TransientFailure)
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.Equal(t, codes.Unavailable, status.Code(err))
	var why *DialError
	require.ErrorAs(t, err, &why)
	require.Len(t, why.Attempts, 2)
	for _, attempt := range why.Attempts {
		assert.Equal(t, PhaseHealth, attempt.Phase)
		assert.ErrorContains(t, attempt.Err, `service "checked" is NOT_SERVING`)
		assert.NotEmpty(t, attempt.Hint)
		assert.False(t, attempt.Permanent)
	}
	a.set(serving)
	backendtest.AwaitNames(t, cc, "a")
}

// TestHealthFallbacks: who is not asked, or cannot say, is healthy.
func TestHealthFallbacks(t *testing.T) {
	tests := []struct {
		name   string
		config string
		none   bool // the servers have no health service
		opts   []DialOption
		want   []string
	}{
		{name: "checked", config: checkedConfig},
		{name: "no health service", config: checkedConfig, none: true, want: []string{"a", "b"}},
		{name: "disabled", config: checkedConfig, opts: []DialOption{WithDisableHealthCheck()}, want: []string{"a", "b"}},
		{name: "not configured", config: `{"loadBalancingConfig": [{"round_robin": {}}]}`, want: []string{"a", "b"}},
		{name: "the server as a whole", config: `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {}}`, want: []string{"a", "b"}},
		{name: "pick_first alone does not ask", config: `{"loadBalancingConfig": [{"pick_first": {}}], "healthCheckConfig": {"serviceName": "checked"}}`, want: []string{"a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			backends := []*checkedBackend{startChecked(t, "a", notServing), startChecked(t, "b", notServing)}
			if tt.none {
				backends = []*checkedBackend{startWith(t, "a", nil), startWith(t, "b", nil)}
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
	b := startChecked(t, "a", serving)
	config := strings.Replace(checkedConfig, "checked", "mistyped", 1)
	cc := dialChecked(t, config, []*checkedBackend{b})
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
	return strings.Replace(checkedConfig, "round_robin", p.As, 1)
}

// TestLegacyHealthChecking: the subchannel itself is READY only while the backend
// is healthy, and its connection stays.
func TestLegacyHealthChecking(t *testing.T) {
	states := make(chan balancer.SubConnState, 100)
	p := legacyPolicy(t, states)
	b := startChecked(t, "a", notServing)
	cc := dialChecked(t, configChecked(p), []*checkedBackend{b})
	cc.Connect()
	failed := expectStates(t, states, connectivity.Connecting, connectivity.TransientFailure)
	assert.ErrorContains(t, failed.ConnectionError, "NOT_SERVING")
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assert.ErrorContains(t, err, "NOT_SERVING")

	b.set(serving)
	expectStates(t, states, connectivity.Ready)
	got, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true)) // the policy has yet to say so
	require.NoError(t, err)
	assert.Equal(t, "a", got)

	b.set(notServing)
	expectStates(t, states, connectivity.TransientFailure)
	b.set(serving)
	expectStates(t, states, connectivity.Ready)
}

// TestLegacyHealthCheckingWithoutService: the subchannel is READY.
func TestLegacyHealthCheckingWithoutService(t *testing.T) {
	for name, opts := range map[string][]DialOption{"no service": nil, "disabled": {WithDisableHealthCheck()}} {
		t.Run(name, func(t *testing.T) {
			states := make(chan balancer.SubConnState, 100)
			p := legacyPolicy(t, states)
			cc := dialChecked(t, configChecked(p), []*checkedBackend{startWith(t, "a", nil)}, opts...)
			cc.Connect()
			expectStates(t, states, connectivity.Connecting, connectivity.Ready)
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
	sick, other := startWith(t, "sick", sayAndWait(notServing, gone)), startChecked(t, "other", serving)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: sick.addr}}})
	cc := plain(t, target, option, WithDefaultServiceConfig(configChecked(p)), fastBackoff())
	cc.Connect()
	expectStates(t, states, connectivity.Connecting, connectivity.TransientFailure)
	r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: sick.addr}, {Addr: other.addr}}})
	assert.Empty(t, gone, "the address is still there")
	r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: other.addr}}})
	assert.Equal(t, "checked", <-gone)
	expectStates(t, states, connectivity.Connecting, connectivity.Ready)
}

// TestLegacyHealthAndLoss: when the server goes, the subchannel is IDLE.
func TestLegacyHealthAndLoss(t *testing.T) {
	states := make(chan balancer.SubConnState, 100)
	p := legacyPolicy(t, states)
	b := startChecked(t, "a", notServing)
	cc := dialChecked(t, configChecked(p), []*checkedBackend{b})
	cc.Connect()
	expectStates(t, states, connectivity.Connecting, connectivity.TransientFailure)
	b.stop()
	expectStates(t, states, connectivity.Idle)
}

// TestHealthStreamDoesNotOutliveItsUse: what is drained is not kept open by the
// watch of its health.
func TestHealthStreamDoesNotOutliveItsUse(t *testing.T) {
	gone := make(chan string, 10)
	b, other := startWith(t, "b", sayAndWait(serving, gone)), startWith(t, "other", nil)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: b.addr}}})
	cc := plain(t, target, option, WithDefaultServiceConfig(checkedConfig))
	backendtest.AwaitNames(t, cc, "b")
	r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: other.addr}}})
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
				cc, err := NewClient("passthrough:///a:1", WithInsecure(), WithDefaultServiceConfig(checkedConfig),
					WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
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
	b := startWith(t, "b", watchFunc{watch: func(*healthpb.HealthCheckRequest, healthpb.Health_WatchServer) error {
		return status.Error(codes.PermissionDenied, "not for you")
	}})
	cc := dialChecked(t, checkedConfig, []*checkedBackend{b})
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
	all := []*checkedBackend{startWith(t, "hangs", hangs), startWith(t, "fails", fails), startChecked(t, "serves", serving)}
	cc := dialChecked(t, checkedConfig, all)
	backendtest.AwaitNames(t, cc, "serves")
	require.NoError(t, cc.Close())
	backendtest.AssertNothingRuns(t)
}

// The end of the channel ends the watch's stream, for which the backend is not to
// blame: what it last said of itself stays the reason.
func TestCloseIsNoVerdict(t *testing.T) {
	var backends []*checkedBackend // so many that some are told before the last is cut off
	for range 20 {
		backends = append(backends, startChecked(t, "a", notServing))
	}
	for range 20 {
		var s backendtest.Record[DialEvent]
		cc := dialChecked(t, checkedConfig, backends, WithDialTrace(&DialTrace{Failed: s.Add}))
		cc.Connect()
		awaitState(t, cc, connectivity.TransientFailure)
		require.NoError(t, cc.Close())
		for _, e := range s.All() {
			assert.ErrorContains(t, e.Err, "NOT_SERVING")
		}
	}
}
