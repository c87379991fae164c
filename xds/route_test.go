package xds_test

import (
	"context"
	"testing"
	"time"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
)

// TestRoutes: by method and by header, for unary RPCs and streams; an RPC that no route
// is for fails.
func TestRoutes(t *testing.T) {
	m := manage(t)
	m.set(t, config{
		routes: []*routepb.Route{
			to("/shop.Cart/Pay", "pay"),
			to("/shop.Cart/", "gold", withHeader("tier", "gold")),
			to("/shop.Cart/", "plain"),
		},
		clusters: map[string][]string{"pay": {serve(t, "pay")}, "gold": {serve(t, "gold")}, "plain": {serve(t, "plain")}},
	})
	onEach(t, m, func(t *testing.T, cc grpc.ClientConnInterface) {
		gold := metadata.AppendToOutgoingContext(soon(t), "tier", "gold")
		for _, call := range []func(context.Context, grpc.ClientConnInterface, string) (string, error){ask, askStream} {
			for _, tt := range []struct {
				ctx          context.Context
				method, want string
			}{
				{soon(t), "/shop.Cart/Add", "plain"},
				{gold, "/shop.Cart/Add", "gold"},
				{gold, "/shop.Cart/Pay", "pay"},
			} {
				by, err := call(tt.ctx, cc, tt.method)
				require.NoError(t, err)
				assert.Equal(t, tt.want, by, tt.method)
			}
			_, err := call(soon(t), cc, "/shop.Stock/Count")
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.ErrorContains(t, err, "no matched route")
		}
	})
}

// TestListenerMissing: the management server has no listener of the target's name. What
// AwaitReady returns says so.
func TestListenerMissing(t *testing.T) {
	t.Parallel() // it takes the 15 seconds that xDS clients wait for a resource
	m := manage(t)
	m.set(t, config{noListen: true})
	cc := m.dial(t)
	ctx, cancel := context.WithTimeout(t.Context(), 18*time.Second)
	defer cancel()
	err := cc.AwaitReady(ctx)
	dialErr := (*grpcdial.DialError)(nil)
	require.ErrorAs(t, err, &dialErr)
	assert.ErrorContains(t, err, "shop")
	assert.ErrorContains(t, err, "removed")
}
