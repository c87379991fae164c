package grpcdial

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"
)

// How often the same event is logged, from slog.LevelInfo on.
const (
	logPeriod   = time.Minute
	logFailures = 1   // of one kind at one address, in a period
	logOthers   = 10  // of one kind at one address, in a period
	keptRepeats = 256 // events whose repeats are counted
)

// eventLog writes a channel's events to its logger. It may be used by any number
// of goroutines.
type eventLog struct {
	logger *slog.Logger // set once

	mu      sync.Mutex
	repeats map[repeat]*tally // guarded by mu
}

// repeat is what makes an event the same as another. Texts of errors are no part of
// it: they may hold a port that is new each time.
type repeat struct {
	message, addr string
	phase         Phase
	hint, cause   string
	from, to      connectivity.State
}

// tally is how often something was logged in the period that began at since, and
// how often it was not.
type tally struct {
	since           time.Time
	logged, omitted int
}

func newEventLog(l *slog.Logger) *eventLog {
	return &eventLog{logger: l, repeats: make(map[repeat]*tally)}
}

// event logs e, unless it is one repeat too many. Then the next that is logged
// says how many were left out.
func (l *eventLog) event(e DialEvent) {
	level, message := levelOf(&e)
	if !l.logger.Enabled(context.Background(), level) {
		return
	}
	omitted := 0
	if level >= slog.LevelInfo {
		var again bool
		if omitted, again = l.count(&e, message); again {
			return
		}
	}
	attrs := e.attrs()
	if omitted > 0 {
		attrs = append(attrs, slog.Int("omitted", omitted))
	}
	l.logger.LogAttrs(context.Background(), level, message, attrs...)
}

// count counts e and reports whether it is not to be logged, and if it is, how
// many like it were not.
func (l *eventLog) count(e *DialEvent, message string) (omitted int, again bool) {
	key, most := repeat{message: message, addr: e.Addr, phase: e.Phase, hint: e.Hint, from: e.From, to: e.To}, logOthers
	if e.Kind == EventFailed || e.Kind == EventConfigRefused || e.Kind == EventResolveDone && e.Err != nil {
		most = logFailures
		if e.Hint == "" {
			key.cause = fmt.Sprintf("%T", e.Err)
		}
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.repeats[key]
	if t == nil {
		l.makeRoomLocked(now)
		t = &tally{since: now}
		l.repeats[key] = t
	}
	if now.Sub(t.since) >= logPeriod {
		omitted = t.omitted
		*t = tally{since: now}
	}
	if t.logged == most {
		t.omitted++
		return 0, true
	}
	t.logged++
	return omitted, false
}

// makeRoomLocked forgets what has not come for a period, or everything.
func (l *eventLog) makeRoomLocked(now time.Time) {
	if len(l.repeats) < keptRepeats {
		return
	}
	for key, t := range l.repeats {
		if now.Sub(t.since) >= logPeriod {
			delete(l.repeats, key)
		}
	}
	if len(l.repeats) >= keptRepeats {
		clear(l.repeats)
	}
}

// levelOf returns how much an event matters, and its message: the same for all
// events of a kind, so that a log can be searched for it.
func levelOf(e *DialEvent) (slog.Level, string) {
	switch e.Kind {
	case EventResolveDone:
		if e.Err != nil {
			return slog.LevelWarn, "grpcdial: resolve failed"
		}
	case EventReady:
		return slog.LevelInfo, "grpcdial: connection ready"
	case EventFailed:
		return slog.LevelWarn, "grpcdial: connection attempt failed"
	case EventLost:
		if e.Err == errClosing || e.Err == ErrIdle {
			return slog.LevelDebug, "grpcdial: connection closed"
		}
		return slog.LevelInfo, "grpcdial: connection lost"
	case EventKeepalive:
		return slog.LevelWarn, "grpcdial: keepalive slowed down"
	case EventConfigRefused:
		return slog.LevelWarn, "grpcdial: service config refused"
	case EventState:
		return slog.LevelInfo, "grpcdial: state changed"
	}
	return slog.LevelDebug, "grpcdial: " + e.Kind.words()
}
