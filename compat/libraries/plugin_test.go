package libraries

import (
	"context"
	"io"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// echoPlugin is a plugin with the test service. It serves that a second time where the
// host asks its broker for it.
type echoPlugin struct{ plugin.NetRPCUnsupportedPlugin }

const brokered = 7

func (echoPlugin) GRPCServer(broker *plugin.GRPCBroker, s *grpc.Server) error {
	testpb.RegisterTestServiceServer(s, echo{})
	go broker.AcceptAndServe(brokered, func(opts []grpc.ServerOption) *grpc.Server {
		s := grpc.NewServer(opts...)
		testpb.RegisterTestServiceServer(s, echo{})
		return s
	})
	return nil
}

func (echoPlugin) GRPCClient(_ context.Context, broker *plugin.GRPCBroker, cc *grpc.ClientConn) (any, error) {
	return plugged{broker, cc}, nil
}

// plugged is the plugin as the host has it.
type plugged struct {
	broker *plugin.GRPCBroker
	cc     *grpc.ClientConn
}

// TestGoPlugin: a host of HashiCorp's go-plugin uses a plugin, whose standard output and broker
// are streams on the same channel, and dials by that broker.
func TestGoPlugin(t *testing.T) {
	agents := new(backendtest.Agents)
	handshake := plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "KEY", MagicCookieValue: "value"}
	plugins := map[string]plugin.Plugin{"echo": echoPlugin{}}
	ctx, stop := context.WithCancel(backendtest.Bounded(t))
	attach, ended := make(chan *plugin.ReattachConfig, 1), make(chan struct{})
	go plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake,
		Plugins:         plugins,
		GRPCServer:      func(opts []grpc.ServerOption) *grpc.Server { return grpc.NewServer(append(opts, agents.Option())...) },
		Logger:          hclog.NewNullLogger(),
		Test:            &plugin.ServeTestConfig{Context: ctx, ReattachConfigCh: attach, CloseCh: ended},
	})
	defer func() {
		stop()
		<-ended
	}()
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  handshake,
		Plugins:          plugins,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Reattach:         <-attach,
		GRPCDialOptions:  bridge.ToGRPC(),
		Logger:           hclog.NewNullLogger(),
		SyncStdout:       io.Discard,
		SyncStderr:       io.Discard,
	})
	defer client.Kill()
	protocol, err := client.Client()
	require.NoError(t, err)
	require.NoError(t, protocol.Ping())
	raw, err := protocol.Dispense("echo")
	require.NoError(t, err)
	exercise(t, raw.(plugged).cc)

	second, err := raw.(plugged).broker.Dial(brokered)
	require.NoError(t, err)
	defer second.Close()
	exercise(t, second)
	agents.AssertOurs(t, "UnaryCall", "FullDuplexCall", "Check", "StartStream")
}
