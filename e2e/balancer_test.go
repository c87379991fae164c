package e2e_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestRoundRobin(t *testing.T) {
	backends := backendtest.StartAll(t, "a", "b", "c")
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(backends...))
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin), fastBackoff())
	backendtest.AwaitNames(t, cc, "a", "b", "c")

	// One that goes is left out, and found again when it is back.
	backends[1].Stop()
	backendtest.AwaitNames(t, cc, "a", "c")
	backends[1].Start()
	backendtest.AwaitNames(t, cc, "a", "b", "c")

	// The resolver takes one away.
	r.UpdateState(backendtest.Addresses(backends[2]))
	backendtest.AwaitNames(t, cc, "c")
}

func TestCustomPolicy(t *testing.T) {
	b := backendtest.Start(t, "one")
	var states []connectivity.State
	closed := make(chan struct{})
	policy := &backendtest.SpyPolicy{
		As: t.Name(),
		OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
			s.Connect(state.ResolverState.Addresses, func(state balancer.SubConnState) { states = append(states, state.ConnectivityState) })
			return nil
		},
		OnClose: func(*backendtest.Spy) { close(closed) },
	}
	balancer.Register(policy)
	cc, err := grpcdial.Dial(b.Addr, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithDefaultServiceConfig(policy.Config()))
	require.NoError(t, err)
	got, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	assert.Equal(t, "one", got)
	require.NoError(t, cc.Close())
	<-closed
	assert.Equal(t, []connectivity.State{connectivity.Connecting, connectivity.Ready}, states)
}

// A policy without a listener hears of its subchannels in the way of old.
func TestPolicyWithoutListener(t *testing.T) {
	b := backendtest.Start(t, "one")
	balancer.Register(oldBuilder{t.Name()})
	cc := plain(t, b.Addr, grpcdial.WithDefaultServiceConfig(backendtest.PolicyConfig(t.Name())))
	got, err := backendtest.AskName(backendtest.Bounded(t), cc)
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
	p.cc.UpdateState(balancer.State{ConnectivityState: s.ConnectivityState, Picker: backendtest.PickerFor(sc, s)})
}

func (p *oldPolicy) Close() {}

func TestPolicyBuildOptions(t *testing.T) {
	ca := h2test.NewCA(t)
	got := make(chan *backendtest.Spy, 1)
	policy := &backendtest.SpyPolicy{As: t.Name(), OnBuild: func(s *backendtest.Spy) { got <- s }}
	balancer.Register(policy)
	creds := credentials.NewTLS(ca.ClientConfig("backend.example"))
	cc, err := grpcdial.NewClient("passthrough:///x:1", grpcdial.WithTransportCredentials(creds), grpcdial.WithUserAgent("me/1"), grpcdial.WithContextDialer(backendtest.Refuse), grpcdial.WithDefaultServiceConfig(policy.Config()))
	require.NoError(t, err)
	defer cc.Close()
	cc.Connect()
	s := <-got
	assert.Equal(t, creds.Info(), s.Opts.DialCreds.Info())
	assert.Equal(t, "backend.example", s.Opts.Authority)
	assert.Contains(t, s.Opts.CustomUserAgent, "me/1")
	assert.Equal(t, "passthrough", s.Opts.Target.URL.Scheme)
	assert.NotNil(t, s.Opts.Dialer)
	assert.Equal(t, "passthrough:///x:1", s.CC.Target())
	require.NotNil(t, s.CC.MetricsRecorder())
	s.CC.MetricsRecorder().RecordInt64Count(nil, 1)
	_, err = s.CC.NewSubConn(nil, balancer.NewSubConnOptions{})
	assert.Error(t, err, "a subchannel without addresses")
}

func TestUnknownPolicies(t *testing.T) {
	b := backendtest.Start(t, "one")
	_, err := grpcdial.NewClient(b.Addr, grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(backendtest.PolicyConfig("nobody_has_this")))
	assert.ErrorContains(t, err, "nobody_has_this")

	// In the field of old it means the default.
	cc := plain(t, b.Addr, grpcdial.WithDefaultServiceConfig(`{"loadBalancingPolicy": "nobody_has_this"}`))
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	assert.NoError(t, err)

	configs := make(chan grpcdial.ServiceConfig, 1)
	name := "nobody_has_this"
	configs <- grpcdial.ServiceConfig{LB: &name}
	cc = plain(t, b.Addr, grpcdial.WithServiceConfig(configs))
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	assert.NoError(t, err)
}

