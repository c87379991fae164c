package grpcdial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// spyPolicy builds policies that do what the test says.
type spyPolicy struct {
	name    string
	update  func(s *spy, state balancer.ClientConnState) error
	closed  func(s *spy)
	build   func(s *spy)
	exit    func(s *spy)
	resolve func(s *spy, err error)
}

func (p *spyPolicy) Name() string { return p.name }

// config is the service config that asks for the policy.
func (p *spyPolicy) config() string { return policyConfig(p.name) }

func policyConfig(name string) string {
	return fmt.Sprintf(`{"loadBalancingConfig": [{%q: {}}]}`, name)
}

func (p *spyPolicy) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	s := &spy{spyPolicy: p, cc: cc, opts: opts}
	if p.build != nil {
		p.build(s)
	}
	return s
}

// spy is one such policy. busy finds calls of the policy that overlap.
type spy struct {
	*spyPolicy
	cc   balancer.ClientConn
	opts balancer.BuildOptions
	busy atomic.Bool
	sub  balancer.SubConn
}

func (s *spy) enter() func() {
	if !s.busy.CompareAndSwap(false, true) {
		panic("two calls of a policy at once")
	}
	return func() { s.busy.Store(false) }
}

func (s *spy) UpdateClientConnState(state balancer.ClientConnState) error {
	defer s.enter()()
	if s.update != nil {
		return s.update(s, state)
	}
	return nil
}

func (s *spy) ResolverError(err error) {
	defer s.enter()()
	if s.resolve != nil {
		s.resolve(s, err)
	}
}

func (s *spy) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) { defer s.enter()() }

func (s *spy) ExitIdle() {
	defer s.enter()()
	if s.exit != nil {
		s.exit(s)
	}
}

func (s *spy) Close() {
	defer s.enter()()
	if s.closed != nil {
		s.closed(s)
	}
}

// connect makes a subchannel for the addresses, connects it, and publishes its
// state as the policy's; listen is told of it first.
func (s *spy) connect(addrs []resolver.Address, listen func(balancer.SubConnState)) balancer.SubConn {
	var sc balancer.SubConn
	sc, err := s.cc.NewSubConn(addrs, balancer.NewSubConnOptions{StateListener: func(state balancer.SubConnState) {
		defer s.enter()()
		if listen != nil {
			listen(state)
		}
		s.cc.UpdateState(balancer.State{ConnectivityState: state.ConnectivityState, Picker: pickerFor(sc, state)})
	}})
	if err != nil {
		panic(err)
	}
	s.sub = sc
	sc.Connect()
	return sc
}

func pickerFor(sc balancer.SubConn, s balancer.SubConnState) balancer.Picker {
	switch s.ConnectivityState {
	case connectivity.Ready:
		return fixedPicker{sc}
	case connectivity.TransientFailure:
		return base.NewErrPicker(s.ConnectionError)
	}
	return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
}

type fixedPicker struct{ sc balancer.SubConn }

func (p fixedPicker) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{SubConn: p.sc}, nil
}

const roundRobin = `{"loadBalancingConfig": [{"round_robin": {}}]}`

func TestRoundRobin(t *testing.T) {
	backends := startBackends(t, "a", "b", "c")
	r, target, option := handResolver(t)
	r.InitialState(addresses(backends...))
	cc := plain(t, target, option, WithDefaultServiceConfig(roundRobin), fastBackoff())
	awaitNames(t, cc, "a", "b", "c")

	// One that goes is left out, and found again when it is back.
	backends[1].stop()
	awaitNames(t, cc, "a", "c")
	backends[1].start()
	awaitNames(t, cc, "a", "b", "c")

	// The resolver takes one away.
	r.UpdateState(addresses(backends[2]))
	awaitNames(t, cc, "c")
}

// awaitNames waits until RPCs in a row reach just these backends, in equal shares.
func awaitNames(t *testing.T, cc *ClientConn, names ...string) {
	t.Helper()
	eventually(t, func() bool {
		got := make(map[string]int)
		for range 10 * len(names) {
			name, err := askName(bounded(t), cc, grpc.WaitForReady(true))
			if err != nil {
				return false
			}
			got[name]++
		}
		for _, name := range names {
			if got[name] != 10 {
				return false
			}
		}
		return true
	}, fmt.Sprint("RPCs reach ", names))
}

