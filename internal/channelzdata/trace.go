package channelzdata

import (
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/text"
)

const (
	keptEvents = 32  // events that a channel or a subchannel remembers
	maxText    = 512 // bytes of an event's text

	usualEvents           = 6 // of a channel that is READY
	usualSubchannelEvents = 4 // of its subchannel
)

// Severity says how much an event matters. The values are those of channelz.
type Severity uint8

const (
	Info    Severity = 1
	Warning Severity = 2
	Error   Severity = 3
)

// Event is something that happened to a channel or a subchannel.
type Event struct {
	Time     time.Time
	Severity Severity
	Text     string // one line, fit to leave the library, of at most 512 bytes
	// At most one of these has an ID: the child that the event is about.
	Channel    Ref
	Subchannel Ref
}

// trace is the latest events of a channel or a subchannel. It is guarded by the
// mutex of the channel's data.
type trace struct {
	events []event // grows to keptEvents; then the oldest is at logged % keptEvents
	logged int64   // events so far
}

// event is what is stored of an Event.
type event struct {
	at       int64 // Unix nanoseconds
	text     string
	child    *Ref // nil: none
	severity Severity
	nested   bool // child is a channel
}

// add puts e at the end. It returns the event that it takes the place of; the
// zero event if it takes none's.
func (t *trace) add(e event) (forgotten event) {
	if len(t.events) < keptEvents {
		if len(t.events) == 1 && cap(t.events) == 1 {
			// An idle channel has one event, one that is READY has usually six.
			t.events = slices.Grow(t.events, usualEvents-1)
		}
		t.events = append(t.events, e)
	} else {
		oldest := &t.events[t.logged%keptEvents]
		forgotten, *oldest = *oldest, e
	}
	t.logged++
	return forgotten
}

// list returns the events, oldest first.
func (t *trace) list() []Event {
	out := make([]Event, 0, len(t.events))
	for i := range t.events {
		// While nothing was forgotten, the oldest is at 0.
		j := i
		if len(t.events) == keptEvents {
			j = int((t.logged + int64(i)) % keptEvents)
		}
		e := &t.events[j]
		p := Event{Time: time.Unix(0, e.at), Severity: e.severity, Text: e.text}
		switch {
		case e.child == nil:
		case e.nested:
			p.Channel = *e.child
		default:
			p.Subchannel = *e.child
		}
		out = append(out, p)
	}
	return out
}

// clip makes a text fit for an event.
func clip(s string) string { return text.Cut(text.Line(s), maxText) }

// stateText is the text of a change of state. The common ones cost no
// allocation.
func stateText(to connectivity.State, cause error) string {
	var change string
	switch to {
	case connectivity.Idle:
		change = "State changed to IDLE"
	case connectivity.Connecting:
		change = "State changed to CONNECTING"
	case connectivity.Ready:
		change = "State changed to READY"
	case connectivity.TransientFailure:
		change = "State changed to TRANSIENT_FAILURE"
	case connectivity.Shutdown:
		change = "State changed to SHUTDOWN"
	default:
		change = "State changed to " + to.String()
	}
	if cause == nil {
		return change
	}
	return clip(change + ": " + text.Of(cause))
}

// stateSeverity is how much the change matters.
func stateSeverity(to connectivity.State) Severity {
	if to == connectivity.TransientFailure {
		return Warning
	}
	return Info
}
