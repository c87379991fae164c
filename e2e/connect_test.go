package e2e_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/lazy"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func at(addr string) resolver.State {
	return resolver.State{Addresses: []resolver.Address{{Addr: addr}}}
}

// The resolver is built when Connect returns, whether or not another goroutine's call
// was first: a manual one can be used.
func TestConnectBuildsTheResolver(t *testing.T) {
	for range 300 {
		r := manual.NewBuilderWithScheme("hand")
		cc, err := grpcdial.NewClient("hand:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
		require.NoError(t, err)
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				cc.Connect()
				assert.NotPanics(t, func() { r.CC() })
			})
		}
		callers.Wait()
		require.NoError(t, cc.Close())
	}
}

// What a builder's failure leads to is seen when Connect returns.
func TestConnectWithABuilderThatFails(t *testing.T) {
	for range 50 {
		cc := newClient(t, "refusing:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(refusing{}))
		cc.Connect()
		require.Equal(t, connectivity.TransientFailure, cc.GetState())
	}
}

type refusing struct{}

func (refusing) Scheme() string { return "refusing" }
func (refusing) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, errors.New("not today")
}

// lazyPickFirst is a policy that stays IDLE until ExitIdle, or an RPC.
type lazyPickFirst struct{}

func init() { balancer.Register(lazyPickFirst{}) }

func (lazyPickFirst) Name() string { return "grpcdial_test_lazy" }
func (lazyPickFirst) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	return lazy.NewBalancer(cc, opts, balancer.Get(pickfirst.Name).Build)
}

const lazyConfig = `{"loadBalancingConfig": [{"grpcdial_test_lazy": {}}]}`

