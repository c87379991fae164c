package channelzdata_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func TestCallCount(t *testing.T) {
	epoch := time.Unix(1000, 0)
	var n channelzdata.CallCount
	assert.Equal(t, channelzdata.Calls{}, n.Read(epoch))
	assert.Zero(t, n.Running())

	n.Start(0) // at the epoch itself, and yet a start
	assert.Equal(t, channelzdata.Calls{Started: 1, LastStarted: epoch.Add(1)}, n.Read(epoch))
	n.Start(5 * time.Second)
	n.Start(5*time.Second + 100*time.Microsecond)
	assert.EqualValues(t, 3, n.Running())
	n.End(true)
	n.End(false)
	assert.EqualValues(t, 1, n.Running())
	assert.Equal(t, channelzdata.Calls{Started: 3, Succeeded: 1, Failed: 1, LastStarted: epoch.Add(5 * time.Second)}, n.Read(epoch), "exact to a millisecond")
	n.Start(4 * time.Second) // one that took the time and was then held up
	assert.Equal(t, epoch.Add(5*time.Second), n.Read(epoch).LastStarted)
	n.Start(5*time.Second + time.Millisecond)
	assert.Equal(t, epoch.Add(5*time.Second+time.Millisecond), n.Read(epoch).LastStarted)
}

func TestCallCountOfManyGoroutines(t *testing.T) {
	const callers, each = 8, 2000
	var n channelzdata.CallCount
	var stop atomic.Bool
	begin := time.Now()
	var watcher, all sync.WaitGroup
	watcher.Go(func() {
		var last channelzdata.Calls
		for !stop.Load() {
			c := n.Read(begin)
			assert.GreaterOrEqual(t, c.Started, c.Succeeded+c.Failed)
			assert.GreaterOrEqual(t, c.Started, last.Started)
			assert.False(t, c.LastStarted.Before(last.LastStarted))
			assert.GreaterOrEqual(t, n.Running(), int64(0))
			last = c
		}
	})
	for caller := range callers {
		all.Go(func() {
			for i := range each {
				n.Start(time.Since(begin))
				assert.Positive(t, n.Running(), "this one is running")
				n.End((caller+i)%2 == 0)
			}
		})
	}
	all.Wait()
	stop.Store(true)
	watcher.Wait()
	c := n.Read(begin)
	assert.EqualValues(t, callers*each, c.Started)
	assert.EqualValues(t, callers*each/2, c.Succeeded)
	assert.EqualValues(t, callers*each/2, c.Failed)
	assert.Zero(t, n.Running())
}
