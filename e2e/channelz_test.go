package e2e_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/channelz"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// reader asks a channelz service as grpcdebug does.
type reader struct {
	t      *testing.T
	client channelzpb.ChannelzClient
}

// serveChannelz serves package channelz on a server of its own.
func serveChannelz(t *testing.T) reader {
	t.Helper()
	srv := grpc.NewServer()
	channelz.Register(srv)
	addr, _ := backendtest.Run(t, srv)
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cc.Close()) })
	return reader{t, channelzpb.NewChannelzClient(cc)}
}

// top returns the top channel with this target; nil if there is none.
func (r reader) top(target string) *channelzpb.Channel {
	r.t.Helper()
	resp, err := r.client.GetTopChannels(backendtest.Bounded(r.t), &channelzpb.GetTopChannelsRequest{})
	require.NoError(r.t, err)
	require.True(r.t, resp.End)
	for _, c := range resp.Channel {
		if c.Data.Target == target {
			return c
		}
	}
	return nil
}

func (r reader) channel(id int64) (*channelzpb.Channel, error) {
	resp, err := r.client.GetChannel(backendtest.Bounded(r.t), &channelzpb.GetChannelRequest{ChannelId: id})
	return resp.GetChannel(), err
}

func (r reader) subchannel(id int64) (*channelzpb.Subchannel, error) {
	resp, err := r.client.GetSubchannel(backendtest.Bounded(r.t), &channelzpb.GetSubchannelRequest{SubchannelId: id})
	return resp.GetSubchannel(), err
}

func (r reader) socket(id int64) (*channelzpb.Socket, error) {
	resp, err := r.client.GetSocket(backendtest.Bounded(r.t), &channelzpb.GetSocketRequest{SocketId: id})
	return resp.GetSocket(), err
}

// subchannels returns those of a channel.
func (r reader) subchannels(c *channelzpb.Channel) []*channelzpb.Subchannel {
	r.t.Helper()
	var all []*channelzpb.Subchannel
	for _, ref := range c.SubchannelRef {
		s, err := r.subchannel(ref.SubchannelId)
		require.NoError(r.t, err)
		all = append(all, s)
	}
	return all
}

// reached returns the record of a channel that a caller has seen in this state. It is in the
// record then.
func (r reader) reached(id int64, state channelzpb.ChannelConnectivityState_State) *channelzpb.Channel {
	r.t.Helper()
	c, err := r.channel(id)
	require.NoError(r.t, err)
	require.Equal(r.t, state, c.Data.State.State)
	return c
}

// traced returns the texts of a trace.
func traced(trace *channelzpb.ChannelTrace) []string {
	var all []string
	for _, e := range trace.Events {
		all = append(all, e.Description)
	}
	return all
}

