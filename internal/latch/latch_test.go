package latch

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestLatch(t *testing.T) {
	var l Latch
	assert.False(t, l.Closed())
	before := l.Done()
	select {
	case <-before:
		t.Fatal("it is open")
	default:
	}
	l.Close()
	l.Close()
	assert.True(t, l.Closed())
	<-before
	<-l.Done()

	var unwaited Latch
	unwaited.Close()
	<-unwaited.Done()
}

// A goroutine that asks for the channel while the latch is being closed sees the end.
func TestCloseMeetsDone(t *testing.T) {
	for range 1000 {
		var l Latch
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { <-l.Done() })
		}
		l.Close()
		all.Wait()
	}
}

// A latch that no goroutine waits for takes no memory of its own.
func TestLatchAllocatesNothing(t *testing.T) {
	var all [200]Latch
	next := 0
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		l := &all[next]
		next++
		_ = l.Closed()
		l.Close()
		<-l.Done()
	}))
}
