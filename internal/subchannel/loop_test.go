package subchannel

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// The life of a loop whose attempt fails, and of the next one, whose attempt succeeds and
// whose connection is lost.
func TestLoop(t *testing.T) {
	b := backendtest.Start(t, "one")
	h := newFakeHost(t)
	refused := errors.New("refused")
	fails := true
	h.connect = func(ctx context.Context, cfg *connect.Config, addr resolver.Address, name string) (*h2.Conn, error) {
		if fails {
			fails = false
			return nil, refused
		}
		return connect.Connect(ctx, cfg, addr, name)
	}
	sc := h.newSubchannel(balancer.NewSubConnOptions{}, b.Addr)
	failed := h.expect(connectivity.Connecting, connectivity.TransientFailure)
	assert.ErrorIs(t, failed.ConnectionError, refused)
	assert.Nil(t, sc.Transport())
	h.expect(connectivity.Idle)
	sc.Connect()
	h.expect(connectivity.Connecting, connectivity.Ready)
	assert.NotNil(t, sc.Transport())
	assert.Equal(t, 1, h.group.Ready())
	require.NoError(t, h.ask(sc))
	b.Cut()
	h.expect(connectivity.Idle)
	assert.Nil(t, sc.Transport())
	assert.Zero(t, h.group.Ready())
	backendtest.Eventually(t, func() bool { return h.group.Loops() == 0 }, "no goroutine is left")
	h.mu.Lock()
	defer h.mu.Unlock()
	assert.Equal(t, []string{"failed", "resolve", "back-off", "ready", "lost", "resolve"}, h.events)
}

// A channel that is closed ends an attempt, and waits for it.
func TestCloseWhileConnecting(t *testing.T) {
	h := newFakeHost(t)
	begun := make(chan struct{})
	h.connect = func(ctx context.Context, _ *connect.Config, _ resolver.Address, _ string) (*h2.Conn, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	sc := h.newSubchannel(balancer.NewSubConnOptions{}, "a:1")
	<-begun
	h.close()
	assert.Zero(t, h.group.Loops())
	sc.Connect()
	assert.Zero(t, h.group.Loops(), "none begins")
	assert.Contains(t, h.events, "interrupted")
}

// A connection that was of use makes the back-off begin anew.
func TestBackoffBeginsAnew(t *testing.T) {
	for name, tt := range map[string]struct {
		lasts time.Duration
		rpc   bool
		want  int
	}{
		"lasted a second": {lasts: 1100 * time.Millisecond, want: 0},
		"served an RPC":   {rpc: true, want: 0},
		"neither":         {want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := backendtest.Start(t, "one")
			h := newFakeHost(t)
			sc := h.newSubchannel(balancer.NewSubConnOptions{}, b.Addr)
			h.expect(connectivity.Connecting, connectivity.Ready)
			if tt.rpc {
				require.NoError(t, h.ask(sc))
			}
			sc.mu.Lock()
			sc.conns[0].since = sc.conns[0].since.Add(-tt.lasts) // it has been up for as long
			sc.mu.Unlock()
			b.Cut()
			h.expect(connectivity.Idle)
			sc.mu.Lock()
			defer sc.mu.Unlock()
			assert.Equal(t, tt.want, sc.record.failures)
		})
	}
}

// A health report that was on its way when the policy shut the subchannel down does not
// bring it back.
func TestHealthReportAfterShutdown(t *testing.T) {
	b := backendtest.Start(t, "one")
	h := newFakeHost(t)
	service := "checked"
	h.service = &service
	sc := h.newSubchannel(balancer.NewSubConnOptions{HealthCheckEnabled: true}, b.Addr)
	backendtest.Eventually(t, func() bool { sc.mu.Lock(); defer sc.mu.Unlock(); return sc.check != nil }, "a connection")
	sc.mu.Lock()
	w := sc.check
	sc.mu.Unlock()
	sc.Shutdown()
	sc.checked(w, connectivity.Ready, nil)
	assert.Nil(t, sc.Transport())
	sc.mu.Lock()
	defer sc.mu.Unlock()
	assert.Equal(t, connectivity.Shutdown, sc.state)
}

// Loops returns how many connection loops run: attempts, back-offs and connections,
// draining ones too.
func (g *Group) Loops() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.loops)
}
