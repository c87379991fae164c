package e2e_test

import (
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver/manual"
)

// A resolver may give a service config that a channel of grpc-go's has parsed: one that
// serves both kinds of channels while a program moves over.
func TestServiceConfigOfGRPCGo(t *testing.T) {
	a, b := backendtest.Start(t, "a"), backendtest.Start(t, "b")
	r := manual.NewBuilderWithScheme("shared")
	theirs, err := grpc.NewClient("shared:///x", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(r))
	require.NoError(t, err)
	defer theirs.Close()
	theirs.Connect()
	parsed := r.CC().ParseServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}],"methodConfig":[{"name":[{}],"timeout":"7s"}]}`)
	require.NoError(t, parsed.Err)
	require.IsType(t, (*grpc.ServiceConfig)(nil), parsed.Config)

	state := backendtest.Addresses(a, b)
	state.ServiceConfig = parsed
	r.InitialState(state)
	cc, err := grpcdial.NewClient("shared:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
	require.NoError(t, err)
	defer cc.Close()
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	require.Equal(t, 7*time.Second, *cc.GetMethodConfig("/any.Service/Method").Timeout)
	backendtest.AwaitNames(t, cc, "a", "b") // by round_robin
}
