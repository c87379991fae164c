package h2

import (
	"net"
	"runtime"
	"time"
)

// pending returns the buffer that frames are appended to. mu is held.
func (c *Conn) pending() *buffer {
	if c.pend == nil {
		if c.pend = c.spare; c.pend == nil {
			c.pend = c.buffers.get()
		}
		c.spare = nil
	}
	return c.pend
}

// kick flushes pending bytes unless a flush is running.
func (c *Conn) kick() {
	c.mu.Lock()
	c.flushAndUnlock()
}

// kickApart is kick for a TLS layer that has written of its own accord: it
// holds a lock then that a flush needs too. Only the reader makes it do so, which is why
// Serve, returning later, waits for the goroutine.
func (c *Conn) kickApart() {
	c.mu.Lock()
	closed := c.state == stateClosed
	c.mu.Unlock()
	if !closed {
		c.flushers.Go(c.kick)
	}
}

// flushAndUnlock writes the pending bytes of all streams, unless another goroutine is
// writing, which writes them too. mu is held on entry and released. It never blocks.
func (c *Conn) flushAndUnlock() {
	if c.flushing || c.state == stateClosed || !c.dirty() {
		c.mu.Unlock()
		return
	}
	c.flushing = true
	others := len(c.streams) > 1
	if c.apart {
		c.flushers.Add(1)
		c.mu.Unlock()
		go c.flushApart(others)
		return
	}
	c.mu.Unlock()
	if others {
		// Callers that are about to send can append to the same write.
		runtime.Gosched()
	}
	c.flush(nil)
}

// flushApart is the goroutine of a flush on a connection that has no non-blocking attempts. It
// yields as callers do that write themselves, if there are other streams.
func (c *Conn) flushApart(others bool) {
	if others {
		runtime.Gosched()
	}
	c.flushBlocking(nil)
}

// dirty reports whether there is anything to write. mu is held.
func (c *Conn) dirty() bool {
	return c.pend != nil && len(c.pend.b) > 0 || c.layered && c.wire.collected()
}

// flush writes in the caller's goroutine, a few rounds at most. Bytes that the socket
// does not take, and further rounds, are left to a goroutine. The caller
// owns the flush (flushing is true) and holds no lock. first, if it is not nil, is written first.
func (c *Conn) flush(first *gathered) {
	for range maxFlushRounds {
		var b *buffer
		var left *backlog
		var err error
		if first != nil {
			b, left, err = c.attemptGathered(first)
			first = nil
		} else {
			var ok bool
			if b, ok = c.nextFlush(); !ok {
				return
			}
			left, err = c.attempt(b)
		}
		if err != nil {
			c.writeFailed(b, err)
			return
		}
		if left != nil {
			// The flush and its buffers go to the goroutine. Serve does not
			// wait for one that begins after the connection has ended.
			c.mu.Lock()
			if c.state == stateClosed {
				c.writing = false // no more of it leaves
				c.buffers.put(b)
				c.endFlush(false)
				return
			}
			c.flushers.Add(1)
			c.mu.Unlock()
			go c.flushBlocking(left)
			return
		}
		c.flushed(b, false)
	}
	c.mu.Lock()
	if c.endFlush(true) {
		return
	}
	c.flushers.Add(1)
	c.mu.Unlock()
	go c.flushBlocking(nil)
}

// backlog is what a non-blocking attempt left over.
type backlog struct {
	frames  *buffer // what was to be written
	records *buffer // its TLS records, under TLS
	rest    []byte  // what of these the socket has yet to take
}

// nextFlush takes the pending buffer. It reports false, having given up the
// flush, if there is nothing to write.
func (c *Conn) nextFlush() (*buffer, bool) {
	c.mu.Lock()
	if c.endFlush(true) {
		return nil, false
	}
	b := c.takePending()
	c.mu.Unlock()
	return b, true
}

// takePending takes the pending buffer for a write. mu is held.
func (c *Conn) takePending() *buffer {
	b := c.pending()
	c.pend, c.lastData = nil, dataFrame{}
	c.handed += uint64(len(b.b))
	c.writing = true
	c.inFlight, c.inPend = c.inPend, 0
	c.ackFlight = c.acks
	return b
}

// queued is the offset in the connection's output of what is queued next. mu is held.
func (c *Conn) queued() uint64 {
	if c.pend == nil {
		return c.handed
	}
	return c.handed + uint64(len(c.pend.b))
}

// endFlush gives up the flush if there is nothing to write, or if the connection is
// closed, which it then parts from. mu is held, and released if it reports true. Unless
// whole, the latest write left a rest.
func (c *Conn) endFlush(whole bool) bool {
	closed := c.state == stateClosed
	if !closed && c.dirty() {
		return false
	}
	if closed {
		parting := c.closing.parting
		c.closing.parting = nil
		c.mu.Unlock()
		c.endDoomed()
		c.flushEnded(parting, whole)
		c.mu.Lock()
	}
	c.flushing = false
	pend, spare := c.pend, c.spare
	c.pend, c.spare = nil, nil
	c.mu.Unlock()
	for _, b := range [...]*buffer{pend, spare} {
		if b != nil {
			c.buffers.put(b)
		}
	}
	return true
}

// attempt writes b without blocking and returns what is left of it, in the
// socket's own bytes.
func (c *Conn) attempt(b *buffer) (left *backlog, err error) {
	if !c.layered {
		n, err := c.wire.tryWrite(b.b)
		if n == len(b.b) {
			return nil, nil
		}
		c.count(n)
		return &backlog{frames: b, rest: b.b[n:]}, err
	}
	out, err := c.encrypt(b)
	if out == nil {
		return nil, err
	}
	n, err := c.wire.tryWrite(out.b)
	if n == len(out.b) {
		c.buffers.put(out)
		return nil, nil
	}
	if n > 0 {
		c.count(len(b.b)) // how many whole records left is not known: all may have
	}
	return &backlog{frames: b, records: out, rest: out.b[n:]}, err
}

