// Package serial is the queue on which the control plane's events run: in the
// order they were posted, never two at once, and with no goroutine at rest.
package serial

import (
	"math"
	"sync"
	"sync/atomic"
)

// Queue runs functions one after the other. The zero value is ready to use; a
// Queue must not be copied after its first use. All methods may be called from
// any goroutine, and Post and Close also from a function that runs on the queue.
//
// A goroutine is started when something is posted to an empty queue and ends
// when the queue is empty again, unless a caller lends its own (Hold). The writes of a
// function are visible to all that run after it.
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
	q.append(f, true)
	return true
}

// Hold is Post for a caller that lends the queue its goroutine in place of a new one: if it
// returns true, the caller has to call Run, and until then nothing runs. It
// returns false, and f will not run, if the queue is not at rest or was closed.
func (q *Queue) Hold(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refuses || q.running {
		return false
	}
	q.append(f, false)
	return true
}

// maxHeld is how many functions run on the goroutine of a caller of Run.
const maxHeld = 16

// Run runs what waits, after Hold or CloseHeld, until the queue is empty, on the caller's
// goroutine. If too much comes meanwhile, a goroutine takes over.
func (q *Queue) Run() { q.serve(maxHeld, nil) }

// Here is Hold followed by Run: it runs f, and then what was posted meanwhile, on the caller's
// goroutine. It returns false, and f does not run, where Hold returns false.
func (q *Queue) Here(f func()) bool {
	q.mu.Lock()
	atRest := !q.refuses && !q.running
	if atRest {
		q.running = true
	}
	q.mu.Unlock()
	if atRest {
		q.serve(maxHeld, f)
	}
	return atRest
}

// Discard makes the queue refuse what is posted from now on and forget what waits there.
// Close is yet to be called, and its last runs.
func (q *Queue) Discard() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refuses = true
	q.waiting, q.room = nil, [len(q.room)]func(){}
}

// Close makes the queue refuse posts from now on. The functions in the queue still
// run, and then last, which may be nil. Close does not wait. A second
// Close does nothing, and its last is not run.
func (q *Queue) Close(last func()) { q.close(last, true) }

// CloseHeld is Close for a caller that lends the queue its goroutine, as with Hold: if it
// returns true, the caller has to call Run. It returns false if Run is not needed.
func (q *Queue) CloseHeld(last func()) bool { return q.close(last, false) }

func (q *Queue) close(last func(), start bool) (held bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.refuses, q.closed = true, true
	if last != nil {
		held = !q.running && !start
		q.append(last, start)
	}
	if !q.running {
		q.ended()
	}
	return held
}

// Wait returns once the queue has been closed and everything on it has run.
// Called from a function that runs on the queue it never returns.
func (q *Queue) Wait() { <-q.Done() }

// Done returns a channel that is closed when Wait would return.
func (q *Queue) Done() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.drained == nil {
		if q.closed && !q.running {
			return closed
		}
		q.drained = make(chan struct{})
	}
	return q.drained
}

// closed is what Done returns of a queue on which nothing will run any more.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// ended closes the channel that Done has returned. It is called with mu held.
func (q *Queue) ended() {
	if q.drained != nil {
		close(q.drained)
	}
}

// append adds f, and sees to it that it runs: unless the queue is running already, it starts
// a goroutine, or without start leaves that to the caller. It is called with mu held.
func (q *Queue) append(f func(), start bool) {
	if len(q.waiting) == 0 {
		q.waiting = q.room[:0]
	}
	q.waiting = append(q.waiting, f)
	if !q.running {
		q.running = true
		if !start {
			return
		}
		if q.start == nil {
			q.start = q.run // once: a go statement with a receiver allocates each time
		}
		go q.start()
	}
}

// run is the queue's goroutine.
func (q *Queue) run() { q.serve(math.MaxInt, nil) }

// serve runs first, which may be nil, and then what waits, at most so many functions on this
// goroutine. Only one call exists at a time: running is set by the call
// that starts it and cleared here, under mu, in the same step that finds the queue
// empty, so that serve either sees a Post or the Post starts a new one.
func (q *Queue) serve(most int, first func()) {
	empty := false
	defer func() {
		if !empty { // most have run, or one left by Goexit; after a panic the program is ending anyway
			go q.run()
		}
	}()
	if checking.Load() {
		q.goroutine.Store(goroutineID())
	}
	f := first
	for range most {
		if f == nil {
			f = q.next()
		}
		if f == nil {
			empty = true
			return
		}
		f()
		f = nil
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
		q.goroutine.Store(0)
		if q.closed {
			q.ended()
		}
		return nil
	}
	f := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	return f
}
