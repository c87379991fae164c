package channelz_test

import (
	"errors"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/grpcdial/grpcdial/channelz"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

// serve runs a server on loopback with what register puts on it, until the end of
// the test, and returns a client of its channelz.
func serve(t *testing.T, register func(*grpc.Server)) channelzpb.ChannelzClient {
	t.Helper()
	cc, err := grpc.NewClient(listen(t, register), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cc.Close()) })
	return channelzpb.NewChannelzClient(cc)
}

func listen(t *testing.T, register func(*grpc.Server), opts ...grpc.ServerOption) (addr string) {
	t.Helper()
	s := grpc.NewServer(opts...)
	register(s)
	addr, _ = backendtest.Run(t, s)
	return addr
}

func registerOurs(s *grpc.Server) { channelz.Register(s) }

func openChannel(t *testing.T, target string) *channelzdata.Channel {
	t.Helper()
	c := channelzdata.Open(target, nil, nil)
	t.Cleanup(c.Close)
	return c
}

// idOf returns the id of a channel, subchannel or socket of the channelzdata, open or not.
func idOf[E *channelzdata.Channel | *channelzdata.Subchannel | *channelzdata.Socket](entry E) int64 {
	return reflect.ValueOf(entry).Elem().FieldByName("id").Int()
}

func address(addr string) []resolver.Address { return []resolver.Address{{Addr: addr}} }

// topChannels returns all top channels from start on, read in pages of n.
func topChannels(t *testing.T, client channelzpb.ChannelzClient, start, n int64) []*channelzpb.Channel {
	t.Helper()
	var all []*channelzpb.Channel
	for {
		resp, err := client.GetTopChannels(t.Context(), &channelzpb.GetTopChannelsRequest{StartChannelId: start, MaxResults: n})
		require.NoError(t, err)
		if n > 0 {
			require.LessOrEqual(t, len(resp.GetChannel()), int(n))
		}
		for _, c := range resp.GetChannel() {
			require.GreaterOrEqual(t, c.GetRef().GetChannelId(), start)
			start = c.GetRef().GetChannelId() + 1
			all = append(all, c)
		}
		if resp.GetEnd() {
			return all
		}
		require.NotEmpty(t, resp.GetChannel(), "a page that is not the last has something on it")
	}
}

func channelIDs(all []*channelzpb.Channel) []int64 {
	var ids []int64
	for _, c := range all {
		ids = append(ids, c.GetRef().GetChannelId())
	}
	return ids
}

func descriptions(trace *channelzpb.ChannelTrace) []string {
	var all []string
	for _, e := range trace.GetEvents() {
		all = append(all, e.GetDescription())
	}
	return all
}

type calls channelzdata.Calls

func (c calls) Calls() channelzdata.Calls { return channelzdata.Calls(c) }

type counts channelzdata.SocketCounts

func (c counts) SocketCounts() channelzdata.SocketCounts { return channelzdata.SocketCounts(c) }

