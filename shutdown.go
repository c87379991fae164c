package grpcdial

import (
	"context"
	"fmt"
)

// ShutdownError is what Shutdown returns when its context ended before the RPCs
// did.
//
// It may get more fields, and cannot be compared with ==.
type ShutdownError struct {
	_ [0]func()

	Aborted int   // RPCs that still ran then
	Err     error // the context's error
}

func (e *ShutdownError) Error() string {
	noun := "RPCs that were"
	if e.Aborted == 1 {
		noun = "RPC that was"
	}
	return fmt.Sprintf("grpcdial: Shutdown aborted %d %s still running: %v", e.Aborted, noun, e.Err)
}

// Unwrap returns the context's error.
func (e *ShutdownError) Unwrap() error { return e.Err }

// Shutdown closes the channel as Close does, but lets the RPCs that run end first.
// New RPCs are refused from the start, with [ErrClosed]. An RPC runs until its caller
// has its outcome: an RPC that waits for a connection or for a retry may still succeed,
// and a stream that the program does not read to its end runs until its context ends.
// An interceptor that has not yet begun its RPC does not count as one.
//
// When ctx ends, the RPCs that still run are cut as by Close and the error is a
// *ShutdownError. Else it is nil, or [ErrClosed] if the channel was closed before or by
// another goroutine meanwhile. When Shutdown returns nil or a *ShutdownError, the
// channel's goroutines have ended as Close documents.
//
// It must not be called where Close must not.
func (cc *ClientConn) Shutdown(ctx context.Context) error {
	drained := cc.calls.Drain()
	select {
	case <-drained:
		return cc.Close()
	case <-cc.closing:
		return errClosing
	case <-ctx.Done():
	}
	running, _ := cc.calls.Active()
	if err := cc.Close(); err != nil || running == 0 {
		return err
	}
	return &ShutdownError{Aborted: running, Err: ctx.Err()}
}
