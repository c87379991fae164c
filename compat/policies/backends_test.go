package policies

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	v3orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	orcaservice "github.com/cncf/xds/go/xds/service/orca/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// backend answers with its name and reports its load: with each RPC, or on the
// stream of out-of-band reports.
type backend struct {
	testpb.UnimplementedTestServiceServer
	orcaservice.UnimplementedOpenRcaServiceServer
	name, addr string
	stop       func()

	mu      sync.Mutex
	load    float64       // guarded by mu: utilization; 0: RPCs report none
	fails   bool          // guarded by mu: RPCs end with Internal
	changed chan struct{} // guarded by mu: closed when load changes
	held    chan struct{} // guarded by mu: not nil: RPCs wait until it is closed
	waiting int           // guarded by mu: RPCs that wait
	md      metadata.MD   // guarded by mu: of the latest UnaryCall
}

func start(t *testing.T, name string) *backend {
	t.Helper()
	b := &backend{name: name, changed: make(chan struct{})}
	srv := grpc.NewServer(orca.CallMetricsServerOption(nil))
	testpb.RegisterTestServiceServer(srv, b)
	orcaservice.RegisterOpenRcaServiceServer(srv, b)
	b.addr, b.stop = backendtest.Run(t, srv)
	return b
}

func startAll(t *testing.T, names ...string) []*backend {
	t.Helper()
	var all []*backend
	for _, name := range names {
		all = append(all, start(t, name))
	}
	return all
}

func (b *backend) setLoad(load float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.load = load
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *backend) setFails(fails bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails = fails
}

// hold makes RPCs wait until the function returned is called.
func (b *backend) hold() (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := make(chan struct{})
	b.held = held
	return sync.OnceFunc(func() { close(held) })
}

func (b *backend) waits() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting
}

func (b *backend) now() (load float64, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.load, b.changed
}

func (b *backend) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	b.mu.Lock()
	b.md, _ = metadata.FromIncomingContext(ctx)
	load, fails, held := b.load, b.fails, b.held
	if held != nil {
		b.waiting++
	}
	b.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
	if fails {
		return nil, status.Error(codes.Internal, "sick")
	}
	if load > 0 {
		r := orca.CallMetricsRecorderFromContext(ctx)
		r.SetApplicationUtilization(load)
		r.SetQPS(100)
	}
	return &testpb.SimpleResponse{ServerId: b.name}, nil
}

// StreamCoreMetrics reports the load at once, and again as it changes.
func (b *backend) StreamCoreMetrics(_ *orcaservice.OrcaLoadReportRequest, s orcaservice.OpenRcaService_StreamCoreMetricsServer) error {
	for {
		load, changed := b.now()
		if err := s.Send(&v3orcapb.OrcaLoadReport{ApplicationUtilization: load, RpsFractional: 100}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return nil
		}
	}
}

// dial makes a channel to the backends with a policy.
func dial(t *testing.T, policy string, backends []*backend) *grpcdial.ClientConn {
	t.Helper()
	r := manual.NewBuilderWithScheme("hand")
	var s resolver.State
	for _, b := range backends {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: b.addr})
	}
	r.InitialState(s)
	cc, err := grpcdial.NewClient("hand:///backends", grpcdial.WithInsecure(), grpcdial.WithResolvers(r),
		grpcdial.WithDefaultServiceConfig(fmt.Sprintf(`{"loadBalancingConfig": [%s]}`, policy)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// ask returns the name of the backend that an RPC went to.
func ask(ctx context.Context, cc grpc.ClientConnInterface) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	reply, err := testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{}, grpc.WaitForReady(true))
	return reply.GetServerId(), err
}

// shares returns how many of n RPCs went to each backend. Those that fail go to "".
func shares(cc grpc.ClientConnInterface, n int) map[string]int {
	got := make(map[string]int)
	for range n {
		name, _ := ask(context.Background(), cc)
		got[name]++
	}
	return got
}

// eventually waits for something that is on its way.
func eventually(t *testing.T, cond func() bool, what string, args ...any) {
	t.Helper()
	require.Eventually(t, cond, time.Minute, 10*time.Millisecond, fmt.Sprintf(what, args...))
}

// awaitAll waits until RPCs have reached each backend.
func awaitAll(t *testing.T, cc grpc.ClientConnInterface, backends []*backend) {
	t.Helper()
	seen := make(map[string]bool)
	eventually(t, func() bool {
		name, err := ask(context.Background(), cc)
		seen[name] = err == nil
		return len(seen) == len(backends)
	}, "all backends are reached")
}

// withKey makes the RPC's header "key" have a value.
func withKey(key string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "key", key)
}