func TestCustomPolicy(t *testing.T) {
	b := startBackend(t, "one")
	var states []connectivity.State
	closed := make(chan struct{})
	policy := &spyPolicy{
		name: t.Name(),
		update: func(s *spy, state balancer.ClientConnState) error {
			s.connect(state.ResolverState.Addresses, func(state balancer.SubConnState) { states = append(states, state.ConnectivityState) })
			return nil
		},
		closed: func(*spy) { close(closed) },
	}
	balancer.Register(policy)
	cc, err := Dial(b.addr, WithInsecure(), WithBlock(), WithDefaultServiceConfig(policy.config()))
	require.NoError(t, err)
	got, err := askName(bounded(t), cc)
	require.NoError(t, err)
	assert.Equal(t, "one", got)
	require.NoError(t, cc.Close())
	<-closed
	assert.Equal(t, []connectivity.State{connectivity.Connecting, connectivity.Ready}, states)
}

// A policy without a listener hears of its subchannels in the way of old.
func TestPolicyWithoutListener(t *testing.T) {
	b := startBackend(t, "one")
	balancer.Register(oldBuilder{t.Name()})
	cc := plain(t, b.addr, WithDefaultServiceConfig(policyConfig(t.Name())))
	got, err := askName(bounded(t), cc)
	require.NoError(t, err)
	assert.Equal(t, "one", got)
}

type oldBuilder struct{ name string }

func (b oldBuilder) Name() string { return b.name }
func (b oldBuilder) Build(cc balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	return &oldPolicy{cc: cc}
}

type oldPolicy struct {
	balancer.Balancer
	cc balancer.ClientConn
}

func (p *oldPolicy) UpdateClientConnState(s balancer.ClientConnState) error {
	sc, err := p.cc.NewSubConn(s.ResolverState.Addresses, balancer.NewSubConnOptions{})
	if err == nil {
		sc.Connect()
	}
	return err
}

func (p *oldPolicy) UpdateSubConnState(sc balancer.SubConn, s balancer.SubConnState) {
	p.cc.UpdateState(balancer.State{ConnectivityState: s.ConnectivityState, Picker: pickerFor(sc, s)})
}

func (p *oldPolicy) Close() {}

func TestPolicyBuildOptions(t *testing.T) {
	ca := h2test.NewCA(t)
	got := make(chan *spy, 1)
	policy := &spyPolicy{name: t.Name(), build: func(s *spy) { got <- s }}
	balancer.Register(policy)
	creds := credentials.NewTLS(ca.ClientConfig("backend.example"))
	cc, err := NewClient("passthrough:///x:1", WithTransportCredentials(creds), WithUserAgent("me/1"), WithContextDialer(refuse), WithDefaultServiceConfig(policy.config()))
	require.NoError(t, err)
	defer cc.Close()
	cc.Connect()
	s := <-got
	assert.Equal(t, creds.Info(), s.opts.DialCreds.Info())
	assert.Equal(t, "backend.example", s.opts.Authority)
	assert.Contains(t, s.opts.CustomUserAgent, "me/1")
	assert.Equal(t, "passthrough", s.opts.Target.URL.Scheme)
	assert.NotNil(t, s.opts.Dialer)
	assert.Equal(t, "passthrough:///x:1", s.cc.Target())
	require.NotNil(t, s.cc.MetricsRecorder())
	s.cc.MetricsRecorder().RecordInt64Count(nil, 1)
	_, err = s.cc.NewSubConn(nil, balancer.NewSubConnOptions{})
	assert.Error(t, err, "a subchannel without addresses")
}

func TestUnknownPolicies(t *testing.T) {
	b := startBackend(t, "one")
	_, err := NewClient(b.addr, WithInsecure(), WithDefaultServiceConfig(policyConfig("nobody_has_this")))
	assert.ErrorContains(t, err, "nobody_has_this")

	// In the field of old it means the default.
	cc := plain(t, b.addr, WithDefaultServiceConfig(`{"loadBalancingPolicy": "nobody_has_this"}`))
	_, err = askName(bounded(t), cc)
	assert.NoError(t, err)

	configs := make(chan ServiceConfig, 1)
	name := "nobody_has_this"
	configs <- ServiceConfig{LB: &name}
	cc = plain(t, b.addr, WithServiceConfig(configs))
	_, err = askName(bounded(t), cc)
	assert.NoError(t, err)
}

// A builder that makes no policy fails the update.
func TestPolicyThatIsNone(t *testing.T) {
	balancer.Register(noPolicy{t.Name()})
	r, target, option := handResolver(t)
	verdicts := make(chan error, 1)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
	r.UpdateStateCallback = func(err error) { verdicts <- err }
	cc := plain(t, target, option, WithDefaultServiceConfig(policyConfig(t.Name())))
	cc.Connect()
	assert.ErrorIs(t, <-verdicts, balancer.ErrBadResolverState)
}

type noPolicy struct{ name string }

func (p noPolicy) Name() string                                                       { return p.name }
func (p noPolicy) Build(balancer.ClientConn, balancer.BuildOptions) balancer.Balancer { return nil }

