package subchannel

import (
	"context"
	"errors"
	"sync"
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
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/call"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/metrics"
)

// running is an RPC that the server has and has not answered.
type running struct {
	conn    *h2test.Conn
	headers *h2test.Frame
	payload []byte
	ended   <-chan error
}

// receive returns the RPC that comes on c; its error comes on ended.
func receive(c *h2test.Conn, ended <-chan error) running {
	headers, payload := c.ExpectUnary()
	return running{c, headers, payload, ended}
}

// reply answers the RPC, which ends well.
func (r running) reply(t *testing.T) {
	t.Helper()
	r.conn.ReplyUnary(r.headers.StreamID, r.payload)
	require.NoError(t, <-r.ended)
}

// twoRunning is scaled with an RPC on each of two connections.
func twoRunning(t *testing.T) (h *fakeHost, sc *Subchannel, srv *h2test.Server, one, two running) {
	t.Helper()
	h, sc, srv, first := scaled(t, 2)
	one = receive(first, h.begin(sc))
	ended := h.begin(sc)
	return h, sc, srv, one, receive(accept(srv), ended)
}

// An RPC that waits goes to a new connection. GOAWAY of one of several is nothing to the
// policy, and another connection is made for RPCs that wait.
func TestGoAwayOfOneOfSeveral(t *testing.T) {
	h, sc, srv, one, two := twoRunning(t)
	ended := h.begin(sc)
	one.conn.GoAway(one.headers.StreamID, http2.ErrCodeNo, "")
	third := accept(srv)
	three := receive(third, ended)
	for _, r := range []running{one, two, three} {
		r.reply(t)
	}
	assert.Empty(t, h.states)
	backendtest.Eventually(t, func() bool { return h.group.Loops() == 2 }, "the first connection has ended with its RPC")
	two.conn.Close()
	backendtest.Eventually(t, func() bool { return h.group.Loops() == 1 }, "the second one has ended")
	receive(third, h.begin(sc)).reply(t) // the one that is left serves
	third.Close()
	h.expect(connectivity.Idle)
	assert.Empty(t, h.states)
}

// The loss of a connection ends the RPCs on it, and no other.
func TestLossOfOneOfSeveral(t *testing.T) {
	h, _, _, one, two := twoRunning(t)
	one.conn.CloseHard()
	assert.Equal(t, codes.Unavailable, status.Code(<-one.ended))
	two.reply(t)
	assert.Empty(t, h.states)
	two.conn.CloseHard()
	h.expect(connectivity.Idle)
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
	h, sc, srv, one, two := twoRunning(t)
	sc.UpdateAddresses(addresses("b:1", srv.Addr()))
	assert.Len(t, *sc.inUse.Load(), 2)
	other := h2test.Listen(t)
	sc.UpdateAddresses(addresses(other.Addr()))
	h.expect(connectivity.Connecting)
	accept(other)
	h.expect(connectivity.Ready)
	assert.Len(t, *sc.inUse.Load(), 1)
	one.reply(t)
	two.reply(t)
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
			h, sc, _, stays, leaves := twoRunning(t)
			if name == "GOAWAY" {
				stays, leaves = leaves, stays
			}
			leaves.reply(t)
			var once sync.Once
			h.calls.SetPicker(backendtest.PickerFor(&endpoint{sc, func() {
				once.Do(func() {
					leave(sc, leaves.conn)
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
			stays.reply(t)
			receive(stays.conn, three).reply(t)
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
