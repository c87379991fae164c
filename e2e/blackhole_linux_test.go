package e2e_test

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A connection from whose peer nothing comes any more, not even acknowledgements, as behind a
// NAT that has forgotten it: with bytes in flight it lasts for keepalive's time-out. RPCs end
// then, with an error that says so, and the next one is served on another connection.
func TestBlackHole(t *testing.T) {
	b := backendtest.Start(t, "a")
	sockets := make(chan *net.TCPConn, 10)
	cc := plain(t, b.Addr,
		grpcdial.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Hour, Timeout: time.Second}),
		grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err == nil {
				sockets <- nc.(*net.TCPConn)
			}
			return nc, err
		}))
	call := func(method string) <-chan error {
		ended := make(chan error, 1)
		go func() {
			ended <- cc.Invoke(backendtest.Bounded(t), method, new(wrapperspb.StringValue), new(wrapperspb.StringValue))
		}()
		return ended
	}
	held := call("/test.Backend/Hold")
	<-b.Held
	dropAll(t, <-sockets)
	for name, ended := range map[string]<-chan error{"acknowledged": held, "in flight": call("/test.Backend/Name")} {
		err := <-ended
		assert.Equal(t, codes.Unavailable, status.Code(err), name)
		assert.ErrorIs(t, err, syscall.ETIMEDOUT, name)
		assert.ErrorContains(t, err, "nothing was acknowledged for 1s, keepalive's time-out: the peer may be down, or packets are lost on the way", name)
	}
	name, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	require.Equal(t, "a", name)
}

// dropAll lets no packet reach a socket.
func dropAll(t *testing.T, nc *net.TCPConn) {
	t.Helper()
	raw, err := nc.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = syscall.AttachLsf(int(fd), []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K}}) // takes 0 bytes of each
	}))
	require.NoError(t, err)
}
