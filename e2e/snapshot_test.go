package e2e_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestSnapshotOfAnIdleChannel(t *testing.T) {
	cc := plain(t, "x:1", grpcdial.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Second, PermitWithoutStream: true}))
	assert.Equal(t, grpcdial.Snapshot{
		Target:    "dns:///x:1",
		State:     connectivity.Idle,
		Keepalive: keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 20 * time.Second, PermitWithoutStream: true},
	}, cc.Snapshot(), "with the keepalive that is in force, not the one asked for")
	assert.Zero(t, plain(t, "x:1").Snapshot().Keepalive)

	require.NoError(t, cc.Close())
	s := cc.Snapshot()
	assert.Equal(t, connectivity.Shutdown, s.State)
	assert.ErrorIs(t, s.Cause, grpc.ErrClientConnClosing)
	assert.EqualValues(t, 1, s.Seq)
}

// A channel's snapshot in each of its states, one after the other, agrees with what Watch
// yields, and says what its endpoint does and why.
func TestSnapshotInEachState(t *testing.T) {
	b := backendtest.Start(t, "one")
	var slow atomic.Bool
	cc := plain(t, "passthrough:///"+b.Addr, grpcdial.WithConnectParams(longBackoff), grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		if slow.Load() {
			return backendtest.Hang(ctx, addr)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}))
	next := watched(t, cc)
	// in waits for the state and returns the picture, whose endpoint may be a moment
	// behind the channel or ahead of it.
	in := func(state, endpoint connectivity.State) (s grpcdial.Snapshot, e grpcdial.EndpointSnapshot) {
		t.Helper()
		change := next(state)
		backendtest.Eventually(t, func() bool {
			s = cc.Snapshot()
			return len(s.Endpoints) == 1 && s.Endpoints[0].State == endpoint
		}, endpoint.String())
		assert.Equal(t, grpcdial.StateChange{Seq: s.Seq, Time: s.Since, From: change.From, To: s.State, Cause: s.Cause}, change)
		return s, s.Endpoints[0]
	}

	slow.Store(true)
	cc.Connect()
	s, e := in(connectivity.Connecting, connectivity.Connecting)
	assert.NoError(t, s.Cause)
	assert.NoError(t, e.Cause)
	assert.False(t, e.Since.IsZero())
	assert.Zero(t, e.Streams)
	assert.Zero(t, e.NextAttempt)

	slow.Store(false)
	require.NoError(t, cc.Close())
	s = cc.Snapshot()
	assert.Equal(t, connectivity.Shutdown, s.State)
	assert.Equal(t, next(connectivity.Shutdown).Cause, s.Cause)
	assert.Empty(t, s.Endpoints)

	cc = plain(t, "passthrough:///"+b.Addr, grpcdial.WithConnectParams(longBackoff))
	next = watched(t, cc)
	cc.Connect()
	s, e = in(connectivity.Ready, connectivity.Ready)
	assert.NoError(t, s.Cause)
	assert.NoError(t, e.Cause)
	held := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		held <- cc.Invoke(ctx, "/test.Backend/Hold", new(wrapperspb.StringValue), new(wrapperspb.StringValue))
	}()
	<-b.Held
	assert.Equal(t, 1, cc.Snapshot().Endpoints[0].Streams)
	cancel()
	<-held
	backendtest.Eventually(t, func() bool { return cc.Snapshot().Endpoints[0].Streams == 0 }, "the RPC has ended")

	b.Stop()
	s, e = in(connectivity.Idle, connectivity.Idle)
	assert.Error(t, s.Cause, "why it left READY")
	assert.Equal(t, s.Cause, e.Cause)
	assert.Zero(t, e.Streams)

	begun := time.Now()
	cc.Connect()
	s, e = in(connectivity.TransientFailure, connectivity.TransientFailure)
	var why *grpcdial.DialError
	require.ErrorAs(t, s.Cause, &why)
	assert.ErrorIs(t, s.Cause, syscall.ECONNREFUSED)
	assert.ErrorIs(t, e.Cause, syscall.ECONNREFUSED)
	assert.WithinRange(t, e.NextAttempt, begun.Add(time.Minute), time.Now().Add(2*time.Hour))

	b.Start()
	cc.ResetConnectBackoff()
	_, e = in(connectivity.Ready, connectivity.Ready)
	assert.NoError(t, e.Cause)
	assert.Zero(t, e.NextAttempt)
}

