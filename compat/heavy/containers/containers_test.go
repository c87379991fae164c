// Package containers runs the clients of containerd and of BuildKit on grpcdial channels.
package containers

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	version "github.com/containerd/containerd/api/services/version/v1"
	containerd "github.com/containerd/containerd/v2/client"
	control "github.com/moby/buildkit/api/services/control"
	buildkit "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

type versions struct {
	version.UnimplementedVersionServer
}

func (versions) Version(context.Context, *emptypb.Empty) (*version.VersionResponse, error) {
	return &version.VersionResponse{Version: "v0", Revision: "r"}, nil
}

// TestContainerd: containerd's client dials a socket, asks for the version, reconnects.
func TestContainerd(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	lis, err := net.Listen("unix", socket)
	require.NoError(t, err)
	agents := backendtest.ServeOn(t, lis, func(s *grpc.Server) { version.RegisterVersionServer(s, versions{}) })
	client, err := containerd.New(socket, containerd.WithExtraDialOpts(bridge.ToGRPC()))
	require.NoError(t, err)
	ask := func(c *containerd.Client) {
		v, err := c.Version(backendtest.Bounded(t))
		require.NoError(t, err)
		assert.Equal(t, "v0", v.Version)
	}
	ask(client)
	require.NoError(t, client.Reconnect())
	ask(client)
	require.NoError(t, client.Close())

	cc, err := grpcdial.NewClient("unix://"+socket, grpcdial.WithInsecure())
	require.NoError(t, err)
	defer cc.Close()
	client, err = containerd.NewWithConn(cc.GRPCOwned())
	require.NoError(t, err)
	ask(client)
	require.NoError(t, client.Close())
	agents.AssertOurs(t, "Version/Version")
}

type builder struct {
	control.UnimplementedControlServer
}

func (builder) Info(context.Context, *control.InfoRequest) (*control.InfoResponse, error) {
	return new(control.InfoResponse), nil
}

func (builder) Prune(_ *control.PruneRequest, s control.Control_PruneServer) error {
	for range 3 {
		if err := s.Send(&control.UsageRecord{ID: "layer"}); err != nil {
			return err
		}
	}
	return nil
}

// TestBuildKit: BuildKit's client, over TCP and over a unix socket, asks for information
// and receives a stream.
func TestBuildKit(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": socket} {
		t.Run(network, func(t *testing.T) {
			lis, err := net.Listen(network, address)
			require.NoError(t, err)
			agents := backendtest.ServeOn(t, lis, func(s *grpc.Server) { control.RegisterControlServer(s, builder{}) })
			var opts []buildkit.ClientOpt
			for _, opt := range bridge.ToGRPC() {
				opts = append(opts, buildkit.WithGRPCDialOption(opt))
			}
			client, err := buildkit.New(t.Context(), network+"://"+lis.Addr().String(), opts...)
			require.NoError(t, err)
			defer client.Close()
			_, err = client.Info(backendtest.Bounded(t))
			require.NoError(t, err)
			pruned := make(chan buildkit.UsageInfo, 10)
			require.NoError(t, client.Prune(backendtest.Bounded(t), pruned))
			assert.Len(t, pruned, 3)
			agents.AssertOurs(t, "Control/Info", "Control/Prune")
		})
	}
}
