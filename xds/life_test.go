package xds_test

import (
	"context"
	"runtime"
	"strings"
	"sync"
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
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/xds"
)

// TestListenerMissing: the management server has no listener of the target's name. What
// AwaitReady, a blocking dial and RPCs return names it.
func TestListenerMissing(t *testing.T) {
	t.Parallel() // it takes the 15 seconds that xDS clients wait for a resource
	const says = `resource "shop" of type "ListenerResource" has been removed`
	m := manage(t)
	m.set(t, config{noListen: true})
	unresolved := func(a grpcdial.Attempt) bool { return a.Phase == grpcdial.PhaseResolve }
	patient, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	waits := map[string]func() error{
		"AwaitReady":                     func() error { return m.dial(t).AwaitReady(patient) },
		"AwaitReady that gives up on it": func() error { return m.dial(t).AwaitReady(backendtest.Bounded(t), grpcdial.GiveUpOn(unresolved)) },
		"WithBlock": func() error {
			_, err := grpcdial.DialContext(patient, target, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithResolvers(xds.Wrap(m.builder(t))))
			return err
		},
		"WithBlock that gives up on it": func() error {
			_, err := grpcdial.Dial(target, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithGiveUp(unresolved), grpcdial.WithResolvers(xds.Wrap(m.builder(t))))
			return err
		},
	}
	rpcs := map[string]func() error{
		"grpcdial": func() error { _, err := ask(backendtest.Bounded(t), m.dial(t), "/shop.Cart/Add"); return err },
		"grpc-go": func() error {
			_, err := ask(backendtest.Bounded(t), newGRPCClient(t, target, grpc.WithResolvers(m.builder(t))), "/shop.Cart/Add")
			return err
		},
	}
	var ended sync.WaitGroup
	for name, wait := range waits {
		ended.Go(func() {
			err := wait()
			dialErr := (*grpcdial.DialError)(nil)
			if !assert.ErrorAs(t, err, &dialErr, name) || !assert.Len(t, dialErr.Attempts, 1, name) {
				return
			}
			assert.ErrorContains(t, err, says, name)
			assert.Equal(t, grpcdial.PhaseResolve, dialErr.Attempts[0].Phase, name)
			assert.Greater(t, dialErr.Attempts[0].Elapsed, 10*time.Second, "%s: the resolver has waited for the resource", name)
		})
	}
	for side, rpc := range rpcs {
		ended.Go(func() {
			err := rpc()
			assert.Equal(t, codes.Unavailable, status.Code(err), side)
			if side == "grpcdial" || !strings.Contains(err.Error(), "produced zero addresses") { // for a moment, on grpc-go's channel
				assert.ErrorContains(t, err, says, side)
			}
		})
	}
	ended.Wait()
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
				_, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
				require.NoError(t, err, kind)
				ctx := backendtest.Bounded(t)
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
				_, err := call(backendtest.Bounded(t), cc, "/shop.Cart/Add")
				require.NoError(t, err, kind)
				_, err = call(backendtest.Bounded(t), cc, "/shop.Gone/Add")
				require.Equal(t, codes.Unavailable, status.Code(err), kind)
			}
		}},
		"within an RPC": {m, func(t *testing.T, cc stateConn) {
			_, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/shop.Cart/Hang")
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
				for until := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
					if time.Now().After(until) {
						buf := make([]byte, 1<<20)
						t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
					}
				}
			})
		})
	}
}
