package compat

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds" // has outlier_detection

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/channelz"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// answering is a server that fails its RPCs or does not.
type answering struct {
	testgrpc.UnimplementedTestServiceServer
	err error
}

func (a answering) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	return new(testgrpc.Empty), a.err
}

func startAnswering(t *testing.T, err error) (addr string) {
	t.Helper()
	srv := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(srv, answering{err: err})
	service.RegisterChannelzServiceToServer(channelz.Merge(srv)) // its import has grpc-go's channelz collect
	addr, _ = backendtest.Run(t, srv)
	return addr
}

// TestOutlierDetection: the policy ejects the backend that fails, and records that under
// the channelz parent that it was built with.
func TestOutlierDetection(t *testing.T) {
	good, bad := startAnswering(t, nil), startAnswering(t, status.Error(codes.Unavailable, "ill"))
	r := manual.NewBuilderWithScheme("hand")
	r.InitialState(resolver.State{Endpoints: []resolver.Endpoint{
		{Addresses: []resolver.Address{{Addr: good}}},
		{Addresses: []resolver.Address{{Addr: bad}}},
	}})
	cc, err := grpcdial.NewClient("hand:///backends", grpcdial.WithResolvers(r),
		grpcdial.WithTransportCredentials(insecure.NewCredentials()),
		grpcdial.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"outlier_detection_experimental": {
			"interval": "0.05s", "baseEjectionTime": "60s", "maxEjectionPercent": 50,
			"failurePercentageEjection": {"threshold": 50, "enforcementPercentage": 100, "minimumHosts": 2, "requestVolume": 5},
			"childPolicy": [{"round_robin": {}}]
		}}]}`))
	require.NoError(t, err)
	defer cc.Close()

	client := testgrpc.NewTestServiceClient(cc)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for inARow := 0; inARow < 50; inARow++ {
		_, err := client.EmptyCall(ctx, new(testgrpc.Empty), grpc.WaitForReady(true))
		if err != nil {
			require.Equal(t, codes.Unavailable, status.Code(err))
			require.Equal(t, "ill", status.Convert(err).Message())
			inARow = 0
		}
	}

	// Channelz goes on, and has the channel.
	reader, err := grpc.NewClient(good, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer reader.Close()
	top, err := channelzpb.NewChannelzClient(reader).GetTopChannels(ctx, &channelzpb.GetTopChannelsRequest{})
	require.NoError(t, err)
	var targets []string
	for _, c := range top.GetChannel() {
		targets = append(targets, c.GetData().GetTarget())
	}
	assert.Contains(t, targets, "hand:///backends")
}
