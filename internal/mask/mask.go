// Package mask decides what may be found in an error's cause. A cause keeps its text, its type (errors.As) and its
// identity (errors.Is with a dialer's or credentials' own value, with a syscall.Errno); it does not match the values by
// which programs recognise something else than a failed RPC.
package mask

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"reflect"
)

// RPC returns err as the cause of an RPC's error, or of a change of state. Beyond what [Dial] hides it matches no
// standard sentinel: a program that reads a stream until errors.Is(err, io.EOF) would take a lost connection for the
// stream's end, and a syscall.Errno says yes to fs.ErrNotExist. nil stays nil.
func RPC(err error) error { return hide(err, true) }

// Dial returns err as the cause of a failed dial. It matches no context error, which would be taken for the end of the
// dial's own context, and is no status error, which would be taken for the RPC's: grpc lets a status from a picker end
// even an RPC that waits for a connection. nil stays nil.
func Dial(err error) error { return hide(err, false) }

// HidesStatus reports whether err came from [RPC] or [Dial], so that it is no status error whatever its
// cause. It costs nothing, unlike a look for a status in a chain.
func HidesStatus(err error) bool {
	_, ok := err.(*masked)
	return ok
}

func hide(err error, standard bool) error {
	if err == nil {
		return nil
	}
	return &masked{err, standard}
}

// masked has no Unwrap, so that errors.Is and errors.As ask its methods about all of the chain.
type masked struct {
	err      error
	standard bool // all standard sentinels are hidden, not the contexts' alone
}

func (m *masked) Error() string { return m.err.Error() }

// Is serves errors.Is.
func (m *masked) Is(target error) bool {
	if isContext(target) || m.standard && isStandard(target) {
		return false
	}
	return errors.Is(m.err, target)
}

// As serves errors.As. It finds no status.
func (m *masked) As(target any) bool {
	if t := reflect.TypeOf(target).Elem(); t.Kind() == reflect.Interface {
		if _, asked := t.MethodByName("GRPCStatus"); asked {
			return false
		}
	}
	return errors.As(m.err, target)
}

func isContext(target error) bool {
	return target == context.DeadlineExceeded || target == context.Canceled
}

// isStandard reports whether target is one of the values of Go's standard library that say how something of the
// program's own went: its reading, its files, its listeners.
func isStandard(target error) bool {
	switch target {
	case io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, io.ErrNoProgress, io.ErrShortWrite, io.ErrShortBuffer,
		fs.ErrInvalid, fs.ErrPermission, fs.ErrExist, fs.ErrNotExist, fs.ErrClosed,
		os.ErrDeadlineExceeded, os.ErrNoDeadline, os.ErrProcessDone,
		net.ErrClosed, net.ErrWriteToConnected,
		http.ErrServerClosed, http.ErrAbortHandler, http.ErrHandlerTimeout, http.ErrBodyReadAfterClose, http.ErrBodyNotAllowed, http.ErrLineTooLong,
		errors.ErrUnsupported:
		return true
	}
	return false
}
