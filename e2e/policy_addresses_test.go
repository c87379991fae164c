package e2e_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// elsewhere is a policy that has its addresses from the update's attributes, as xDS's
// policies do: a pick_first for each, the state of the channel being that of the first.
type elsewhere struct{}

type elsewhereKey struct{}

func init() { balancer.Register(elsewhere{}) }

func (elsewhere) Name() string { return "elsewhere" }

func (elsewhere) Build(cc balancer.ClientConn, o balancer.BuildOptions) balancer.Balancer {
	return &elsewherePolicy{cc: cc, opts: o}
}

type elsewherePolicy struct {
	cc       balancer.ClientConn
	opts     balancer.BuildOptions
	children []*elsewhereChild
	pickers  []balancer.Picker
	first    balancer.State
}

type elsewhereChild struct {
	balancer.ClientConn
	balancer.Balancer
	policy *elsewherePolicy
	n      int
}

func (p *elsewherePolicy) UpdateClientConnState(s balancer.ClientConnState) error {
	addrs, _ := s.ResolverState.Attributes.Value(elsewhereKey{}).([]string)
	for n, addr := range addrs {
		if n == len(p.children) {
			c := &elsewhereChild{ClientConn: p.cc, policy: p, n: n}
			p.children, p.pickers = append(p.children, c), append(p.pickers, nil)
			c.Balancer = balancer.Get(pickfirst.Name).Build(c, p.opts)
		}
		if err := p.children[n].Balancer.UpdateClientConnState(balancer.ClientConnState{ResolverState: resolver.State{
			Endpoints: []resolver.Endpoint{{Addresses: []resolver.Address{{Addr: addr}}}},
		}}); err != nil {
			return err
		}
	}
	return nil
}

func (p *elsewherePolicy) ResolverError(error)                                        {}
func (p *elsewherePolicy) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

func (p *elsewherePolicy) ExitIdle() {
	for _, c := range p.children {
		c.Balancer.ExitIdle()
	}
}

func (p *elsewherePolicy) Close() {
	for _, c := range p.children {
		c.Balancer.Close()
	}
}

// UpdateState takes a child's state: policies are called one at a time.
func (c *elsewhereChild) UpdateState(s balancer.State) {
	p := c.policy
	if p.pickers[c.n] = s.Picker; c.n == 0 {
		p.first = s
	}
	pickers := slices.Clone(p.pickers)
	p.cc.UpdateState(balancer.State{ConnectivityState: p.first.ConnectivityState, Picker: elsewherePicker(pickers)})
}

// elsewherePicker takes an RPC of the method Fail to the last of the children, others to
// the first.
type elsewherePicker []balancer.Picker

