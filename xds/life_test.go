package xds_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/xds"
)

// TestListenerMissing: the management server has no listener of the target's name. What
// AwaitReady, a blocking dial and RPCs return names it.
func TestListenerMissing(t *testing.T) {
	t.Parallel() // it takes the 15 seconds that xDS clients wait for a resource
	const says = `resource "shop" of type "ListenerResource" has been removed`
	m := manage(t)
	m.set(t, config{noListen: true})
	for name, dial := range map[string]func(context.Context) error{
		"AwaitReady that gives up on it": func(ctx context.Context) error {
			return m.dial(t).AwaitReady(ctx, grpcdial.GiveUpOn(func(a grpcdial.Attempt) bool { return a.Phase == grpcdial.PhaseResolve }))
		},
		"AwaitReady": func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			return m.dial(t).AwaitReady(ctx)
		},
		"WithBlock": func(ctx context.Context) error {
			_, err := grpcdial.DialContext(ctx, target, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithTimeout(20*time.Second), grpcdial.WithResolvers(xds.Wrap(m.builder(t))))
			return err
		},
		"WithBlock that gives up on it": func(ctx context.Context) error {
			_, err := grpcdial.DialContext(ctx, target, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithResolvers(xds.Wrap(m.builder(t))),
				grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool { return a.Phase == grpcdial.PhaseResolve }))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := dial(soon(t))
			dialErr := (*grpcdial.DialError)(nil)
			require.ErrorAs(t, err, &dialErr)
			assert.ErrorContains(t, err, says)
			require.Len(t, dialErr.Attempts, 1)
			assert.Equal(t, grpcdial.PhaseResolve, dialErr.Attempts[0].Phase)
			assert.Greater(t, dialErr.Attempts[0].Elapsed, 10*time.Second, "the resolver has waited for the resource")
		})
	}
	for name, dial := range map[string]func() grpc.ClientConnInterface{
		"RPC, grpcdial": func() grpc.ClientConnInterface { return m.dial(t) },
		"RPC, grpc-go":  func() grpc.ClientConnInterface { return newGRPCClient(t, target, grpc.WithResolvers(m.builder(t))) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ask(soon(t), dial(), "/shop.Cart/Add")
			assert.Equal(t, codes.Unavailable, status.Code(err))
			if name != "RPC, grpc-go" || !strings.Contains(err.Error(), "produced zero addresses") { // for a moment, there
				assert.ErrorContains(t, err, says)
			}
		})
	}
}

// stateConn is a channel of either kind.
type stateConn interface {
	grpc.ClientConnInterface
	GetState() connectivity.State
	WaitForStateChange(context.Context, connectivity.State) bool
	Connect()
	Close() error
}

// onBoth runs f with what makes a channel of grpcdial's, and of grpc-go's.
func onBoth(t *testing.T, m *management, idle time.Duration, f func(*testing.T, func() stateConn)) {
	t.Helper()
	t.Run("grpcdial", func(t *testing.T) {
		f(t, func() stateConn { return m.dial(t, grpcdial.WithIdleTimeout(idle)) })
	})
	t.Run("grpc-go", func(t *testing.T) {
		f(t, func() stateConn {
			return newGRPCClient(t, target, grpc.WithResolvers(m.builder(t)), grpc.WithIdleTimeout(idle))
		})
	})
}

// TestIdleAndBack: a channel that went idle lets its xDS client go, and the next RPC gets
// another.
func TestIdleAndBack(t *testing.T) {
	m := manage(t)
	addr := serve(t, "all")
	onBoth(t, m, 20*time.Millisecond, func(t *testing.T, dial func() stateConn) {
		cc := dial()
		for _, cluster := range []string{"one", "two", "three"} {
			m.set(t, config{routes: []*routepb.Route{to("/", cluster)}, clusters: map[string][]string{cluster: {addr}}})
			for kind, call := range kinds {
				_, err := call(soon(t), cc, "/shop.Cart/Add")
				require.NoError(t, err, kind)
				ctx := soon(t)
				for s := cc.GetState(); s != connectivity.Idle; s = cc.GetState() {
					require.True(t, cc.WaitForStateChange(ctx, s))
				}
			}
		}
	})
}

// TestGoroutines: none is left when the channel has been closed, in whatever state.
func TestGoroutines(t *testing.T) {
	m := manage(t)
	none := &management{bootstrap: bootstrap(nil, "127.0.0.1:1")}
	m.set(t, config{
		routes:   []*routepb.Route{to("/shop.Gone/", "gone"), to("/", "all")},
		clusters: map[string][]string{"all": {serve(t, "all")}, "gone": {"127.0.0.1:1"}},
	})
	for name, end := range map[string]struct {
		m *management
		f func(*testing.T, stateConn)
	}{
		"after RPCs": {m, func(t *testing.T, cc stateConn) {
			for kind, call := range kinds {
				_, err := call(soon(t), cc, "/shop.Cart/Add")
				require.NoError(t, err, kind)
				_, err = call(soon(t), cc, "/shop.Gone/Add")
				require.Equal(t, codes.Unavailable, status.Code(err), kind)
			}
		}},
		"within an RPC": {m, func(t *testing.T, cc stateConn) {
			_, err := cc.NewStream(soon(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/shop.Cart/Hang")
			require.NoError(t, err)
		}},
		"at once":              {m, func(_ *testing.T, cc stateConn) { cc.Connect() }},
		"no management server": {none, func(_ *testing.T, cc stateConn) { cc.Connect() }},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, end.m, 0, func(t *testing.T, dial func() stateConn) {
				before := runtime.NumGoroutine()
				for range 3 {
					cc := dial()
					end.f(t, cc)
					require.NoError(t, cc.Close())
				}
				for until := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
					if time.Now().After(until) {
						buf := make([]byte, 1<<20)
						t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
					}
				}
			})
		})
	}
}
