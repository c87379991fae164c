package xds_test

import (
	"testing"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/bridge"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// aroundXDS is a program's builder that builds on grpc-go's and says nothing of it.
type aroundXDS struct{ resolver.Builder }

// TestUnwrapped: once the package is imported, a builder of grpc-go's that nothing has
// wrapped works too, wherever the program has put it.
func TestUnwrapped(t *testing.T) {
	m := manage(t)
	m.set(t, config{routes: []*routepb.Route{to("/", "all")}, clusters: map[string][]string{"all": {serve(t, "all")}}})
	theirs, err := bridge.FromGRPC(grpc.WithResolvers(m.builder(t)))
	require.NoError(t, err)
	for name, opt := range map[string]grpcdial.DialOption{
		"grpc-go's":            grpcdial.WithResolvers(m.builder(t)),
		"a program's":          grpcdial.WithResolvers(aroundXDS{m.builder(t)}),
		"of grpc-go's options": theirs,
	} {
		t.Run(name, func(t *testing.T) {
			by, err := ask(backendtest.Bounded(t), newClient(t, target, opt), "/shop.Cart/Add")
			require.NoError(t, err)
			assert.Equal(t, "all", by)
		})
	}
}
