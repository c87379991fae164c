package grpcdial

import (
	"testing"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver/manual"

	"github.com/grpcdial/grpcdial/internal/h2"
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
	ctx := backendtest.Bounded(t)
	for {
		now := cc.GetState()
		if now == state {
			return
		}
		if !cc.WaitForStateChange(ctx, now) {
			require.FailNow(t, "state not reached", "still %v, want %v", now, state)
		}
	}
}

func awaitReady(t *testing.T, cc *ClientConn) {
	t.Helper()
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
}

// Conn returns the connection of a subchannel that is READY, else nil.
func (sc *subConn) Conn() *h2.Conn {
	if line := sc.Line(); line != nil {
		return line.Conn
	}
	return nil
}
