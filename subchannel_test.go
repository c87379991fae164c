package grpcdial

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/subchannel"
)

// connectCalls are the calls of a connector that a test puts in place of the network.
type connectCalls struct {
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

// failing is a connector that fails after a while.
func (a *connectCalls) failing(after time.Duration) connectFunc {
	return func(ctx context.Context, _ *connect.Config, addr resolver.Address, _ string) (*h2.Conn, error) {
		a.note(ctx, addr.Addr)
		select {
		case <-time.After(after):
			return nil, errors.New("no")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// inBubble makes a channel in a synctest bubble, with f in place of the network.
func inBubble(t *testing.T, f connectFunc, opts ...DialOption) *ClientConn {
	t.Helper()
	cc, err := NewClient("passthrough:///x:1", append([]DialOption{WithInsecure(), WithIdleTimeout(0)}, opts...)...)
	require.NoError(t, err)
	cc.connect = f
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
		p := ConnectParams{MinConnectTimeout: 3 * time.Second}
		p.Backoff.BaseDelay, p.Backoff.MaxDelay = time.Second, time.Second
		cc := inBubble(t, a.failing(time.Hour), WithConnectParams(p))
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
		cc := inBubble(t, a.failing(time.Second), WithDefaultServiceConfig(policy.Config()), WithResolvers(group("a:1", "b:1", "c:1")))
		cc.builder = group("a:1", "b:1", "c:1")
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
		assert.Empty(t, states, "who is idle waits to be told to connect")
	})
}

// An address of a subchannel that takes connections and says nothing leaves time for the
// one after it.
func TestSilentAddressOfAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		policy := groupPolicy(t.Name(), states)
		cc := inBubble(t, func(ctx context.Context, cfg *connect.Config, addr resolver.Address, _ string) (*h2.Conn, error) {
			if addr.Addr == "silent:1" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			client, server := h2test.Pipe(t)
			server.Go(func(c *h2test.Conn) {
				c.Lenient()
				c.Handshake()
			})
			w := h2.NewWire(client)
			conn := h2.New(w, w, cfg.H2)
			return conn, conn.Handshake(ctx)
		}, WithDefaultServiceConfig(policy.Config()))
		cc.builder = group("silent:1", "b:1")
		defer cc.Close()
		cc.Connect()
		time.Sleep(10*time.Second - 1)
		synctest.Wait()
		require.Len(t, states, 1)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Len(t, states, 2, "half of the 20 s of an attempt are over")
		expectStates(t, states, connectivity.Connecting, connectivity.Ready)
	})
}

// group is a resolver that gives one endpoint with these addresses.
func group(addrs ...string) *manual.Resolver {
	r := manual.NewBuilderWithScheme("passthrough")
	var s resolver.State
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: a})
	}
	r.InitialState(s)
	return r
}

// groupPolicy connects all addresses as one subchannel, once, and tells states of
// what becomes of it.
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

// oneSubchannel makes a channel of a policy that has one subchannel, and returns
// that once it is READY.
func oneSubchannel(t *testing.T, states chan balancer.SubConnState, addrs []resolver.Address, opts ...DialOption) (*ClientConn, *subchannel.Subchannel) {
	t.Helper()
	subs := make(chan balancer.SubConn, 1)
	p := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
		if s.Sub == nil {
			subs <- s.Connect(state.ResolverState.Addresses, func(state balancer.SubConnState) { states <- state })
		}
		return nil
	}}
	balancer.Register(p)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: addrs})
	cc := plain(t, target, append(opts, option, WithDefaultServiceConfig(p.Config()))...)
	cc.Connect()
	expectStates(t, states, connectivity.Connecting, connectivity.Ready)
	return cc, (<-subs).(*subchannel.Subchannel)
}

func expectStates(t *testing.T, states <-chan balancer.SubConnState, want ...connectivity.State) balancer.SubConnState {
	t.Helper()
	var last balancer.SubConnState
	for _, w := range want {
		select {
		case last = <-states:
			require.Equal(t, w, last.ConnectivityState)
		case <-time.After(10 * time.Second):
			require.FailNow(t, "no state", "want %v", w)
		}
	}
	return last
}