// TestWalk goes the way that grpcdebug goes: from the top channels down to a
// socket.
func TestWalk(t *testing.T) {
	client := serve(t, registerOurs)
	at := time.Unix(1_700_000_000, 5)
	c := channelzdata.Open("dns:///example", nil, calls{Started: 9, Succeeded: 5, Failed: 3, LastStarted: at})
	t.Cleanup(c.Close)
	nested := channelzdata.Open("inner", c.Identifier(), nil)
	t.Cleanup(nested.Close)
	s := c.NewSubchannel(address("10.0.0.1:443"))
	s.State(connectivity.TransientFailure, errors.New("refused"))
	s.State(connectivity.Ready, nil)
	c.State(connectivity.Ready, nil)
	k := s.NewSocket(&peer.Peer{
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5555},
		Addr:      &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443},
	}, "server.example", counts{
		StreamsStarted: 8, StreamsSucceeded: 4, StreamsFailed: 3, CallsSucceeded: 2,
		MessagesSent: 11, MessagesReceived: 12, KeepalivesSent: 13,
		LastStream: at, LastSent: at.Add(1), LastReceived: at.Add(2),
		SendWindow: 100, ReceiveWindow: 200, GoAway: true, GoAwayCode: 11, MaxStreams: 77,
	})

	top := topChannels(t, client, 0, 0)
	require.Len(t, top, 1, "the nested channel is no top one")
	got, err := client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: top[0].GetRef().GetChannelId()})
	require.NoError(t, err)
	assert.True(t, proto.Equal(top[0], got.GetChannel()))
	ch := got.GetChannel()
	assert.Equal(t, idOf(c), ch.GetRef().GetChannelId())
	assert.Equal(t, "dns:///example", ch.GetRef().GetName())
	assert.Equal(t, "dns:///example", ch.GetData().GetTarget())
	assert.Equal(t, channelzpb.ChannelConnectivityState_READY, ch.GetData().GetState().GetState())
	assert.EqualValues(t, 9, ch.GetData().GetCallsStarted())
	assert.EqualValues(t, 5, ch.GetData().GetCallsSucceeded())
	assert.EqualValues(t, 3, ch.GetData().GetCallsFailed())
	assert.True(t, at.Equal(ch.GetData().GetLastCallStartedTimestamp().AsTime()))
	require.Len(t, ch.GetChannelRef(), 1)
	assert.Equal(t, idOf(nested), ch.GetChannelRef()[0].GetChannelId())
	assert.Equal(t, "inner", ch.GetChannelRef()[0].GetName())
	trace := ch.GetData().GetTrace()
	assert.Equal(t, []string{"Channel Created", "Nested Channel Created", "Subchannel Created", "State changed to READY"}, descriptions(trace))
	assert.EqualValues(t, 4, trace.GetNumEventsLogged())
	assert.WithinDuration(t, time.Now(), trace.GetCreationTimestamp().AsTime(), time.Minute)
	assert.Equal(t, idOf(nested), trace.GetEvents()[1].GetChannelRef().GetChannelId())
	assert.Equal(t, idOf(s), trace.GetEvents()[2].GetSubchannelRef().GetSubchannelId())
	assert.Nil(t, trace.GetEvents()[3].GetChildRef())

	require.Len(t, ch.GetSubchannelRef(), 1)
	subResp, err := client.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: ch.GetSubchannelRef()[0].GetSubchannelId()})
	require.NoError(t, err)
	sub := subResp.GetSubchannel()
	assert.Equal(t, "10.0.0.1:443", sub.GetRef().GetName())
	assert.Equal(t, "10.0.0.1:443", sub.GetData().GetTarget())
	assert.Equal(t, channelzpb.ChannelConnectivityState_READY, sub.GetData().GetState().GetState())
	assert.EqualValues(t, 8, sub.GetData().GetCallsStarted())
	assert.EqualValues(t, 2, sub.GetData().GetCallsSucceeded())
	assert.EqualValues(t, 5, sub.GetData().GetCallsFailed())
	failed := sub.GetData().GetTrace().GetEvents()[1]
	assert.Equal(t, "State changed to TRANSIENT_FAILURE: refused", failed.GetDescription())
	assert.Equal(t, channelzpb.ChannelTraceEvent_CT_WARNING, failed.GetSeverity())

	require.Len(t, sub.GetSocketRef(), 1)
	socketResp, err := client.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: sub.GetSocketRef()[0].GetSocketId()})
	require.NoError(t, err)
	socket := socketResp.GetSocket()
	assert.Equal(t, idOf(k), socket.GetRef().GetSocketId())
	assert.Equal(t, "127.0.0.1:5555 -> 10.0.0.1:443", socket.GetRef().GetName())
	assert.Equal(t, "server.example", socket.GetRemoteName())
	assert.Equal(t, []byte{127, 0, 0, 1}, socket.GetLocal().GetTcpipAddress().GetIpAddress())
	assert.EqualValues(t, 443, socket.GetRemote().GetTcpipAddress().GetPort())
	assert.Nil(t, socket.GetSecurity())
	data := socket.GetData()
	assert.Equal(t, []int64{8, 4, 3, 11, 12, 13, 100, 200}, []int64{data.GetStreamsStarted(), data.GetStreamsSucceeded(), data.GetStreamsFailed(),
		data.GetMessagesSent(), data.GetMessagesReceived(), data.GetKeepAlivesSent(),
		data.GetLocalFlowControlWindow().GetValue(), data.GetRemoteFlowControlWindow().GetValue()})
	assert.True(t, at.Equal(data.GetLastLocalStreamCreatedTimestamp().AsTime()))
	assert.True(t, at.Add(1).Equal(data.GetLastMessageSentTimestamp().AsTime()))
	assert.True(t, at.Add(2).Equal(data.GetLastMessageReceivedTimestamp().AsTime()))
	assert.EqualValues(t, 11, data.GetReceivedGoawayError().GetValue())
	assert.EqualValues(t, 77, data.GetPeerMaxConcurrentStreams())
}

