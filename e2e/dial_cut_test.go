package e2e_test

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A blocking dial without a trace makes its first attempt itself. The end of its context cuts
// that in each phase, and the error says in which.
func TestBlockingDialIsCut(t *testing.T) {
	ca := h2test.NewCA(t)
	one := backendtest.Start(t, "one")
	for _, tt := range []struct {
		name string
		opts func(cancel func()) (addr string, opts []grpcdial.DialOption) // cancel is called in the phase
		in   grpcdial.Phase
	}{
		{"dial", func(cancel func()) (string, []grpcdial.DialOption) {
			return "backend.example:443", []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				cancel()
				return backendtest.Hang(ctx, addr)
			})}
		}, grpcdial.PhaseDial},
		{"TLS", func(cancel func()) (string, []grpcdial.DialOption) {
			return cutWhenHeard(t, cancel), []grpcdial.DialOption{grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example")))}
		}, grpcdial.PhaseTLS},
		{"SETTINGS", func(cancel func()) (string, []grpcdial.DialOption) {
			return cutWhenHeard(t, cancel), []grpcdial.DialOption{grpcdial.WithInsecure()}
		}, grpcdial.PhaseHTTP2},
		{"check", func(cancel func()) (string, []grpcdial.DialOption) {
			return one.Addr, []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithConnectCheck(func(ctx context.Context, _ grpcdial.ConnectCheckInfo) error {
				cancel()
				<-ctx.Done()
				return ctx.Err()
			})}
		}, grpcdial.PhaseCheck},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(backendtest.Bounded(t))
			defer cancel()
			addr, opts := tt.opts(cancel)
			_, err := grpcdial.DialContext(ctx, addr, append(opts, grpcdial.WithBlock())...)
			var e *grpcdial.DialError
			require.ErrorAs(t, err, &e)
			assert.ErrorIs(t, err, context.Canceled)
			assert.Equal(t, connectivity.Connecting, e.State)
			require.Len(t, e.Attempts, 1)
			assert.Equal(t, addr, e.Attempts[0].Addr)
			assert.Equal(t, tt.in, e.Attempts[0].Phase)
			assert.ErrorIs(t, e.Attempts[0].Err, grpcdial.ErrUnfinished)
			backendtest.AwaitOurs(t, 0)
		})
	}
}

// cutWhenHeard returns the address of a server that says nothing, and calls cancel when
// something was sent to it.
func cutWhenHeard(t *testing.T, cancel func()) string {
	return backendtest.ServeRaw(t, func(c net.Conn) {
		buf := make([]byte, 1024)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			cancel()
		}
	})
}

// The attempts after the first are made while a blocking dial waits.
func TestBlockingDialAfterAFailedAttempt(t *testing.T) {
	one := backendtest.Start(t, "one")
	var mu sync.Mutex
	failures := 2
	cc, err := grpcdial.DialContext(backendtest.Bounded(t), one.Addr, grpcdial.WithInsecure(), grpcdial.WithBlock(), fastBackoff(),
		grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if failures > 0 {
				failures--
				return nil, backendtest.ErrRefused
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}))
	require.NoError(t, err)
	defer cc.Close()
	assert.Equal(t, connectivity.Ready, cc.GetState())
	backendtest.AwaitNames(t, cc, "one")
}
