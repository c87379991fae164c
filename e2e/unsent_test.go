package e2e_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// broken is a connection whose writes fail once the test says so. It is not known to be a
// socket, so a goroutine writes to it.
type broken struct {
	net.Conn
	now *atomic.Bool
}

func (b broken) Write(p []byte) (int, error) {
	if b.now.Load() {
		return 0, errors.New("broken")
	}
	return b.Conn.Write(p)
}

// An RPC of which nothing was written is made again on another connection, without a
// retry policy, though the one it was to be written to still has an RPC to be answered.
func TestUnwrittenGoesElsewhere(t *testing.T) {
	b := backendtest.Start(t, "a")
	var now atomic.Bool
	var dials atomic.Int64
	cc := plain(t, b.Addr, grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if dials.Add(1) == 1 && err == nil {
			return broken{nc, &now}, nil
		}
		return nc, err
	}))
	held, cancel := context.WithCancel(backendtest.Bounded(t))
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cc.Invoke(held, "/test.Backend/Hold", new(wrapperspb.StringValue), new(wrapperspb.StringValue))
	}()
	<-b.Held
	now.Store(true)
	name, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	require.Equal(t, "a", name)
	require.EqualValues(t, 2, dials.Load())
	cancel()
	<-ended
}
