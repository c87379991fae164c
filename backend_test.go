package grpcdial

import (
	"testing"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver/manual"
)

// plain makes a plaintext channel that the test closes, if it does not do so
// itself.
func plain(t *testing.T, target string, opts ...DialOption) *ClientConn {
	t.Helper()
	cc, err := NewClient(target, append([]DialOption{WithInsecure()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// handResolver is a channel option and a target for a resolver whose updates the
// test makes.
func handResolver(t *testing.T) (r *manual.Resolver, target string, option DialOption) {
	t.Helper()
	r = manual.NewBuilderWithScheme("hand")
	return r, "hand:///backends", WithResolvers(r)
}

// awaitState waits until the channel is in state.
func awaitState(t *testing.T, cc *ClientConn, state connectivity.State) {
	t.Helper()
	backendtest.AwaitState(t, cc, state)
}

func awaitReady(t *testing.T, cc *ClientConn) {
	t.Helper()
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
}

func TestMain(m *testing.M) { backendtest.Main(m) }
