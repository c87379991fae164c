package e2e_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// held are RPCs that run until they are ended.
type held struct {
	running sync.WaitGroup
	end     context.CancelFunc
}

// hold begins that many RPCs, which the backend does not answer.
func hold(t *testing.T, cc grpc.ClientConnInterface, n int) *held {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h := &held{end: cancel}
	for range n {
		h.running.Go(func() {
			_ = cc.Invoke(ctx, "/test.Backend/Hold", new(wrapperspb.StringValue), new(wrapperspb.StringValue))
		})
	}
	t.Cleanup(h.stop)
	return h
}

func (h *held) stop() {
	h.end()
	h.running.Wait()
}

// inUse returns the streams of each connection in use.
func inUse(cc *grpcdial.ClientConn) (streams []int) {
	for _, e := range cc.Snapshot().Endpoints {
		if e.State == connectivity.Ready {
			streams = append(streams, e.Streams)
		}
	}
	return streams
}

// When the server allows no more streams, connections are added up to the bound. Further
// RPCs wait for a stream on any of them.
func TestConnectionsScale(t *testing.T) {
	for name, tt := range map[string]struct {
		opts []grpcdial.DialOption
		want int
	}{
		"not asked for":                   {nil, 1},
		"option":                          {[]grpcdial.DialOption{grpcdial.WithMaxConnectionsPerSubchannel(3)}, 3},
		"service config":                  {[]grpcdial.DialOption{scalingConfig(4)}, 4},
		"the option bounds the config":    {[]grpcdial.DialOption{scalingConfig(4), grpcdial.WithMaxConnectionsPerSubchannel(2)}, 2},
		"the config says less":            {[]grpcdial.DialOption{scalingConfig(2), grpcdial.WithMaxConnectionsPerSubchannel(8)}, 2},
		"10 without the option":           {[]grpcdial.DialOption{scalingConfig(100)}, 10},
		"more than 10 by the option only": {[]grpcdial.DialOption{grpcdial.WithMaxConnectionsPerSubchannel(12)}, 12},
	} {
		t.Run(name, func(t *testing.T) {
			b := backendtest.Start(t, "one", grpc.MaxConcurrentStreams(5))
			cc := plain(t, b.Addr, tt.opts...)
			awaitReady(t, cc)
			running := hold(t, cc, tt.want*5)
			for range tt.want * 5 {
				<-b.Held
			}
			waiting := hold(t, cc, 5)
			var want []int
			for range tt.want {
				want = append(want, 5)
			}
			assert.Equal(t, want, inUse(cc))
			assert.Equal(t, tt.want, b.Accepted())
			assert.Empty(t, b.Held, "the server gets no more than it allows")
			running.stop()
			for range 5 {
				<-b.Held
			}
			waiting.stop()
			assert.Equal(t, tt.want, b.Accepted())
		})
	}
}

