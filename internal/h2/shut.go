package h2

import (
	"crypto/tls"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// goodbyeWait bounds how long a connection stays open for its GOAWAY, where a write
	// may block or is under way.
	goodbyeWait = 100 * time.Millisecond
	// writeReturns is how long a Write may take to return from a connection that was closed.
	writeReturns = 100 * time.Millisecond
	// lingerWait bounds how long a connection is read from after the GOAWAY of a violation.
	lingerWait = 100 * time.Millisecond
)

// ending is what the server learns of a connection's end.
type ending uint8

const (
	// silently: the connection is closed at once.
	silently ending = iota
	// ifQuiet: GOAWAY, unless a write is under way.
	ifQuiet
	// saidGoodbye: GOAWAY, after a write that is under way, if that takes no longer than
	// goodbyeWait.
	saidGoodbye
	// lingering: GOAWAY, then this side of the connection is closed and Serve closes
	// the other.
	lingering
)

// Close cuts the connection: each open stream ends at once with st (nil:
// Unavailable, with cause in its text), and Serve returns cause. It does
// not block, and it does not wait for Serve. Without st, streams that a write under way
// concerns end with that write, goodbyeWait later at most: whether they were sent
// depends on it.
func (c *Conn) Close(cause error, st *status.Status) {
	if cause == nil {
		cause = ErrClosed
	}
	c.shut(cause, st, saidGoodbye)
}

// parting is a GOAWAY that waits for the end of a flush.
type parting struct {
	how   ending
	bound *time.Timer // closes the connection if the flush does not end
}

// closing is what a connection has once it is closed. It is guarded by Conn.mu, but for
// farewell.
type closing struct {
	with     *status.Status // what streams end with when they are cut; nil: lost
	doomed   []*Stream      // taken out of the table by the loss of the connection, to be ended when no write is under way
	unheld   *time.Timer    // ends the doomed if a Write goes on though the connection is closed
	parting  *parting       // how the party that ends the flush closes the connection; nil: it is closed already
	farewell sync.WaitGroup // a GOAWAY that is still to be said; added to under mu, with the state
}

// shut ends the connection and reports whether it did: it does so once. Of what was
// pending, requests are dropped: those that were not written can be sent elsewhere.
//
// One party writes at a time: the owner of the flush. If there is none, shut becomes the
// owner for good and says GOAWAY itself, in a goroutine where that may block. Otherwise
// the owner finds parting when it ends its flush, between two frames, and says
// it. Either closes the connection then, except that a lingering one is Serve's to
// close, which waits for farewell.
func (c *Conn) shut(cause error, st *status.Status, how ending) bool {
	c.mu.Lock()
	if c.state == stateClosed {
		c.mu.Unlock()
		return false
	}
	if c.state == stateOpen {
		c.done.Close()
	}
	c.state, c.cause, c.closing = stateClosed, cause, &closing{with: st}
	c.leaveQueue()
	for _, s := range c.streams {
		s.sendID = 0
		c.closing.doomed = append(c.closing.doomed, s)
	}
	c.streams, c.aside = nil, 0
	c.harmed = c.harms() // until it is known better: a write may be under way
	c.ka.stop()
	failed := c.failed != nil
	if failed {
		c.failed.hearing.Stop()
	}
	writing := c.flushing && !failed
	c.flushing = true
	mute := c.apart && c.handed == 0 // not even the preface was written
	if failed || mute || writing && how == ifQuiet {
		how = silently
	}
	release := writeReturns
	switch {
	case how == silently:
	case writing:
		release += c.cfg.goodbye
		c.closing.farewell.Add(1)
		c.closing.parting = &parting{how, time.AfterFunc(c.cfg.goodbye, c.cutOff)}
	case c.apart:
		c.closing.farewell.Go(func() { c.partApart(how) })
	}
	if writing && c.apart {
		// The owner of the flush ends the streams, and knows then which were sent. Should
		// the connection not let go of it, they do not wait for that.
		c.closing.unheld = time.AfterFunc(release, c.endDoomed)
	}
	c.mu.Unlock()

	switch {
	case how == silently:
		c.wire.cut()
	case !writing && !c.apart:
		c.part(how)
	}
	if !writing || st != nil {
		c.endDoomed()
	}
	return true
}

// cutOff closes the connection under a write that may not have returned.
func (c *Conn) cutOff() {
	c.wire.cut()
	c.nc.Close()
}

// flushEnded parts after a flush that ended when the connection was closed already. The
// caller owned the flush. Unless whole, the latest frame was not written to its end.
func (c *Conn) flushEnded(p *parting, whole bool) {
	if p == nil {
		return
	}
	if !whole {
		p.how = silently
	}
	c.part(p.how)
	p.bound.Stop()
	c.closing.farewell.Done()
}

// partApart is part in a goroutine of its own, where writes may block.
func (c *Conn) partApart(how ending) {
	bound := time.AfterFunc(c.cfg.goodbye, c.cutOff)
	c.part(how)
	bound.Stop()
}

