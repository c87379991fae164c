package e2e_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// twice picks the backend of addr two times of three, then another one.
type twice struct {
	addr  string
	picks *atomic.Int64
}

func (t twice) Build(info base.PickerBuildInfo) balancer.Picker {
	var favoured, other balancer.SubConn
	for sc, i := range info.ReadySCs {
		if i.Address.Addr == t.addr {
			favoured = sc
		} else {
			other = sc
		}
	}
	if favoured == nil || other == nil {
		return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
	}
	return pickFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
		if t.picks.Add(1)%3 == 0 {
			return balancer.PickResult{SubConn: other}, nil
		}
		return balancer.PickResult{SubConn: favoured}, nil
	})
}

type pickFunc func(balancer.PickInfo) (balancer.PickResult, error)

func (f pickFunc) Pick(i balancer.PickInfo) (balancer.PickResult, error) { return f(i) }

// TestHedgePrefersAnotherBackend: a hedge asks the policy again if it gives the backend
// that the RPC has used already.
func TestHedgePrefersAnotherBackend(t *testing.T) {
	slow := serveScript(t, func(ctx context.Context, _ int) error { return hang(ctx) })
	fast := serveScript(t, func(context.Context, int) error { return nil })
	balancer.Register(base.NewBalancerBuilder(t.Name(), twice{slow.addr, new(atomic.Int64)}, base.Config{}))
	policy := grpcdial.HedgingPolicy{MaxAttempts: 2, HedgingDelay: 10 * time.Millisecond}
	cc := newClient(t, "ipv4:"+slow.addr+","+fast.addr, grpcdial.WithInsecure(), grpcdial.WithDefaultConfig(grpcdial.ServiceConfig{
		LoadBalancing:  []grpcdial.LoadBalancingPolicy{{Name: t.Name()}},
		MethodSettings: []grpcdial.MethodSettings{{Names: []grpcdial.MethodName{{}}, Hedging: &policy}},
	}))
	cc.Connect()
	backendtest.Eventually(t, func() bool { return len(inUse(cc)) == 2 }, "both backends are READY")
	_, err := backendtest.CallEcho(t, cc, "Echo")
	require.NoError(t, err)
	backendtest.Eventually(t, func() bool { return slow.calls.Load() == 1 }, "the slow backend has had the first attempt")
	assert.Equal(t, []string{"1"}, fast.attempts())
}

// TestHedgesThatWaitedTogether: attempts that wait for the first connection, and pick at the
// same time, go to different backends.
func TestHedgesThatWaitedTogether(t *testing.T) {
	slow := serveScript(t, func(ctx context.Context, _ int) error { return hang(ctx) })
	fast := serveScript(t, func(context.Context, int) error { return nil })
	picks := new(atomic.Int64)
	balancer.Register(base.NewBalancerBuilder(t.Name(), twice{slow.addr, picks}, base.Config{}))
	policy := grpcdial.HedgingPolicy{MaxAttempts: 2}
	for range 20 {
		cc := newClient(t, "ipv4:"+slow.addr+","+fast.addr, grpcdial.WithInsecure(), grpcdial.WithDefaultConfig(grpcdial.ServiceConfig{
			LoadBalancing:  []grpcdial.LoadBalancingPolicy{{Name: t.Name()}},
			MethodSettings: []grpcdial.MethodSettings{{Names: []grpcdial.MethodName{{}}, Hedging: &policy}},
		}))
		picks.Store(0)
		_, err := backendtest.CallEcho(t, cc, "Echo")
		require.NoError(t, err)
		require.NoError(t, cc.Close())
	}
}

// TestHedgePrefersAnotherBackendToAnotherConnection: one of several connections to the
// backend that the RPC has used is no other backend.
func TestHedgePrefersAnotherBackendToAnotherConnection(t *testing.T) {
	for kind, invoke := range hedgeable {
		t.Run(kind, func(t *testing.T) {
			slow := serveScript(t, func(ctx context.Context, _ int) error { return hang(ctx) }, grpc.MaxConcurrentStreams(1))
			fast := serveScript(t, func(context.Context, int) error { return nil })
			picks := new(atomic.Int64)
			balancer.Register(base.NewBalancerBuilder(t.Name(), twice{slow.addr, picks}, base.Config{}))
			policy := grpcdial.HedgingPolicy{MaxAttempts: 2, HedgingDelay: 10 * time.Millisecond}
			cc := newClient(t, "ipv4:"+slow.addr+","+fast.addr, grpcdial.WithInsecure(), grpcdial.WithMaxConnectionsPerSubchannel(3), grpcdial.WithDefaultConfig(grpcdial.ServiceConfig{
				LoadBalancing:  []grpcdial.LoadBalancingPolicy{{Name: t.Name()}},
				MethodSettings: []grpcdial.MethodSettings{{Names: []grpcdial.MethodName{{Service: "test.Echo"}}, Hedging: &policy}},
			}))
			awaitReady(t, cc)
			backendtest.Eventually(t, func() bool { return len(inUse(cc)) == 2 }, "both backends are READY")
			picks.Store(0)
			first := hold(t, cc, 1)
			backendtest.Eventually(t, func() bool { return slow.calls.Load() == 1 }, "one RPC on the slow backend")
			second := hold(t, cc, 1)
			backendtest.Eventually(t, func() bool { return slow.calls.Load() == 2 }, "one more, on another connection")
			first.stop()
			second.stop()
			assert.Len(t, inUse(cc), 3)
			picks.Store(0)
			reply, err := invoke(backendtest.Bounded(t), cc, "hello")
			require.NoError(t, err)
			assert.Contains(t, reply, "hello")
			assert.Equal(t, []string{"1"}, fast.attempts())
			backendtest.Eventually(t, func() bool { return slow.calls.Load() == 3 }, "the slow backend has had the first attempt only")
		})
	}
}

// TestRequestTooLargeToHedge: a request that is larger than what an RPC may keep for
// another attempt is sent once.
func TestRequestTooLargeToHedge(t *testing.T) {
	all := make(chan struct{}) // closed when the small request has its three attempts
	s := serveScript(t, func(ctx context.Context, n int) error {
		switch {
		case n == 3:
			close(all)
		case n > 3:
			time.Sleep(50 * time.Millisecond) // for others that there must not be
		}
		select {
		case <-all:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 3}, nil, []*scripted{s})
	for _, tt := range []struct{ size, attempts int }{{100, 3}, {300 << 10, 1}} {
		before := s.calls.Load()
		reply := new(wrapperspb.StringValue)
		require.NoError(t, cc.Invoke(backendtest.Bounded(t), "/test.S/Echo", wrapperspb.String(strings.Repeat("x", tt.size)), reply))
		assert.Len(t, reply.Value, tt.size)
		assert.EqualValues(t, tt.attempts, s.calls.Load()-before)
	}
}