// The new policy takes over when it is no longer connecting; until then, RPCs
// use the old one.
func TestGracefulSwitch(t *testing.T) {
	old, next := startBackend(t, "old"), startBackend(t, "next")
	var pending, current *spy
	events := make(chan string, 100)
	first := &spyPolicy{name: t.Name() + "1", closed: func(*spy) { events <- "first closed" }, update: func(s *spy, _ balancer.ClientConnState) error {
		current = s
		s.connect([]resolver.Address{{Addr: old.addr}}, nil)
		return nil
	}}
	second := &spyPolicy{name: t.Name() + "2", closed: func(*spy) { events <- "second closed" }, update: func(s *spy, _ balancer.ClientConnState) error {
		pending = s
		s.cc.UpdateState(balancer.State{ConnectivityState: connectivity.Connecting, Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable)})
		return nil
	}}
	balancer.Register(first)
	balancer.Register(second)
	r, target, option := handResolver(t)
	cc := plain(t, target, option)
	require.NoError(t, startAndWait(cc))
	use := func(p *spyPolicy) {
		s := resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}, ServiceConfig: r.CC().ParseServiceConfig(p.config())}
		r.UpdateState(s)
	}
	name := func() string {
		t.Helper()
		name, err := askName(bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		return name
	}

	use(first)
	assert.Equal(t, "old", name())
	use(second)
	assert.Equal(t, "old", name(), "the pending policy is still connecting")
	assert.Equal(t, connectivity.Ready, cc.GetState())
	oldConn := current.sub
	pending.connect([]resolver.Address{{Addr: next.addr}}, nil)
	assert.Equal(t, "first closed", <-events)
	eventually(t, func() bool { return name() == "next" }, "the pending policy takes over")
	eventually(t, func() bool { return oldConn.(*subConn).Conn() == nil }, "the old policy's subchannels are shut down")
	assert.Equal(t, connectivity.Ready, cc.GetState())

	// What a closed policy says counts no more.
	current.cc.UpdateState(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(errors.New("from the grave"))})
	assert.Equal(t, "next", name())
	_, err := current.cc.NewSubConn([]resolver.Address{{Addr: "x:1"}}, balancer.NewSubConnOptions{})
	assert.Error(t, err)

	// Back, while the current one is not READY: at once.
	next.stop()
	awaitState(t, cc, connectivity.Idle)
	use(first)
	assert.Equal(t, "second closed", <-events)
	assert.Equal(t, "old", name())
}

// A pending policy that is replaced is closed, and the current one stays.
func TestSwitchTwice(t *testing.T) {
	b := startBackend(t, "one")
	events := make(chan string, 100)
	waiting := &spyPolicy{name: t.Name(), closed: func(*spy) { events <- "closed" }}
	balancer.Register(waiting)
	r, target, option := handResolver(t)
	cc := plain(t, target, option)
	require.NoError(t, startAndWait(cc))
	use := func(config string) {
		s := addresses(b)
		s.ServiceConfig = r.CC().ParseServiceConfig(config)
		r.UpdateState(s)
	}
	use(`{}`)
	awaitReady(t, cc)
	use(waiting.config())
	use(roundRobin)
	assert.Equal(t, "closed", <-events)
	_, err := askName(bounded(t), cc)
	assert.NoError(t, err)
}

// Switching policies while RPCs run fails none of them.
func TestSwitchUnderLoad(t *testing.T) {
	backends := startBackends(t, "a", "b", "c")
	r, target, option := handResolver(t)
	cc := plain(t, target, option)
	require.NoError(t, startAndWait(cc))
	use := func(config string) {
		s := addresses(backends...)
		s.ServiceConfig = r.CC().ParseServiceConfig(config)
		r.UpdateState(s)
	}
	use(`{}`)
	awaitReady(t, cc)

	stop := make(chan struct{})
	var load sync.WaitGroup
	var calls atomic.Int64
	for range 8 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := askName(bounded(t), cc); err != nil {
					t.Errorf("an RPC failed: %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for i := range 30 {
		use([]string{roundRobin, `{}`}[i%2])
		target := calls.Load() + 20
		eventually(t, func() bool { return calls.Load() > target || t.Failed() }, "RPCs go on")
	}
	close(stop)
	load.Wait()
}

// A config that comes from the program switches policies as well.
func TestServiceConfigChannelSwitchesPolicy(t *testing.T) {
	backends := startBackends(t, "a", "b")
	r, target, option := handResolver(t)
	r.InitialState(addresses(backends...))
	configs := make(chan ServiceConfig, 1)
	cc := plain(t, target, option, WithServiceConfig(configs))
	awaitReady(t, cc)
	name := "round_robin"
	configs <- ServiceConfig{LB: &name}
	awaitNames(t, cc, "a", "b")
}

// A connection's failure that is a status does not end RPCs that wait for ready.
func TestStatusFromADialerDoesNotEndWaitingRPCs(t *testing.T) {
	b := startBackend(t, "late")
	var ready atomic.Bool
	var dials atomic.Int32
	cc := plain(t, "x:1", fastBackoff(), WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		dials.Add(1)
		if !ready.Load() {
			return nil, status.Error(codes.PermissionDenied, "not today")
		}
		return new(net.Dialer).DialContext(ctx, "tcp", b.addr)
	}))
	_, err := askName(bounded(t), cc)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Contains(t, err.Error(), "not today")
	result := make(chan error, 1)
	go func() { _, err := askName(bounded(t), cc, grpc.WaitForReady(true)); result <- err }()
	eventually(t, func() bool { running, _ := cc.calls.Active(); return running == 1 }, "it waits")
	before := dials.Load()
	eventually(t, func() bool { return dials.Load() > before+3 }, "attempts go on")
	ready.Store(true)
	assert.NoError(t, <-result)
}