// After a loss the subchannel is idle, and connects without delay when told to.
func TestLossLeadsToIdle(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 100)
	cc, sc := oneSubchannel(t, states, []resolver.Address{{Addr: b.Addr}})
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	for range 20 {
		b.Cut()
		assert.NoError(t, expectStates(t, states, connectivity.Idle).ConnectionError)
		start := time.Now()
		sc.Connect()
		expectStates(t, states, connectivity.Connecting, connectivity.Ready)
		assert.Less(t, time.Since(start), 500*time.Millisecond)
		_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
	}
}

// A backend that goes and comes back is found again.
func TestDeadBackendComesBack(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc := plain(t, b.Addr, fastBackoff())
	for range 5 {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		b.Stop()
		backendtest.Eventually(t, func() bool {
			_, err := backendtest.AskName(backendtest.Bounded(t), cc) // the first one may be cut, and makes the channel connect
			var e *DialError
			return status.Code(err) == codes.Unavailable && errors.As(err, &e)
		}, "RPCs tell that nobody is there")
		b.Start()
	}
}

// After GOAWAY the subchannel is free, and RPCs on the old connection end there.
func TestGoAwayHandsTheSubchannelBack(t *testing.T) {
	srv := h2test.Listen(t)
	states := make(chan balancer.SubConnState, 100)
	accepted := make(chan *h2test.Conn, 1)
	go func() {
		c := srv.Accept()
		c.Handshake()
		accepted <- c
	}()
	cc, sc := oneSubchannel(t, states, []resolver.Address{{Addr: srv.Addr()}})
	old := <-accepted
	result := make(chan error, 1)
	go func() { _, err := backendtest.AskName(backendtest.Bounded(t), cc); result <- err }()
	headers, payload := old.ExpectUnary()
	old.GoAway(headers.StreamID, http2.ErrCodeNo, "")
	expectStates(t, states, connectivity.Idle)

	sc.Connect()
	fresh := srv.Accept()
	fresh.Handshake()
	expectStates(t, states, connectivity.Connecting, connectivity.Ready)
	old.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-result, "what runs on the old connection ends there")
	old.Lenient()
	old.ExpectClosed()
	assert.Empty(t, states, "the end of the old connection is nothing to the subchannel")
	assert.True(t, connOf(sc) != nil)
	backendtest.Eventually(t, func() bool { return cc.subchannels.Loops() == 1 }, "the old goroutine is gone")
}

// A server that stops with grace: streams go on until they end, and the channel
// is free for another connection meanwhile.
func TestGracefulStop(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 100)
	cc, _ := oneSubchannel(t, states, []resolver.Address{{Addr: b.Addr}})
	stream, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Backend/Stream")
	require.NoError(t, err)
	exchange := func() error {
		if err := stream.SendMsg(new(wrapperspb.StringValue)); err != nil {
			return err
		}
		return stream.RecvMsg(new(wrapperspb.StringValue))
	}
	require.NoError(t, exchange())
	stopped := make(chan struct{})
	go func() { b.Drain(); close(stopped) }()
	expectStates(t, states, connectivity.Idle)
	for range 10 {
		require.NoError(t, exchange())
	}
	require.NoError(t, stream.CloseSend())
	assert.Equal(t, io.EOF, stream.RecvMsg(new(wrapperspb.StringValue)))
	<-stopped
}

// Shutdown lets RPCs end, and tells of SHUTDOWN at once.
func TestShutdownDrains(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 100)
	cc, sc := oneSubchannel(t, states, []resolver.Address{{Addr: b.Addr}})
	stream, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Backend/Stream")
	require.NoError(t, err)
	exchange := func() error {
		if err := stream.SendMsg(new(wrapperspb.StringValue)); err != nil {
			return err
		}
		return stream.RecvMsg(new(wrapperspb.StringValue))
	}
	require.NoError(t, exchange())
	sc.Shutdown()
	sc.Shutdown()
	expectStates(t, states, connectivity.Shutdown)
	assert.True(t, connOf(sc) == nil)
	sc.Connect()
	require.NoError(t, exchange(), "a stream that runs goes on")
	require.NoError(t, stream.CloseSend())
	backendtest.Eventually(t, func() bool { return cc.subchannels.Loops() == 0 }, "the connection ends with its last RPC")
	assert.Empty(t, states)
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
		cc := inBubble(t, a.failing(time.Hour), WithDefaultServiceConfig(p.Config()))
		defer cc.Close()
		cc.Connect()
		sc := <-subs
		expectStates(t, states, connectivity.Connecting)
		sc.Shutdown()
		synctest.Wait()
		expectStates(t, states, connectivity.Shutdown)
		assert.Empty(t, states)
		assert.Zero(t, cc.subchannels.Loops(), "the attempt is given up")
	})
}

