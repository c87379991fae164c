package metrics

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/h2"
)

func TestDisconnectLabels(t *testing.T) {
	errRemoved := errors.New("the address was removed")
	m := &Recorder{target: "t", shutdown: []error{errors.New("shut down"), errRemoved}}
	for label, why := range map[string]error{
		"GOAWAY ENHANCE_YOUR_CALM": fmt.Errorf("lost: %w", http2.GoAwayError{ErrCode: http2.ErrCodeEnhanceYourCalm}),
		"subchannel shutdown":      errRemoved,
		"connection reset":         &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)},
		"connection timed out":     h2.ErrKeepalive,
		"connection aborted":       syscall.ECONNABORTED,
		"socket error":             syscall.EPIPE,
		"unknown":                  io.EOF,
	} {
		assert.Equal(t, label, m.disconnectLabel(why))
	}
	for number, label := range map[syscall.Errno]string{10053: "connection aborted", 10054: "connection reset", 10060: "connection timed out"} {
		assert.Equal(t, label, m.disconnectLabel(&net.OpError{Op: "read", Err: os.NewSyscallError("wsarecv", number)}), "on Windows")
	}
}
