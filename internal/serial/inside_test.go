package serial

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestInside(t *testing.T) {
	assert.False(t, Inside())

	var q Queue
	var at []bool
	for _, depth := range []int{0, 1, 62, 63, 64, 65, 200} {
		q.Post(func() { at = append(at, deep(depth, Inside)) })
	}
	elsewhere := make(chan bool, 1)
	q.Post(func() { go func() { elsewhere <- deep(200, Inside) }() })
	q.Post(func() { go func() { defer q.Close(nil); at = append(at, !Inside()) }() })
	q.Wait()
	assert.Equal(t, []bool{true, true, true, true, true, true, true, true}, at)
	assert.False(t, <-elsewhere, "a goroutine that a function on the queue started")
}

// deep calls f from n frames further down.
//
//go:noinline
func deep(n int, f func() bool) bool {
	if n == 0 {
		return f()
	}
	return deep(n-1, f)
}

func TestAssertOn(t *testing.T) {
	var unchecked Queue
	assert.NotPanics(t, unchecked.AssertOn)

	Check()
	defer checking.Store(false)
	var q, other Queue
	assert.Panics(t, q.AssertOn, "a goroutine that is none of a queue's")
	on := func(q *Queue, f func()) {
		done := make(chan struct{})
		q.Post(func() { defer close(done); f() })
		<-done
	}
	for range 3 { // each time on another goroutine, perhaps
		on(&q, func() { assert.NotPanics(t, q.AssertOn) })
		on(&other, func() { assert.Panics(t, q.AssertOn, "another queue") })
		on(&q, func() {
			done := make(chan struct{})
			go func() { defer close(done); assert.Panics(t, q.AssertOn, "a goroutine that was started there") }()
			<-done
		})
	}
	on(&q, func() { runtime.Goexit() })
	on(&q, func() { assert.NotPanics(t, q.AssertOn, "after a Goexit") })
	q.Close(nil)
	q.Wait()
	assert.Panics(t, q.AssertOn)
}

func BenchmarkInside(b *testing.B) {
	for name, depth := range map[string]int{"shallow": 0, "deep": 50} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				deep(depth, Inside)
			}
		})
	}
}