// TestChannelz follows a channel through RPCs, the loss of its connection, a change
// of its policy and its end, as an operator sees them.
func TestChannelz(t *testing.T) {
	r, a, b := serveChannelz(t), backendtest.Start(t, "a"), backendtest.Start(t, "b")
	names, target, option := handResolver(t)
	names.InitialState(backendtest.Addresses(a))
	cc := plain(t, target, option)

	c := r.top(target)
	require.NotNil(t, c, "from its constructor on")
	assert.Equal(t, channelzpb.ChannelConnectivityState_IDLE, c.Data.State.State)
	assert.Equal(t, []string{"Channel Created"}, traced(c.Data.Trace))
	id := c.Ref.ChannelId

	// RPCs.
	before := time.Now()
	for range 3 {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(backendtest.Bounded(t))
	go func() { <-a.Held; cancel() }()
	require.Equal(t, codes.Canceled, status.Code(cc.Invoke(ctx, "/test.Backend/Hold", new(wrapperspb.StringValue), new(wrapperspb.StringValue))))

	c = r.reached(id, channelzpb.ChannelConnectivityState_READY)
	assert.EqualValues(t, 4, c.Data.CallsStarted)
	assert.EqualValues(t, 3, c.Data.CallsSucceeded)
	assert.EqualValues(t, 1, c.Data.CallsFailed)
	assert.WithinRange(t, c.Data.LastCallStartedTimestamp.AsTime(), before.Add(-time.Millisecond), time.Now())
	assert.Equal(t, []string{
		"Channel Created",
		"State changed to CONNECTING",
		"Resolved to " + a.Addr,
		"Load balancing policy changed to pick_first",
		"Subchannel Created",
		"State changed to READY",
	}, traced(c.Data.Trace))
	subs := r.subchannels(c)
	require.Len(t, subs, 1)
	assert.Equal(t, a.Addr, subs[0].Ref.Name)
	assert.Equal(t, channelzpb.ChannelConnectivityState_READY, subs[0].Data.State.State)
	assert.EqualValues(t, 4, subs[0].Data.CallsStarted)
	assert.EqualValues(t, 3, subs[0].Data.CallsSucceeded)
	assert.EqualValues(t, 1, subs[0].Data.CallsFailed)
	assert.WithinRange(t, subs[0].Data.LastCallStartedTimestamp.AsTime(), before, time.Now())
	require.Len(t, subs[0].SocketRef, 1)
	first := subs[0].SocketRef[0]
	k, err := r.socket(first.SocketId)
	require.NoError(t, err)
	assert.Equal(t, a.Addr, (&net.TCPAddr{IP: k.Remote.GetTcpipAddress().IpAddress, Port: int(k.Remote.GetTcpipAddress().Port)}).String())
	assert.Equal(t, first.Name, (&net.TCPAddr{IP: k.Local.GetTcpipAddress().IpAddress, Port: int(k.Local.GetTcpipAddress().Port)}).String()+" -> "+a.Addr)
	assert.EqualValues(t, 4, k.Data.StreamsStarted)
	assert.EqualValues(t, 3, k.Data.StreamsSucceeded)
	assert.EqualValues(t, 1, k.Data.StreamsFailed)
	assert.EqualValues(t, 4, k.Data.MessagesSent)
	assert.EqualValues(t, 3, k.Data.MessagesReceived)
	assert.Positive(t, k.Data.LocalFlowControlWindow.Value)
	assert.Positive(t, k.Data.RemoteFlowControlWindow.Value)

	// A lost connection.
	a.Cut()
	awaitState(t, cc, connectivity.Idle)
	backendtest.Eventually(t, func() bool { _, err := r.socket(first.SocketId); return status.Code(err) == codes.NotFound }, "the socket goes")
	sub, err := r.subchannel(subs[0].Ref.SubchannelId)
	require.NoError(t, err, "though pick_first may have shut it down")
	assert.EqualValues(t, 4, sub.Data.CallsStarted, "as before")
	assert.EqualValues(t, 3, sub.Data.CallsSucceeded)
	assert.EqualValues(t, 1, sub.Data.CallsFailed)
	got := traced(sub.Data.Trace)
	assert.Equal(t, []string{"Subchannel Created", "State changed to CONNECTING", "Connected: " + first.Name, "State changed to READY"}, got[:4])
	require.GreaterOrEqual(t, len(got), 6, got)
	assert.Regexp(t, "^State changed to IDLE: .*connection reset by peer", got[4])
	assert.Regexp(t, "(?m)^Disconnected: "+first.Name+": .*connection reset by peer", strings.Join(got[5:], "\n"))
	c = r.reached(id, channelzpb.ChannelConnectivityState_IDLE)
	text := traced(c.Data.Trace)
	assert.Contains(t, text[len(text)-1], "connection reset by peer")

	// Another policy.
	s := backendtest.Addresses(a, b)
	s.ServiceConfig = names.CC().ParseServiceConfig(backendtest.PolicyConfig("round_robin"))
	names.UpdateState(s)
	backendtest.AwaitNames(t, cc, "a", "b")
	backendtest.Eventually(t, func() bool {
		c, err = r.channel(id)
		require.NoError(t, err)
		return len(c.SubchannelRef) == 2
	}, "the subchannels of pick_first are gone")
	text = traced(c.Data.Trace)
	assert.Contains(t, text, "Resolved to 2 addresses: "+a.Addr+", "+b.Addr+", with a service config")
	assert.Contains(t, text, "Load balancing policy changed to round_robin")
	assert.Contains(t, text, "Subchannel Deleted")
	var started int64
	for _, s := range r.subchannels(c) {
		assert.Equal(t, channelzpb.ChannelConnectivityState_READY, s.Data.State.State)
		assert.Len(t, s.SocketRef, 1)
		started += s.Data.CallsStarted
	}
	assert.Equal(t, c.Data.CallsStarted-4, started, "all RPCs since then")

	// The end.
	require.NoError(t, cc.Close())
	assert.Nil(t, r.top(target))
	_, err = r.channel(id)
	assert.Equal(t, codes.NotFound, status.Code(err))
	for _, ref := range append(c.SubchannelRef, subs[0].Ref) {
		_, err = r.subchannel(ref.SubchannelId)
		assert.Equal(t, codes.NotFound, status.Code(err))
	}
}

// TestChannelzOfAnIdleChannel: the subchannels go, the channel stays.
func TestChannelzOfAnIdleChannel(t *testing.T) {
	r, a := serveChannelz(t), backendtest.Start(t, "a")
	names, target, option := handResolver(t)
	names.InitialState(backendtest.Addresses(a))
	cc := plain(t, target, option, grpcdial.WithIdleTimeout(50*time.Millisecond))
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	awaitState(t, cc, connectivity.Idle)
	backendtest.Eventually(t, func() bool { return len(r.top(target).SubchannelRef) == 0 }, "no subchannel is left")
	c := r.reached(r.top(target).Ref.ChannelId, channelzpb.ChannelConnectivityState_IDLE)
	assert.EqualValues(t, 1, c.Data.CallsSucceeded)
	assert.Contains(t, traced(c.Data.Trace), "State changed to IDLE: "+grpcdial.ErrIdle.Error())
}

// TestChannelzShowsFailures: why a resolver and a subchannel failed, and why a
// service config was refused.
func TestChannelzShowsFailures(t *testing.T) {
	r := serveChannelz(t)
	names, target, option := handResolver(t)
	names.InitialState(resolver.State{})
	cc := plain(t, target, option, grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("no way") }))
	cc.Connect()
	awaitState(t, cc, connectivity.TransientFailure)
	names.CC().ReportError(errors.New("no such name"))
	s := resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}}
	s.ServiceConfig = names.CC().ParseServiceConfig("not JSON")
	names.UpdateState(s)
	text := traced(r.top(target).Data.Trace)
	assert.Contains(t, text, "Resolved to no address")
	assert.Contains(t, text, "Resolver failed: no such name")
	assert.Contains(t, strings.Join(text, "\n"), "Resolved to x:1, with a service config in error: ")

	s.ServiceConfig = nil
	names.UpdateState(s)
	backendtest.Eventually(t, func() bool {
		for _, s := range r.subchannels(r.top(target)) {
			for _, e := range s.Data.Trace.Events {
				if strings.HasPrefix(e.Description, "State changed to TRANSIENT_FAILURE: ") && strings.Contains(e.Description, "no way") {
					return e.Severity == channelzpb.ChannelTraceEvent_CT_WARNING
				}
			}
		}
		return false
	}, "the subchannel says why")
}