func TestUpdateAddresses(t *testing.T) {
	a, b := backendtest.Start(t, "a"), backendtest.Start(t, "b")
	at := func(backends ...*backendtest.Backend) []resolver.Address {
		return backendtest.Addresses(backends...).Addresses
	}
	name := func(cc *ClientConn) string {
		t.Helper()
		name, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		return name
	}
	t.Run("the connected address stays", func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		cc, sc := oneSubchannel(t, states, at(a))
		conn := connOf(sc)
		sc.UpdateAddresses(at(b, a))
		sc.UpdateAddresses([]resolver.Address{{Addr: a.Addr, BalancerAttributes: attributes.New("k", "v")}})
		assert.True(t, conn == connOf(sc))
		assert.Equal(t, "a", name(cc))
		assert.Empty(t, states)
	})
	t.Run("the connected address goes", func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		cc, sc := oneSubchannel(t, states, at(a))
		sc.UpdateAddresses(at(b))
		expectStates(t, states, connectivity.Connecting, connectivity.Ready)
		assert.Equal(t, "b", name(cc))
		backendtest.Eventually(t, func() bool { return cc.subchannels.Loops() == 1 }, "the old connection is drained")
	})
	t.Run("another server name is another address", func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		_, sc := oneSubchannel(t, states, at(a))
		sc.UpdateAddresses([]resolver.Address{{Addr: a.Addr, ServerName: "other"}})
		expectStates(t, states, connectivity.Connecting, connectivity.Ready)
	})
	t.Run("no address is left", func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		cc, sc := oneSubchannel(t, states, at(a))
		sc.UpdateAddresses(nil)
		expectStates(t, states, connectivity.Idle, connectivity.Connecting)
		backendtest.Eventually(t, func() bool { return cc.subchannels.Loops() == 1 }, "the old connection is drained")
		sc.UpdateAddresses(at(b))
		expectStates(t, states, connectivity.Ready)
		assert.Equal(t, "b", name(cc))
		sc.UpdateAddresses(nil)
		expectStates(t, states, connectivity.Idle, connectivity.Connecting)
		require.NoError(t, cc.Close())
	})
	t.Run("while it connects", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var tried connectCalls
			subs := make(chan balancer.SubConn, 1)
			p := &backendtest.SpyPolicy{As: "update while connecting", OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
				subs <- s.Connect(state.ResolverState.Addresses, nil)
				return nil
			}}
			balancer.Register(p)
			cc := inBubble(t, tried.failing(time.Hour), WithDefaultServiceConfig(p.Config()))
			defer cc.Close()
			cc.Connect()
			sc := <-subs
			synctest.Wait()
			sc.UpdateAddresses([]resolver.Address{{Addr: "y:1"}})
			synctest.Wait()
			addrs, _ := tried.all()
			assert.Equal(t, []string{"x:1", "y:1"}, addrs)
			assert.Equal(t, 1, cc.subchannels.Loops())
		})
	})
}

// A server name of an address beats the channel's, for the credentials and as
// :authority, unless WithAuthority was given.
func TestServerNameOfAnAddress(t *testing.T) {
	ca := h2test.NewCA(t)
	srv := h2test.Listen(t, h2test.WithTLSConfig(ca.ServerConfig("address.example", "option.example")))
	var authority atomic.Value
	srv.Serve(func(s *h2test.Stream) {
		authority.Store(s.Headers.Field(":authority"))
		h2test.Echo(s)
	})
	for name, tt := range map[string]struct {
		opts []DialOption
		want string
	}{
		"the address's": {nil, "address.example"},
		"the option's":  {[]DialOption{WithAuthority("option.example")}, "option.example"},
	} {
		t.Run(name, func(t *testing.T) {
			r, target, option := handResolver(t)
			r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: srv.Addr(), ServerName: "address.example"}}})
			cc, err := NewClient(target, append(tt.opts, option, WithTransportCredentials(credentials.NewTLS(ca.ClientConfig(""))))...)
			require.NoError(t, err)
			defer cc.Close()
			_, err = backendtest.AskName(backendtest.Bounded(t), cc)
			require.NoError(t, err)
			assert.Equal(t, tt.want, authority.Load())
		})
	}
}

