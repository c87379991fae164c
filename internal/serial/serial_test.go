package serial

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestQueueRunsInTheOrderPosted(t *testing.T) {
	var q Queue
	var got []int
	for i := range 1000 {
		require.True(t, q.Post(func() { got = append(got, i) }))
	}
	q.Close(func() { got = append(got, -1) })
	q.Wait()

	require.Len(t, got, 1001)
	for i := range 1000 {
		require.Equal(t, i, got[i])
	}
	assert.Equal(t, -1, got[1000], "last runs after what was queued")
}

func TestQueueNeverRunsTwoAtOnce(t *testing.T) {
	const posters, each = 8, 500
	var q Queue
	var inside atomic.Int32
	counts := make([]int, posters) // written on the queue only, so the race detector watches its order too
	var wg sync.WaitGroup
	for p := range posters {
		wg.Go(func() {
			for i := range each {
				q.Post(func() {
					if inside.Add(1) != 1 {
						t.Error("two functions ran at once")
					}
					if counts[p] != i {
						t.Errorf("poster %d: function %d ran as number %d", p, i, counts[p])
					}
					counts[p]++
					inside.Add(-1)
				})
				if i%50 == 0 {
					runtime.Gosched() // let the queue run empty now and then
				}
			}
		})
	}
	wg.Wait()
	q.Close(nil)
	q.Wait()
	for p := range posters {
		assert.Equal(t, each, counts[p])
	}
}

func TestPostFromTheQueueRunsLater(t *testing.T) {
	var q Queue
	var got []string
	q.Post(func() {
		q.Post(func() {
			got = append(got, "inner")
			q.Close(func() { got = append(got, "last") })
			assert.False(t, q.Post(func() { got = append(got, "late") }))
		})
		got = append(got, "outer")
	})
	q.Wait()
	assert.Equal(t, []string{"outer", "inner", "last"}, got)
}

func TestClosedQueueRefuses(t *testing.T) {
	var q Queue
	ran := false
	q.Close(nil)
	assert.False(t, q.Post(func() { ran = true }))
	q.Close(func() { ran = true }) // the second Close does nothing
	q.Wait()
	q.Wait()
	assert.False(t, ran)
}

func TestDiscardForgetsWhatWaits(t *testing.T) {
	var q Queue
	var got []string
	gate, began := make(chan struct{}), make(chan struct{})
	q.Post(func() { close(began); <-gate; got = append(got, "running") })
	for range 10 {
		q.Post(func() { got = append(got, "waiting") })
	}
	<-began
	q.Discard()
	assert.False(t, q.Post(func() { got = append(got, "late") }))
	q.Close(func() { got = append(got, "last") })
	close(gate)
	q.Wait()
	assert.Equal(t, []string{"running", "last"}, got)
}

func TestAfterEach(t *testing.T) {
	var q Queue
	var got []string
	q.AfterEach(func() { got = append(got, "after") })
	q.Post(func() {
		q.Post(func() { got = append(got, "second") })
		got = append(got, "first")
		q.Close(func() { got = append(got, "last") })
	})
	q.Wait()
	assert.Equal(t, []string{"first", "after", "second", "after", "last", "after"}, got)
}

func TestWaitWaitsForWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queue
		start := time.Now()
		q.Post(func() { time.Sleep(time.Second) })
		q.Post(func() { time.Sleep(time.Second) })
		waited := make(chan time.Duration, 2)
		for range 2 {
			go func() {
				q.Wait()
				waited <- time.Since(start)
			}()
		}
		synctest.Wait()
		q.Close(func() { time.Sleep(time.Second) })
		assert.Equal(t, 3*time.Second, <-waited)
		assert.Equal(t, 3*time.Second, <-waited)
	})
}

func TestNoGoroutineAtRest(t *testing.T) {
	var q Queue
	for range 100 {
		done := make(chan struct{})
		q.Post(func() { close(done) })
		<-done
	}
	require.Eventually(t, func() bool { return !running("serial.(*Queue).run") }, time.Minute, time.Millisecond)
	assert.True(t, q.Post(func() {}), "the queue is still open")
	q.Close(nil)
	q.Wait()
}

