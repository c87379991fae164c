package e2e_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// After a loss the subchannel is idle, and connects without delay when asked to.
func TestLossLeadsToIdle(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 100)
	p := grpcdial.ConnectParams{MinConnectTimeout: 20 * time.Second}
	p.Backoff.BaseDelay, p.Backoff.MaxDelay, p.Backoff.Multiplier = time.Hour, time.Hour, 1 // a delay would last for ever
	cc, sc := oneSubchannel(t, states, []resolver.Address{{Addr: b.Addr}}, grpcdial.WithConnectParams(p))
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	for range 20 {
		b.Cut()
		assert.NoError(t, backendtest.ExpectStates(t, states, connectivity.Idle).ConnectionError)
		sc.Connect()
		backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
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
			var e *grpcdial.DialError
			return status.Code(err) == codes.Unavailable && errors.As(err, &e)
		}, "RPCs fail for want of a connection")
		b.Start()
	}
}

// draining is a channel of one subchannel whose server has sent GOAWAY while an RPC runs.
// The subchannel is IDLE.
type draining struct {
	srv    *h2test.Server
	states chan balancer.SubConnState
	cc     *grpcdial.ClientConn
	sc     balancer.SubConn
	endRPC func() // replies to the RPC and waits for the end of it and of its connection
}

func startDraining(t *testing.T) *draining {
	t.Helper()
	d := &draining{srv: h2test.Listen(t), states: make(chan balancer.SubConnState, 100)}
	accepted := make(chan *h2test.Conn, 1)
	go func() {
		c := d.srv.Accept()
		c.Handshake()
		accepted <- c
	}()
	d.cc, d.sc = oneSubchannel(t, d.states, []resolver.Address{{Addr: d.srv.Addr()}})
	old := <-accepted
	result := make(chan error, 1)
	go func() { _, err := backendtest.AskName(backendtest.Bounded(t), d.cc); result <- err }()
	headers, payload := old.ExpectUnary()
	old.GoAway(headers.StreamID, http2.ErrCodeNo, "bye")
	backendtest.ExpectStates(t, d.states, connectivity.Idle)
	d.endRPC = func() {
		t.Helper()
		old.ReplyUnary(headers.StreamID, payload)
		require.NoError(t, <-result, "what runs on the old connection ends there")
		old.Lenient()
		old.ExpectClosed()
	}
	return d
}

// After GOAWAY the subchannel is free, and RPCs on the old connection end there.
func TestGoAwayHandsTheSubchannelBack(t *testing.T) {
	d := startDraining(t)
	d.sc.Connect()
	fresh := d.srv.Accept()
	fresh.Handshake()
	backendtest.ExpectStates(t, d.states, connectivity.Connecting, connectivity.Ready)
	d.endRPC()
	assert.Empty(t, d.states, "the end of the old connection is nothing to the subchannel")
	backendtest.AwaitOurs(t, 1)
	result := make(chan error, 1)
	go func() { _, err := backendtest.AskName(backendtest.Bounded(t), d.cc); result <- err }()
	headers, payload := fresh.ExpectUnary()
	fresh.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-result, "the new connection is in use")
}

// openStream opens a stream to a backend; exchange sends a message on it and receives one.
// One exchange has happened.
func openStream(t *testing.T, cc *grpcdial.ClientConn) (stream grpc.ClientStream, exchange func() error) {
	t.Helper()
	stream, err := cc.NewStream(backendtest.Bounded(t), bidi, "/test.Backend/Stream")
	require.NoError(t, err)
	exchange = func() error {
		if err := stream.SendMsg(new(wrapperspb.StringValue)); err != nil {
			return err
		}
		return stream.RecvMsg(new(wrapperspb.StringValue))
	}
	require.NoError(t, exchange())
	return stream, exchange
}

// A server that stops with grace: streams go on until they end, and the channel
// is free for another connection meanwhile.
func TestGracefulStop(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 100)
	cc, _ := oneSubchannel(t, states, []resolver.Address{{Addr: b.Addr}})
	stream, exchange := openStream(t, cc)
	stopped := make(chan struct{})
	go func() { b.Drain(); close(stopped) }()
	backendtest.ExpectStates(t, states, connectivity.Idle)
	for range 10 {
		require.NoError(t, exchange())
	}
	require.NoError(t, stream.CloseSend())
	assert.Equal(t, io.EOF, stream.RecvMsg(new(wrapperspb.StringValue)))
	<-stopped
}

// Shutdown lets RPCs end, and reports SHUTDOWN at once.
func TestShutdownDrains(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 100)
	cc, sc := oneSubchannel(t, states, []resolver.Address{{Addr: b.Addr}})
	stream, exchange := openStream(t, cc)
	sc.Shutdown()
	sc.Shutdown()
	backendtest.ExpectStates(t, states, connectivity.Shutdown)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := backendtest.AskName(ctx, cc)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "it takes no RPCs")
	sc.Connect()
	require.NoError(t, exchange(), "a stream that runs goes on")
	require.NoError(t, stream.CloseSend())
	backendtest.AwaitOurs(t, 0) // the connection ends with its last RPC
	assert.Empty(t, states)
}

