package h2

import (
	"runtime"
	"time"

	"golang.org/x/net/http2"
)

// A stream that sends one message after the other would make a write of each, and a
// write costs ten times what queueing a small message does. So once it sends in a burst, its
// messages stay in the pending buffer, where a goroutine fetches them: it runs as soon
// as the sender waits for anything or another processor is free, and by then many messages
// share its write. A sender that is faster writes half a buffer itself.
//
// A single message, the first ones of a burst, and one that follows an answer leave at
// once: nothing is known to come after them, and a peer may be waiting. What a stream begins with
// is left to the same goroutine if there is no other stream: see flushHeadersAndUnlock.
const (
	burstGap  = 50 * time.Microsecond // between two messages of a burst at most
	denseGap  = 10 * time.Microsecond // the same if something was received in between: less than a round trip
	burstFrom = 2                     // so many messages of a burst leave at once
	burstTurn = 384                   // after so many messages of a burst other streams get their turn
)

// inBurst notes that a message is queued now. It reports whether others will follow
// as fast, as the messages before it did. The connection's mu is held.
func (s *Stream) inBurst() bool {
	now := time.Since(epoch)
	gap := now - s.sentAt
	s.sentAt = now
	answered := s.heard.Load()
	if answered {
		s.heard.Store(false)
	}
	if gap > burstGap || answered && gap > denseGap {
		s.burst = 0
		return false
	}
	s.burst++
	return s.burst > burstFrom
}

// endsTurn reports whether the sender shall yield after a message of a burst.
//
// Streams that wait for a window, or for room, are granted a message each, and the first of
// them to run takes what is left. If it went on for as long as that lasts, it would wait
// again before the others have run, and be the first of them once more. A yield of the
// processor lets those go on that run already. The connection's mu is held.
func (s *Stream) endsTurn() bool { return s.burst%burstTurn == 0 && len(s.c.streams) > 1 }

// flushSoonAndUnlock is flushAndUnlock for a message of a burst. mu is held on entry and
// released. It never blocks.
//
// Bytes that it leaves pending are written: awaited is set by the call that starts the
// goroutine, and cleared by that goroutine under mu before it looks for pending bytes. A
// flush that runs meanwhile writes them too.
//
// With yields, the goroutine lets those run first that are about to append.
func (c *Conn) flushSoonAndUnlock(yields bool) {
	if len(c.pending().b) >= c.cfg.WriteBufferSize/2 {
		c.flushAndUnlock()
		return
	}
	if c.flushing || c.awaited || c.state == stateClosed {
		c.mu.Unlock()
		return
	}
	c.awaited = true
	c.flushers.Add(1)
	c.mu.Unlock()
	go c.flushAwaited(yields)
}

// flushHeadersAndUnlock is flushAndUnlock for the HEADERS of a stream that messages follow on. mu is
// held on entry and released. It never blocks.
//
// If a message is known to be next, HEADERS wait for it, and no flush is on its way: Send makes it,
// Recv and Header before they wait, a cancellation, and any other stream that writes. No stream waits for
// the room that they take: it is less than half of all, and a flush is under way while the rest is in use.
func (c *Conn) flushHeadersAndUnlock(s *Stream, req *Request) {
	switch alone := len(c.streams) == 1; {
	case req.Follows && len(c.pending().b) < c.cfg.WriteBufferSize/2:
		s.held.Store(true)
		c.mu.Unlock()
	case alone:
		c.flushSoonAndUnlock(false)
	default: // a yield before the write does the same, and needs no goroutine
		c.flushAndUnlock()
	}
}

// flushHeld writes HEADERS that wait for a message, since the program waits for the server.
func (s *Stream) flushHeld() {
	if s.held.Load() {
		s.held.Store(false)
		s.c.kick()
	}
}

// flushSentAndUnlock is flushAndUnlock for what s sends. If a goroutine is on its way that flushes, it
// is left to that one: the HEADERS of s, its only message and END_STREAM then share a write.
func (s *Stream) flushSentAndUnlock() {
	if s.c.awaited && !s.unary {
		s.c.flushSoonAndUnlock(false)
		return
	}
	s.c.flushAndUnlock()
}

// flushAwaited flushes pending bytes unless a flush is running. It may block.
func (c *Conn) flushAwaited(yields bool) {
	if yields {
		runtime.Gosched()
	}
	c.mu.Lock()
	c.awaited = false
	if c.flushing || c.state == stateClosed || !c.dirty() {
		c.mu.Unlock()
		c.flushers.Done()
		return
	}
	c.flushing = true
	c.mu.Unlock()
	if c.apart {
		c.flushBlocking(nil)
		return
	}
	defer c.flushers.Done()
	c.flush(nil)
}

// dataFrame is a DATA frame in the pending buffer.
type dataFrame struct {
	id      uint32
	at, end int // offsets of its header, and of what follows it
}

// queueData appends p in DATA frames of stream id to the pending buffer, which is b. The
// messages of a burst share a frame, which spares both sides work: where one begins has no
// meaning (gRPC's PROTOCOL-HTTP2, "Data frame boundaries"). mu is held.
func (c *Conn) queueData(b *buffer, id uint32, p []byte, end bool) {
	d := &c.lastData
	length := d.end - d.at - frameHeaderLen + len(p)
	if d.id == id && d.end == len(b.b) && length <= c.maxSend {
		b.b = append(b.b, p...)
		putFrameLength(b.b, d.at, length)
	} else {
		d.id, d.at = id, len(b.b)+(len(p)-1)/c.maxSend*(c.maxSend+frameHeaderLen) // the last one
		b.b = appendData(b.b, id, p, false, c.maxSend)
	}
	if d.end = len(b.b); end {
		putFrameFlags(b.b, d.at, http2.FlagDataEndStream)
	}
}
