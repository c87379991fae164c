// Package gozero runs go-zero's RPC client on a grpcdial channel.
package gozero

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/zrpc"

	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestGoZero: zrpc's resolver for several endpoints and its policy, p2c_ewma, spread RPCs.
// It dials with WithBlock.
func TestGoZero(t *testing.T) {
	logx.Disable()
	agents := new(backendtest.Agents)
	a, b := backendtest.Start(t, "a", agents.Option()), backendtest.Start(t, "b", agents.Option())
	var opts []zrpc.ClientOption
	for _, opt := range bridge.ToGRPC() {
		opts = append(opts, zrpc.WithDialOption(opt))
	}
	client, err := zrpc.NewClient(zrpc.RpcClientConf{Endpoints: []string{a.Addr, b.Addr}, Timeout: 5000}, opts...)
	require.NoError(t, err)
	defer client.Conn().Close()
	seen := map[string]bool{}
	for range 200 {
		name, err := backendtest.AskName(backendtest.Bounded(t), client.Conn())
		require.NoError(t, err)
		seen[name] = true
	}
	assert.Equal(t, map[string]bool{"a": true, "b": true}, seen)
	agents.AssertOurs(t, "/Name")
}
