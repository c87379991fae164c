package subchannel

import (
	"errors"
	"io"
	"time"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
)

// ending is how a connection ended.
type ending uint8

const (
	// endServed: the server answered an RPC on it, if only with headers, or it lasted
	// for provenAfter. How it ended does not matter then.
	endServed ending = iota
	// endOrderly: the server ended its side, or announced that by GOAWAY without an error,
	// and no RPC was harmed. Servers end connections so that are idle or old, or when
	// they restart.
	endOrderly
	// endFailed is any other end.
	endFailed
)

// provenAfter is how long a connection has to last to count as one that served.
const provenAfter = time.Second

// endingOf returns how a connection ended because of why. It has lasted for as long;
// answered and harmed are as h2.Conn reports them.
func endingOf(lasted time.Duration, answered, harmed bool, why error) ending {
	switch {
	case answered || lasted >= provenAfter:
		return endServed
	case harmed || !isOrderly(why):
		return endFailed
	}
	return endOrderly
}

// isOrderly reports whether a server may end a connection so without anything being
// wrong: by GOAWAY without an error, or end of file, which is the closed pipe of
// connections that are no sockets. A reset is not: a server that closes has read what
// it was sent.
func isOrderly(why error) bool {
	return h2.IsOrderly(why) || errors.Is(why, io.EOF) || errors.Is(why, io.ErrUnexpectedEOF) || errors.Is(why, io.ErrClosedPipe)
}

// record is what the latest attempts to connect and the latest connections of a
// subchannel came to: all that decides when the next attempt is made, and whether.
// The zero value is that of one that has served.
//
//   - A connection that served clears the record.
//   - An attempt that fails is followed by gRPC's back-off, in TRANSIENT_FAILURE. So is
//     the second in a row of connections that failed: in place of the next attempt.
//     Those that ended in good order are no failures, but for the tenth in a row that
//     did so at once: policies then look for a server that serves.
//   - Connections that did not serve, whatever their end, are spaced: the next attempt
//     is made in CONNECTING, after a pause. An RPC that waits for a connection cuts the
//     pause short, but not so that attempts come faster than spacing, burst and one
//     besides excepted.
type record struct {
	failures int              // attempts in a row that failed, or led to a connection that did
	instead  *failure.Attempt // not nil: the next attempt is not made, and counts as failed with this
	unserved *unserved        // nil: none
}

// unserved is the connections in a row that ended before they had served.
type unserved struct {
	count  int
	hasty  int       // of the latest of them, those in a row that ended at once
	latest time.Time // when the attempt began that led to the latest of them
	spent  time.Time // the spacing of all of them, added up from the first; as if from now if that is past
}

// The pause after a connection that did not serve is measured from the start of the
// attempt that led to it. The first one is none, the second minPause, then it doubles.
const (
	minPause = 50 * time.Millisecond
	maxPause = time.Second

	spacing = 60 * time.Millisecond
	burst   = 2
)

// A connection ends at once if it has lasted for less than atOnce. The server is down if
// maxHasty of them do so in a row.
const (
	atOnce   = 10 * time.Millisecond
	maxHasty = 10
)

// ended notes the end of a connection that lasted for so long and to which an attempt had
// led that began at that time. a describes it as a failure.
func (r *record) ended(how ending, lasted time.Duration, began time.Time, a *failure.Attempt) {
	if how == endServed {
		*r = record{}
		return
	}
	if r.unserved == nil {
		r.unserved = new(unserved)
	}
	u := r.unserved
	u.count++
	if u.hasty++; lasted >= atOnce {
		u.hasty = 0
	}
	if how == endOrderly && u.hasty >= maxHasty {
		how, r.failures = endFailed, max(r.failures, 1)
	}
	if began.After(u.latest) {
		u.latest = began
	}
	if u.spent.Before(began) {
		u.spent = began
	}
	u.spent = u.spent.Add(spacing)
	r.instead = nil
	if how == endOrderly {
		r.failures = 0
		return
	}
	if r.failures++; r.failures > 1 {
		r.instead = a
	}
}

// failed notes an attempt that failed.
func (r *record) failed() {
	r.failures++
	r.instead = nil
}

// moved forgets connections: the next attempt is made at other addresses.
func (r *record) moved() { *r = record{failures: r.failures} }

// pause returns until when the next attempt waits, and until when if an RPC waits
// for it. Both are in the past if it does not wait.
func (r *record) pause() (until, wanted time.Time) {
	u := r.unserved
	if u == nil {
		return time.Time{}, time.Time{}
	}
	until = u.latest
	if u.count > 1 {
		until = until.Add(min(minPause<<min(u.count-2, 10), maxPause))
	}
	if wanted = u.spent.Add(-burst * spacing); wanted.After(until) {
		wanted = until
	}
	return until, wanted
}
