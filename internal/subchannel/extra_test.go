package subchannel

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	estats "google.golang.org/grpc/experimental/stats"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/metrics"
)

// begin makes an RPC that a picker sends to the subchannel; its error comes when it ends.
func (h *fakeHost) begin(sc *Subchannel) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- h.ask(sc) }()
	return ended
}

// scaled makes a subchannel of up to that many connections, with a first one to a server
// that allows one stream on each.
func scaled(t *testing.T, most int32) (*fakeHost, *Subchannel, *h2test.Server, *h2test.Conn) {
	t.Helper()
	h, srv := newFakeHost(t), h2test.Listen(t)
	h.most.Store(most)
	sc := h.newSubchannel(balancer.NewSubConnOptions{}, srv.Addr())
	c := accept(srv)
	h.expect(connectivity.Connecting, connectivity.Ready)
	return h, sc, srv, c
}

func accept(srv *h2test.Server) *h2test.Conn {
	c := srv.Accept()
	c.Handshake(h2test.MaxConcurrentStreams(1))
	return c
}

// An RPC that waits goes to a new connection. GOAWAY of one of several is nothing to the
// policy, and another connection is made for RPCs that wait.
func TestGoAwayOfOneOfSeveral(t *testing.T) {
	h, sc, srv, first := scaled(t, 2)
	one := h.begin(sc)
	headers, payload := first.ExpectUnary()
	two := h.begin(sc)
	second := accept(srv)
	headers2, payload2 := second.ExpectUnary()
	three := h.begin(sc)
	first.GoAway(headers.StreamID, http2.ErrCodeNo, "")
	third := accept(srv)
	headers3, payload3 := third.ExpectUnary()
	first.ReplyUnary(headers.StreamID, payload)
	second.ReplyUnary(headers2.StreamID, payload2)
	third.ReplyUnary(headers3.StreamID, payload3)
	for _, ended := range []<-chan error{one, two, three} {
		require.NoError(t, <-ended)
	}
	assert.Empty(t, h.states)
	backendtest.Eventually(t, func() bool { return h.group.Loops() == 2 }, "the first connection has ended with its RPC")
	second.Close()
	backendtest.Eventually(t, func() bool { return h.group.Loops() == 1 }, "the second one has ended")
	four := h.begin(sc)
	headers, payload = third.ExpectUnary()
	third.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-four, "the one that is left serves")
	third.Close()
	h.expect(connectivity.Idle)
	assert.Empty(t, h.states)
}

// The loss of a connection ends the RPCs on it, and no other.
func TestLossOfOneOfSeveral(t *testing.T) {
	h, sc, srv, first := scaled(t, 2)
	one := h.begin(sc)
	first.ExpectUnary()
	two := h.begin(sc)
	second := accept(srv)
	headers, payload := second.ExpectUnary()
	first.CloseHard()
	assert.Equal(t, codes.Unavailable, status.Code(<-one))
	second.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-two)
	assert.Empty(t, h.states)
	second.CloseHard()
	h.expect(connectivity.Idle)
}

// A slot that becomes free goes to the RPC that waits longest, while a connection is being
// made; and a limit that the server raises counts at once.
func TestWaitersTakeWhatBecomesFree(t *testing.T) {
	h, sc, _, first := scaled(t, 2)
	h.setConnect(func(ctx context.Context, _ *connect.Config, _ resolver.Address, _ string) (*h2.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	one := h.begin(sc)
	headers, payload := first.ExpectUnary()
	var waiting []<-chan error
	for n := range 3 {
		waiting = append(waiting, h.begin(sc))
		backendtest.Eventually(t, func() bool { return sc.waiting() == n+1 }, "it waits")
	}
	first.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-one)
	headers, payload = first.ExpectUnary()
	first.Settings(h2test.MaxConcurrentStreams(3))
	first.ExpectSettingsAck()
	headers2, payload2 := first.ExpectUnary()
	headers3, payload3 := first.ExpectUnary()
	first.Settings(h2test.MaxConcurrentStreams(1))
	first.ExpectSettingsAck()
	first.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-waiting[0])
	first.ReplyUnary(headers2.StreamID, payload2)
	first.ReplyUnary(headers3.StreamID, payload3)
	require.NoError(t, <-waiting[1])
	require.NoError(t, <-waiting[2])
	assert.Zero(t, sc.waiting())
	assert.Empty(t, h.states)
}

