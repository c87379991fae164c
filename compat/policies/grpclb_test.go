package policies

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/grpclb" // the policy
	lbpb "google.golang.org/grpc/balancer/grpclb/grpc_lb_v1"
	"google.golang.org/grpc/balancer/grpclb/state"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// lookaside is a grpclb balancer that names one backend.
type lookaside struct {
	lbpb.UnimplementedLoadBalancerServer
	backend netip.AddrPort
}

func (l *lookaside) BalanceLoad(stream lbpb.LoadBalancer_BalanceLoadServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&lbpb.LoadBalanceResponse{LoadBalanceResponseType: &lbpb.LoadBalanceResponse_InitialResponse{
		InitialResponse: &lbpb.InitialLoadBalanceResponse{},
	}}); err != nil {
		return err
	}
	ip := l.backend.Addr().As4()
	if err := stream.Send(&lbpb.LoadBalanceResponse{LoadBalanceResponseType: &lbpb.LoadBalanceResponse_ServerList{
		ServerList: &lbpb.ServerList{Servers: []*lbpb.Server{{IpAddress: ip[:], Port: int32(l.backend.Port()), LoadBalanceToken: "token"}}},
	}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// TestGRPCLB: the policy runs where a resolver sets the balancers' addresses, and the
// backend gets the token that the balancer gave out for it, as grpclb's protocol asks.
func TestGRPCLB(t *testing.T) {
	b := start(t, "one")
	srv := grpc.NewServer()
	lbpb.RegisterLoadBalancerServer(srv, &lookaside{backend: netip.MustParseAddrPort(b.addr)})
	at, _ := backendtest.Run(t, srv)

	r := manual.NewBuilderWithScheme("balanced")
	r.InitialState(state.Set(resolver.State{}, &state.State{
		BalancerAddresses: []resolver.Address{{Addr: at, ServerName: "balancer"}},
	}))
	cc, err := grpcdial.NewClient("balanced:///shop", grpcdial.WithInsecure(), grpcdial.WithResolvers(r),
		grpcdial.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"grpclb":{}}]}`))
	require.NoError(t, err)
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reply, err := testpb.NewTestServiceClient(cc).UnaryCall(ctx, &testpb.SimpleRequest{}, grpc.WaitForReady(true))
	require.NoError(t, err)
	assert.Equal(t, "one", reply.GetServerId())
	b.mu.Lock()
	defer b.mu.Unlock()
	assert.Equal(t, []string{"token"}, b.md.Get("lb-token"))
}
