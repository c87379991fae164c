package h2

import (
	"context"
	"fmt"
	"math"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/status"
)

// Unary opens a stream, sends msg (its 5-byte prefix included) and END_STREAM in
// the same write where windows allow, and waits for the stream's end. It
// returns an error only if no stream was opened. Otherwise the caller reads the
// outcome from the stream and calls Release, once.
//
// No goroutine, timer or context layer belongs to the call: it waits for its
// end and for ctx itself.
func (c *Conn) Unary(ctx context.Context, req *Request, msg []byte) (*Stream, error) {
	s := c.unaryStream()
	rest, err := c.open(ctx, s, req, msg, true)
	if err != nil {
		c.recycle(s)
		if on, req := err.sentOn(req); on != nil {
			return on.Unary(ctx, req, msg)
		}
		return nil, err
	}
	if req.Opened != nil {
		req.Opened(c.peer)
	}
	if rest != nil {
		if ended := s.sendRest(ctx, rest, nil, true); ended {
			return s, nil
		}
	}
	done := ctx.Done()
	if done == nil {
		<-s.end
		return s, nil
	}
	select {
	case <-s.end:
	case <-done:
		// If the end is on its way already, it wins.
		c.cancel(s, http2.ErrCodeCancel, contextError(ctx))
		<-s.end
	}
	return s, nil
}

// Open opens a stream for any number of messages. ctx bounds the whole
// stream.
func (c *Conn) Open(ctx context.Context, req *Request) (*Stream, error) {
	s := &Stream{
		c:       c,
		end:     make(chan struct{}),
		arrived: make(chan struct{}, 1),
	}
	if ctx.Done() != nil && !req.Watched {
		// Registered first, so that stop is set before anything can end the
		// stream. Until the stream is in the table, cancel finds nothing to do,
		// and open itself watches ctx.
		s.stop = context.AfterFunc(ctx, func() { s.Cancel(contextError(ctx).Status) })
	}
	_, err := c.open(ctx, s, req, nil, false)
	if err != nil {
		if s.stop != nil {
			s.stop()
		}
		if on, req := err.sentOn(req); on != nil {
			return on.Open(ctx, req)
		}
		return nil, err
	}
	if s.stop != nil && ctx.Err() != nil {
		s.Cancel(contextError(ctx).Status)
	}
	if req.Opened != nil {
		req.Opened(c.peer)
	}
	return s, nil
}

// open takes a slot, room and an id, and queues HEADERS and as much of msg as
// windows allow, all under one lock, so that wire order is the order of ids and
// of encoding. It returns what is left of msg.
func (c *Conn) open(ctx context.Context, s *Stream, req *Request, msg []byte, last bool) (rest []byte, err *Error) {
	given, err := c.admit(ctx, s, req, msg)
	if err != nil {
		return nil, err
	}
	id := c.register(s, req, given.deadline)
	n, g := c.queueRequest(s, req, msg, last, given)
	switch {
	case g != nil:
		c.mu.Unlock()
		c.flush(g)
	case s.unary:
		c.flushAndUnlock()
	default:
		c.flushHeadersAndUnlock(s, req)
	}
	if id >= maxStreamID-1 {
		c.poke()
	}
	if n == len(msg) {
		return nil, nil
	}
	return msg[n:], nil
}

// admission is what a stream has before it is opened, besides its slot.
type admission struct {
	room     int64         // in the pending buffer
	deadline time.Time     // of its context; zero: none
	timeout  time.Duration // until then
}