// dialThenHang is a dialer that connects n times and then waits for its context to end.
func dialThenHang(dials *atomic.Int32, n int32) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		if dials.Add(1) > n {
			return backendtest.Hang(ctx, addr)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

func scalingConfig(n int) grpcdial.DialOption {
	return grpcdial.WithDefaultServiceConfig(fmt.Sprintf(`{"connectionScaling": {"maxConnectionsPerSubchannel": %d}}`, n))
}

// RPCs that wait when the config allows more connections move over.
func TestScalingBeginsWithTheConfig(t *testing.T) {
	b := backendtest.Start(t, "one", grpc.MaxConcurrentStreams(2))
	r, target, option := handResolver(t)
	state := backendtest.Addresses(b)
	r.InitialState(state)
	cc := plain(t, target, option)
	awaitReady(t, cc)
	defer hold(t, cc, 2).stop()
	<-b.Held
	<-b.Held
	waiting := hold(t, cc, 4)
	defer waiting.stop()
	backendtest.Eventually(t, func() bool { return cc.Snapshot().Endpoints[0].Streams == 2 }, "the others wait")
	state.ServiceConfig = r.CC().ParseServiceConfig(`{"connectionScaling": {"maxConnectionsPerSubchannel": 3}}`)
	r.UpdateState(state)
	for range 4 {
		<-b.Held
	}
	assert.Equal(t, []int{2, 2, 2}, inUse(cc))
	state.ServiceConfig = r.CC().ParseServiceConfig(`{}`)
	r.UpdateState(state)
	assert.Equal(t, []int{2, 2, 2}, inUse(cc), "none is closed because fewer are allowed")
}

// Streams scale as unary RPCs do.
func TestStreamsScale(t *testing.T) {
	b := backendtest.Start(t, "one", grpc.MaxConcurrentStreams(1))
	cc := plain(t, b.Addr, grpcdial.WithMaxConnectionsPerSubchannel(3))
	var streams []grpc.ClientStream
	for range 3 {
		s, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Backend/Stream")
		require.NoError(t, err)
		streams = append(streams, s)
	}
	for _, s := range streams {
		require.NoError(t, s.SendMsg(new(wrapperspb.StringValue)))
		require.NoError(t, s.RecvMsg(new(wrapperspb.StringValue)))
		require.NoError(t, s.CloseSend())
	}
	assert.Equal(t, 3, b.Accepted())
}

// A deadline that passes while an RPC waits for any of the connections says so.
func TestDeadlineWhileScaled(t *testing.T) {
	b := backendtest.Start(t, "one", grpc.MaxConcurrentStreams(1))
	cc := plain(t, b.Addr, grpcdial.WithMaxConnectionsPerSubchannel(2))
	defer hold(t, cc, 2).stop()
	<-b.Held
	<-b.Held
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := backendtest.AskName(ctx, cc)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	assert.ErrorContains(t, err, "for a stream: the server allows 1 at a time")
	var e *grpcdial.RPCError
	require.ErrorAs(t, err, &e)
	assert.NotZero(t, e.Queued)
}

// A channel that is closed, or becomes idle, while RPCs wait and a connection is made.
func TestCloseWhileScaling(t *testing.T) {
	b := backendtest.Start(t, "one", grpc.MaxConcurrentStreams(1))
	var dials atomic.Int32
	cc := plain(t, b.Addr, grpcdial.WithMaxConnectionsPerSubchannel(2), grpcdial.WithContextDialer(dialThenHang(&dials, 1)))
	awaitReady(t, cc)
	running := hold(t, cc, 4)
	<-b.Held
	backendtest.Eventually(t, func() bool { return dials.Load() == 2 }, "another connection is being made")
	require.NoError(t, cc.Close())
	running.running.Wait()
	backendtest.AssertNothingRuns(t)
}

// connections counts those that a stats handler gets.
type connections struct{ begun, ended atomic.Int32 }

func (c *connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (c *connections) HandleRPC(context.Context, stats.RPCStats)                       {}
func (c *connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		c.begun.Add(1)
	case *stats.ConnEnd:
		c.ended.Add(1)
	}
}

// Each connection of a subchannel has its stats events, its trace events and its socket in
// channelz.
func TestEachConnectionIsSeen(t *testing.T) {
	b := backendtest.Start(t, "one", grpc.MaxConcurrentStreams(1))
	var seen connections
	var ready, lost sync.Map
	cc := plain(t, b.Addr, grpcdial.WithMaxConnectionsPerSubchannel(3), grpcdial.WithStatsHandler(&seen), grpcdial.WithDialTrace(&grpcdial.DialTrace{
		Ready: func(e grpcdial.DialEvent) { ready.Store(e.AttemptID, e.Addr) },
		Lost:  func(e grpcdial.DialEvent) { lost.Store(e.AttemptID, e.Addr) },
	}))
	running := hold(t, cc, 3)
	for range 3 {
		<-b.Held
	}
	assert.EqualValues(t, 3, seen.begun.Load())
	for id := range uint64(3) {
		addr, _ := ready.Load(id + 1)
		assert.Equal(t, b.Addr, addr)
	}
	r := serveChannelz(t)
	backendtest.Eventually(t, func() bool { return len(r.subchannels(r.top(b.Addr))[0].SocketRef) == 3 }, "three sockets")
	running.stop()
	b.Stop()
	backendtest.Eventually(t, func() bool { return seen.ended.Load() == 3 }, "they end")
	for id := range uint64(3) {
		_, ok := lost.Load(id + 1)
		assert.True(t, ok)
	}
}
