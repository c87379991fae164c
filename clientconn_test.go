package grpcdial

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// Reports that wait for a policy when Close begins are dropped: of a thousand backends
// they would be many, and Close waits for the policy's queue.
func TestCloseDoesNotWaitForABacklog(t *testing.T) {
	const backends = 1000
	entered, leave := make(chan struct{}), make(chan struct{})
	var reported atomic.Int64
	p := &backendtest.SpyPolicy{As: "grpcdial_test_backlog"}
	p.OnUpdate = func(s *backendtest.Spy, state balancer.ClientConnState) error {
		for range backends {
			sc, err := s.CC.NewSubConn(state.ResolverState.Addresses, balancer.NewSubConnOptions{StateListener: func(balancer.SubConnState) {
				if reported.Add(1) == 1 {
					close(entered)
					<-leave
				}
			}})
			if err != nil {
				return err
			}
			sc.Connect()
		}
		return nil
	}
	balancer.Register(p)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
	cc := plain(t, target, option, WithDefaultServiceConfig(p.Config()), WithContextDialer(func(context.Context, string) (net.Conn, error) {
		return nil, errors.New("refused")
	}))
	cc.Connect()
	<-entered
	closed := make(chan error)
	go func() { closed <- cc.Close() }()
	<-cc.closing.Done()
	close(leave)
	require.NoError(t, <-closed)
	assert.EqualValues(t, 1, reported.Load())
}

// A Connect that waits for the policy when Close begins does not reach it any more, nor
// does one on an idle channel have a resolver built.
func TestCloseBeforeConnect(t *testing.T) {
	t.Run("a policy", func(t *testing.T) {
		entered, leave := make(chan struct{}), make(chan struct{})
		var exits atomic.Int64
		p := &backendtest.SpyPolicy{As: "grpcdial_test_left_alone", OnExitIdle: func(*backendtest.Spy) { exits.Add(1) }, OnUpdate: func(*backendtest.Spy, balancer.ClientConnState) error {
			close(entered)
			<-leave
			return nil
		}}
		balancer.Register(p)
		cc, err := NewClient("passthrough:///x:1", WithInsecure(), WithDefaultServiceConfig(p.Config()))
		require.NoError(t, err)
		cc.wake()
		<-entered
		cc.askToConnect()
		closed := make(chan error)
		go func() { closed <- cc.Close() }()
		<-cc.closing.Done()
		close(leave)
		require.NoError(t, <-closed)
		assert.Zero(t, exits.Load())
	})
	t.Run("a resolver", func(t *testing.T) {
		var built atomic.Int64
		cc, err := NewClient("scripted:///x", WithInsecure(), WithResolvers(backendtest.Scripted{OnBuild: func(resolver.ClientConn, resolver.BuildOptions) error {
			built.Add(1)
			return nil
		}}))
		require.NoError(t, err)
		leave := make(chan struct{})
		cc.policyQueue.Post(func() { <-leave })
		cc.askToConnect()
		closed := make(chan error)
		go func() { closed <- cc.Close() }()
		<-cc.closing.Done()
		close(leave)
		require.NoError(t, <-closed)
		assert.Zero(t, built.Load())
	})
}

// A policy that goes on reporting after Close is not listened to, nor kept.
func TestReportsAfterClose(t *testing.T) {
	built := make(chan *backendtest.Spy, 1)
	p := &backendtest.SpyPolicy{As: "grpcdial_test_talkative", OnBuild: func(s *backendtest.Spy) { built <- s }}
	balancer.Register(p)
	cc := plain(t, "passthrough:///x:1", WithDefaultServiceConfig(p.Config()))
	cc.Connect()
	lb := <-built
	require.NoError(t, cc.Close())
	for range 10 {
		lb.CC.UpdateState(balancer.State{ConnectivityState: connectivity.Ready, Picker: backendtest.FixedPicker{}})
	}
	assert.Empty(t, cc.reports.take())
}
