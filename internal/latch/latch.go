// Package latch has a signal that is given once, and whose channel is made only when a
// goroutine waits for it: most connections and channels are never waited for.
package latch

import (
	"sync"
	"sync/atomic"
)

// Latch is open until Close. The zero value is open and ready to use. Its methods may be
// called from any goroutine, with any lock held: they take none but the latch's own.
type Latch struct {
	closed atomic.Bool // written with mu held

	mu   sync.Mutex
	done chan struct{} // guarded by mu; nil while no goroutine has asked for it
}

// ended is what Done returns of a latch that was closed before the first call.
var ended = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Close closes the latch. Further calls do nothing.
func (l *Latch) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed.Swap(true) && l.done != nil {
		close(l.done)
	}
}

// Closed reports whether the latch is closed.
func (l *Latch) Closed() bool { return l.closed.Load() }

// Done returns a channel that is closed when the latch is.
func (l *Latch) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		if l.closed.Load() {
			return ended
		}
		l.done = make(chan struct{})
	}
	return l.done
}