// A builder that makes no policy fails the update.
func TestPolicyThatIsNone(t *testing.T) {
	balancer.Register(noPolicy{t.Name()})
	r, target, option := handResolver(t)
	verdicts := make(chan error, 1)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
	r.UpdateStateCallback = func(err error) { verdicts <- err }
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.PolicyConfig(t.Name())))
	cc.Connect()
	assert.ErrorIs(t, <-verdicts, balancer.ErrBadResolverState)
}

type noPolicy struct{ name string }

func (p noPolicy) Name() string { return p.name }

func (p noPolicy) Build(balancer.ClientConn, balancer.BuildOptions) balancer.Balancer { return nil }

// The new policy takes over when it is no longer connecting; until then, RPCs
// use the old one.
func TestGracefulSwitch(t *testing.T) {
	old, next := backendtest.Start(t, "old"), backendtest.Start(t, "next")
	var pending, current *backendtest.Spy
	events := make(chan string, 100)
	first := &backendtest.SpyPolicy{As: t.Name() + "1", OnClose: func(*backendtest.Spy) { events <- "first closed" }, OnUpdate: func(s *backendtest.Spy, _ balancer.ClientConnState) error {
		current = s
		s.Connect([]resolver.Address{{Addr: old.Addr}}, nil)
		return nil
	}}
	second := &backendtest.SpyPolicy{As: t.Name() + "2", OnClose: func(*backendtest.Spy) { events <- "second closed" }, OnUpdate: func(s *backendtest.Spy, _ balancer.ClientConnState) error {
		pending = s
		s.CC.UpdateState(balancer.State{ConnectivityState: connectivity.Connecting, Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable)})
		return nil
	}}
	balancer.Register(first)
	balancer.Register(second)
	r, target, option := handResolver(t)
	cc := plain(t, target, option)
	cc.Connect()
	use := func(p *backendtest.SpyPolicy) {
		s := resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}, ServiceConfig: r.CC().ParseServiceConfig(p.Config())}
		r.UpdateState(s)
	}
	name := func() string {
		t.Helper()
		name, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		return name
	}

	use(first)
	assert.Equal(t, "old", name())
	use(second)
	assert.Equal(t, "old", name(), "the pending policy is still connecting")
	assert.Equal(t, connectivity.Ready, cc.GetState())
	pending.Connect([]resolver.Address{{Addr: next.Addr}}, nil)
	assert.Equal(t, "first closed", <-events)
	backendtest.Eventually(t, func() bool { return name() == "next" }, "the pending policy takes over")
	backendtest.AwaitOurs(t, 1) // the old policy's subchannel is shut down
	assert.Equal(t, connectivity.Ready, cc.GetState())

	// What a closed policy says counts no more.
	current.CC.UpdateState(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(errors.New("from the grave"))})
	assert.Equal(t, "next", name())
	_, err := current.CC.NewSubConn([]resolver.Address{{Addr: "x:1"}}, balancer.NewSubConnOptions{})
	assert.Error(t, err)

	// Back, while the current one is not READY: at once.
	next.Stop()
	awaitState(t, cc, connectivity.Idle)
	use(first)
	assert.Equal(t, "second closed", <-events)
	assert.Equal(t, "old", name())
}

// A pending policy that is replaced is closed, and the current one stays.
func TestSwitchTwice(t *testing.T) {
	b := backendtest.Start(t, "one")
	events := make(chan string, 100)
	waiting := &backendtest.SpyPolicy{As: t.Name(), OnClose: func(*backendtest.Spy) { events <- "closed" }}
	balancer.Register(waiting)
	r, target, option := handResolver(t)
	cc := plain(t, target, option)
	cc.Connect()
	use := func(config string) {
		s := backendtest.Addresses(b)
		s.ServiceConfig = r.CC().ParseServiceConfig(config)
		r.UpdateState(s)
	}
	use(`{}`)
	awaitReady(t, cc)
	use(waiting.Config())
	use(backendtest.RoundRobin)
	assert.Equal(t, "closed", <-events)
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assert.NoError(t, err)
}

