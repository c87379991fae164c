package xds_test

import (
	"runtime"
	"testing"
	"time"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial"
)

// TestIdleAndBack: a channel that went idle lets its xDS client go, and the next RPC gets
// another.
func TestIdleAndBack(t *testing.T) {
	m := manage(t)
	m.set(t, config{routes: []*routepb.Route{to("/", "all")}, clusters: map[string][]string{"all": {serve(t, "all")}}})
	cc := m.dial(t, grpcdial.WithIdleTimeout(20*time.Millisecond))
	for range 3 {
		_, err := ask(soon(t), cc, "/shop.Cart/Add")
		require.NoError(t, err)
		ctx := soon(t)
		for s := cc.GetState(); s != connectivity.Idle; s = cc.GetState() {
			require.True(t, cc.WaitForStateChange(ctx, s))
		}
	}
}

// TestGoroutines: none is left when the channel has been closed.
func TestGoroutines(t *testing.T) {
	m := manage(t)
	m.set(t, config{routes: []*routepb.Route{to("/", "all")}, clusters: map[string][]string{"all": {serve(t, "all")}}})
	before := runtime.NumGoroutine()
	for range 3 {
		cc := m.dial(t)
		require.NoError(t, cc.AwaitReady(soon(t)))
		for _, call := range kinds {
			_, err := call(soon(t), cc, "/shop.Cart/Add")
			require.NoError(t, err)
		}
		require.NoError(t, cc.Close())
	}
	for until := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
