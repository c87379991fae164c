package backendtest

import (
	"context"
	"sync"
)

// UntilNow is a context whose deadline passes when End is called, which is safe from any
// goroutine and more than once.
type UntilNow struct {
	context.Context
	End  func()
	done chan struct{}
}

// NewUntilNow makes one.
func NewUntilNow() *UntilNow {
	done := make(chan struct{})
	return &UntilNow{Context: context.Background(), done: done, End: sync.OnceFunc(func() { close(done) })}
}

// Done implements context.Context.
func (c *UntilNow) Done() <-chan struct{} { return c.done }

// Err implements context.Context.
func (c *UntilNow) Err() error {
	select {
	case <-c.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}
