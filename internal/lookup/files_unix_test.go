//go:build unix

package lookup

import (
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Without free descriptors neither the hosts file nor a name server can be read: that is what
// the error says, not that the host does not exist.
func TestNoFreeDescriptors(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0") // the runtime opens what it needs for sockets
	require.NoError(t, err)
	require.NoError(t, lis.Close())
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	none := before
	none.Cur = 3
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	_, addrs := Source{}.Addrs(t.Context(), "shop.test")
	_, txt := Source{}.TXT(t.Context(), "_grpc_config.shop.test")
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before))

	for _, err := range []error{addrs, txt} {
		assert.ErrorIs(t, err, syscall.EMFILE)
		assert.ErrorContains(t, err, "too many open files")
		var e *net.DNSError
		if assert.ErrorAs(t, err, &e) {
			assert.False(t, e.IsNotFound)
			assert.Contains(t, e.Name, "shop.test")
		}
	}
}
