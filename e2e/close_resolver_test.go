package e2e_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/grpcdial/grpcdial"
)

// stall is a call of the program's code that does not return before it is released.
type stall struct {
	once           sync.Once
	begun, release chan struct{}
}

func (s *stall) call() {
	s.once.Do(func() { close(s.begun) })
	<-s.release
}

// stalledResolver makes a resolver, and options for it, one of whose calls stalls.
func stalledResolver(stage string) (s *stall, closed <-chan struct{}, opts []grpcdial.DialOption) {
	s = &stall{begun: make(chan struct{}), release: make(chan struct{})}
	ended := make(chan struct{})
	r := manual.NewBuilderWithScheme("hand")
	r.InitialState(at("x:1"))
	r.CloseCallback = func() { close(ended) }
	opts = []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithResolvers(r),
		grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("refused") })}
	switch stage {
	case "Build":
		r.BuildCallback = func(resolver.Target, resolver.ClientConn, resolver.BuildOptions) { s.call() }
	case "ResolveNow":
		r.ResolveNowCallback = func(resolver.ResolveNowOptions) { s.call() }
	case "Close":
		r.CloseCallback = func() { s.call(); close(ended) }
	case "WithProxy":
		opts = append(opts, grpcdial.WithProxy(func(string) (*url.URL, error) { s.call(); return nil, nil }))
	}
	return s, ended, opts
}

var stages = map[string]time.Duration{
	"Build":      50 * time.Millisecond,
	"ResolveNow": 50 * time.Millisecond,
	"WithProxy":  50 * time.Millisecond,
	"Close":      500 * time.Millisecond,
}

// Close waits for a resolver, or the choice of a proxy, that does not return as long as
// its doc comment says. The resolver is closed when it has returned.
func TestCloseWithAResolverThatDoesNotReturn(t *testing.T) {
	for stage, bound := range stages {
		t.Run(stage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, closed, opts := stalledResolver(stage)
				cc, err := grpcdial.NewClient("hand:///x", opts...)
				require.NoError(t, err)
				go cc.Connect()
				synctest.Wait()
				begun := time.Now()
				require.NoError(t, cc.Close())
				assert.Equal(t, bound, time.Since(begun))
				<-s.begun
				close(s.release)
				<-closed
			})
		})
	}
}

// So does a dial that gives up.
func TestFailedDialWithAResolverThatDoesNotReturn(t *testing.T) {
	for stage, bound := range stages {
		t.Run(stage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, closed, opts := stalledResolver(stage)
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				begun := time.Now()
				_, err := grpcdial.DialContext(ctx, "hand:///x", append(opts, grpcdial.WithBlock())...)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Equal(t, 100*time.Millisecond+bound, time.Since(begun))
				<-s.begun
				close(s.release)
				<-closed
			})
		})
	}
}

// A resolver's Close that takes a moment has returned when the channel's has.
func TestCloseWaitsForTheResolversClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := manual.NewBuilderWithScheme("hand")
		closed := false
		r.CloseCallback = func() { time.Sleep(400 * time.Millisecond); closed = true }
		cc, err := grpcdial.NewClient("hand:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r))
		require.NoError(t, err)
		cc.Connect()
		require.NoError(t, cc.Close())
		assert.True(t, closed)
	})
}