// Switching policies while RPCs run fails none of them.
func TestSwitchUnderLoad(t *testing.T) {
	backends := backendtest.StartAll(t, "a", "b", "c")
	r, target, option := handResolver(t)
	cc := plain(t, target, option)
	cc.Connect()
	use := func(config string) {
		s := backendtest.Addresses(backends...)
		s.ServiceConfig = r.CC().ParseServiceConfig(config)
		r.UpdateState(s)
	}
	use(`{}`)
	awaitReady(t, cc)

	var calls atomic.Int64
	stop := backendtest.Repeat(8, func() bool {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		calls.Add(1)
		return assert.NoError(t, err)
	})
	for i := range 30 {
		use([]string{backendtest.RoundRobin, `{}`}[i%2])
		target := calls.Load() + 20
		backendtest.Eventually(t, func() bool { return calls.Load() > target || t.Failed() }, "RPCs go on")
	}
	stop()
}

// A config that comes from the program switches policies as well.
func TestServiceConfigChannelSwitchesPolicy(t *testing.T) {
	backends := backendtest.StartAll(t, "a", "b")
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(backends...))
	configs := make(chan grpcdial.ServiceConfig, 1)
	cc := plain(t, target, option, grpcdial.WithServiceConfig(configs))
	awaitReady(t, cc)
	name := "round_robin"
	configs <- grpcdial.ServiceConfig{LB: &name}
	backendtest.AwaitNames(t, cc, "a", "b")
}

// A connection's failure that is a status does not end RPCs that wait for ready.
func TestStatusFromADialerDoesNotEndWaitingRPCs(t *testing.T) {
	b := backendtest.Start(t, "late")
	var ready atomic.Bool
	var dials atomic.Int32
	cc := plain(t, "x:1", fastBackoff(), grpcdial.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		dials.Add(1)
		if !ready.Load() {
			return nil, status.Error(codes.PermissionDenied, "not today")
		}
		return new(net.Dialer).DialContext(ctx, "tcp", b.Addr)
	}))
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Contains(t, err.Error(), "not today")
	result := make(chan error, 1)
	go func() {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		result <- err
	}()
	backendtest.Eventually(t, func() bool { return rpcsRunning(t, cc) == 1 }, "it waits")
	before := dials.Load()
	backendtest.Eventually(t, func() bool { return dials.Load() > before+3 }, "attempts go on")
	ready.Store(true)
	assert.NoError(t, <-result)
}

// Requests for a look-up that a policy makes in a loop do not fill memory while it is busy.
func TestResolveNowOfABusyPolicy(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var grown int64
	asked := make(chan struct{})
	policy := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, _ balancer.ClientConnState) error {
		before := heap()
		for range 1 << 20 {
			s.CC.ResolveNow(resolver.ResolveNowOptions{})
		}
		grown = heap() - before
		return nil
	}}
	balancer.Register(policy)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
	once := sync.OnceFunc(func() { close(asked) })
	r.ResolveNowCallback = func(resolver.ResolveNowOptions) { once() }
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(policy.Config()))
	cc.Connect()
	<-asked // so the update is behind it
	assert.Less(t, grown, int64(16<<20), "bytes")
}