// An endpoint that is tried again says how the attempt before failed.
func TestSnapshotOfASecondAttempt(t *testing.T) {
	var attempts atomic.Int32
	cc := plain(t, "passthrough:///x:1", fastBackoff(), grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		if attempts.Add(1) == 1 {
			return nil, backendtest.ErrRefused
		}
		return backendtest.Hang(ctx, addr)
	}))
	cc.Connect()
	var e grpcdial.EndpointSnapshot
	backendtest.Eventually(t, func() bool {
		s := cc.Snapshot()
		if len(s.Endpoints) == 1 {
			e = s.Endpoints[0]
		}
		return attempts.Load() == 2 && e.State == connectivity.Connecting
	}, "the second attempt")
	assert.ErrorIs(t, e.Cause, backendtest.ErrRefused)
	assert.Equal(t, connectivity.TransientFailure, cc.Snapshot().State)
}

// An endpoint of a channel that went idle is not there any more, and the cause says so.
func TestSnapshotOfAChannelThatWentIdle(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc := plain(t, b.Addr, grpcdial.WithIdleTimeout(20*time.Millisecond))
	next := watched(t, cc)
	awaitReady(t, cc)
	assert.Equal(t, grpcdial.ErrIdle, next(connectivity.Idle).Cause)
	s := cc.Snapshot()
	assert.Equal(t, connectivity.Idle, s.State)
	assert.Equal(t, grpcdial.ErrIdle, s.Cause)
	assert.Empty(t, s.Endpoints)
}

// A channel with a backend that answers, one that does not, and one that is being
// connected to.
func TestSnapshotOfEndpoints(t *testing.T) {
	b, dead := backendtest.Start(t, "one"), backendtest.UnusedAddr(t)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: b.Addr}, {Addr: dead, ServerName: "dead.test"}, {Addr: "slow:1"}}})
	begun := time.Now()
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.PolicyConfig("round_robin")), grpcdial.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute}),
		grpcdial.WithConnectParams(longBackoff), grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if addr == "slow:1" {
				return backendtest.Hang(ctx, addr)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}))
	awaitReady(t, cc)
	for range 3 {
		s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Backend/Stream")
		require.NoError(t, err)
		defer func() { _ = s.CloseSend() }()
	}
	var s grpcdial.Snapshot
	endpoint := func(addr string) grpcdial.EndpointSnapshot {
		for _, e := range s.Endpoints {
			if e.Addr == addr {
				return e
			}
		}
		return grpcdial.EndpointSnapshot{}
	}
	backendtest.Eventually(t, func() bool {
		s = cc.Snapshot()
		return len(s.Endpoints) == 3 && endpoint(dead).State == connectivity.TransientFailure
	}, "the attempt at the dead one has ended")

	assert.Equal(t, connectivity.Ready, s.State)
	assert.False(t, s.Since.Before(begun))
	assert.NoError(t, s.Cause)
	assert.NoError(t, s.ResolveErr)

	one := endpoint(b.Addr)
	assert.Equal(t, connectivity.Ready, one.State)
	assert.False(t, one.Since.Before(begun))
	assert.Equal(t, 3, one.Streams)
	assert.Equal(t, keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}, one.Keepalive)
	assert.Zero(t, one.NextAttempt)

	failed := endpoint(dead)
	assert.Equal(t, "dead.test", failed.ServerName)
	assert.ErrorIs(t, failed.Cause, syscall.ECONNREFUSED)
	var e *grpcdial.DialError
	require.ErrorAs(t, failed.Cause, &e)
	require.Len(t, e.Attempts, 1)
	assert.Equal(t, dead, e.Attempts[0].Addr)
	assert.NotEmpty(t, e.Attempts[0].Hint)
	assert.WithinDuration(t, begun.Add(time.Hour), failed.NextAttempt, time.Minute)
	assert.Zero(t, failed.Streams)
	assert.Zero(t, failed.Keepalive)

	slow := endpoint("slow:1")
	assert.Equal(t, connectivity.Connecting, slow.State)
	assert.NoError(t, slow.Cause)

	r.CC().ReportError(errors.New("no zone"))
	assert.ErrorContains(t, cc.Snapshot().ResolveErr, "no zone")
	r.UpdateState(backendtest.Addresses(b))
	s = cc.Snapshot()
	assert.NoError(t, s.ResolveErr)
	assert.Len(t, s.Endpoints, 1)
}

