package e2e_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver/manual"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/channelz"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// newClient makes a channel that the test closes, if it does not do so itself.
func newClient(t *testing.T, target string, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	cc, err := grpcdial.NewClient(target, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// plain makes a plaintext channel that the test closes, if it does not do so
// itself.
func plain(t *testing.T, target string, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	return newClient(t, target, append([]grpcdial.DialOption{grpcdial.WithInsecure()}, opts...)...)
}

// handResolver is a channel option and a target for a resolver whose updates the
// test makes.
func handResolver(t *testing.T) (r *manual.Resolver, target string, option grpcdial.DialOption) {
	t.Helper()
	r = manual.NewBuilderWithScheme("hand")
	return r, "hand:///backends", grpcdial.WithResolvers(r)
}

// fastBackoff makes attempts follow each other without long waits.
func fastBackoff() grpcdial.DialOption {
	p := grpcdial.ConnectParams{MinConnectTimeout: 20 * time.Second}
	p.Backoff.BaseDelay, p.Backoff.MaxDelay, p.Backoff.Multiplier = 5*time.Millisecond, 20*time.Millisecond, 1.6
	return grpcdial.WithConnectParams(p)
}

// awaitState waits until the channel is in state.
func awaitState(t *testing.T, cc *grpcdial.ClientConn, state connectivity.State) {
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

func awaitReady(t *testing.T, cc *grpcdial.ClientConn) {
	t.Helper()
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
}

// callsOf returns what channelz has on the RPCs of an open channel. No other channel of
// the test has the same target.
func callsOf(t *testing.T, cc *grpcdial.ClientConn) *channelzpb.ChannelData {
	t.Helper()
	resp, err := channelz.NewServer().GetTopChannels(context.Background(), &channelzpb.GetTopChannelsRequest{})
	require.NoError(t, err)
	require.True(t, resp.GetEnd(), "one page")
	var found []*channelzpb.ChannelData
	for _, c := range resp.GetChannel() {
		if c.GetData().GetTarget() == cc.Target() {
			found = append(found, c.GetData())
		}
	}
	require.Len(t, found, 1, "channels of target %q", cc.Target())
	return found[0]
}

// rpcsRunning returns how many RPCs of an open channel have begun and not ended.
func rpcsRunning(t *testing.T, cc *grpcdial.ClientConn) int {
	t.Helper()
	c := callsOf(t, cc)
	return int(c.GetCallsStarted() - c.GetCallsSucceeded() - c.GetCallsFailed())
}

// via has all targets take one proxy, with a user name and a password.
func via(scheme, host string) grpcdial.DialOption {
	u := &url.URL{Scheme: scheme, User: url.UserPassword("user", "secret"), Host: host}
	return grpcdial.WithProxy(func(string) (*url.URL, error) { return u, nil })
}
