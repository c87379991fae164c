package connect

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
