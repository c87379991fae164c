package connect

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestSocketOptions looks at what the kernel holds: probes are on, at the
// system's own intervals.
func TestSocketOptions(t *testing.T) {
	srv := h2test.Listen(t)
	nc, err := new(Config).dial(t.Context(), endpoint{network: "tcp", address: srv.Addr()})
	require.NoError(t, err)
	defer nc.Close()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)

	option := func(level, name int) (v int) {
		var err error
		require.NoError(t, raw.Control(func(fd uintptr) { v, err = syscall.GetsockoptInt(int(fd), level, name) }))
		require.NoError(t, err)
		return v
	}
	system := func(name string) int {
		b, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		require.NoError(t, err)
		v, err := strconv.Atoi(strings.TrimSpace(string(b)))
		require.NoError(t, err)
		return v
	}
	assert.Equal(t, 1, option(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE))
	assert.Equal(t, system("tcp_keepalive_time"), option(syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE))
	assert.Equal(t, system("tcp_keepalive_intvl"), option(syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL))
	assert.Equal(t, system("tcp_keepalive_probes"), option(syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT))
	assert.Equal(t, 1, option(syscall.IPPROTO_TCP, syscall.TCP_NODELAY))
}

// TestHostThatDoesNotAnswer dials a listener whose queue is full: Linux drops
// what comes to it, as a firewall does.
func TestHostThatDoesNotAnswer(t *testing.T) {
	h2test.CheckLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }))
	require.NoError(t, err)
	queued, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer queued.Close()

	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	cfg := &Config{Creds: plaintext, Resolver: zone{"a.test": {"127.0.0.1", "127.0.0.9"}}.resolver(t)}
	for _, addr := range []string{ln.Addr().String(), "a.test:" + port} {
		var a *failure.Attempt // of a name's, the first: it began first
		longEnough(t, 300*time.Millisecond, func(ctx context.Context) bool {
			_, err = Connect(ctx, cfg, resolver.Address{Addr: addr}, "a.test")
			require.ErrorAs(t, err, &a)
			return a.Addr == ln.Addr().String() && errors.As(a, new(*net.OpError))
		})
		assert.Equal(t, ln.Addr().String(), a.Addr)
		assert.Equal(t, failure.Dial, a.Phase)
		assert.ErrorIs(t, a, context.DeadlineExceeded)
		assert.ErrorAs(t, a, new(*net.OpError))
		assert.Contains(t, a.Hint, "firewall")
	}
}
