package grpcdial

import (
	"context"
	"iter"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// A wait for the channel's state ends when its mirror has caught up, which takes grpc-go
// a moment. Each case begins while the channel is CONNECTING; what it returns is called
// once the channel is READY, and its mirror is not yet.
func TestWaitsForTheMirror(t *testing.T) {
	b := backendtest.Start(t, "one")
	for name, begin := range map[string]func(cc *ClientConn) (wait func()){
		"AwaitReady": func(cc *ClientConn) func() {
			return func() { assert.NoError(t, cc.AwaitReady(backendtest.Bounded(t))) }
		},
		"WaitForStateChange": func(cc *ClientConn) func() {
			return func() { assert.True(t, cc.WaitForStateChange(backendtest.Bounded(t), connectivity.Connecting)) }
		},
		"Watch, the first element": func(cc *ClientConn) func() {
			return func() {
				for c := range cc.Watch(backendtest.Bounded(t)) {
					assert.Equal(t, connectivity.Ready, c.From)
					break
				}
			}
		},
		"Watch, a transition": func(cc *ClientConn) func() {
			next, stop := iter.Pull(cc.Watch(backendtest.Bounded(t)))
			next()
			return func() {
				defer stop()
				c, _ := next()
				assert.Equal(t, connectivity.Ready, c.To)
			}
		},
		"Invoke": func(cc *ClientConn) func() {
			return func() {
				assert.NoError(t, cc.GRPC().Invoke(backendtest.Bounded(t), "/x/y", new(emptypb.Empty), new(emptypb.Empty)))
			}
		},
		"NewStream": func(cc *ClientConn) func() {
			return func() {
				_, err := cc.GRPC().NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true}, "/x/y")
				assert.NoError(t, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dialing, proceed := make(chan struct{}), make(chan struct{})
			cc := plain(t, "x:1", WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				close(dialing)
				<-proceed
				return new(net.Dialer).DialContext(ctx, "tcp", b.Addr)
			}))
			cc.GRPC()
			cc.Connect()
			<-dialing
			awaitState(t, cc, connectivity.Connecting)
			wait, ended := begin(cc), make(chan struct{})
			m := cc.mirrors.shared.Load()
			m.mu.Lock()
			close(proceed)
			for cc.GetState() != connectivity.Ready {
				time.Sleep(time.Millisecond)
			}
			go func() { defer close(ended); wait() }()
			select {
			case <-ended:
				t.Error("the wait has ended, and the mirror's state is another one")
			case <-time.After(20 * time.Millisecond):
			}
			m.mu.Unlock()
			<-ended
			assert.Equal(t, connectivity.Ready, cc.GRPC().GetState())
		})
	}
}
