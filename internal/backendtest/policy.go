package backendtest

import (
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
)

// SpyPolicy builds policies that do what the test says.
type SpyPolicy struct {
	As         string
	OnUpdate   func(s *Spy, state balancer.ClientConnState) error
	OnClose    func(s *Spy)
	OnBuild    func(s *Spy)
	OnExitIdle func(s *Spy)
	OnError    func(s *Spy, err error)
}

func (p *SpyPolicy) Name() string { return p.As }

// Config is the service config that asks for the policy.
func (p *SpyPolicy) Config() string { return PolicyConfig(p.As) }

// PolicyConfig is the service config that asks for a policy.
func PolicyConfig(name string) string {
	return fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, name)
}

func (p *SpyPolicy) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	s := &Spy{SpyPolicy: p, CC: cc, Opts: opts}
	if p.OnBuild != nil {
		p.OnBuild(s)
	}
	return s
}

// Spy is one such policy. busy finds calls of the policy that overlap.
type Spy struct {
	*SpyPolicy
	CC   balancer.ClientConn
	Opts balancer.BuildOptions
	busy atomic.Bool
	Sub  balancer.SubConn
}

func (s *Spy) enter() func() {
	if !s.busy.CompareAndSwap(false, true) {
		panic("two calls of a policy at once")
	}
	return func() { s.busy.Store(false) }
}

func (s *Spy) UpdateClientConnState(state balancer.ClientConnState) error {
	defer s.enter()()
	if s.OnUpdate != nil {
		return s.OnUpdate(s, state)
	}
	return nil
}

func (s *Spy) ResolverError(err error) {
	defer s.enter()()
	if s.OnError != nil {
		s.OnError(s, err)
	}
}

func (s *Spy) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) { defer s.enter()() }

func (s *Spy) ExitIdle() {
	defer s.enter()()
	if s.OnExitIdle != nil {
		s.OnExitIdle(s)
	}
}

func (s *Spy) Close() {
	defer s.enter()()
	if s.OnClose != nil {
		s.OnClose(s)
	}
}

// Connect makes a subchannel for the addresses, connects it, and publishes its
// state as the policy's, after a call of listen with it.
func (s *Spy) Connect(addrs []resolver.Address, listen func(balancer.SubConnState)) balancer.SubConn {
	var sc balancer.SubConn
	sc, err := s.CC.NewSubConn(addrs, balancer.NewSubConnOptions{StateListener: func(state balancer.SubConnState) {
		defer s.enter()()
		if listen != nil {
			listen(state)
		}
		s.CC.UpdateState(balancer.State{ConnectivityState: state.ConnectivityState, Picker: PickerFor(sc, state)})
	}})
	if err != nil {
		panic(err)
	}
	s.Sub = sc
	sc.Connect()
	return sc
}

// PickerFor returns the picker of a policy that has one subchannel, in its state.
func PickerFor(sc balancer.SubConn, s balancer.SubConnState) balancer.Picker {
	switch s.ConnectivityState {
	case connectivity.Ready:
		return FixedPicker{sc: sc}
	case connectivity.TransientFailure:
		return base.NewErrPicker(s.ConnectionError)
	}
	return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
}

// FixedPicker picks one subchannel always.
type FixedPicker struct{ sc balancer.SubConn }

func (p FixedPicker) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{SubConn: p.sc}, nil
}

// RoundRobin is the service config that asks for round_robin.
const RoundRobin = `{"loadBalancingConfig": [{"round_robin": {}}]}`
