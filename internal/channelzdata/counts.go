package channelzdata

import (
	"sync/atomic"
	"time"
)

// Calls is how many RPCs a channel or a subchannel has made.
type Calls struct {
	Started     int64
	Succeeded   int64     // ended with status OK
	Failed      int64     // ended with another one
	LastStarted time.Time // zero if there has been none
}

// CallCounters is read for each query of a channel's figures, from any goroutine and
// with no lock of this package held. It must not block.
type CallCounters interface{ Calls() Calls }

// SocketCounts is what a connection has done. A figure that is not known is left
// zero.
type SocketCounts struct {
	StreamsStarted   int64
	StreamsSucceeded int64 // ended by the server's END_STREAM
	StreamsFailed    int64 // ended otherwise
	CallsSucceeded   int64 // of the streams that have ended, those with status OK

	MessagesSent     int64
	MessagesReceived int64
	KeepalivesSent   int64 // PINGs that asked whether the server is there

	LastStream   time.Time // when the latest stream was opened
	LastSent     time.Time // when the latest message was sent
	LastReceived time.Time // when the latest message came

	SendWindow    int64 // the connection's flow-control window in bytes that the server allows this side
	ReceiveWindow int64 // the one that this side allows the server

	GoAway     bool // the server has sent GOAWAY ...
	GoAwayCode uint32
	MaxStreams uint32 // the server's SETTINGS_MAX_CONCURRENT_STREAMS; 0: it announced none
}

// SocketCounters is read for each query of the figures of a connection or of its
// subchannel, and when the connection ends; from any goroutine and with
// no lock of this package held. It must not block.
type SocketCounters interface{ SocketCounts() SocketCounts }

// calls is what the streams of a connection amount to as RPCs.
func (n *SocketCounts) calls() Calls {
	return Calls{
		Started:     n.StreamsStarted,
		Succeeded:   n.CallsSucceeded,
		Failed:      n.StreamsSucceeded + n.StreamsFailed - n.CallsSucceeded,
		LastStarted: n.LastStream,
	}
}

func (c *Calls) add(d Calls) {
	c.Started += d.Started
	c.Succeeded += d.Succeeded
	c.Failed += d.Failed
	if d.LastStarted.After(c.LastStarted) {
		c.LastStarted = d.LastStarted
	}
}

// lastResolution is how exact Calls.LastStarted of a CallCount is.
const lastResolution = int64(time.Millisecond)

// CallCount counts the RPCs of a channel, and knows how many are running. The
// zero value is ready to use, from any goroutine.
//
// A channel has to know how many RPCs are running, to go idle when there are
// none. Where one counter would go up at the start and down at the end, here one
// goes up at the start and another at the end, so that nothing is added to
// an RPC but a look at the time of the latest start, which is written once in a
// millisecond at most.
type CallCount struct {
	started   atomic.Int64
	succeeded atomic.Int64
	failed    atomic.Int64
	last      atomic.Int64 // the latest start, at least 1; 0: none
}

// Start counts an RPC that starts now, given as the time since an epoch of the
// caller's.
func (n *CallCount) Start(now time.Duration) {
	n.started.Add(1)
	if last := n.last.Load(); last == 0 || int64(now)-last >= lastResolution {
		// If it fails, another goroutine has just recorded a start.
		n.last.CompareAndSwap(last, max(1, int64(now)))
	}
}

// End counts the end of an RPC.
func (n *CallCount) End(ok bool) {
	if ok {
		n.succeeded.Add(1)
	} else {
		n.failed.Add(1)
	}
}

// Running is how many RPCs have started and not ended. RPCs that start or end
// meanwhile may be counted or not. Those that had started before and are still
// running afterwards are counted, so 0 means that none was running throughout.
func (n *CallCount) Running() int64 {
	// In this order: an RPC that is seen to have ended is seen to have started.
	ended := n.succeeded.Load() + n.failed.Load()
	return n.started.Load() - ended
}

// Read returns the figures. epoch is what Start's times count from.
func (n *CallCount) Read(epoch time.Time) Calls {
	c := Calls{Succeeded: n.succeeded.Load(), Failed: n.failed.Load()}
	c.Started = n.started.Load() // after the ends, so that it is not less than their sum
	if last := n.last.Load(); last != 0 {
		c.LastStarted = epoch.Add(time.Duration(last))
	}
	return c
}
