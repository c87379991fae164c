// Package serial is the queue on which the control plane's events run: in the
// order they were posted, never two at once, and with no goroutine at rest.
package serial

import (
	"sync"
	"sync/atomic"
)

// Queue runs functions one after the other. The zero value is ready to use; a
// Queue must not be copied after its first use. All methods may be called from
// any goroutine, and Post and Close also from a function that runs on the queue.
//
// A goroutine is started when something is posted to an empty queue and ends
// when the queue is empty again. What a function wrote is visible to all that
// run after it.
//
// A function that panics crashes the program, as any goroutine's panic does. A
// function that ends its goroutine by runtime.Goexit (testing's FailNow does)
// counts as having returned: those behind it still run.
type Queue struct {
	mu      sync.Mutex
	waiting []func()      // guarded by mu: not started yet, oldest first
	room    [3]func()     // guarded by mu: where a few of them wait
	start   func()        // guarded by mu: run, made once
	after   func()        // set by AfterEach
	running bool          // guarded by mu: a goroutine is in run
	refuses bool          // guarded by mu: after Discard and Close
	closed  bool          // guarded by mu
	drained chan struct{} // guarded by mu, made when asked for; closed once nothing will run any more

	goroutine atomic.Uint64 // with Check: that of run, 0 if there is none
}

// AfterEach has f run on the queue after each function, before the next one. It is to be
// called before anything is posted.
func (q *Queue) AfterEach(f func()) { q.after = f }

// Post puts f behind everything posted before it and returns without waiting.
// It returns false, and f will not run, if the queue was closed. f may not run either if
// Discard is called before its turn.
func (q *Queue) Post(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refuses {
		return false
	}
	q.append(f)
	return true
}

// Discard makes the queue refuse what is posted from now on and forget what waits there.
// Close is yet to be called, and its last runs.
func (q *Queue) Discard() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refuses = true
	q.waiting, q.room = nil, [len(q.room)]func(){}
}

// Close makes the queue refuse what is posted from now on. What is queued
// still runs and then last, which may be nil. Close does not wait. A second
// Close does nothing, and its last is not run.
func (q *Queue) Close(last func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.refuses, q.closed = true, true
	if last != nil {
		q.append(last)
	}
	if !q.running {
		close(q.end())
	}
}

// Wait returns once the queue has been closed and everything on it has run.
// Called from a function that runs on the queue it never returns.
func (q *Queue) Wait() { <-q.Done() }

// Done returns a channel that is closed when Wait would return.
func (q *Queue) Done() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.end()
}

// append adds f and starts the queue's goroutine unless it is running. It is called
// with mu held.
func (q *Queue) append(f func()) {
	if len(q.waiting) == 0 {
		q.waiting = q.room[:0]
	}
	q.waiting = append(q.waiting, f)
	if !q.running {
		q.running = true
		if q.start == nil {
			q.start = q.run // once: a go statement with a receiver allocates each time
		}
		go q.start()
	}
}

// end returns the channel that Wait waits on. It is called with mu held.
func (q *Queue) end() chan struct{} {
	if q.drained == nil {
		q.drained = make(chan struct{})
	}
	return q.drained
}

// run is the queue's goroutine. Only one exists at a time: running is set by the call
// that starts it and cleared here, under mu, in the same step that finds the queue
// empty, so that run either sees a Post or the Post starts a new run.
func (q *Queue) run() {
	empty := false
	defer func() {
		if !empty { // f left by Goexit; after a panic the program is ending anyway
			go q.run()
		}
	}()
	if checking.Load() {
		q.goroutine.Store(goroutineID())
	}
	for {
		f := q.next()
		if f == nil {
			empty = true
			return
		}
		f()
		if q.after != nil {
			q.after()
		}
	}
}

// next takes the oldest function, or returns nil when there is none and the
// queue's goroutine has to end.
func (q *Queue) next() func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.waiting = nil // a burst's array is not kept by a queue at rest
		q.running = false
		if q.closed {
			close(q.end())
		}
		return nil
	}
	f := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	return f
}