// A policy may call whatever it likes from wherever it is called.
func TestPoliciesMayCallBack(t *testing.T) {
	b := backendtest.Start(t, "one")
	var channel atomic.Pointer[grpcdial.ClientConn]
	everything := func(s *backendtest.Spy) {
		cc := channel.Load()
		cc.GetState()
		cc.Snapshot()
		cc.ResetConnectBackoff()
		cc.GetMethodConfig("/a/b")
		cc.WaitForStateChange(context.Background(), -1)
		s.CC.ResolveNow(resolver.ResolveNowOptions{})
		s.CC.UpdateState(balancer.State{ConnectivityState: connectivity.Connecting, Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable)})
		sc, err := s.CC.NewSubConn([]resolver.Address{{Addr: b.Addr}}, balancer.NewSubConnOptions{StateListener: func(balancer.SubConnState) {}})
		if err != nil {
			return // closed
		}
		sc.Connect()
		sc.UpdateAddresses([]resolver.Address{{Addr: b.Addr}, {Addr: "x:1"}})
		sc.RegisterHealthListener(func(balancer.SubConnState) {})
		_, release := sc.GetOrBuildProducer(new(countingProducer))
		release()
		s.CC.RemoveSubConn(sc)
	}
	policy := &backendtest.SpyPolicy{
		As: t.Name(), OnBuild: everything, OnClose: everything, OnExitIdle: everything,
		OnError: func(s *backendtest.Spy, _ error) { everything(s) },
		OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
			everything(s)
			channel.Load().Connect() // comes back as ExitIdle
			if s.Sub == nil {
				s.Connect(state.ResolverState.Addresses, func(balancer.SubConnState) { everything(s) })
			}
			return nil
		},
	}
	balancer.Register(policy)
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(b))
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(policy.Config()))
	channel.Store(cc)
	awaitReady(t, cc)
	r.CC().ReportError(errors.New("no"))
	b.Cut()
	backendtest.Eventually(t, func() bool { return cc.GetState() != connectivity.Ready }, "the loss is seen")
	require.NoError(t, cc.Close())
}

// ExitIdle reaches the policy when the channel itself is not idle.
func TestConnectReachesThePolicy(t *testing.T) {
	exits := make(chan struct{}, 1)
	policy := &backendtest.SpyPolicy{As: t.Name(), OnExitIdle: func(*backendtest.Spy) { exits <- struct{}{} }}
	balancer.Register(policy)
	cc := plain(t, "passthrough:///x:1", grpcdial.WithDefaultServiceConfig(policy.Config()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := backendtest.AskName(ctx, cc) // it leaves IDLE for an RPC
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	assert.Empty(t, exits)
	cc.Connect()
	<-exits
}

// The calls of a policy never overlap, whatever causes them.
func TestPolicyCallsDoNotOverlap(t *testing.T) {
	b := backendtest.Start(t, "one")
	var sub atomic.Pointer[balancer.SubConn]
	policy := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
		if s.Sub == nil {
			sc := s.Connect(state.ResolverState.Addresses, nil)
			sub.Store(&sc)
		}
		return nil
	}}
	balancer.Register(policy)
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(b))
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(policy.Config()))
	awaitReady(t, cc)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				r.UpdateState(backendtest.Addresses(b))
				r.CC().ReportError(errors.New("x"))
				cc.Connect()
				(*sub.Load()).Connect()
				b.Cut()
			}
		})
	}
	wg.Wait()
}

// The state that a policy reports is in force before the policy gets the next event, so that
// with many subchannels the first READY does not wait for the events of all, and pickers that
// are replaced at once do not pile up.
func TestReportsAreInForceBeforeTheNextEvent(t *testing.T) {
	b := backendtest.Start(t, "one")
	var cc *grpcdial.ClientConn
	var seen []connectivity.State // what is in force when each event comes
	all := make(chan struct{})
	states := []connectivity.State{connectivity.Connecting, connectivity.TransientFailure, connectivity.Idle}
	policy := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
		for range 9 {
			events := 0
			sc, err := s.CC.NewSubConn(state.ResolverState.Addresses, balancer.NewSubConnOptions{StateListener: func(balancer.SubConnState) {
				if events++; events > 1 {
					return // READY
				}
				seen = append(seen, cc.GetState())
				s.CC.UpdateState(balancer.State{ConnectivityState: states[len(seen)%3], Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable)})
				if len(seen) == 9 {
					close(all)
				}
			}})
			if err != nil {
				return err
			}
			sc.Connect() // CONNECTING waits on the queue from here on
		}
		return nil
	}}
	balancer.Register(policy)
	cc = plain(t, "passthrough:///"+b.Addr, grpcdial.WithDefaultServiceConfig(policy.Config()))
	cc.Connect()
	<-all
	assert.Equal(t, connectivity.Connecting, seen[0])
	for i := range 8 {
		assert.Equal(t, states[(i+1)%3], seen[i+1], "after report %d", i+1)
	}
}