func TestStatesAndSeverities(t *testing.T) {
	c := openChannel(t, "a")
	for state, want := range map[connectivity.State]channelzpb.ChannelConnectivityState_State{
		connectivity.Idle:             channelzpb.ChannelConnectivityState_IDLE,
		connectivity.Connecting:       channelzpb.ChannelConnectivityState_CONNECTING,
		connectivity.Ready:            channelzpb.ChannelConnectivityState_READY,
		connectivity.TransientFailure: channelzpb.ChannelConnectivityState_TRANSIENT_FAILURE,
		connectivity.Shutdown:         channelzpb.ChannelConnectivityState_SHUTDOWN,
	} {
		for severity, wantSeverity := range map[channelzdata.Severity]channelzpb.ChannelTraceEvent_Severity{
			channelzdata.Info:    channelzpb.ChannelTraceEvent_CT_INFO,
			channelzdata.Warning: channelzpb.ChannelTraceEvent_CT_WARNING,
			channelzdata.Error:   channelzpb.ChannelTraceEvent_CT_ERROR,
			77:                   channelzpb.ChannelTraceEvent_CT_UNKNOWN,
		} {
			c.State(state, nil)
			c.Note(severity, "x")
			resp, err := channelz.NewServer().GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: idOf(c)})
			require.NoError(t, err)
			data := resp.GetChannel().GetData()
			assert.Equal(t, want, data.GetState().GetState())
			events := data.GetTrace().GetEvents()
			assert.Equal(t, wantSeverity, events[len(events)-1].GetSeverity())
		}
	}
}

// TestWhatGrpcdebugReadsIsThere: grpcdebug reads fields of these messages without asking
// whether they are set, also where there is nothing to report.
func TestWhatGrpcdebugReadsIsThere(t *testing.T) {
	client := serve(t, registerOurs)
	c := openChannel(t, "a")
	s := c.NewSubchannel(nil)
	k := s.NewSocket(&peer.Peer{Addr: &net.TCPAddr{}, LocalAddr: &net.TCPAddr{}}, "", nil)
	never := &timestamppb.Timestamp{}

	ch, err := client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: idOf(c)})
	require.NoError(t, err)
	sub, err := client.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: idOf(s)})
	require.NoError(t, err)
	for _, data := range []*channelzpb.ChannelData{ch.GetChannel().GetData(), sub.GetSubchannel().GetData()} {
		assert.Equal(t, channelzpb.ChannelConnectivityState_IDLE, data.State.State)
		assert.True(t, proto.Equal(never, data.LastCallStartedTimestamp))
		assert.Positive(t, data.Trace.CreationTimestamp.Seconds)
		for _, e := range data.Trace.Events {
			assert.Positive(t, e.Timestamp.Seconds)
		}
	}

	resp, err := client.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: idOf(k)})
	require.NoError(t, err)
	data := resp.GetSocket().GetData()
	for _, at := range []*timestamppb.Timestamp{data.LastLocalStreamCreatedTimestamp, data.LastRemoteStreamCreatedTimestamp,
		data.LastMessageSentTimestamp, data.LastMessageReceivedTimestamp} {
		assert.True(t, proto.Equal(never, at))
	}
	assert.Zero(t, data.LocalFlowControlWindow.Value)
	assert.Zero(t, data.RemoteFlowControlWindow.Value)
	assert.NotNil(t, resp.GetSocket().Local.GetTcpipAddress())
	assert.NotNil(t, resp.GetSocket().Remote.GetTcpipAddress())
}

func TestSocketOfAnUnknownPeer(t *testing.T) {
	k := openChannel(t, "a").NewSubchannel(nil).NewSocket(nil, "", nil)
	resp, err := channelz.NewServer().GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: idOf(k)})
	require.NoError(t, err)
	assert.Nil(t, resp.GetSocket().GetLocal())
	assert.Nil(t, resp.GetSocket().GetRemote())
	assert.Nil(t, resp.GetSocket().GetData().GetReceivedGoawayError())
}

func TestUnknownIDs(t *testing.T) {
	client := serve(t, registerOurs)
	closed := openChannel(t, "a")
	s := closed.NewSubchannel(nil)
	k := s.NewSocket(nil, "", nil)
	closed.Close()
	open := openChannel(t, "b")

	for _, id := range []int64{-1, 0, 1, channelzdata.FirstID, idOf(closed), idOf(s), idOf(k), idOf(open) + 1000} {
		_, err := client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: id})
		assert.Equal(t, codes.NotFound, status.Code(err), "%d", id)
	}
	for _, id := range []int64{-1, 0, 1, idOf(open), idOf(s)} {
		_, err := client.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: id})
		assert.Equal(t, codes.NotFound, status.Code(err), "%d", id)
		_, err = client.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: id})
		assert.Equal(t, codes.NotFound, status.Code(err), "%d", id)
		_, err = client.GetServer(t.Context(), &channelzpb.GetServerRequest{ServerId: id})
		assert.Equal(t, codes.NotFound, status.Code(err), "%d", id)
		_, err = client.GetServerSockets(t.Context(), &channelzpb.GetServerSocketsRequest{ServerId: id})
		assert.Equal(t, codes.NotFound, status.Code(err), "%d", id)
	}
	_, err := client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: 7})
	assert.Equal(t, "there is no channel with id 7, or no more", status.Convert(err).Message())
}

