package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// handPolicy makes one subchannel, which the test then handles.
type handPolicy struct {
	made chan *handled // a channel of one element for each build
}

// handled is what the policy made, and the states that it heard of.
type handled struct {
	sc     balancer.SubConn
	mu     sync.Mutex
	states []connectivity.State
	marked int // how many of them the test has waited for
}

const handPolicyName = "grpcdial_test_hand"

var theHandPolicy = &handPolicy{made: make(chan *handled, 1)}

func init() { balancer.Register(theHandPolicy) }

func (*handPolicy) Name() string { return handPolicyName }

func (p *handPolicy) Build(cc balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	return &handBalancer{cc: cc, made: p.made}
}

type handBalancer struct {
	cc   balancer.ClientConn
	made chan *handled
	h    *handled
}

func (b *handBalancer) UpdateClientConnState(s balancer.ClientConnState) error {
	if b.h != nil {
		return nil
	}
	h := &handled{}
	sc, err := b.cc.NewSubConn(s.ResolverState.Addresses, balancer.NewSubConnOptions{StateListener: func(state balancer.SubConnState) {
		h.mu.Lock()
		h.states = append(h.states, state.ConnectivityState)
		h.mu.Unlock()
		b.publish(state.ConnectivityState)
	}})
	if err != nil {
		return err
	}
	h.sc, b.h = sc, h
	b.publish(connectivity.Idle)
	b.made <- h
	return nil
}

func (b *handBalancer) publish(s connectivity.State) {
	b.cc.UpdateState(balancer.State{ConnectivityState: s, Picker: handPicker{b.h.sc, s}})
}

func (*handBalancer) ResolverError(error)                                        {}
func (*handBalancer) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}
func (*handBalancer) ExitIdle()                                                  {}
func (*handBalancer) Close()                                                     {}

type handPicker struct {
	sc    balancer.SubConn
	state connectivity.State
}

func (p handPicker) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	switch p.state {
	case connectivity.Ready:
		return balancer.PickResult{SubConn: p.sc}, nil
	case connectivity.TransientFailure:
		return balancer.PickResult{}, errors.New("no")
	}
	return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
}

// seen returns the states so far.
func (h *handled) seen() []connectivity.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.states)
}

// reaches waits until the policy has heard of s, after what the test has waited for before.
func (h *handled) reaches(t *testing.T, s connectivity.State) {
	t.Helper()
	require.Eventually(t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		i := slices.Index(h.states[h.marked:], s)
		h.marked += i + 1
		return i >= 0
	}, time.Minute, time.Millisecond, "%v", s)
}

// TestSubConnSideBySide: the methods of a SubConn, called in one order and another. The
// states that a policy hears of are the same, and in the end an RPC is served, or not.
func TestSubConnSideBySide(t *testing.T) {
	one, two := backendtest.StartEcho(t), backendtest.StartEcho(t)
	hangs, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	require.NoError(t, err)
	defer hangs.Close()
	refused := h2test.RefusedAddr(t)
	list := func(addrs ...string) (all []resolver.Address) {
		for _, a := range addrs {
			all = append(all, resolver.Address{Addr: a})
		}
		return all
	}
	type step = func(*testing.T, *handled)
	to := func(addrs ...string) step {
		return func(_ *testing.T, h *handled) { h.sc.UpdateAddresses(list(addrs...)) }
	}
	connects := func(_ *testing.T, h *handled) { h.sc.Connect() }
	shuts := func(_ *testing.T, h *handled) { h.sc.Shutdown() }
	is := func(s connectivity.State) step {
		return func(t *testing.T, h *handled) { h.reaches(t, s) }
	}
	rests := func(*testing.T, *handled) { time.Sleep(50 * time.Millisecond) }
	const idle, ready, connecting, failing, shut = connectivity.Idle, connectivity.Ready, connectivity.Connecting, connectivity.TransientFailure, connectivity.Shutdown
	for _, tt := range []struct {
		name   string
		first  string
		steps  []step
		served bool
		kept   bool // the connection stays; grpc-go, which means to keep it too, makes another one
	}{
		{"another address", one.Addr, []step{connects, is(ready), to(two.Addr), is(connecting), is(ready)}, true, false},
		{"another address beside it", one.Addr, []step{connects, is(ready), to(two.Addr, one.Addr)}, true, true},
		{"no address, and the same", one.Addr, []step{connects, is(ready), to(), is(connecting), to(one.Addr), is(ready)}, true, false},
		{"no address, and the same, with Connect between", one.Addr, []step{connects, is(ready), to(), is(connecting), connects, to(one.Addr), is(ready)}, true, false},
		{"no address, and the same, with Connect after", one.Addr, []step{connects, is(ready), to(), is(connecting), to(one.Addr), connects, is(ready)}, true, false},
		{"no address, and another", one.Addr, []step{connects, is(ready), to(), is(connecting), to(two.Addr), is(ready)}, true, false},
		{"no address", one.Addr, []step{connects, is(ready), to(), is(connecting), rests}, false, false},
		{"no address twice", one.Addr, []step{connects, is(ready), to(), is(connecting), to(), rests, to(two.Addr), is(ready)}, true, false},
		{"no address before Connect", one.Addr, []step{to(), connects, is(connecting), rests, to(one.Addr), is(ready)}, true, false},
		{"another address before Connect", refused, []step{to(one.Addr), connects, is(ready)}, true, false},
		{"another address without Connect", refused, []step{to(one.Addr), rests}, false, false},
		{"another address while connecting", hangs.Addr().String(), []step{connects, is(connecting), to(one.Addr), is(ready)}, true, false},
		{"no address while connecting, and another", hangs.Addr().String(), []step{connects, is(connecting), to(), is(connecting), to(one.Addr), is(ready)}, true, false},
		{"another address after a failure", refused, []step{connects, is(failing), to(one.Addr), is(idle), connects, is(ready)}, true, false},
		{"no address after a failure, and another", refused, []step{connects, is(failing), to(), to(one.Addr), connects, is(idle), connects, is(ready)}, true, false},
		{"Shutdown without addresses", one.Addr, []step{connects, is(ready), to(), is(connecting), shuts, is(shut), to(one.Addr), connects, rests}, false, false},
		{"Shutdown", one.Addr, []step{connects, is(ready), shuts, is(shut), to(two.Addr), connects, rests}, false, false},
		{"Shutdown twice, before Connect", one.Addr, []step{shuts, is(shut), shuts, connects, rests}, false, false},
		{"Connect twice", one.Addr, []step{connects, connects, is(ready), connects}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			states := make(map[bool][]connectivity.State)
			dial := func(ctx context.Context, addr string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			}
			config := fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, handPolicyName)
			withEach(t, "passthrough:///"+tt.first, config, dial, func(t *testing.T, cc grpc.ClientConnInterface, ours bool) {
				cc.(interface{ Connect() }).Connect()
				h := <-theHandPolicy.made
				for _, step := range tt.steps {
					step(t, h)
				}
				begun := time.Now()
				err := ask(cc, map[bool]time.Duration{true: time.Minute, false: 50 * time.Millisecond}[tt.served])
				assert.Equal(t, tt.served, err == nil, "ours: %v: %v", ours, err)
				if tt.served {
					assert.Less(t, time.Since(begun), 5*time.Second)
				}
				states[ours] = h.seen()
			})
			if !tt.kept {
				assert.Equal(t, states[false], states[true])
			}
		})
	}
}
