package grpcdial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/failure"
)

func refusedAttempt(addr string) Attempt {
	return Attempt{Addr: addr, Phase: PhaseDial, Elapsed: 1200 * time.Microsecond, Hint: "is the server running?",
		Err: &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}
}

func TestDialErrorText(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  DialError
		want string
	}{
		{"one attempt", DialError{Attempts: []Attempt{refusedAttempt("a:1")}, Err: context.DeadlineExceeded},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s (context deadline exceeded): ` +
				`a:1: dial failed after 1.2ms: dial tcp: connect: connection refused; is the server running?`},
		{"it ended the wait", DialError{Attempts: []Attempt{refusedAttempt("a:1")}, Err: errors.New("for good")},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s: ` +
				`a:1: dial failed after 1.2ms: dial tcp: connect: connection refused; is the server running?`},
		{"several", DialError{Attempts: []Attempt{refusedAttempt("a:1"), {Addr: "b:1", Phase: PhaseTLS, Elapsed: time.Second, Err: ErrUnfinished}}, Err: context.Canceled, Omitted: 3},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s (context canceled)` + "\n" +
				"\ta:1: dial failed after 1.2ms: dial tcp: connect: connection refused; is the server running?\n" +
				"\tb:1: tls not finished after 1s\n" +
				"\tand 3 more"},
		{"closed", DialError{Attempts: []Attempt{refusedAttempt("a:1")}, Err: errClosing},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s (grpc: the client connection is closing): ` +
				`a:1: dial failed after 1.2ms: dial tcp: connect: connection refused; is the server running?`},
		{"none", DialError{Err: errors.New("closed")},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s (closed)`},
		{"nobody waited", DialError{Attempts: []Attempt{{Addr: "b:1", Elapsed: time.Second, Err: ErrUnfinished}}},
			`grpcdial: no connection for "dns:///x" after 2.35s, in TRANSIENT_FAILURE for 1.2s: b:1 not finished after 1s`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.err.Target, tt.err.State, tt.err.Elapsed, tt.err.InState = "dns:///x", connectivity.TransientFailure, 2345*time.Millisecond, 1200*time.Millisecond
			assert.Equal(t, tt.want, tt.err.Error())
		})
	}
}

// What errors.Is and errors.As find in a DialError.
func TestDialErrorChain(t *testing.T) {
	own := &net.OpError{Op: "dial", Err: fmt.Errorf("slow: %w", context.DeadlineExceeded)}
	lost := Attempt{Addr: "b:1", Phase: PhaseDial, Err: context.Canceled}
	late := Attempt{Addr: "c:1", Phase: PhaseDial, Err: own}
	odd := Attempt{Addr: "d:1", Phase: PhaseTLS, Err: fmt.Errorf("alts: %w", status.Error(codes.PermissionDenied, "no"))}
	attempts := []Attempt{refusedAttempt("a:1"), lost, late, odd}
	for _, tt := range []struct {
		name               string
		ended              error
		deadline, canceled bool
		code               codes.Code
	}{
		{"the waiter's deadline", context.DeadlineExceeded, true, false, codes.DeadlineExceeded},
		{"the waiter was canceled", context.Canceled, false, true, codes.Canceled},
		{"a failure", own, false, false, codes.Unavailable},
		{"nobody waited", nil, false, false, codes.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var err error = fmt.Errorf("main: %w", &DialError{Attempts: attempts, Err: tt.ended})
			assert.Equal(t, tt.deadline, errors.Is(err, context.DeadlineExceeded))
			assert.Equal(t, tt.canceled, errors.Is(err, context.Canceled))
			assert.ErrorIs(t, err, syscall.ECONNREFUSED)
			assert.ErrorIs(t, err, status.Error(codes.PermissionDenied, "no"))
			var op *net.OpError
			assert.ErrorAs(t, err, &op)
			assert.Equal(t, tt.code, status.Code(err), "and not an attempt's")
		})
	}
}

func TestDialErrorIsCapped(t *testing.T) {
	cc := plain(t, "x:1")
	for i := range 40 {
		cc.attempts.Failed(fmt.Sprint(i), failure.List{{Addr: fmt.Sprint(i), Phase: failure.Dial, Err: errors.New("no")}})
	}
	e := cc.reason().dialError(time.Now(), time.Second, nil)
	require.Len(t, e.Attempts, maxAttempts)
	assert.Equal(t, "39", e.Attempts[maxAttempts-1].Addr)
	assert.True(t, strings.HasSuffix(e.Error(), fmt.Sprintf("\n\tand %d more", 40-maxAttempts)))
}