func (sc *Subchannel) waiting() int {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.queue.Waiting()
}

// The last connection is lost while another one is being made: the subchannel is in the
// state of that attempt (gRFC A105).
func TestLastConnectionIsLostDuringAnExtraAttempt(t *testing.T) {
	for name, fails := range map[string]bool{"connecting": false, "backing off": true} {
		t.Run(name, func(t *testing.T) {
			h, sc, srv, first := scaled(t, 2)
			h.params.Backoff.BaseDelay, h.params.Backoff.MaxDelay = time.Hour, time.Hour
			attempted, goOn := make(chan struct{}), make(chan struct{})
			refused := errors.New("refused")
			h.setConnect(func(ctx context.Context, cfg *connect.Config, addr resolver.Address, name string) (*h2.Conn, error) {
				close(attempted)
				if fails {
					return nil, refused
				}
				<-goOn
				return connect.Connect(ctx, cfg, addr, name)
			})
			one := h.begin(sc)
			first.ExpectUnary()
			two := h.begin(sc)
			<-attempted
			if fails {
				backendtest.Eventually(t, func() bool { sc.mu.Lock(); defer sc.mu.Unlock(); return sc.connecting.dialing.failure != nil }, "it backs off")
				assert.Empty(t, h.states, "the subchannel stays READY")
				assert.False(t, h.log.Knows(srv.Addr()), "nothing is amiss")
			}
			first.Close()
			assert.Error(t, <-one)
			if fails {
				assert.ErrorIs(t, h.expect(connectivity.TransientFailure).ConnectionError, refused)
				backendtest.Eventually(t, func() bool { return h.log.Knows(srv.Addr()) }, "the failure explains it")
				h.close()
				assert.Error(t, <-two)
				return
			}
			h.expect(connectivity.Connecting)
			close(goOn)
			second := accept(srv)
			h.expect(connectivity.Ready)
			h.calls.Repick() // as the policy's new picker does
			headers, payload := second.ExpectUnary()
			second.ReplyUnary(headers.StreamID, payload)
			require.NoError(t, <-two)
		})
	}
}

// The last connection is lost while another one to its address is being made, which does not
// come: the subchannel's other addresses are tried, and RPCs in line are served there.
func TestOtherAddressesAfterAnExtraAttempt(t *testing.T) {
	for name, fails := range map[string]bool{"connecting": false, "backing off": true} {
		t.Run(name, func(t *testing.T) {
			h, srv, other := newFakeHost(t), h2test.Listen(t), h2test.Listen(t)
			h.most.Store(2)
			h.params.Backoff.BaseDelay, h.params.Backoff.MaxDelay = time.Hour, time.Hour
			sc := h.newSubchannel(balancer.NewSubConnOptions{}, srv.Addr(), other.Addr())
			first := accept(srv)
			h.expect(connectivity.Connecting, connectivity.Ready)
			zero := h.begin(sc)
			headers, payload := first.ExpectUnary()
			first.ReplyUnary(headers.StreamID, payload)
			require.NoError(t, <-zero, "the connection has served")
			attempted := make(chan struct{}, 2)
			h.setConnect(func(ctx context.Context, cfg *connect.Config, addr resolver.Address, name string) (*h2.Conn, error) {
				if addr.Addr == other.Addr() {
					return connect.Connect(ctx, cfg, addr, name)
				}
				if attempted <- struct{}{}; fails || len(attempted) == 2 {
					return nil, errors.New("refused")
				}
				<-ctx.Done()
				return nil, ctx.Err()
			})
			one := h.begin(sc)
			first.ExpectUnary()
			two := h.begin(sc)
			backendtest.Eventually(t, func() bool {
				sc.mu.Lock()
				defer sc.mu.Unlock()
				return len(attempted) == 1 && (sc.connecting.dialing.failure != nil) == fails
			}, "an attempt is in progress or has failed")
			first.Close()
			assert.Error(t, <-one)
			second := accept(other)
			h.expect(connectivity.Connecting, connectivity.Ready)
			h.calls.Repick() // as the policy's new picker does
			headers, payload = second.ExpectUnary()
			second.ReplyUnary(headers.StreamID, payload)
			require.NoError(t, <-two)
			assert.Empty(t, h.states)
		})
	}
}