// admit waits for a slot and for room. On return without error mu is held, and has been since
// the last grant, so the connection is open; on an error it has been released and nothing is held.
func (c *Conn) admit(ctx context.Context, s *Stream, req *Request, msg []byte) (given admission, err *Error) {
	s.queued, s.allowed = 0, 0 // the object may have waited for another RPC that was then not opened
	if ctx.Err() != nil {
		e := contextError(ctx)
		e.Unsent, e.Stage = true, StageUnopened
		if g := req.granted; g != nil {
			c.giveSlotBack()
			s.queued, s.allowed = g.queued, g.allowed
		}
		return given, s.afterSlot(e)
	}
	c.mu.Lock()
	if c.state != stateOpen { // what was granted is of no use to others
		defer c.mu.Unlock()
		return given, c.refusal()
	}
	if err := c.slot(ctx, s, req); err != nil {
		return given, err
	}
	// The slot is ours; room next. The size of the headers is not estimated, since
	// a grant may overdraw.
	given.room = int64(min(len(msg), turn)) + frameHeaderLen
	if c.room.try(given.room, true) == 0 {
		if err := c.await(ctx, &s.wait, &c.room, given.room); err != nil {
			c.giveSlotBack()
			err.Stage = StageSend
			return given, s.afterSlot(err)
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		given.deadline, given.timeout = deadline, time.Until(deadline)
		if given.timeout <= 0 {
			c.abandon(given.room)
			return given, s.afterSlot(&Error{Status: status.FromContextError(context.DeadlineExceeded), Unsent: true, Local: true, GivenUp: true, Stage: StageUnopened})
		}
	}
	if c.maxList != math.MaxUint64 {
		if n := req.listSize(&c.cfg, given.timeout); n > c.maxList {
			c.abandon(given.room)
			return given, internal(fmt.Sprintf("header list size to send violates the maximum size (%d bytes) set by server: %d bytes", c.maxList, n))
		}
	}
	return given, nil
}

// register puts s into the table, under the next id, which it returns. mu is held.
func (c *Conn) register(s *Stream, req *Request, deadline time.Time) (id uint32) {
	id = c.nextID
	c.nextID += 2
	if c.nextID > maxStreamID {
		c.drainLocked(ErrStreamIDs)
	}
	s.sendID, s.sendWindow, s.halfClosed, s.blocked = id, c.streamW, false, false
	s.deadline = deadline
	if req.Aside {
		c.aside++
	}
	s.begin(id, req)
	if c.streams == nil {
		c.streams = make(map[uint32]*Stream)
	}
	c.streams[id] = s
	c.ka.streamOpened()
	c.tally.began(req.Began)
	return id
}

// queueRequest queues the HEADERS of s, and n bytes of msg. If g is not nil, these are not
// copied, and the flush is the caller's. mu is held.
func (c *Conn) queueRequest(s *Stream, req *Request, msg []byte, last bool, given admission) (n int, g *gathered) {
	b, id := c.pending(), s.sendID
	at := len(b.b)
	// The message goes along if no other waits for the connection's window.
	if len(msg) > 0 && c.window.head == nil {
		n = int(max(0, min(int64(len(msg)), c.turn(), c.window.avail, s.sendWindow)))
	}
	whole := last && n == len(msg)
	if n > 0 && n == len(msg) {
		c.tally.sent++
	}
	gathers := c.gathers(int64(n))
	if !gathers {
		c.buffers.reserve(b, n+usualHeaders)
	}
	b.b = c.encoder().appendHeaders(b.b, &c.cfg, req, given.timeout, id, whole && n == 0, c.maxSend)
	s.outHeader = int32(len(b.b) - at)
	if n > 0 {
		c.window.avail -= int64(n)
		s.sendWindow -= int64(n)
		if !gathers {
			b.b = appendData(b.b, id, msg[:n], whole, c.maxSend)
		}
	}
	room, size := given.room, int64(len(b.b)-at)
	if gathers {
		size += int64(n)
	}
	if more := size - room; more > 0 {
		// The headers were larger than what was taken for them, or the turn is.
		c.room.avail -= more
		room += more
	}
	c.inPend += room
	if gathers {
		g = c.gather(id, msg[:n], nil, whole)
	}
	s.halfClosed = whole
	// A unary request that was not written to its end cannot have reached its
	// handler; a stream's handler may run once it has the headers.
	s.safeUntil = c.queued()
	if last && !whole {
		s.safeUntil = 1<<64 - 1 // until the rest is queued
	}
	return n, g
}

// afterSlot adds to the error of a stream that has had its slot, and was not opened, how
// long it had waited for that. If it waited for nothing since, its time went there.
func (s *Stream) afterSlot(e *Error) *Error {
	if s.queued > 0 {
		e.Queued, e.Allowed = s.queued, s.allowed
		if e.Stage == StageUnopened {
			e.Stage = StageSlot
		}
	}
	return e
}

// abandon gives slot and room back before anything was queued. It releases mu.
func (c *Conn) abandon(room int64) {
	c.freeSlot()
	c.room.add(room)
	c.unlockAndSettle()
}

// refusal is the error of an RPC that this connection does not take. mu is held.
func (c *Conn) refusal() *Error {
	e := c.lost(c.cause)
	if c.closing != nil && c.closing.with != nil {
		e.Status = c.closing.with
	}
	e.Unsent, e.Conn = true, c
	return e
}

// await waits in q's line for want, all of it. mu is held on entry and on
// return without error; on an error it has been released and nothing is held.
func (c *Conn) await(ctx context.Context, w *waiter, q *quota, want int64) *Error {
	q.enqueue(w, want, true)
	c.mu.Unlock()
	var err *Error
	select {
	case <-w.ready:
	case <-ctx.Done():
		err = contextError(ctx)
		err.Unsent = true
	case <-c.done.Done():
	}
	c.mu.Lock()
	got := q.leave(w)
	switch {
	case err != nil:
	case c.state != stateOpen:
		err = c.refusal()
	case ctx.Err() != nil:
		// What it waited for may have come from RPCs that were cancelled together with
		// it. It must not begin, only to be reset at once: servers count such RPCs.
		err = contextError(ctx)
		err.Unsent = true
	default:
		return nil // done is closed only when the state changes, so this was a grant
	}
	q.add(got)
	c.mu.Unlock()
	return err
}
