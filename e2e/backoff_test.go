package e2e_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// connectCalls are the calls of a dialer that a test puts in place of the network.
type connectCalls struct {
	running atomic.Int64 // calls that have not returned

	mu    sync.Mutex
	addrs []string
	at    []time.Time
	left  []time.Duration // until the deadline, negative: none
}

func (a *connectCalls) note(ctx context.Context, addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := time.Duration(-1)
	if d, ok := ctx.Deadline(); ok {
		left = time.Until(d)
	}
	a.addrs, a.at, a.left = append(a.addrs, addr), append(a.at, time.Now()), append(a.left, left)
}

// all returns what was tried, and the time each attempt was given.
func (a *connectCalls) all() (addrs []string, left []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.addrs), slices.Clone(a.left)
}

func (a *connectCalls) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.at)
}

// gaps returns the times between attempts.
func (a *connectCalls) gaps() []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(a.at); i++ {
		gaps = append(gaps, a.at[i].Sub(a.at[i-1]))
	}
	return gaps
}

// failing is a dialer that fails after a while.
func (a *connectCalls) failing(after time.Duration) dialer {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		a.note(ctx, addr)
		a.running.Add(1)
		defer a.running.Add(-1)
		select {
		case <-time.After(after):
			return nil, errors.New("no")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dialer is a program's own, for WithContextDialer.
type dialer func(ctx context.Context, addr string) (net.Conn, error)

// inBubble makes a channel in a synctest bubble, with d in place of the network.
func inBubble(t *testing.T, d dialer, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	return inBubbleTo(t, "passthrough:///x:1", d, opts...)
}

func inBubbleTo(t *testing.T, target string, d dialer, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	cc, err := grpcdial.NewClient(target, append([]grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithIdleTimeout(0), grpcdial.WithContextDialer(d)}, opts...)...)
	require.NoError(t, err)
	return cc
}

// gRPC's connection-backoff document: from the start of one attempt to the
// start of the next.
func TestBackoffBetweenAttempts(t *testing.T) {
	for name, after := range map[string]time.Duration{"failing at once": 0, "failing after a while": 500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a connectCalls
				cc := inBubble(t, a.failing(after))
				defer cc.Close()
				cc.Connect()
				time.Sleep(30 * time.Minute)
				synctest.Wait()
				want := time.Second
				gaps := a.gaps()
				require.Greater(t, len(gaps), 20)
				for i, gap := range gaps {
					jitter := float64(want) * 0.2
					if i == 0 {
						jitter = 0
					}
					assert.InDelta(t, want, gap, jitter+float64(time.Millisecond), "gap %d", i)
					want = min(time.Duration(float64(want)*1.6), 120*time.Second)
				}
			})
		})
	}
}

// An attempt gets 20 seconds, or as long as the back-off.
func TestMinConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a connectCalls
		cc := inBubble(t, a.failing(time.Hour))
		defer cc.Close()
		cc.Connect()
		time.Sleep(time.Hour)
		synctest.Wait()
		_, left := a.all()
		assert.Equal(t, 20*time.Second, left[0])
		assert.Equal(t, 20*time.Second, a.gaps()[0], "the next one follows at once: the back-off is over")
		assert.InDelta(t, 120*time.Second, left[len(left)-1], float64(24*time.Second))
	})
	synctest.Test(t, func(t *testing.T) {
		var a connectCalls
		p := grpcdial.ConnectParams{MinConnectTimeout: 3 * time.Second}
		p.Backoff.BaseDelay, p.Backoff.MaxDelay = time.Second, time.Second
		cc := inBubble(t, a.failing(time.Hour), grpcdial.WithConnectParams(p))
		defer cc.Close()
		cc.Connect()
		time.Sleep(time.Minute)
		synctest.Wait()
		_, left := a.all()
		assert.Equal(t, 3*time.Second, left[0])
	})
}

// ResetConnectBackoff ends a wait, and the delays begin anew.
func TestResetConnectBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a connectCalls
		cc := inBubble(t, a.failing(0))
		defer cc.Close()
		cc.Connect()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		n := a.count()
		require.Equal(t, connectivity.TransientFailure, cc.GetState())
		cc.ResetConnectBackoff()
		synctest.Wait()
		require.Equal(t, n+1, a.count(), "at once")
		time.Sleep(1001 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, n+2, a.count(), "after the first delay")
	})
}