// TestChannelzOfARefusedServiceConfig: it was the first, and there is no other.
func TestChannelzOfARefusedServiceConfig(t *testing.T) {
	r := serveChannelz(t)
	names, target, option := handResolver(t)
	names.InitialState(resolver.State{ServiceConfig: &serviceconfig.ParseResult{Err: errors.New("not JSON")}})
	cc := plain(t, target, option)
	cc.Connect()
	awaitState(t, cc, connectivity.TransientFailure)
	assert.Contains(t, strings.Join(traced(r.top(target).Data.Trace), "\n"), "Service config refused: error parsing service config: not JSON")
}

// TestChannelzOfASubchannelThatMoves: a policy gives a subchannel other addresses.
func TestChannelzOfASubchannelThatMoves(t *testing.T) {
	r, a, b := serveChannelz(t), backendtest.Start(t, "a"), backendtest.Start(t, "b")
	states := make(chan balancer.SubConnState, 100)
	cc, sc := oneSubchannel(t, states, backendtest.Addresses(a).Addresses)
	sc.UpdateAddresses(backendtest.Addresses(b).Addresses)
	backendtest.AwaitNames(t, cc, "b")
	subs := r.subchannels(r.top(cc.Target()))
	require.Len(t, subs, 1)
	assert.Equal(t, b.Addr, subs[0].Ref.Name)
	assert.Contains(t, traced(subs[0].Data.Trace), "Addresses changed to "+b.Addr)
	sc.UpdateAddresses(backendtest.Addresses(b, a).Addresses)
	subs = r.subchannels(r.top(cc.Target()))
	require.Len(t, subs, 1)
	assert.Equal(t, b.Addr+" and 1 more", subs[0].Ref.Name, "the connection stays")
}

// TestNestedChannels: a policy makes a channel of its own, as rls and grpclb do.
func TestNestedChannels(t *testing.T) {
	r := serveChannelz(t)
	built := make(chan balancer.BuildOptions, 1)
	policy := &backendtest.SpyPolicy{As: t.Name(), OnBuild: func(s *backendtest.Spy) { built <- s.Opts }}
	balancer.Register(policy)
	names, target, option := handResolver(t)
	names.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
	outer := plain(t, target, option, grpcdial.WithDefaultServiceConfig(policy.Config()))
	outer.Connect()
	parent := (<-built).ChannelzParent
	require.NotNil(t, parent)
	assert.Contains(t, parent.String(), "Channel #")

	inner := plain(t, "passthrough:///inner", grpcdial.WithChannelzParentID(parent))
	assert.Nil(t, r.top("passthrough:///inner"))
	c := r.top(target)
	require.Len(t, c.ChannelRef, 1)
	assert.Equal(t, "passthrough:///inner", c.ChannelRef[0].Name)
	nested, err := r.channel(c.ChannelRef[0].ChannelId)
	require.NoError(t, err)
	assert.Equal(t, "passthrough:///inner", nested.Data.Target)
	assert.Contains(t, traced(c.Data.Trace), "Nested Channel Created")

	require.NoError(t, inner.Close())
	c = r.top(target)
	assert.Empty(t, c.ChannelRef)
	assert.Contains(t, traced(c.Data.Trace), "Nested Channel Deleted")

	orphan := plain(t, "passthrough:///orphan", grpcdial.WithChannelzParentID(parent))
	require.NoError(t, outer.Close())
	assert.NotNil(t, r.top("passthrough:///orphan"), "its parent has closed")
	require.NoError(t, orphan.Close())
}

// TestFailedDialLeavesNoChannelzData: a channel that a constructor did not return is not
// listed.
func TestFailedDialLeavesNoChannelzData(t *testing.T) {
	r := serveChannelz(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	const target = "passthrough:///never"
	_, err := grpcdial.DialContext(ctx, target, grpcdial.WithInsecure(), grpcdial.WithBlock(),
		grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("no way") }))
	require.Error(t, err)
	assert.Nil(t, r.top(target))
}