func TestNoServers(t *testing.T) {
	client := serve(t, registerOurs)
	resp, err := client.GetServers(t.Context(), &channelzpb.GetServersRequest{})
	require.NoError(t, err)
	assert.Empty(t, resp.GetServer())
	assert.True(t, resp.GetEnd())
	_, err = client.GetServers(t.Context(), &channelzpb.GetServersRequest{MaxResults: -1})
	assert.Equal(t, codes.InvalidArgument, status.Code(err))
}

func TestPages(t *testing.T) {
	client := serve(t, registerOurs)
	assert.Empty(t, topChannels(t, client, 0, 0))
	var want []int64
	for range 120 {
		c := openChannel(t, "a")
		want = append(want, idOf(c))
	}
	for _, n := range []int64{0, 1, 7, 60, 119, 120, 121, 1 << 40} {
		assert.Equal(t, want, channelIDs(topChannels(t, client, 0, n)), "pages of %d", n)
	}
	assert.Equal(t, want[60:], channelIDs(topChannels(t, client, want[60], 7)))
	assert.Empty(t, topChannels(t, client, want[119]+1, 7))

	resp, err := client.GetTopChannels(t.Context(), &channelzpb.GetTopChannelsRequest{})
	require.NoError(t, err)
	assert.Len(t, resp.GetChannel(), 50)
	assert.False(t, resp.GetEnd())
	_, err = client.GetTopChannels(t.Context(), &channelzpb.GetTopChannelsRequest{MaxResults: -1})
	assert.Equal(t, codes.InvalidArgument, status.Code(err))
}

// TestPageFitsAClient: what is asked for is more than a client accepts by default.
func TestPageFitsAClient(t *testing.T) {
	client := serve(t, registerOurs)
	var want []int64
	for range 300 {
		c := openChannel(t, "a")
		for range 32 {
			c.Note(channelzdata.Info, strings.Repeat("long ", 200))
		}
		want = append(want, idOf(c))
	}
	assert.Equal(t, want, channelIDs(topChannels(t, client, 0, 1000)))
}

func TestTextsThatAreNotUTF8(t *testing.T) {
	client := serve(t, registerOurs)
	c := openChannel(t, "a\xffb")
	s := c.NewSubchannel(address("\xff"))
	k := s.NewSocket(&peer.Peer{Addr: &net.UnixAddr{Name: "\xff", Net: "unix"}, LocalAddr: oddAddr{}}, "\xff", nil)
	c.State(connectivity.TransientFailure, errors.New("\xff"))

	ch, err := client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: idOf(c)})
	require.NoError(t, err)
	assert.Equal(t, "a�b", ch.GetChannel().GetData().GetTarget())
	_, err = client.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: idOf(s)})
	assert.NoError(t, err)
	socket, err := client.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: idOf(k)})
	require.NoError(t, err)
	assert.Equal(t, "�", socket.GetSocket().GetRemote().GetUdsAddress().GetFilename())
	assert.Equal(t, "odd:�", socket.GetSocket().GetLocal().GetOtherAddress().GetName())
}

type oddAddr struct{}

func (oddAddr) Network() string { return "odd" }
func (oddAddr) String() string  { return "\xff" }

// TestReadWhileChannelsLive reads everything over RPCs while channels come and go.
func TestReadWhileChannelsLive(t *testing.T) {
	client := serve(t, registerOurs)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for range 3 {
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c := channelzdata.Open("a", nil, nil)
				s := c.NewSubchannel(address("b"))
				s.State(connectivity.Connecting, nil)
				k := s.NewSocket(&peer.Peer{Addr: oddAddr{}}, "", counts{StreamsStarted: 1})
				s.State(connectivity.Ready, nil)
				k.Close(errors.New("lost"))
				s.Close()
				c.Close()
			}
		})
	}
	for range 25 {
		for _, c := range topChannels(t, client, 0, 2) {
			for _, ref := range c.GetSubchannelRef() {
				sub, err := client.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: ref.GetSubchannelId()})
				if err != nil {
					assert.Equal(t, codes.NotFound, status.Code(err))
					continue
				}
				for _, ref := range sub.GetSubchannel().GetSocketRef() {
					if _, err := client.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: ref.GetSocketId()}); err != nil {
						assert.Equal(t, codes.NotFound, status.Code(err))
					}
				}
			}
		}
	}
	close(stop)
	writers.Wait()
	assert.Empty(t, topChannels(t, client, 0, 0))
}