// The addresses of one subchannel are tried in order, within one attempt.
func TestAddressGroupIsTriedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a connectCalls
		states := make(chan balancer.SubConnState, 100)
		policy := groupPolicy(t.Name(), states)
		cc := inBubbleTo(t, "hand:///x", a.failing(time.Second), grpcdial.WithDefaultServiceConfig(policy.Config()), grpcdial.WithResolvers(group("a:1", "b:1", "c:1")))
		defer cc.Close()
		cc.Connect()
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		addrs, left := a.all()
		assert.Equal(t, []string{"a:1", "b:1", "c:1"}, addrs)
		assert.Equal(t, []time.Duration{20 * time.Second / 3, 19 * time.Second / 2, 18 * time.Second}, left, "shares of one time-out for all")
		assert.Equal(t, connectivity.Connecting, (<-states).ConnectivityState)
		failed := <-states
		assert.Equal(t, connectivity.TransientFailure, failed.ConnectivityState)
		for _, addr := range addrs {
			assert.ErrorContains(t, failed.ConnectionError, addr)
		}
		assert.Equal(t, connectivity.Idle, (<-states).ConnectivityState, "the back-off of 1 s is over")
		assert.Empty(t, states, "an idle subchannel does not connect by itself")
	})
}

// An address of a subchannel that takes connections and says nothing leaves time for the
// one after it.
func TestSilentAddressOfAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		policy := groupPolicy(t.Name(), states)
		cc := inBubbleTo(t, "hand:///x", func(ctx context.Context, addr string) (net.Conn, error) {
			if addr == "silent:1" {
				return backendtest.Hang(ctx, addr)
			}
			client, server := h2test.Pipe(t)
			server.Go(func(c *h2test.Conn) {
				c.Lenient()
				c.Handshake()
			})
			return client, nil
		}, grpcdial.WithDefaultServiceConfig(policy.Config()), grpcdial.WithResolvers(group("silent:1", "b:1")))
		defer cc.Close()
		cc.Connect()
		time.Sleep(10*time.Second - 1)
		synctest.Wait()
		require.Len(t, states, 1)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Len(t, states, 2, "half of the 20 s of an attempt are over")
		backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
	})
}

// group is a resolver that gives one endpoint with these addresses.
func group(addrs ...string) *manual.Resolver {
	r := manual.NewBuilderWithScheme("hand")
	var s resolver.State
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: a})
	}
	r.InitialState(s)
	return r
}

// groupPolicy connects all addresses as one subchannel, once, and sends its states on
// states.
func groupPolicy(name string, states chan<- balancer.SubConnState) *backendtest.SpyPolicy {
	p := &backendtest.SpyPolicy{As: name, OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
		if s.Sub == nil {
			s.Connect(state.ResolverState.Addresses, func(state balancer.SubConnState) { states <- state })
		}
		return nil
	}}
	balancer.Register(p)
	return p
}

func TestShutdownWhileConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a connectCalls
		states := make(chan balancer.SubConnState, 100)
		subs := make(chan balancer.SubConn, 1)
		p := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
			subs <- s.Connect(state.ResolverState.Addresses, func(state balancer.SubConnState) { states <- state })
			return nil
		}}
		balancer.Register(p)
		cc := inBubble(t, a.failing(time.Hour), grpcdial.WithDefaultServiceConfig(p.Config()))
		defer cc.Close()
		cc.Connect()
		sc := <-subs
		backendtest.ExpectStates(t, states, connectivity.Connecting)
		sc.Shutdown()
		synctest.Wait()
		backendtest.ExpectStates(t, states, connectivity.Shutdown)
		assert.Empty(t, states)
		assert.Zero(t, a.running.Load(), "the attempt is given up")
		assert.Empty(t, backendtest.Ours())
	})
}

// Too many pings make the next connection's keepalive slower.
func TestTooManyPingsDoublesKeepalive(t *testing.T) {
	srv := h2test.Listen(t)
	seen := make(chan struct{})
	srv.Script(func(c *h2test.Conn) {
		c.Handshake()
		<-seen
		c.GoAway(0, http2.ErrCodeEnhanceYourCalm, "too_many_pings")
	})
	cc := plain(t, srv.Addr(), grpcdial.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}), fastBackoff())
	next := watched(t, cc)
	for _, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute} {
		cc.ResetConnectBackoff()
		cc.Connect()
		next(connectivity.Ready)
		var used []time.Duration
		for _, e := range cc.Snapshot().Endpoints {
			if e.State == connectivity.Ready {
				used = append(used, e.Keepalive.Time)
			}
		}
		assert.Equal(t, []time.Duration{want}, used)
		seen <- struct{}{}
		next(connectivity.Idle)
	}
}