// Attempts for extra connections follow each other with the back-off, as long as RPCs wait.
func TestBackoffOfExtraConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, attempts := newFakeHost(t), atomic.Int32{}
		h.most.Store(3)
		h.params.Backoff.BaseDelay, h.params.Backoff.MaxDelay = time.Second, time.Second
		peers := make(chan *h2test.Conn, 10)
		h.connect = func(ctx context.Context, cfg *connect.Config, _ resolver.Address, _ string) (*h2.Conn, error) {
			if attempts.Add(1) > 1 {
				return nil, errors.New("refused")
			}
			return pipe(t, ctx, cfg, peers)
		}
		sc := h.newSubchannel(balancer.NewSubConnOptions{}, "a:1")
		h.expect(connectivity.Connecting, connectivity.Ready)
		first := <-peers
		h.begin(sc)
		headers, payload := first.ExpectUnary()
		two := h.begin(sc)
		time.Sleep(5500 * time.Millisecond)
		synctest.Wait()
		assert.EqualValues(t, 1+6, attempts.Load(), "one each second")
		first.ReplyUnary(headers.StreamID, payload)
		headers, payload = first.ExpectUnary()
		first.ReplyUnary(headers.StreamID, payload)
		require.NoError(t, <-two)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.EqualValues(t, 1+6, attempts.Load(), "none, since no RPC waits")
		assert.Empty(t, h.states)
		h.close()
	})
}

// pipe makes a connection in a bubble, and gives its other end to peers.
func pipe(t *testing.T, ctx context.Context, cfg *connect.Config, peers chan<- *h2test.Conn) (*h2.Conn, error) {
	client, server := h2test.Pipe(t)
	server.Go(func(c *h2test.Conn) {
		c.Handshake(h2test.MaxConcurrentStreams(1))
		peers <- c
	})
	w := h2.NewWire(client)
	conn := h2.New(w, w, cfg.H2)
	return conn, conn.Handshake(ctx)
}

// twoInUse makes a subchannel in a bubble that has an RPC on each of two connections. answer
// ends both RPCs.
func twoInUse(t *testing.T, h *fakeHost) (first, second *h2test.Conn, answer func()) {
	t.Helper()
	h.most.Store(2)
	peers := make(chan *h2test.Conn, 10)
	h.connect = func(ctx context.Context, cfg *connect.Config, _ resolver.Address, _ string) (*h2.Conn, error) {
		return pipe(t, ctx, cfg, peers)
	}
	sc := h.newSubchannel(balancer.NewSubConnOptions{}, "a:1")
	h.expect(connectivity.Connecting, connectivity.Ready)
	first = <-peers
	one := h.begin(sc)
	headers, payload := first.ExpectUnary()
	two := h.begin(sc)
	second = <-peers
	headers2, payload2 := second.ExpectUnary()
	return first, second, func() {
		first.ReplyUnary(headers.StreamID, payload)
		second.ReplyUnary(headers2.StreamID, payload2)
		require.NoError(t, <-one)
		require.NoError(t, <-two)
	}
}

// An extra connection that has had no RPC for a while goes. The first one stays.
func TestExtraConnectionGoesWhenUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(t)
		_, second, answer := twoInUse(t, h)
		time.Sleep(3 * unusedAfter)
		synctest.Wait()
		assert.Equal(t, 2, h.group.Loops(), "an RPC runs there")
		answer()
		second.Lenient()
		time.Sleep(2*unusedAfter + time.Second)
		synctest.Wait()
		assert.Equal(t, 1, h.group.Loops())
		second.ExpectClosed()
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, 1, h.group.Loops())
		assert.Empty(t, h.states)
		h.close()
	})
}

// heldRecorder waits in the metric of the first connection that ends.
type heldRecorder struct {
	estats.UnimplementedMetricsRecorder
	backendtest.EndHandler
	once         sync.Once
	called, goOn chan struct{}
}

func (r *heldRecorder) RecordInt64Count(h *estats.Int64CountHandle, _ int64, _ ...string) {
	if h.Descriptor().Name == "grpc.subchannel.disconnections" {
		r.once.Do(func() {
			close(r.called)
			<-r.goOn
		})
	}
}

