package channelz_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/pickfirst"
	grpcchannelz "google.golang.org/grpc/channelz"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/channelz"
	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

func registerMerged(s *grpc.Server) { service.RegisterChannelzServiceToServer(channelz.Merge(s)) }

// grpcGoChannel makes a channel of grpc-go's that does not connect.
func grpcGoChannel(t *testing.T, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///never", append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() }) // a test may have closed it
	return cc
}

func TestMergedPages(t *testing.T) {
	client := serve(t, registerMerged)
	for range 4 {
		grpcGoChannel(t)
	}
	var ours []int64
	for range 5 {
		c := openChannel(t, "a")
		ours = append(ours, idOf(c))
	}
	whole := channelIDs(topChannels(t, client, 0, 0))
	require.Len(t, whole, 1+4+5, "the client of this test is one")
	assert.Equal(t, ours, whole[5:])
	assert.Less(t, whole[4], int64(channelzdata.FirstID))
	for n := int64(1); n < 12; n++ {
		assert.Equal(t, whole, channelIDs(topChannels(t, client, 0, n)), "pages of %d", n)
	}
	for i, id := range whole {
		assert.Equal(t, whole[i:], channelIDs(topChannels(t, client, id, 3)))
	}
	_, err := client.GetTopChannels(t.Context(), &channelzpb.GetTopChannelsRequest{MaxResults: -1})
	assert.Equal(t, codes.InvalidArgument, status.Code(err))
}

func TestMergedWalk(t *testing.T) {
	client := serve(t, registerMerged)
	c := openChannel(t, "ours")
	s := c.NewSubchannel(nil)
	k := s.NewSocket(nil, "", nil)

	// Ours.
	ch, err := client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: idOf(c)})
	require.NoError(t, err)
	assert.Equal(t, "ours", ch.GetChannel().GetData().GetTarget())
	_, err = client.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: idOf(s)})
	require.NoError(t, err)
	_, err = client.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: idOf(k)})
	require.NoError(t, err)

	// grpc-go's: the client of this test.
	theirs := topChannels(t, client, 0, 0)[0]
	require.Len(t, theirs.GetSubchannelRef(), 1)
	sub, err := client.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: theirs.GetSubchannelRef()[0].GetSubchannelId()})
	require.NoError(t, err)
	require.Len(t, sub.GetSubchannel().GetSocketRef(), 1)
	socket, err := client.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: sub.GetSubchannel().GetSocketRef()[0].GetSocketId()})
	require.NoError(t, err)
	assert.Positive(t, socket.GetSocket().GetData().GetMessagesSent())

	// And the server of this test.
	servers, err := client.GetServers(t.Context(), &channelzpb.GetServersRequest{})
	require.NoError(t, err)
	require.Len(t, servers.GetServer(), 1)
	id := servers.GetServer()[0].GetRef().GetServerId()
	_, err = client.GetServer(t.Context(), &channelzpb.GetServerRequest{ServerId: id})
	require.NoError(t, err)
	sockets, err := client.GetServerSockets(t.Context(), &channelzpb.GetServerSocketsRequest{ServerId: id})
	require.NoError(t, err)
	assert.Len(t, sockets.GetSocketRef(), 1)

	// Ids that neither registry has.
	for _, id := range []int64{1 << 39, channelzdata.FirstID, idOf(k) + 1000} {
		_, err = client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: id})
		assert.Equal(t, codes.NotFound, status.Code(err))
		_, err = client.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: id})
		assert.Equal(t, codes.NotFound, status.Code(err))
		_, err = client.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: id})
		assert.Equal(t, codes.NotFound, status.Code(err))
	}
}

// identifiers gets the identifier of each of grpc-go's channels that builds the
// policy takesIdentifier.
var identifiers = make(chan grpcchannelz.Identifier, 1)

// takesIdentifier is pick_first under another name.
type takesIdentifier struct{ balancer.Builder }

func init() { balancer.Register(takesIdentifier{balancer.Get(pickfirst.Name)}) }

func (takesIdentifier) Name() string { return "channelz_test_takes_identifier" }

func (b takesIdentifier) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	identifiers <- opts.ChannelzParent
	return b.Builder.Build(cc, opts)
}

// TestNestedInAChannelOfGRPCGo: a policy on a channel of grpc-go's makes one of ours.
func TestNestedInAChannelOfGRPCGo(t *testing.T) {
	client := serve(t, registerMerged)
	theirs := grpcGoChannel(t, grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"channelz_test_takes_identifier":{}}]}`))
	theirs.Connect()
	child := channelzdata.Open("child", <-identifiers, nil)
	t.Cleanup(child.Close)

	top := topChannels(t, client, 0, 0)
	require.Len(t, top, 2)
	parent := top[1]
	require.Len(t, parent.GetChannelRef(), 1)
	assert.Equal(t, idOf(child), parent.GetChannelRef()[0].GetChannelId())
	assert.Equal(t, "child", parent.GetChannelRef()[0].GetName())
	got, err := client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: parent.GetRef().GetChannelId()})
	require.NoError(t, err)
	require.Len(t, got.GetChannel().GetChannelRef(), 1)
	assert.Equal(t, idOf(child), got.GetChannel().GetChannelRef()[0].GetChannelId())

	require.NoError(t, theirs.Close())
	assert.Equal(t, idOf(child), topChannels(t, client, 0, 0)[1].GetRef().GetChannelId(), "its parent has closed")
}

// TestChannelOfGRPCGoNestedInOurs: a policy on one of our channels makes one of
// grpc-go's.
func TestChannelOfGRPCGoNestedInOurs(t *testing.T) {
	client := serve(t, registerMerged)
	c := openChannel(t, "ours")
	grpcGoChannel(t, grpc.WithChannelzParentID(c.Identifier()))
	assert.Len(t, topChannels(t, client, 0, 0), 3, "none is out of reach")
}

func TestMergePassesOtherServicesOn(t *testing.T) {
	addr := listen(t, func(s *grpc.Server) {
		merged := channelz.Merge(s)
		healthpb.RegisterHealthServer(merged, health.NewServer())
		channelz.Register(merged) // ours with ours is ours
	})
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, cc.Close()) })
	_, err = healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{})
	assert.NoError(t, err)
	c := openChannel(t, "a")
	assert.Equal(t, []int64{idOf(c)}, channelIDs(topChannels(t, channelzpb.NewChannelzClient(cc), 0, 0)))
}

// broken is a channelz service that fails.
type broken struct {
	channelzpb.UnimplementedChannelzServer
}

func (broken) GetTopChannels(context.Context, *channelzpb.GetTopChannelsRequest) (*channelzpb.GetTopChannelsResponse, error) {
	return nil, status.Error(codes.Unavailable, "broken")
}

func TestMergeWithAServiceThatFails(t *testing.T) {
	client := serve(t, func(s *grpc.Server) { channelzpb.RegisterChannelzServer(channelz.Merge(s), broken{}) })
	c := openChannel(t, "a")
	_, err := client.GetTopChannels(t.Context(), &channelzpb.GetTopChannelsRequest{})
	assert.Equal(t, codes.Unavailable, status.Code(err))
	_, err = client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: idOf(c)})
	assert.NoError(t, err)
	_, err = client.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: 1})
	assert.Equal(t, codes.Unimplemented, status.Code(err))
}
