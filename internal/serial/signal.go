package serial

import "sync/atomic"

// Signal asks for one function to run on a queue. However often it is sent
// while it waits there, it waits there once, so that a caller in a loop cannot fill
// the queue. The zero value is ready to use.
type Signal struct {
	queued atomic.Bool
}

// Send sees to it that f runs on q after now. A Signal always gets the same q
// and an f that does the same.
func (s *Signal) Send(q *Queue, f func()) {
	if s.queued.Swap(true) {
		return // f is yet to begin, so what the caller did before is seen by it
	}
	q.Post(func() {
		s.queued.Store(false) // before f: what comes from here on may be missed by it
		f()
	})
}