// Connect, and AwaitReady, reach a policy that stays IDLE, at whatever time it comes to
// be.
func TestConnectReachesALazyPolicy(t *testing.T) {
	srv := backendtest.StartEcho(t)
	lazyByDefault := grpcdial.WithDefaultServiceConfig(lazyConfig)
	for name, tt := range map[string]struct {
		initial bool // the resolver updates from within Build
		opts    []grpcdial.DialOption
		connect func(*testing.T, *grpcdial.ClientConn, *manual.Resolver)
	}{
		"updates while it is built": {true, []grpcdial.DialOption{lazyByDefault}, func(t *testing.T, cc *grpcdial.ClientConn, _ *manual.Resolver) { cc.Connect() }},
		"AwaitReady": {true, []grpcdial.DialOption{lazyByDefault}, func(t *testing.T, cc *grpcdial.ClientConn, _ *manual.Resolver) {
			assert.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
		}},
		"updates later": {false, []grpcdial.DialOption{lazyByDefault}, func(t *testing.T, cc *grpcdial.ClientConn, r *manual.Resolver) {
			cc.Connect()
			r.UpdateState(at(srv.Addr))
		}},
		"fails first": {false, []grpcdial.DialOption{lazyByDefault}, func(t *testing.T, cc *grpcdial.ClientConn, r *manual.Resolver) {
			cc.Connect()
			r.CC().ReportError(errors.New("not yet"))
			r.UpdateState(at(srv.Addr))
		}},
		"has a bad service config first": {false, nil, func(t *testing.T, cc *grpcdial.ClientConn, r *manual.Resolver) {
			cc.Connect()
			for _, config := range []string{"{", lazyConfig} {
				s := at(srv.Addr)
				s.ServiceConfig = r.CC().ParseServiceConfig(config)
				r.UpdateState(s)
			}
		}},
		"another policy before": {false, []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`)}, func(t *testing.T, cc *grpcdial.ClientConn, r *manual.Resolver) {
			cc.Connect()
			r.UpdateState(at(h2test.RefusedAddr(t)))
			s := at(srv.Addr)
			s.ServiceConfig = r.CC().ParseServiceConfig(lazyConfig)
			r.UpdateState(s)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := manual.NewBuilderWithScheme("hand")
			if tt.initial {
				r.InitialState(at(srv.Addr))
			}
			cc := newClient(t, "hand:///x", append(tt.opts, grpcdial.WithInsecure(), grpcdial.WithResolvers(r))...)
			tt.connect(t, cc, r)
			for ctx, now := backendtest.Bounded(t), cc.GetState(); now != connectivity.Ready; now = cc.GetState() {
				require.True(t, cc.WaitForStateChange(ctx, now), "still %v", now)
			}
		})
	}
}

// A policy that was not asked stays IDLE.
func TestDialLeavesALazyPolicyIdle(t *testing.T) {
	srv := backendtest.StartEcho(t)
	r := manual.NewBuilderWithScheme("hand")
	r.InitialState(at(srv.Addr))
	cc, err := grpcdial.Dial("hand:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r), grpcdial.WithDefaultServiceConfig(lazyConfig))
	require.NoError(t, err)
	defer cc.Close()
	r.UpdateState(at(srv.Addr))
	assert.Equal(t, connectivity.Idle, cc.GetState())
	_, err = backendtest.CallEcho(t, cc, "Echo")
	assert.NoError(t, err)
}

// A Build that does not return keeps neither Connect nor Close for ever.
func TestConnectWithABuilderThatDoesNotReturn(t *testing.T) {
	release, closed := make(chan struct{}), make(chan struct{})
	r := manual.NewBuilderWithScheme("hand")
	r.BuildCallback = func(resolver.Target, resolver.ClientConn, resolver.BuildOptions) { <-release }
	r.CloseCallback = func() { close(closed) }
	cc := newClient(t, "hand:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		cc.Connect()
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		assert.ErrorIs(t, cc.AwaitReady(ctx), context.DeadlineExceeded)
		assert.NoError(t, cc.Close())
	}()
	select {
	case <-returned:
	case <-time.After(time.Minute):
		t.Error("Connect or Close does not return")
	}
	close(release)
	<-returned
	<-closed
}

// A Connect that waits for the resolver ends with Close.
func TestCloseEndsConnect(t *testing.T) {
	building, release := make(chan struct{}), make(chan struct{})
	r := manual.NewBuilderWithScheme("hand")
	r.BuildCallback = func(resolver.Target, resolver.ClientConn, resolver.BuildOptions) { close(building); <-release }
	cc := newClient(t, "hand:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
	returned := make(chan struct{})
	go func() { defer close(returned); cc.Connect() }()
	<-building
	require.NoError(t, cc.Close())
	<-returned
	close(release)
}

// observed is pick_first whose every call f is called in.
type observed struct {
	name string
	f    func()
}

func (o observed) Name() string { return o.name }
func (o observed) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	o.f()
	return &observedPolicy{balancer.Get(pickfirst.Name).Build(&observedConn{cc, o.f}, opts), o.f}
}

type observedPolicy struct {
	balancer.Balancer
	f func()
}

func (p *observedPolicy) UpdateClientConnState(s balancer.ClientConnState) error {
	p.f()
	return p.Balancer.UpdateClientConnState(s)
}
func (p *observedPolicy) ResolverError(err error) { p.f(); p.Balancer.ResolverError(err) }
func (p *observedPolicy) ExitIdle()               { p.Balancer.ExitIdle() }
func (p *observedPolicy) Close()                  { p.f(); p.Balancer.Close() }

type observedConn struct {
	balancer.ClientConn
	f func()
}

func (c *observedConn) NewSubConn(addrs []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	listener := opts.StateListener
	opts.StateListener = func(s balancer.SubConnState) { c.f(); listener(s) }
	return c.ClientConn.NewSubConn(addrs, opts)
}

// Connect may be called wherever the channel calls code of the program's. It does not
// wait there, also when the channel has just gone idle.
func TestConnectInCallbacks(t *testing.T) {
	srv := backendtest.StartEcho(t)
	backendtest.Undisturbed(t, func(t *testing.T) (bool, string) {
		var channel atomic.Pointer[grpcdial.ClientConn]
		var calls atomic.Int64
		var slowest atomic.Int64
		connect := func() {
			calls.Add(1)
			begun := time.Now()
			if cc := channel.Load(); cc != nil {
				cc.Connect()
			}
			if took := time.Since(begun); took > time.Duration(slowest.Load()) {
				slowest.Store(int64(took))
			}
		}
		policy := observed{"grpcdial_" + t.Name(), connect}
		balancer.Register(policy)
		r := manual.NewBuilderWithScheme("hand")
		r.InitialState(at(srv.Addr))
		r.BuildCallback = func(resolver.Target, resolver.ClientConn, resolver.BuildOptions) { connect() }
		r.ResolveNowCallback = func(resolver.ResolveNowOptions) { connect() }
		r.CloseCallback = connect
		r.UpdateStateCallback = func(error) { connect() }
		idle := make(chan struct{}, 100)
		trace := &grpcdial.DialTrace{
			Every: func(grpcdial.DialEvent) { connect() },
			State: func(e grpcdial.DialEvent) {
				if e.To == connectivity.Idle {
					select {
					case idle <- struct{}{}:
					default:
					}
				}
			},
		}
		cc := newClient(t, "hand:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r), grpcdial.WithIdleTimeout(10*time.Millisecond),
			grpcdial.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+policy.name+`": {}}]}`), grpcdial.WithDialTrace(trace))
		channel.Store(cc)
		for range 5 {
			require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
			<-idle
		}
		require.NoError(t, cc.Close())
		assert.Greater(t, calls.Load(), int64(50))
		took := time.Duration(slowest.Load())
		return took < 500*time.Millisecond, took.String()
	})
}