func TestGoexitDoesNotWedge(t *testing.T) {
	var q Queue
	var got []int
	q.Post(func() { got = append(got, 1); runtime.Goexit() })
	q.Post(func() { got = append(got, 2); runtime.Goexit() })
	q.Post(func() { got = append(got, 3) })
	q.Close(func() { got = append(got, 4); runtime.Goexit() })
	q.Wait()
	assert.Equal(t, []int{1, 2, 3, 4}, got)
}

// A queue at rest keeps nothing of what was on it: neither the functions of a burst nor
// the array that they waited in.
func TestQueueAtRestKeepsNothing(t *testing.T) {
	var q Queue
	gate := make(chan struct{})
	q.Post(func() { <-gate })
	for range 10_000 {
		q.Post(func() {})
	}
	q.mu.Lock()
	array := weak.Make(&q.waiting[0])
	q.mu.Unlock()
	close(gate)
	require.Eventually(t, func() bool { runtime.GC(); return array.Value() == nil }, time.Minute, time.Millisecond)
	q.Post(func() {})
	q.Close(nil)
	q.Wait()
}

// Post, Close and Wait may be called at the same time: what was posted before the queue
// was closed runs, last runs once, and every Wait returns.
func TestQueueFromManyGoroutines(t *testing.T) {
	for range 2000 {
		var q Queue
		var accepted, ran, last int // the two latter are the queue's
		var mu sync.Mutex
		var all sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			all.Go(func() {
				<-start
				if q.Post(func() { ran++ }) {
					mu.Lock()
					accepted++
					mu.Unlock()
				}
			})
			all.Go(func() { <-start; q.Wait() })
		}
		for range 2 {
			all.Go(func() { <-start; q.Close(func() { last++ }) })
		}
		close(start)
		all.Wait()
		require.Equal(t, accepted, ran)
		require.Equal(t, 1, last)
	}
}

// Nothing that several goroutines post to a busy queue is lost, and every Wait waits for
// all of it.
func TestQueueUnderContention(t *testing.T) {
	const posters, each = 4, 20_000
	var q Queue
	gate, ran := make(chan struct{}), 0
	q.Post(func() { <-gate })
	atOnce(posters, func() {
		for range each {
			q.Post(func() { ran++ })
		}
	})
	q.Close(nil)
	close(gate)
	q.Wait()
	assert.Equal(t, posters*each, ran)

	for range 5000 {
		var q Queue
		var ends [4]<-chan struct{}
		var next atomic.Int32
		atOnce(len(ends), func() { ends[next.Add(1)-1] = q.Done() })
		for _, end := range ends {
			require.Equal(t, ends[0], end)
		}
	}
}

// atOnce calls f on n goroutines, which begin as much at once as the machine can.
func atOnce(n int, f func()) {
	var all sync.WaitGroup
	var there atomic.Int32
	for range n {
		all.Go(func() {
			for there.Add(1); int(there.Load()) < n; {
				runtime.Gosched()
			}
			f()
		})
	}
	all.Wait()
}

// running says whether some goroutine is in a function of that name.
func running(name string) bool {
	buf := make([]byte, 1<<20)
	return strings.Contains(string(buf[:runtime.Stack(buf, true)]), name+"(")
}

func BenchmarkPostToEmptyQueue(b *testing.B) {
	b.ReportAllocs()
	var q Queue
	done := make(chan struct{})
	f := func() { done <- struct{}{} }
	for b.Loop() {
		q.Post(f)
		<-done
	}
	q.Close(nil)
	q.Wait()
}

func TestSignalWaitsOnce(t *testing.T) {
	var q Queue
	var s Signal
	began, hold := make(chan struct{}), make(chan struct{})
	ran := 0 // the queue's
	f := func() { ran++ }
	q.Post(func() { close(began); <-hold })
	<-began
	for range 1000 {
		s.Send(&q, f)
	}
	q.mu.Lock()
	waiting := len(q.waiting)
	q.mu.Unlock()
	require.Equal(t, 1, waiting)
	close(hold)
	done := make(chan struct{})
	q.Post(func() { s.Send(&q, f); q.Post(func() { close(done) }) })
	<-done
	q.Close(nil)
	q.Wait()
	require.Equal(t, 2, ran, "sent again after it ran")
}
