package h2

import (
	"math"
	"time"

	"golang.org/x/net/http2"
)

const (
	maxGrownWindow   = 16 << 20  // windows that grow stop here
	firstProbeAfter  = 128 << 10 // received bytes before the bandwidth is measured, ...
	probeAfterAtMost = 4 << 20   // ... doubled up to this while measuring is of no use
	mostOwing        = 1 << 20   // bytes of a window that are kept at most before they are given back
	roomToGrow       = 4         // windows for each round trip at the rate: twice, as a PING leaves in the midst of a window, and room to be faster
)

// probeData marks the PINGs that measure the bandwidth. Those of keepalive are zeros.
var probeData = [8]byte{'w', 'i', 'n', 'd', 'o', 'w'}

// bandwidth decides how large the receive windows should be. A window smaller
// than what fits on the way between two round trips (the bandwidth-delay product)
// slows a stream down.
//
// Now and then a PING goes out, and what is received until its answer comes is
// counted: the rate. A larger window is of use only if the rate, with nothing in
// between, would fill this one in a round trip; what the answer waited for behind
// other bytes is no part of that, so it is the shortest round trip that counts. On
// a connection that carries little, or whose windows do, PINGs are rare: one for
// each 4 MiB.
//
// It belongs to the reader.
type bandwidth struct {
	after   int32         // bytes between an answer and the next PING; 0: nothing is measured
	trip    uint32        // the shortest round trip, in microseconds; 0: not known
	count   int64         // since the answer, or since the PING
	sent    time.Duration // when the PING left, since epoch; 0: none is out
	highest float64       // bytes a second
}

// epoch is what times are counted from.
var epoch = time.Now()

// greeted records that our SETTINGS were sent. Their acknowledgement is the first
// answer, on a connection that carries nothing else yet.
func (w *bandwidth) greeted() { w.after, w.sent = firstProbeAfter, time.Since(epoch) }

// acknowledged records an acknowledgement of SETTINGS.
func (w *bandwidth) acknowledged() {
	if w.sent != 0 && w.trip == 0 && w.highest == 0 {
		w.answered(maxGrownWindow)
		w.after = firstProbeAfter // nothing was asked yet
	}
}

// received counts n bytes. It reports whether a PING has to go out.
func (w *bandwidth) received(n int) bool {
	w.count += int64(n)
	if w.after == 0 || w.sent != 0 || w.count < int64(w.after) {
		return false
	}
	w.count, w.sent = 0, time.Since(epoch)
	return true
}

// answered records an answer. It returns the size that windows of the size window
// should grow to; 0: none.
func (w *bandwidth) answered(window int64) (size int64) {
	if w.sent == 0 {
		return 0 // of no PING of ours
	}
	count, took := w.count, time.Since(epoch)-w.sent
	w.count, w.sent = 0, 0
	if t := uint32(min(took.Microseconds(), math.MaxUint32)); t > 0 && (w.trip == 0 || t < w.trip) {
		w.trip = t
	}
	rate := float64(count) / max(took, time.Microsecond).Seconds()
	if rate > w.highest {
		w.highest = rate
		size = min(int64(roomToGrow*rate*float64(w.trip)/1e6), maxGrownWindow)
	}
	if size <= window {
		w.after = min(2*w.after, probeAfterAtMost)
		return 0
	}
	w.after = firstProbeAfter
	if size == maxGrownWindow {
		w.after = 0 // as large as it gets
	}
	return size
}

// account counts a DATA frame of a length against the connection's window.
func (r *reader) account(length int) error {
	if r.bw.received(length) {
		r.queuePing(probeData)
	}
	if r.window -= int64(length); r.window < 0 {
		return connErrorf(http2.ErrCodeFlowControl, "DATA beyond the connection's window")
	}
	r.credit += int64(length)
	if r.credit >= int64(r.c.cfg.ConnWindow)/4 {
		r.window += r.credit
		r.queueWindowUpdate(0, r.credit)
		r.credit = 0
	}
	r.c.left.Store(r.window)
	return nil
}

// admit counts a DATA frame against the window of its stream. Padding counts too, and is
// given back at once. mu is held. It reports false if there is no room for it.
func (s *Stream) admit(length, padding int) bool {
	if s.window -= int64(length); s.window < 0 {
		return false
	}
	switch {
	case s.window < maxFrameSize:
		s.exhausted = true
	case s.window > s.size/4*3:
		s.exhausted = false
	}
	s.credit += int64(padding)
	return true
}

// ranDry is for a program that waits for a message. It doubles the window if the server
// had used it up before: then what was left to receive has lasted for a shorter time than
// the server needed to hear that it may go on, and to do so. That may be due to the way to
// the server, or to other work on its processors. A program that receives more slowly than
// the server sends does not get here, and its window stays.
//
// All that came has been received, so nearly all of the new window is given back at once, and
// the next frame finds it not exhausted. mu is held.
func (s *Stream) ranDry() {
	if !s.exhausted || !s.c.cfg.grow {
		return
	}
	if more := min(s.size, maxGrownWindow-s.size); more > 0 {
		s.size += more
		s.credit += more
	}
}

// queueWindowUpdate leaves a WINDOW_UPDATE to the flush at the end of this
// read burst.
func (r *reader) queueWindowUpdate(id uint32, n int64) {
	c := r.c
	c.mu.Lock()
	if c.state != stateClosed {
		b := c.pending()
		b.b = appendWindowUpdate(b.b, id, uint32(n))
		r.dirty = true
	}
	c.mu.Unlock()
}

// queuePing leaves a PING to the flush at the end of this read burst.
func (r *reader) queuePing(data [8]byte) {
	c := r.c
	c.mu.Lock()
	if c.state != stateClosed {
		b := c.pending()
		b.b = appendPing(b.b, false, data)
		r.dirty = true
	}
	c.mu.Unlock()
}

// widen makes the receive windows larger: those of streams that are open and of
// streams to come by a SETTINGS (RFC 9113 section 6.9.2), that of the connection
// by a WINDOW_UPDATE.
//
// A caller that opens a stream takes its window under Conn.mu, so either it is in the table
// here or its HEADERS follow the SETTINGS. DATA for the larger window can only
// come after this, since this is the reader.
func (r *reader) widen(size int64) {
	c := r.c
	c.mu.Lock()
	if c.state == stateClosed {
		c.mu.Unlock()
		return
	}
	more := size - c.recvW
	moreForAll := size - max(c.recvW, int64(c.cfg.ConnWindow)) // the connection's begins as the larger one
	c.recvW = size
	b := c.pending()
	b.b = appendSettings(b.b, uint32(size))
	r.dirty = true
	for id, s := range c.streams {
		s.mu.Lock()
		if s.id == id {
			// The SETTINGS count for one that has grown by itself too. What makes its
			// window too large is not given back later.
			s.window += more
			grown := max(s.size, size)
			s.credit -= s.size + more - grown
			s.size = grown
		}
		s.mu.Unlock()
	}
	c.mu.Unlock()
	if moreForAll > 0 {
		r.window += moreForAll
		r.queueWindowUpdate(0, moreForAll)
	}
}