func TestUpdateAddresses(t *testing.T) {
	a, b := backendtest.Start(t, "a"), backendtest.Start(t, "b")
	at := func(backends ...*backendtest.Backend) []resolver.Address {
		return backendtest.Addresses(backends...).Addresses
	}
	name := func(cc *grpcdial.ClientConn) string {
		t.Helper()
		name, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		return name
	}
	t.Run("the connected address stays", func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		cc, sc := oneSubchannel(t, states, at(a))
		accepted := a.Accepted()
		sc.UpdateAddresses(at(b, a))
		sc.UpdateAddresses([]resolver.Address{{Addr: a.Addr, BalancerAttributes: attributes.New("k", "v")}})
		assert.Equal(t, "a", name(cc))
		assert.Equal(t, accepted, a.Accepted())
		assert.Empty(t, states)
	})
	t.Run("the connected address goes", func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		cc, sc := oneSubchannel(t, states, at(a))
		sc.UpdateAddresses(at(b))
		backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
		assert.Equal(t, "b", name(cc))
		backendtest.AwaitOurs(t, 1) // the old connection is drained
	})
	t.Run("another server name is another address", func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		_, sc := oneSubchannel(t, states, at(a))
		sc.UpdateAddresses([]resolver.Address{{Addr: a.Addr, ServerName: "other"}})
		backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
	})
	t.Run("no address is left", func(t *testing.T) {
		states := make(chan balancer.SubConnState, 100)
		cc, sc := oneSubchannel(t, states, at(a))
		sc.UpdateAddresses(nil)
		backendtest.ExpectStates(t, states, connectivity.Idle, connectivity.Connecting)
		backendtest.AwaitOurs(t, 1) // the old connection is drained
		sc.UpdateAddresses(at(b))
		backendtest.ExpectStates(t, states, connectivity.Ready)
		assert.Equal(t, "b", name(cc))
		sc.UpdateAddresses(nil)
		backendtest.ExpectStates(t, states, connectivity.Idle, connectivity.Connecting)
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
			cc := inBubble(t, tried.failing(time.Hour), grpcdial.WithDefaultServiceConfig(p.Config()))
			defer cc.Close()
			cc.Connect()
			sc := <-subs
			synctest.Wait()
			sc.UpdateAddresses([]resolver.Address{{Addr: "y:1"}})
			synctest.Wait()
			addrs, _ := tried.all()
			assert.Equal(t, []string{"x:1", "y:1"}, addrs)
			assert.EqualValues(t, 1, tried.running.Load())
		})
	})
}

// A resolver may put a map into the Metadata of its addresses, for the policy: == panics for it.
func TestAddressesWithMapsAsMetadata(t *testing.T) {
	a := backendtest.Start(t, "a")
	states := make(chan balancer.SubConnState, 100)
	at := func(weight string) []resolver.Address {
		return []resolver.Address{{Addr: a.Addr, Metadata: map[string]string{"weight": weight}}}
	}
	cc, sc := oneSubchannel(t, states, at("1"))
	require.Len(t, cc.Snapshot().Endpoints, 1)
	assert.Equal(t, connectivity.Ready, cc.Snapshot().Endpoints[0].State)
	sc.UpdateAddresses(at("1"))
	assert.Equal(t, 1, a.Accepted())
	sc.UpdateAddresses(at("2"))
	backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
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
		opts []grpcdial.DialOption
		want string
	}{
		"the address's": {nil, "address.example"},
		"the option's":  {[]grpcdial.DialOption{grpcdial.WithAuthority("option.example")}, "option.example"},
	} {
		t.Run(name, func(t *testing.T) {
			r, target, option := handResolver(t)
			r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: srv.Addr(), ServerName: "address.example"}}})
			cc, err := grpcdial.NewClient(target, append(tt.opts, option, grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig(""))))...)
			require.NoError(t, err)
			defer cc.Close()
			_, err = backendtest.AskName(backendtest.Bounded(t), cc)
			require.NoError(t, err)
			assert.Equal(t, tt.want, authority.Load())
		})
	}
}

// A health listener is called with READY, on the policy's queue, and only as long as it
// is the one in force.
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
	flushed := make(chan struct{}, 10) // the channel leaves idle, and may be connected, before the last Connect too
	p := &backendtest.SpyPolicy{As: t.Name(), OnExitIdle: func(*backendtest.Spy) { flushed <- struct{}{} }, OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
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
	cc := plain(t, b.Addr, grpcdial.WithDefaultServiceConfig(p.Config()))
	cc.Connect()
	backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
	assert.Equal(t, "in force READY", <-heard)
	assert.Empty(t, heard)

	sub.RegisterHealthListener(nil)
	b.Cut()
	backendtest.ExpectStates(t, states, connectivity.Idle)
	register(sub, "not ready")
	cc.Connect() // which reaches the policy after a health report would
	<-flushed
	assert.Empty(t, heard)
}

// RPCs that run when connections are cut again and again either reach the
// server or are tried again, unless they may have been handled.
func TestDisconnectsUnderLoad(t *testing.T) {
	backends := backendtest.StartAll(t, "a", "b")
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(backends...))
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin), fastBackoff())
	awaitReady(t, cc)
	var done, lost atomic.Int64
	stop := backendtest.Repeat(4, func() bool {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		switch {
		case err == nil:
			done.Add(1)
		case status.Code(err) == codes.Unavailable:
			lost.Add(1) // it was on the wire
		default:
			t.Errorf("unexpected: %v", err)
		}
		return true
	})
	for i := range 50 {
		goal := done.Load() + 10
		backendtest.Eventually(t, func() bool { return done.Load() > goal }, "RPCs go on")
		backends[i%2].Cut()
	}
	stop()
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