// Of a subchannel with several addresses, one is in use.
func TestSnapshotOfAnAddressGroup(t *testing.T) {
	b := backendtest.Start(t, "one")
	states := make(chan balancer.SubConnState, 100)
	cc, sc := oneSubchannel(t, states, []resolver.Address{{Addr: backendtest.UnusedAddr(t)}, {Addr: b.Addr}, {Addr: "x:1"}})
	all := func() (states []connectivity.State) {
		for _, e := range cc.Snapshot().Endpoints {
			states = append(states, e.State)
		}
		return states
	}
	assert.Equal(t, []connectivity.State{connectivity.Idle, connectivity.Ready, connectivity.Idle}, all())
	b.Stop()
	backendtest.ExpectStates(t, states, connectivity.Idle)
	assert.Equal(t, []connectivity.State{connectivity.Idle, connectivity.Idle, connectivity.Idle}, all())
	assert.Error(t, cc.Snapshot().Endpoints[1].Cause)
	sc.Shutdown()
	assert.Empty(t, all())
}

// A connection that the server lets end stays in the picture as long as RPCs run on it.
func TestSnapshotOfADrainingConnection(t *testing.T) {
	d := startDraining(t)
	s := d.cc.Snapshot()
	require.Len(t, s.Endpoints, 2)
	idle, draining := s.Endpoints[0], s.Endpoints[1]
	assert.Equal(t, connectivity.Idle, idle.State)
	var goAway *grpcdial.GoAwayError
	require.ErrorAs(t, idle.Cause, &goAway)
	assert.Equal(t, "bye", goAway.Debug)
	assert.Zero(t, idle.Streams)
	assert.Equal(t, connectivity.Shutdown, draining.State)
	assert.True(t, draining.Draining)
	assert.Equal(t, d.srv.Addr(), draining.Addr)
	assert.Equal(t, 1, draining.Streams)

	d.endRPC()
	backendtest.Eventually(t, func() bool { return len(d.cc.Snapshot().Endpoints) == 1 }, "it ends with its last RPC")
}

// The keepalive that a server's complaint led to can be seen.
func TestSnapshotAfterTooManyPings(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Script(func(c *h2test.Conn) {
		c.Handshake()
		c.GoAway(0, http2.ErrCodeEnhanceYourCalm, "too_many_pings")
	})
	cc := plain(t, srv.Addr(), grpcdial.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}))
	cc.Connect()
	backendtest.Eventually(t, func() bool { return cc.Snapshot().Keepalive.Time == time.Minute }, "it is doubled")
}

// Snapshots taken while everything changes are consistent, and no call waits for another.
func TestSnapshotWhileEverythingChanges(t *testing.T) {
	backends := backendtest.StartAll(t, "one", "two", "three")
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(backends...))
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.PolicyConfig("round_robin")), fastBackoff())
	awaitReady(t, cc)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			var seq uint64
			for {
				select {
				case <-done:
					return
				default:
				}
				s := cc.Snapshot()
				assert.GreaterOrEqual(t, s.Seq, seq)
				seq = s.Seq
				for _, e := range s.Endpoints {
					if e.State == connectivity.Ready {
						assert.NoError(t, e.Cause)
						assert.Zero(t, e.NextAttempt)
					}
					if e.State == connectivity.TransientFailure {
						assert.Error(t, e.Cause)
					}
					assert.Equal(t, e.Draining, e.State == connectivity.Shutdown)
				}
			}
		})
	}
	for i := range 30 {
		backends[i%3].Cut()
		r.UpdateState(backendtest.Addresses(backends[:1+i%3]...))
		_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
	}
	close(done)
	wg.Wait()
}