// part says GOAWAY, unless silently, and closes the connection, or its writing side
// if it is lingering. A socket that is closed with something left to be read resets the
// connection, and the server may never read the GOAWAY. The caller owns the flush.
func (c *Conn) part(how ending) {
	switch {
	case how == silently:
	case how == lingering:
		c.sayGoodbye()
		if half, ok := c.wire.Conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		return
	default:
		c.sayGoodbye()
		if !c.apart {
			b := c.buffers.get()
			c.wire.discard(b.b[:cap(b.b)])
			c.buffers.put(b)
		}
	}
	c.wire.Conn.Close()
}

// goodbyeFrames are the answers to the server that were pending, and a GOAWAY that says
// why the connection ends.
func (c *Conn) goodbyeFrames() *buffer {
	b := c.buffers.get()
	c.mu.Lock()
	cause := c.cause
	if c.pend != nil {
		b.b = appendAnswers(b.b, c.pend.b)
		c.pend.b = c.pend.b[:0]
	}
	c.mu.Unlock()
	code, debug := http2.ErrCodeNo, ""
	if ce, ok := errors.AsType[*ConnError](cause); ok {
		code, debug = ce.Code, ce.Reason[:min(len(ce.Reason), 256)]
	}
	b.b = appendGoAway(b.b, code, debug)
	return b
}

// appendAnswers appends those of frames that are no part of a request: RST_STREAM, but
// not of a stream that is opened by one of frames, and the acknowledgements of
// SETTINGS and PING.
func appendAnswers(b, frames []byte) []byte {
	opened := uint32(math.MaxUint32) // the first of those that are; ids rise
	for len(frames) > 0 {
		f := parseFrameHeader(frames)
		frame := frames[:frameHeaderLen+f.length]
		frames = frames[len(frame):]
		switch f.typ {
		case http2.FrameHeaders:
			opened = min(opened, f.id)
		case http2.FrameRSTStream:
			if f.id < opened {
				b = append(b, frame...)
			}
		case http2.FrameSettings, http2.FramePing:
			if f.flags.Has(http2.FlagSettingsAck) { // PING's is the same
				b = append(b, frame...)
			}
		}
	}
	return b
}

// sayGoodbye writes GOAWAY and, under TLS, the closing alert. Where the connection
// takes non-blocking attempts it makes one. The caller owns the flush.
func (c *Conn) sayGoodbye() {
	b := c.goodbyeFrames()
	defer c.buffers.put(b)
	if c.layered {
		c.wire.cork()
	}
	write := c.nc.Write
	if c.onSocket() {
		write = c.wire.tryWrite
	}
	_, err := write(b.b)
	if t, ok := c.nc.(*tls.Conn); ok && err == nil {
		_ = t.CloseWrite()
	}
	if !c.layered {
		return
	}
	if out := c.wire.uncork(); out != nil {
		if c.apart {
			_, _ = c.wire.Conn.Write(out.b)
		} else {
			_, _ = c.wire.tryWrite(out.b)
		}
		c.buffers.put(out)
	}
}

// linger closes the connection after a violation once the server has closed its side, or
// soon. It reads what the server goes on to send, so that the socket is not reset.
func (r *reader) linger() {
	nc := r.c.wire.Conn
	_ = nc.SetReadDeadline(time.Time{})
	bound := time.AfterFunc(lingerWait, r.c.wire.cut)
	defer bound.Stop()
	r.start, r.end, r.narrow = 0, 0, 0 // what was read has no use any more
	p := r.space()
	for idle := 0; idle < maxIdleReads; idle++ {
		n, err := nc.Read(p)
		if err != nil {
			break
		}
		if n > 0 {
			idle = 0
		}
	}
	r.c.wire.cut()
}

// endDoomed ends the streams of a closed connection. It runs once no write is
// under way, so that it is known which of them were sent; or if one does not end.
func (c *Conn) endDoomed() {
	c.mu.Lock()
	if c.closing.unheld != nil {
		c.closing.unheld.Stop()
	}
	doomed := c.closing.doomed
	if len(doomed) > 0 { // it may have run before
		c.harmed = c.harms()
	}
	c.closing.doomed = nil
	written := c.arrived()
	cause, st, goAway := c.cause, c.closing.with, c.goAway
	c.mu.Unlock()
	for _, s := range doomed {
		var e *Error
		switch {
		case st != nil:
			e = &Error{Status: st, Cause: cause, Local: true, GivenUp: true}
		case goAway != nil && cause != error(goAway):
			e = c.lost(cause)
			e.Status = status.Newf(codes.Unavailable, "%s, after %s", e.Status.Message(), describeGoAway(goAway))
		default:
			e = c.lost(cause)
		}
		e.Unsent = st == nil && s.safeUntil > written
		s.finish(e)
	}
}

// arrived is how much of the connection's output may have arrived. mu is held.
func (c *Conn) arrived() uint64 {
	if c.writing {
		return c.handed
	}
	return c.written
}

// harms reports whether one of the doomed counts for Harmed. mu is held.
func (c *Conn) harms() bool {
	arrived := c.arrived()
	return c.closing.with == nil && slices.ContainsFunc(c.closing.doomed, func(s *Stream) bool { return !s.aside && s.safeUntil <= arrived })
}