// Too many pings make the next connection's keepalive slower.
func TestTooManyPingsDoublesKeepalive(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Script(func(c *h2test.Conn) {
		c.Handshake()
		c.GoAway(0, http2.ErrCodeEnhanceYourCalm, "too_many_pings")
	})
	cc := plain(t, srv.Addr(), WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}), fastBackoff())
	used := make(chan time.Duration, 10)
	cc.connect = func(ctx context.Context, cfg *connect.Config, addr resolver.Address, authority string) (*h2.Conn, error) {
		used <- cfg.H2.KeepaliveTime
		return connect.Connect(ctx, cfg, addr, authority)
	}
	next := watched(t, cc)
	for _, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute} {
		cc.ResetConnectBackoff()
		cc.Connect()
		assert.Equal(t, want, <-used)
		next(connectivity.Idle)
	}
}

// A health listener is told READY, on the policy's queue, and only as long as
// it is the one in force.
func TestHealthListener(t *testing.T) {
	b := backendtest.Start(t, "one")
	heard := make(chan string, 10)
	register := func(sc balancer.SubConn, name string) {
		sc.RegisterHealthListener(func(s balancer.SubConnState) {
			heard <- name + " " + s.ConnectivityState.String()
		})
	}
	states := make(chan balancer.SubConnState, 100)
	var sub balancer.SubConn
	p := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
		sub = s.Connect(state.ResolverState.Addresses, func(state balancer.SubConnState) {
			if state.ConnectivityState == connectivity.Ready {
				register(s.Sub, "replaced")
				register(s.Sub, "in force")
				assert.Empty(t, heard, "never while it is registered")
			}
			states <- state
		})
		return nil
	}}
	balancer.Register(p)
	cc := plain(t, b.Addr, WithDefaultServiceConfig(p.Config()))
	cc.Connect()
	expectStates(t, states, connectivity.Connecting, connectivity.Ready)
	assert.Equal(t, "in force READY", <-heard)
	assert.Empty(t, heard)

	sub.RegisterHealthListener(nil)
	b.Cut()
	expectStates(t, states, connectivity.Idle)
	register(sub, "not ready")
	done := make(chan struct{})
	cc.policyQueue.Post(func() { close(done) })
	<-done
	assert.Empty(t, heard)
}

// RPCs that run when connections are cut again and again either reach the
// server or are tried again, unless they may have been handled.
func TestDisconnectsUnderLoad(t *testing.T) {
	backends := backendtest.StartAll(t, "a", "b")
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(backends...))
	cc := plain(t, target, option, WithDefaultServiceConfig(backendtest.RoundRobin), fastBackoff())
	awaitReady(t, cc)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var done, lost atomic.Int64
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
				switch {
				case err == nil:
					done.Add(1)
				case status.Code(err) == codes.Unavailable:
					lost.Add(1) // it was on the wire
				default:
					t.Errorf("unexpected: %v", err)
				}
			}
		})
	}
	for i := range 50 {
		goal := done.Load() + 10
		backendtest.Eventually(t, func() bool { return done.Load() > goal }, "RPCs go on")
		backends[i%2].Cut()
	}
	close(stop)
	load.Wait()
	t.Logf("%d RPCs done, %d cut", done.Load(), lost.Load())
	assert.LessOrEqual(t, lost.Load(), int64(50*4))
}

// A policy sees nothing of the channel's end but its own Close.
func TestPolicyIsClosedQuietly(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 10)
	cc, _ := oneSubchannel(t, states, []resolver.Address{{Addr: b.Addr}})
	require.NoError(t, cc.Close())
	assert.Empty(t, states)
}
