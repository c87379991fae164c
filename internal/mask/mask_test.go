package mask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var errOwn = errors.New("the dialer's own")

// odd is an error that cannot be compared.
type odd []string

func (odd) Error() string { return "odd" }

func TestMask(t *testing.T) {
	for _, tt := range []struct {
		name           string
		err, target    error
		byDial, forRPC bool // whether it is found
	}{
		{"end of file", io.EOF, io.EOF, true, false},
		{"wrapped", fmt.Errorf("read: %w", io.ErrUnexpectedEOF), io.ErrUnexpectedEOF, true, false},
		{"an errno's own relation", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENOENT)}, fs.ErrNotExist, true, false},
		{"the errno", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENOENT)}, syscall.ENOENT, true, true},
		{"a context's", fmt.Errorf("slow: %w", context.DeadlineExceeded), context.DeadlineExceeded, false, false},
		{"a context's, cancelled", fmt.Errorf("slow: %w", context.Canceled), context.Canceled, false, false},
		{"a value of the program's own", fmt.Errorf("dial: %w: %w", errOwn, io.EOF), errOwn, true, true},
		{"a status", fmt.Errorf("x: %w", status.Error(codes.NotFound, "no")), status.Error(codes.NotFound, "no"), true, true},
		{"one that cannot be compared", odd{}, odd{}, false, false},
		{"no cause of it", errOwn, syscall.ENOENT, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dial, rpc := Dial(tt.err), RPC(tt.err)
			assert.Equal(t, tt.byDial, errors.Is(dial, tt.target))
			assert.Equal(t, tt.forRPC, errors.Is(rpc, tt.target))
			assert.Equal(t, tt.forRPC, errors.Is(RPC(dial), tt.target), "and not by way of a dial")
			assert.EqualError(t, rpc, tt.err.Error())
		})
	}
	assert.NoError(t, Dial(nil))
	assert.NoError(t, RPC(nil))
}

func TestMaskedType(t *testing.T) {
	for _, hide := range []func(error) error{Dial, RPC} {
		err := hide(fmt.Errorf("x: %w", &net.OpError{Op: "dial", Err: status.Error(codes.PermissionDenied, "no")}))
		var op *net.OpError
		assert.ErrorAs(t, err, &op)
		assert.Equal(t, "dial", op.Op)
		var timeout interface{ Timeout() bool }
		assert.ErrorAs(t, err, &timeout)
		_, ok := status.FromError(err)
		assert.False(t, ok)
		var as interface{ GRPCStatus() *status.Status }
		assert.NotErrorAs(t, err, &as)
		assert.NotErrorIs(t, err, hide(io.EOF), "they are compared by identity")
	}
}