func (p elsewherePicker) Pick(i balancer.PickInfo) (balancer.PickResult, error) {
	picker := p[0]
	if i.FullMethodName == "/test.Echo/Fail" {
		picker = p[len(p)-1]
	}
	if picker == nil {
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	return picker.Pick(i)
}

// resolvedElsewhere makes a channel with the policy, and returns what sets its addresses.
func resolvedElsewhere(t *testing.T, addrs []string, opts ...grpcdial.DialOption) (cc *grpcdial.ClientConn, update func(...string)) {
	t.Helper()
	state := func(addrs []string) resolver.State {
		return resolver.State{Attributes: attributes.New(elsewhereKey{}, addrs)}
	}
	r := manual.NewBuilderWithScheme("elsewhere")
	r.InitialState(state(addrs))
	cc = newClient(t, "elsewhere:///shop", append(opts, grpcdial.WithInsecure(), grpcdial.WithResolvers(r),
		grpcdial.WithDefaultServiceConfig(backendtest.PolicyConfig("elsewhere")))...)
	return cc, func(addrs ...string) { r.UpdateState(state(addrs)) }
}

// TestAddressesFromElsewhere: an update without addresses that the policy takes is no
// failure of the resolver, and errors do not name addresses that the policy has no more.
func TestAddressesFromElsewhere(t *testing.T) {
	var failed atomic.Int64 // events of the resolver
	before, after := backendtest.UnusedAddr(t), backendtest.UnusedAddr(t)
	cc, update := resolvedElsewhere(t, []string{before}, grpcdial.WithDialTrace(&grpcdial.DialTrace{ResolveDone: func(e grpcdial.DialEvent) {
		if e.Err != nil {
			failed.Add(1)
		}
	}}))
	for _, addr := range []string{before, after} {
		var dialErr *grpcdial.DialError
		require.ErrorAs(t, cc.AwaitReady(backendtest.Bounded(t), grpcdial.GiveUpOn(func(a grpcdial.Attempt) bool {
			assert.NotEqual(t, grpcdial.PhaseResolve, a.Phase, "%v", a)
			return a.Addr == addr
		})), &dialErr)
		require.Len(t, dialErr.Attempts, 1)
		assert.Equal(t, addr, dialErr.Attempts[0].Addr)
		assert.Equal(t, grpcdial.PhaseDial, dialErr.Attempts[0].Phase)
		_, err := backendtest.CallEcho(t, cc, "Echo")
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.ErrorContains(t, err, "connection refused")
		assert.NotContains(t, err.Error(), "gave no addresses")
		update(after)
	}
	srv := backendtest.StartEcho(t)
	update(srv.Addr)
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	assert.Zero(t, failed.Load())
}

// TestOneOfManyFails: what ends an RPC is in its error, also if the channel is READY by
// other backends than those that the policy has for the RPC, or failed to reach others.
func TestOneOfManyFails(t *testing.T) {
	srv := backendtest.StartEcho(t)
	gone, other := backendtest.UnusedAddr(t), backendtest.UnusedAddr(t)
	cc, update := resolvedElsewhere(t, []string{srv.Addr, other, gone})
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	for range 5 {
		_, err := backendtest.CallEcho(t, cc, "Fail")
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.ErrorContains(t, err, gone)
		assert.ErrorContains(t, err, "connection refused")
		_, err = backendtest.CallEcho(t, cc, "Echo")
		require.NoError(t, err)
		update(srv.Addr, other, gone)
	}
}

// TestFailsAfterNothing: a resolver that gives no addresses and then says why, as xDS's does,
// has been about that since the channel left idle.
func TestFailsAfterNothing(t *testing.T) {
	missing := errors.New("the listener is missing")
	r := manual.NewBuilderWithScheme("missing")
	r.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) {
		time.Sleep(20 * time.Millisecond)
		assert.Error(t, cc.UpdateState(resolver.State{}))
		cc.ReportError(missing)
	}
	cc := newClient(t, "missing:///shop", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
	var dialErr *grpcdial.DialError
	require.ErrorAs(t, cc.AwaitReady(backendtest.Bounded(t), grpcdial.GiveUpOn(func(a grpcdial.Attempt) bool { return errors.Is(a.Err, missing) })), &dialErr)
	require.Len(t, dialErr.Attempts, 1)
	assert.GreaterOrEqual(t, dialErr.Attempts[0].Elapsed, 20*time.Millisecond)
	assert.ErrorIs(t, dialErr, missing)
}

// TestFailsWithNothing: the two in one, on a channel that was READY: no RPC fails without the
// reason, and the channel comes back.
func TestFailsWithNothing(t *testing.T) {
	srv := backendtest.StartEcho(t)
	missing := errors.New("the listener is missing")
	r := manual.NewBuilderWithScheme("missing")
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: srv.Addr}}})
	cc := newClient(t, "missing:///shop", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
	for range 3 {
		require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
		ended := make(chan error)
		go func() {
			for {
				if _, err := backendtest.CallEcho(t, cc, "Echo"); err != nil {
					ended <- err
					return
				}
			}
		}()
		assert.ErrorIs(t, r.CC().(interface {
			UpdateStateWithError(resolver.State, error) error
		}).UpdateStateWithError(resolver.State{}, missing), balancer.ErrBadResolverState)
		err := <-ended
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.ErrorContains(t, err, "the listener is missing")
		assert.ErrorIs(t, err, missing)
		r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: srv.Addr}}})
	}
}
