package serial

import (
	"bytes"
	"reflect"
	"runtime"
	"strconv"
	"sync/atomic"
)

// Inside reports whether the caller runs on a queue, whichever of the process: in a
// function that was posted, or in what that function called. Code that is called
// from everywhere asks before it waits for a queue.
//
// It walks the caller's stack, which takes some microseconds.
func Inside() bool {
	pcs := make([]uintptr, 64)
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs)
		if n == 0 {
			return false
		}
		frames := runtime.CallersFrames(pcs[:n])
		for more := true; more; {
			var frame runtime.Frame
			if frame, more = frames.Next(); frame.Function == runName {
				return true
			}
		}
	}
}

// runName is the name of the function that is on the stack of all that runs on a
// queue.
var runName = runtime.FuncForPC(reflect.ValueOf((*Queue).serve).Pointer()).Name()

// checking is set by Check.
var checking atomic.Bool

// Check makes AssertOn find errors, of all queues that are empty now. It is for tests:
// a queue has to remember which goroutine it runs on, and AssertOn to find out which
// one calls it.
func Check() { checking.Store(true) }

// AssertOn panics if the caller does not run on q. It stands at the entry of functions
// whose variables belong to a queue. Without Check it does nothing.
func (q *Queue) AssertOn() {
	if checking.Load() && q.goroutine.Load() != goroutineID() {
		panic("serial: what belongs to a queue is used elsewhere")
	}
}

// goroutineID returns the number of the calling goroutine, which the runtime gives
// away in the first line of a stack trace only: "goroutine 18 [running]:".
func goroutineID() uint64 {
	line := make([]byte, 64)
	line = line[:runtime.Stack(line, false)]
	_, line, _ = bytes.Cut(line, []byte(" "))
	number, _, _ := bytes.Cut(line, []byte(" "))
	id, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		panic("serial: the runtime's stack traces have changed: " + err.Error())
	}
	return id
}