// The end of a channel waits for the program's code that runs because a connection is not
// needed any more.
func TestCloseWaitsWhileAConnectionGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, recorder := newFakeHost(t), &heldRecorder{called: make(chan struct{}), goOn: make(chan struct{})}
		h.group.cfg.Metrics = metrics.New([]stats.Handler{recorder}, func() string { return "" }, nil)
		first, second, answer := twoInUse(t, h)
		answer()
		first.Lenient()
		second.Lenient()
		<-recorder.called
		h.group.Close(errors.New("closed"), status.New(codes.Canceled, "closed"))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			h.group.Wait()
		}()
		synctest.Wait()
		assert.False(t, isClosed(ended), "the recorder is being called")
		close(recorder.goOn)
		<-ended
		h.close()
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// New addresses drain the connections to those that are gone, several too.
func TestUpdateAddressesOfSeveral(t *testing.T) {
	h, sc, srv, first := scaled(t, 2)
	one := h.begin(sc)
	headers, payload := first.ExpectUnary()
	two := h.begin(sc)
	second := accept(srv)
	headers2, payload2 := second.ExpectUnary()
	sc.UpdateAddresses(addresses("b:1", srv.Addr()))
	assert.Len(t, *sc.inUse.Load(), 2)
	other := h2test.Listen(t)
	sc.UpdateAddresses(addresses(other.Addr()))
	h.expect(connectivity.Connecting)
	accept(other)
	h.expect(connectivity.Ready)
	assert.Len(t, *sc.inUse.Load(), 1)
	first.ReplyUnary(headers.StreamID, payload)
	second.ReplyUnary(headers2.StreamID, payload2)
	require.NoError(t, <-one)
	require.NoError(t, <-two)
	backendtest.Eventually(t, func() bool { return h.group.Loops() == 1 }, "they end with their RPCs")
}

// endpoint is a subchannel that goes on when an RPC has chosen a connection of it.
type endpoint struct {
	*Subchannel
	chosen func()
}

func (e *endpoint) Transport() *call.Transport {
	transport := e.Subchannel.Transport()
	e.chosen()
	return transport
}