// encrypt turns the frames in b into records, so that one flush is one write.
func (c *Conn) encrypt(b *buffer) (records *buffer, err error) {
	c.wire.cork()
	if len(b.b) > 0 {
		_, err = c.nc.Write(b.b)
	}
	return c.wire.uncork(), err
}

// count notes that the socket took n bytes of the frames being written. A flush
// that is taken whole is counted by flushed.
func (c *Conn) count(n int) {
	c.mu.Lock()
	c.written = min(c.written+uint64(n), c.handed) // records are counted twice if some of them left twice
	c.mu.Unlock()
}

// flushed gives the room of b back to the waiters. full says that the write
// had to wait for the socket.
func (c *Conn) flushed(b *buffer, full bool) {
	b.b = b.b[:0]
	c.mu.Lock()
	c.full = full
	c.written, c.writing = c.handed, false
	c.acks -= c.ackFlight
	c.ackFlight = 0
	c.room.add(c.inFlight)
	c.inFlight = 0
	if c.spare == nil && c.buffers.keeps(b) {
		c.spare, b = b, nil
	}
	c.tookLocked()
	c.mu.Unlock()
	if b != nil {
		c.buffers.put(b) // the other of the two is the spare one
	}
}

// After a write has failed the reader goes on for hearOutWait. If nothing comes for
// noticeWait, the owner learns that the connection takes no new streams.
const (
	hearOutWait = time.Second
	noticeWait  = 20 * time.Millisecond
)

// failedWrite is why nothing can be written any more. It is guarded by Conn.mu.
type failedWrite struct {
	err     error
	hearing *time.Timer // ends the connection some time later
	listens bool        // what the server sent before may not be read yet
}

// listens is failedWrite.listens, if a write has failed. mu is held.
func (c *Conn) listens() bool { return c.failed != nil && c.failed.listens }

// writeErr is why nothing can be written any more; nil: writes go on. mu is held.
func (c *Conn) writeErr() error {
	if c.failed == nil {
		return nil
	}
	return c.failed.err
}

// writeFailed notes that nothing more can be sent; what was written has been counted.
// Streams that were not sent end. What the server said before that may still be read:
// replies, or GOAWAY, after which requests may be sent again. The connection takes no new
// streams and ends when its reader has heard all there is, or soon; also if it has no
// streams, since GOAWAY says why it ends.
func (c *Conn) writeFailed(b *buffer, err error) {
	c.buffers.put(b)
	c.mu.Lock()
	c.writing = false
	c.tookLocked()
	if c.state == stateClosed {
		c.endFlush(false)
		return
	}
	c.drainLocked(err)
	wait, end := lastWordsWait, hearOutWait
	if c.shaken {
		wait, end = noticeWait, noticeWait
	}
	// flushing stays true, so that nothing is written any more.
	c.failed = &failedWrite{err: err, listens: c.shaken, hearing: time.AfterFunc(end, c.heardOut)}
	var unsent []*Stream
	for _, s := range c.streams {
		if s.safeUntil > c.written {
			unsent = append(unsent, s)
			c.take(s)
		}
	}
	c.mu.Unlock()
	// Bytes that have arrived, a GOAWAY perhaps, are read first. Then the owner is notified,
	// so that new streams do not wait for the end of this connection; or the handshake fails.
	c.poked.Store(true)
	_ = c.nc.SetReadDeadline(time.Now().Add(wait))
	for _, s := range unsent {
		e := c.lost(err)
		e.Unsent = true
		s.finish(e)
	}
}

// heardOut is called when the reader has had its time after a failed write: a connection
// without streams ends then, any other hearOutWait after the write.
func (c *Conn) heardOut() {
	c.mu.Lock()
	if c.listens() && c.state != stateClosed {
		c.failed.listens = false
		c.failed.hearing.Reset(hearOutWait - noticeWait)
		c.unlockAndSettle()
		return
	}
	cause := c.cause
	c.mu.Unlock()
	c.Close(cause, nil)
}

// flushBlocking writes in a goroutine of its own until nothing is left. It may
// block for as long as the socket does; closing the socket ends it. The flush
// is this goroutine's until it is done.
func (c *Conn) flushBlocking(left *backlog) {
	defer c.flushers.Done()
	if left != nil {
		n, err := c.wire.Conn.Write(left.rest)
		if err != nil {
			if left.records == nil {
				c.count(n)
			} else if n > 0 {
				c.count(len(left.frames.b))
			}
			c.writeFailed(left.frames, err)
			return
		}
		if left.records != nil {
			c.buffers.put(left.records)
		}
		c.flushed(left.frames, true)
	}
	for {
		b, ok := c.nextFlush()
		if !ok {
			return
		}
		if err := c.writeAll(b); err != nil {
			c.writeFailed(b, err)
			return
		}
		c.flushed(b, true)
	}
}

// writeAll writes b, blocking.
func (c *Conn) writeAll(b *buffer) error {
	if !c.layered {
		before := c.wire.taken.Load()
		n, err := c.nc.Write(b.b)
		if err != nil {
			if c.nc != net.Conn(c.wire) && c.wire.taken.Load() != before {
				n = len(b.b) // the layer above reported fewer bytes than it has sent
			}
			c.count(n)
		}
		return err
	}
	out, err := c.encrypt(b)
	if out == nil {
		return err
	}
	n, err := c.wire.Conn.Write(out.b)
	if err != nil && n > 0 {
		c.count(len(b.b))
	}
	c.buffers.put(out)
	return err
}
