package errno

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNumbers(t *testing.T) {
	tests := []struct {
		name    string
		is      func(error) bool
		numbers []syscall.Errno
	}{
		{"reset", IsReset, []syscall.Errno{syscall.ECONNRESET, 10054}},
		{"aborted", IsAborted, []syscall.Errno{syscall.ECONNABORTED, 10053}},
		{"timed out", IsTimedOut, []syscall.Errno{syscall.ETIMEDOUT, 10060}},
		{"refused", IsRefused, []syscall.Errno{syscall.ECONNREFUSED, 10061}},
		{"unreachable", IsUnreachable, []syscall.Errno{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, 10050, 10051, 10065}},
		{"no local address", IsNoLocalAddress, []syscall.Errno{syscall.EADDRNOTAVAIL, 10049}},
		{"no family", IsNoFamily, []syscall.Errno{syscall.EAFNOSUPPORT, 10047}},
	}
	for _, tt := range tests {
		for _, other := range tests {
			for _, n := range other.numbers {
				err := fmt.Errorf("lost: %w", &net.OpError{Op: "read", Err: os.NewSyscallError("read", n)})
				assert.Equal(t, tt.name == other.name, tt.is(err), "%s of %v", tt.name, n)
			}
		}
		assert.False(t, tt.is(nil), tt.name)
		assert.False(t, tt.is(io.EOF), tt.name)
	}
	for _, n := range []syscall.Errno{syscall.ECONNRESET, 10054, syscall.ECONNABORTED, 10053, syscall.EPIPE, 10058} {
		assert.True(t, IsEnded(errors.Join(n)), "%v", n)
	}
	assert.False(t, IsEnded(syscall.ETIMEDOUT))
}
