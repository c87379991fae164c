package libraries

import (
	"context"
	"sync"
	"testing"

	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	dapr "github.com/dapr/go-sdk/client"
	"github.com/go-kratos/kratos/v2/middleware"
	"github.com/go-kratos/kratos/v2/registry"
	kratos "github.com/go-kratos/kratos/v2/transport/grpc"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// discovery knows the instances of one service, as kratos asks for them.
type discovery struct {
	instances chan []*registry.ServiceInstance
}

func (d discovery) GetService(context.Context, string) ([]*registry.ServiceInstance, error) {
	return nil, nil
}
func (d discovery) Watch(ctx context.Context, _ string) (registry.Watcher, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return watcher{ctx, cancel, d.instances}, nil
}

type watcher struct {
	ctx       context.Context
	cancel    context.CancelFunc
	instances chan []*registry.ServiceInstance
}

func (w watcher) Next() ([]*registry.ServiceInstance, error) {
	select {
	case i := <-w.instances:
		return i, nil
	case <-w.ctx.Done():
		return nil, w.ctx.Err()
	}
}

func (w watcher) Stop() error {
	w.cancel()
	return nil
}

// TestKratos: kratos's discovery gives the channel's addresses, its own policy chooses
// among them, and its middleware runs.
func TestKratos(t *testing.T) {
	agents := new(backendtest.Agents)
	found := make(chan []*registry.ServiceInstance, 1)
	var instances []*registry.ServiceInstance
	for _, name := range []string{"a", "b"} {
		instances = append(instances, &registry.ServiceInstance{ID: name, Name: "shop",
			Endpoints: []string{"grpc://" + backendtest.Start(t, name, agents.Option()).Addr}})
	}
	found <- instances
	seen := 0
	cc, err := kratos.DialInsecure(backendtest.Bounded(t), kratos.WithEndpoint("discovery:///shop"), kratos.WithDiscovery(discovery{found}),
		kratos.WithPrintDiscoveryDebugLog(false), kratos.WithHealthCheck(false),
		kratos.WithMiddleware(func(next middleware.Handler) middleware.Handler {
			return func(ctx context.Context, req any) (any, error) {
				seen++
				return next(ctx, req)
			}
		}),
		kratos.WithOptions(bridge.ToGRPC()...))
	require.NoError(t, err)
	defer cc.Close()
	backendtest.AwaitNames(t, cc, "a", "b")
	assert.NotZero(t, seen)
	agents.AssertOurs(t, "/Name")
}

// sidecar is the part of a Dapr runtime that keeps states.
type sidecar struct {
	runtime.UnimplementedDaprServer
	states *sync.Map // of []byte by key
}

func (s sidecar) SaveState(_ context.Context, r *runtime.SaveStateRequest) (*emptypb.Empty, error) {
	for _, item := range r.States {
		s.states.Store(item.Key, item.Value)
	}
	return new(emptypb.Empty), nil
}

func (s sidecar) GetState(_ context.Context, r *runtime.GetStateRequest) (*runtime.GetStateResponse, error) {
	value, _ := s.states.Load(r.Key)
	data, _ := value.([]byte)
	return &runtime.GetStateResponse{Data: data}, nil
}

// TestDapr: Dapr's client keeps a state and closes the channel that it owns.
func TestDapr(t *testing.T) {
	addr, agents := backendtest.Serve(t, func(s *grpc.Server) { runtime.RegisterDaprServer(s, sidecar{states: new(sync.Map)}) })
	cc := dial(t, addr)
	client := dapr.NewClientWithConnection(cc.GRPCOwned())
	ctx := backendtest.Bounded(t)
	require.NoError(t, client.SaveState(ctx, "store", "key", []byte("value"), nil))
	state, err := client.GetState(ctx, "store", "key", nil)
	require.NoError(t, err)
	assert.Equal(t, "value", string(state.Value))
	client.Close()
	_, err = backendtest.AskName(ctx, cc)
	assert.Equal(t, codes.Canceled, status.Code(err), "the channel is closed")
	agents.AssertOurs(t, "SaveState", "GetState")
}
