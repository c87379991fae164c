package serial

import (
	"reflect"
	"runtime"
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
var runName = runtime.FuncForPC(reflect.ValueOf((*Queue).run).Pointer()).Name()
