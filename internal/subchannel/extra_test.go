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
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
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

// A wait that ends before the attempt leaves nothing behind, however often the program asks.
func TestRenewGivenUp(t *testing.T) {
	h, sc, _, first := scaled(t, 1)
	h.setConnect(func(ctx context.Context, _ *connect.Config, _ resolver.Address, _ string) (*h2.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ended, end := context.WithCancel(t.Context())
	end()
	for range 10 {
		_, err := h.group.Renew(ended)
		require.ErrorIs(t, err, context.Canceled)
	}
	sc.mu.Lock()
	assert.Empty(t, sc.renewals)
	sc.mu.Unlock()
	one := h.begin(sc)
	headers, payload := first.ExpectUnary()
	first.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-one)
	assert.Empty(t, h.states)
}
