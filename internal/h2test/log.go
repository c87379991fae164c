package h2test

import (
	"fmt"
	"strings"
	"sync"
)

// maxLogLines bounds the log of one connection; what is beyond is counted.
const maxLogLines = 4000

// wireLog is the readable record of one connection: a line a frame, prefixed
// C for what the client sent and S for what the scripted peer sent. Lines hold
// no times and no addresses, so that a test may compare them with a golden text.
type wireLog struct {
	mu      sync.Mutex
	lines   []string
	dropped int
}

func (l *wireLog) add(prefix, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) >= maxLogLines {
		l.dropped++
		return
	}
	l.lines = append(l.lines, prefix+line)
}

func (l *wireLog) client(line string) { l.add("C ", line) }
func (l *wireLog) server(line string) { l.add("S ", line) }

// note records what is not a frame: a close, raw bytes, a TLS handshake.
func (l *wireLog) note(line string) { l.add("- ", line) }

// text renders the log; abridged, only its beginning and its end.
func (l *wireLog) text(abridged bool) string {
	const head, tail = 100, 200
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for i := 0; i < len(l.lines); i++ {
		if abridged && i == head && len(l.lines) > head+tail {
			i = len(l.lines) - tail
			fmt.Fprintf(&b, "- %d lines left out\n", i-head)
		}
		b.WriteString(l.lines[i])
		b.WriteByte('\n')
	}
	if l.dropped > 0 {
		fmt.Fprintf(&b, "- and %d more lines\n", l.dropped)
	}
	return b.String()
}

// Trace returns the log so far: one line a frame in the order in which the peer
// read (C) or wrote (S) it. It may be called at any time from any goroutine.
func (c *Conn) Trace() string { return c.log.text(false) }
