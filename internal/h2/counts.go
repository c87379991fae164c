package h2

import (
	"time"

	"golang.org/x/net/http2"
)

// Counts is what a connection has done so far.
type Counts struct {
	// Streams. Started is the sum of the open ones, Succeeded and Failed.
	Started   int64
	Succeeded int64 // ended by the server's END_STREAM
	Failed    int64 // ended otherwise
	OK        int64 // of those that succeeded, how many with status OK

	MessagesSent     int64 // the last byte of which is queued
	MessagesReceived int64 // that are complete
	Keepalives       int64 // PINGs of the keepalive

	Latest time.Time // Request.Began of the latest stream

	SendWindow    int64 // the connection's, in bytes; negative while the server owes some
	ReceiveWindow int64

	GoAway     *http2.GoAwayError // the latest from the server; nil: none. Not to be changed.
	MaxStreams uint32             // the server's SETTINGS_MAX_CONCURRENT_STREAMS; 0: it announced none
}

// tally is the part of Counts that nothing else knows. It is guarded by Conn.mu.
type tally struct {
	succeeded, ok, sent, probes int64
	latest                      int64 // Unix nanoseconds; 0: none
}

// began notes that a stream was opened then; the zero time: that is not known.
func (t *tally) began(at time.Time) {
	if t.latest = 0; !at.IsZero() {
		t.latest = at.UnixNano()
	}
}

// ended counts a stream that the reader ends with e.
func (t *tally) ended(byServer bool, e *Error) {
	if !byServer {
		return
	}
	t.succeeded++
	if e == nil {
		t.ok++
	}
}

// Counts returns what the connection has done so far. It does not block, and may
// be called after the connection's end.
func (c *Conn) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	started := int64(c.nextID-1) / 2
	n := Counts{
		Started:          started,
		Succeeded:        c.tally.succeeded,
		Failed:           started - int64(len(c.streams)) - c.tally.succeeded,
		OK:               c.tally.ok,
		MessagesSent:     c.tally.sent,
		MessagesReceived: c.received.Load(),
		Keepalives:       c.tally.probes,
		SendWindow:       c.window.avail,
		ReceiveWindow:    c.left.Load(),
	}
	if c.tally.latest != 0 {
		n.Latest = time.Unix(0, c.tally.latest)
	}
	if c.goAway != nil {
		n.GoAway = &c.goAway.GoAwayError
	}
	if c.maxOpen != unlimited {
		n.MaxStreams = uint32(c.maxOpen)
	}
	return n
}
