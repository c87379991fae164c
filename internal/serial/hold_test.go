package serial

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHold(t *testing.T) {
	Check()
	defer checking.Store(false)
	var q Queue
	var got []int
	require.True(t, q.Hold(func() {
		q.AssertOn()
		assert.True(t, Inside())
		got = append(got, 1)
		assert.False(t, q.Hold(func() {}), "it is not at rest")
		q.Post(func() { q.AssertOn(); got = append(got, 3) })
	}))
	assert.False(t, q.Hold(func() {}), "it is held")
	q.Post(func() { got = append(got, 2) })
	assert.Empty(t, got, "nothing runs before Run")
	q.Run()
	assert.Equal(t, []int{1, 2, 3}, got)
	assert.Panics(t, q.AssertOn, "after Run the goroutine is the caller's again")
}

func TestHere(t *testing.T) {
	Check()
	defer checking.Store(false)
	var q Queue
	var got []int
	q.AfterEach(func() { got = append(got, 0) })
	require.True(t, q.Here(func() {
		q.AssertOn()
		assert.True(t, Inside())
		got = append(got, 1)
		assert.False(t, q.Here(func() {}), "it is not at rest")
		q.Post(func() { q.AssertOn(); got = append(got, 2) })
	}))
	assert.Equal(t, []int{1, 0, 2, 0}, got)
	assert.Panics(t, q.AssertOn, "the goroutine is the caller's again")

	require.True(t, q.Hold(func() { got = append(got, 3) }))
	assert.False(t, q.Here(func() {}), "it is held")
	q.Run()
	q.Close(nil)
	assert.False(t, q.Here(func() {}), "it is closed")
	q.Wait()
	assert.Equal(t, []int{1, 0, 2, 0, 3, 0}, got)
}

// What is behind a function that ends its goroutine runs on another.
func TestGoexitHere(t *testing.T) {
	var q Queue
	ran := make(chan struct{})
	go q.Here(func() {
		q.Post(func() { close(ran) })
		runtime.Goexit()
	})
	<-ran
	q.Close(nil)
	q.Wait()
}

// A caller that lent its goroutine gets it back, however much is posted meanwhile.
func TestRunHandsOver(t *testing.T) {
	var q Queue
	n, gate := 0, make(chan struct{})
	require.True(t, q.Hold(func() {}))
	for range 2 * maxHeld {
		q.Post(func() {
			if n++; n > maxHeld {
				<-gate
			}
		})
	}
	q.Run()
	close(gate)
	q.Close(nil)
	q.Wait()
	assert.Equal(t, 2*maxHeld, n)
}

func TestCloseHeld(t *testing.T) {
	var q Queue
	ran := false
	require.True(t, q.CloseHeld(func() { ran = true }))
	assert.False(t, q.CloseHeld(func() { t.Error("a second end") }))
	assert.False(t, q.Hold(func() {}))
	select {
	case <-q.Done():
		t.Error("it has not run yet")
	default:
	}
	q.Run()
	q.Wait()
	assert.True(t, ran)

	var busy Queue
	gate := make(chan struct{})
	ran = false
	busy.Post(func() { <-gate })
	assert.False(t, busy.CloseHeld(func() { ran = true }), "its goroutine runs the end")
	close(gate)
	busy.Wait()
	assert.True(t, ran)

	var rest Queue
	assert.False(t, rest.CloseHeld(nil))
	rest.Wait()
}

func TestGoexitWhileHeld(t *testing.T) {
	var q Queue
	var got []int
	require.True(t, q.Hold(func() { got = append(got, 1); runtime.Goexit() }))
	q.Post(func() { got = append(got, 2) })
	go q.Run()
	q.Close(nil)
	q.Wait()
	assert.Equal(t, []int{1, 2}, got)
}