// An RPC has chosen one of several connections when that is lost, or given up as unused: it
// goes to another, though the policy has nothing new to say.
func TestChosenConnectionLeaves(t *testing.T) {
	for name, leave := range map[string]func(*Subchannel, *h2test.Conn){
		"GOAWAY": func(_ *Subchannel, c *h2test.Conn) { c.GoAway(1, http2.ErrCodeNo, "") },
		"unused": func(sc *Subchannel, _ *h2test.Conn) { sc.dropUnused(); sc.dropUnused() },
	} {
		t.Run(name, func(t *testing.T) {
			h, sc, srv, first := scaled(t, 2)
			one := h.begin(sc)
			headers, payload := first.ExpectUnary()
			two := h.begin(sc)
			second := accept(srv)
			headers2, payload2 := second.ExpectUnary()
			stays, leaves := first, second
			if name == "GOAWAY" {
				stays, leaves = second, first
			}
			reply := func(c *h2test.Conn) {
				ended, headers, payload := one, headers, payload
				if c == second {
					ended, headers, payload = two, headers2, payload2
				}
				c.ReplyUnary(headers.StreamID, payload)
				require.NoError(t, <-ended)
			}
			reply(leaves)
			var once sync.Once
			h.calls.SetPicker(backendtest.PickerFor(&endpoint{sc, func() {
				once.Do(func() {
					leave(sc, leaves)
					backendtest.Eventually(t, func() bool { return len(*sc.inUse.Load()) == 1 }, "it is out of use")
				})
			}}, balancer.SubConnState{ConnectivityState: connectivity.Ready}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			three := make(chan error, 1)
			go func() {
				_, err := backendtest.AskName(ctx, h.calls)
				three <- err
			}()
			backendtest.Eventually(t, func() bool { return len(*sc.inUse.Load()) == 1 }, "it is out of use")
			reply(stays)
			headers3, payload3 := stays.ExpectUnary()
			stays.ReplyUnary(headers3.StreamID, payload3)
			require.NoError(t, <-three)
		})
	}
}

// A health watch that waited for a stream got one on a connection that another one joined.
// The end of that connection says nothing about the backend, and the watch does not keep it.
func TestHealthWatchOnAnotherConnection(t *testing.T) {
	for name, leave := range map[string]func(*Subchannel, *h2test.Conn){
		"lost": func(_ *Subchannel, c *h2test.Conn) { c.Close() },
		"unused": func(sc *Subchannel, c *h2test.Conn) {
			c.Lenient()
			sc.dropUnused()
			sc.dropUnused()
			c.ExpectClosed()
		},
	} {
		t.Run(name, func(t *testing.T) { watchOnAnotherConnection(t, leave) })
	}
}

func watchOnAnotherConnection(t *testing.T, leave func(*Subchannel, *h2test.Conn)) {
	h, srv, service := newFakeHost(t), h2test.Listen(t), "checked"
	h.most.Store(2)
	h.service = &service
	sc := h.newSubchannel(balancer.NewSubConnOptions{HealthCheckEnabled: true}, srv.Addr())
	first := accept(srv)
	serves := func(c *h2test.Conn) uint32 {
		watch, _ := c.ExpectUnary()
		assert.Equal(t, "/grpc.health.v1.Health/Watch", watch.Field(":path"))
		c.ReplyHeaders(watch.StreamID)
		c.ReplyMessage(watch.StreamID, []byte{8, 1})
		return watch.StreamID
	}
	watch := serves(first)
	h.expect(connectivity.Connecting, connectivity.Ready)
	one := h.begin(sc)
	second := accept(srv)
	headers, payload := second.ExpectUnary()
	two := h.begin(sc)
	backendtest.Eventually(t, func() bool { return sc.waiting() == 1 }, "it waits")
	first.ReplyTrailers(watch, codes.OK, "")
	headers2, payload2 := first.ExpectUnary()
	h.expect(connectivity.TransientFailure, connectivity.Connecting)
	backendtest.Eventually(t, func() bool { return sc.waiting() == 1 }, "the watch waits")
	second.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-one)
	serves(second)
	h.expect(connectivity.Ready)
	first.ReplyUnary(headers2.StreamID, payload2)
	require.NoError(t, <-two)
	leave(sc, second)
	serves(first)
	assert.Empty(t, h.states)
}

// A connection that takes no streams goes as unused, and another one is made in its place
// for the RPCs that wait.
func TestConnectionWithoutStreams(t *testing.T) {
	h, sc, srv, first := scaled(t, 2)
	one := h.begin(sc)
	headers, payload := first.ExpectUnary()
	two := h.begin(sc)
	second := srv.Accept()
	second.Handshake(h2test.MaxConcurrentStreams(0))
	backendtest.Eventually(t, func() bool { return len(*sc.inUse.Load()) == 2 }, "it is in use")
	second.Lenient()
	sc.dropUnused()
	sc.dropUnused()
	third := accept(srv)
	headers3, payload3 := third.ExpectUnary()
	third.ReplyUnary(headers3.StreamID, payload3)
	require.NoError(t, <-two)
	first.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-one)
	assert.Empty(t, h.states)
}

// An attempt that was in progress at Renew may have begun with credentials that are out of
// date: the connection that it leads to is replaced.
func TestRenewWhileConnecting(t *testing.T) {
	h, srv := newFakeHost(t), h2test.Listen(t)
	attempted, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.connect = func(ctx context.Context, cfg *connect.Config, addr resolver.Address, name string) (*h2.Conn, error) {
		once.Do(func() {
			close(attempted)
			<-goOn
		})
		return connect.Connect(ctx, cfg, addr, name)
	}
	sc := h.newSubchannel(balancer.NewSubConnOptions{}, srv.Addr())
	<-attempted
	failed, err := h.group.Renew(t.Context())
	require.NoError(t, err)
	assert.Empty(t, failed)
	close(goOn)
	first := accept(srv)
	first.Lenient()
	h.expect(connectivity.Connecting, connectivity.Ready)
	second := accept(srv)
	first.ExpectClosed()
	one := h.begin(sc)
	headers, payload := second.ExpectUnary()
	second.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-one)
	assert.Empty(t, h.states)
	backendtest.Eventually(t, func() bool { return h.group.Loops() == 1 }, "the first has ended")
}
