package e2e_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
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
	backendtest.AwaitState(t, cc, state)
}

// watched returns a function that waits for the next transition to a state.
func watched(t *testing.T, cc *grpcdial.ClientConn) func(to connectivity.State) grpcdial.StateChange {
	t.Helper()
	return backendtest.Transitions(t, cc.Watch, func(c grpcdial.StateChange) connectivity.State { return c.To })
}

func awaitReady(t *testing.T, cc *grpcdial.ClientConn) {
	t.Helper()
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
}

// oneSubchannel makes a channel whose policy has one subchannel, for all of the addresses,
// and waits until it is READY. Its states are sent on states.
func oneSubchannel(t *testing.T, states chan balancer.SubConnState, addrs []resolver.Address, opts ...grpcdial.DialOption) (*grpcdial.ClientConn, balancer.SubConn) {
	t.Helper()
	subs := make(chan balancer.SubConn, 1)
	p := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
		if s.Sub == nil {
			subs <- s.Connect(state.ResolverState.Addresses, func(state balancer.SubConnState) { states <- state })
		}
		return nil
	}}
	balancer.Register(p)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: addrs})
	cc := plain(t, target, append(opts, option, grpcdial.WithDefaultServiceConfig(p.Config()))...)
	cc.Connect()
	backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
	return cc, <-subs
}

// longBackoff is one that a test does not see the end of.
var longBackoff = func() grpcdial.ConnectParams {
	p := grpcdial.ConnectParams{MinConnectTimeout: time.Minute}
	p.Backoff.BaseDelay, p.Backoff.MaxDelay, p.Backoff.Multiplier = time.Hour, time.Hour, 1
	return p
}()

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