// A policy may call whatever it likes from wherever it is called.
func TestPoliciesMayCallBack(t *testing.T) {
	b := startBackend(t, "one")
	var channel atomic.Pointer[ClientConn]
	everything := func(s *spy) {
		cc := channel.Load()
		cc.GetState()
		cc.Snapshot()
		cc.ResetConnectBackoff()
		cc.GetMethodConfig("/a/b")
		cc.WaitForStateChange(context.Background(), -1)
		s.cc.ResolveNow(resolver.ResolveNowOptions{})
		s.cc.UpdateState(balancer.State{ConnectivityState: connectivity.Connecting, Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable)})
		sc, err := s.cc.NewSubConn([]resolver.Address{{Addr: b.addr}}, balancer.NewSubConnOptions{StateListener: func(balancer.SubConnState) {}})
		if err != nil {
			return // closed
		}
		sc.Connect()
		sc.UpdateAddresses([]resolver.Address{{Addr: b.addr}, {Addr: "x:1"}})
		sc.RegisterHealthListener(func(balancer.SubConnState) {})
		_, release := sc.GetOrBuildProducer(new(countingProducer))
		release()
		s.cc.RemoveSubConn(sc)
	}
	policy := &spyPolicy{
		name: t.Name(), build: everything, closed: everything, exit: everything,
		resolve: func(s *spy, _ error) { everything(s) },
		update: func(s *spy, state balancer.ClientConnState) error {
			everything(s)
			channel.Load().Connect() // comes back as ExitIdle
			if s.sub == nil {
				s.connect(state.ResolverState.Addresses, func(balancer.SubConnState) { everything(s) })
			}
			return nil
		},
	}
	balancer.Register(policy)
	r, target, option := handResolver(t)
	r.InitialState(addresses(b))
	cc := plain(t, target, option, WithDefaultServiceConfig(policy.config()))
	channel.Store(cc)
	awaitReady(t, cc)
	r.CC().ReportError(errors.New("no"))
	b.cut()
	eventually(t, func() bool { return cc.GetState() != connectivity.Ready }, "the loss is seen")
	require.NoError(t, cc.Close())
}

// ExitIdle reaches the policy when the channel itself is not idle.
func TestConnectReachesThePolicy(t *testing.T) {
	exits := make(chan struct{}, 1)
	policy := &spyPolicy{name: t.Name(), exit: func(*spy) { exits <- struct{}{} }}
	balancer.Register(policy)
	cc := plain(t, "passthrough:///x:1", WithDefaultServiceConfig(policy.config()))
	require.NoError(t, startAndWait(cc))
	cc.Connect()
	<-exits
}

// Every call of a policy comes from one goroutine at a time, whoever causes it.
func TestPolicyCallsDoNotOverlap(t *testing.T) {
	b := startBackend(t, "one")
	var sub atomic.Pointer[balancer.SubConn]
	policy := &spyPolicy{name: t.Name(), update: func(s *spy, state balancer.ClientConnState) error {
		if s.sub == nil {
			sc := s.connect(state.ResolverState.Addresses, nil)
			sub.Store(&sc)
		}
		return nil
	}}
	balancer.Register(policy)
	r, target, option := handResolver(t)
	r.InitialState(addresses(b))
	cc := plain(t, target, option, WithDefaultServiceConfig(policy.config()))
	awaitReady(t, cc)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				r.UpdateState(addresses(b))
				r.CC().ReportError(errors.New("x"))
				cc.Connect()
				(*sub.Load()).Connect()
				b.cut()
			}
		})
	}
	wg.Wait()
}
