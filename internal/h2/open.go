package h2

import (
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
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
		headers: make(chan struct{}),
	}
	if ctx.Done() != nil {
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
	s.queued, s.allowed = 0, 0 // the object may have waited for another RPC that was then not opened
	if ctx.Err() != nil {
		e := contextError(ctx)
		e.Unsent, e.Stage = true, StageUnopened
		if g := req.granted; g != nil {
			c.giveSlotBack()
			s.queued, s.allowed = g.queued, g.allowed
		}
		return nil, s.afterSlot(e)
	}
	c.mu.Lock()
	if c.state != stateOpen { // what was granted is of no use to others
		defer c.mu.Unlock()
		return nil, c.refusal()
	}
	if err := c.slot(ctx, s, req); err != nil {
		return nil, err
	}
	// The slot is ours; room next. The size of the headers is not estimated, since
	// a grant may overdraw.
	room := int64(min(len(msg), turn)) + frameHeaderLen
	if c.room.try(room, true) == 0 {
		if err := c.await(ctx, &s.wait, &c.room, room); err != nil {
			c.giveSlotBack()
			err.Stage = StageSend
			return nil, s.afterSlot(err)
		}
	}
	// mu has been held since the last grant, so the connection is open.
	var timeout time.Duration
	deadline, ok := ctx.Deadline()
	if ok {
		if timeout = time.Until(deadline); timeout <= 0 {
			c.abandon(room)
			return nil, s.afterSlot(&Error{Status: status.FromContextError(context.DeadlineExceeded), Unsent: true, Local: true, GivenUp: true, Stage: StageUnopened})
		}
	}
	if c.maxList != math.MaxUint64 {
		if n := req.listSize(&c.cfg, timeout); n > c.maxList {
			c.abandon(room)
			return nil, internal(fmt.Sprintf("header list size to send violates the maximum size (%d bytes) set by server: %d bytes", c.maxList, n))
		}
	}
	id := c.nextID
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

	b := c.pending()
	at := len(b.b)
	// The message goes along if no other waits for the connection's window.
	n := 0
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
	b.b = c.encoder().appendHeaders(b.b, &c.cfg, req, timeout, id, whole && n == 0, c.maxSend)
	s.outHeader = int32(len(b.b) - at)
	if n > 0 {
		c.window.avail -= int64(n)
		s.sendWindow -= int64(n)
		if !gathers {
			b.b = appendData(b.b, id, msg[:n], whole, c.maxSend)
		}
	}
	var g *gathered
	size := int64(len(b.b) - at)
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
	if g != nil {
		c.mu.Unlock()
		c.flush(g)
	} else {
		c.flushAndUnlock()
	}
	if id >= maxStreamID-1 {
		c.poke()
	}
	if whole || len(msg) == 0 {
		return nil, nil
	}
	return msg[n:], nil
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

// Send queues msg (its 5-byte prefix included), waiting for flow control, and
// half-closes after it if last is set. The bytes are copied. It returns io.EOF
// if the stream has ended: see Recv for how. One goroutine may send at a time.
func (s *Stream) Send(msg []byte, last bool) error {
	return s.SendBulk(msg, nil, last)
}

// SendBulk is Send for a message that lies in two places, one after the other: what an encoder
// wrote, and a large field where the program has it. Nothing refers to either any more when it returns.
func (s *Stream) SendBulk(msg, bulk []byte, last bool) error {
	if s.sendRest(context.Background(), msg, bulk, last) {
		return io.EOF
	}
	return nil
}

// CloseSend half-closes.
func (s *Stream) CloseSend() error { return s.Send(nil, true) }

// sendRest sends msg, and bulk after it, in turns. It reports whether the stream has ended; the token of a
// unary stream's end is taken then. ctx matters to a unary stream only: others
// are cancelled from outside.
func (s *Stream) sendRest(ctx context.Context, msg, bulk []byte, last bool) (ended bool) {
	c := s.c
	left := int64(len(msg) + len(bulk))
	c.mu.Lock()
	for {
		if s.sendID == 0 {
			c.mu.Unlock()
			<-s.end
			return true
		}
		if left == 0 {
			// An empty END_STREAM needs no window (RFC 9113 section 6.9.1).
			if last && !s.halfClosed {
				b := c.pending()
				b.b = appendFrameHeader(b.b, 0, http2.FrameData, http2.FlagDataEndStream, s.sendID)
				s.closed(c)
			}
			c.flushAndUnlock()
			return false
		}
		if s.sendWindow <= 0 {
			if s.wait.ready == nil {
				s.wait.ready = make(chan struct{}, 1)
			}
			s.blocked = true
			c.mu.Unlock()
			ended := s.pause(ctx)
			c.mu.Lock()
			if s.blocked = false; ended {
				drain(s.wait.ready)
				c.mu.Unlock()
				return true
			}
			drain(s.wait.ready)
			continue
		}
		want := min(left, c.turn(), s.sendWindow)
		got, ended := s.obtain(ctx, &c.window, want, false)
		if ended {
			return true
		}
		if _, ended = s.obtain(ctx, &c.room, got, true); ended {
			c.mu.Lock()
			c.window.add(got)
			c.mu.Unlock()
			return true
		}
		// The window may have shrunk meanwhile, by the server's SETTINGS.
		n := min(got, max(s.sendWindow, 0))
		if s.sendID == 0 {
			n = 0
		}
		gathers := c.gathers(n)
		if !gathers {
			n = min(n, turn)
		}
		c.window.add(got - n)
		c.room.add(got - n)
		if n == 0 {
			continue
		}
		c.inPend += n
		s.sendWindow -= n
		first, second := msg, bulk
		if n < left {
			first = msg[:min(n, int64(len(msg)))]
			second = bulk[:n-int64(len(first))]
			msg, bulk = msg[len(first):], bulk[len(second):]
		} else {
			c.tally.sent++
		}
		left -= n
		end := last && left == 0
		var g *gathered
		if gathers {
			g = c.gather(s.sendID, first, second, end)
		} else {
			b := c.pending()
			c.buffers.reserve(b, int(n)+usualHeaders)
			if len(first) > 0 {
				c.queueData(b, s.sendID, first, end && len(second) == 0)
			}
			if len(second) > 0 {
				c.queueData(b, s.sendID, second, end)
			}
		}
		if end {
			s.closed(c)
		}
		switch {
		case g != nil:
			c.mu.Unlock()
			c.flush(g)
		case !s.unary && s.inBurst() && !end:
			yields := s.endsTurn()
			c.flushSoonAndUnlock()
			if yields {
				runtime.Gosched()
			}
		default:
			c.flushAndUnlock()
		}
		if left == 0 {
			return false
		}
		c.mu.Lock()
	}
}

// closed notes that END_STREAM is queued. mu of the connection is held.
func (s *Stream) closed(c *Conn) {
	s.halfClosed = true
	if s.unary {
		s.safeUntil = c.queued()
	}
}

// obtain takes from q, waiting in its line. The connection's mu is held on entry, and
// on return unless the stream has ended.
func (s *Stream) obtain(ctx context.Context, q *quota, want int64, whole bool) (got int64, ended bool) {
	if got = q.try(want, whole); got > 0 {
		return got, false
	}
	c := s.c
	q.enqueue(&s.wait, want, whole)
	c.mu.Unlock()
	ended = s.pause(ctx)
	c.mu.Lock()
	got = q.leave(&s.wait)
	if ended {
		q.add(got)
		c.mu.Unlock()
	}
	return got, ended
}

// pause waits for a token of the sender's place in a line, or for the stream's
// end. No lock is held.
func (s *Stream) pause(ctx context.Context) (ended bool) {
	select {
	case <-s.wait.ready:
		return false
	case <-s.end:
		return true
	case <-ctx.Done():
		s.c.cancel(s, http2.ErrCodeCancel, contextError(ctx))
		<-s.end
		return true
	}
}

func drain(ch chan struct{}) {
	select {
	case <-ch:
	default:
	}
}

// appendData appends p in DATA frames.
func appendData(b []byte, id uint32, p []byte, end bool, maxFrame int) []byte {
	for len(p) > 0 {
		n, flags := min(len(p), maxFrame), http2.Flags(0)
		if end && n == len(p) {
			flags = http2.FlagDataEndStream
		}
		b = appendFrameHeader(b, n, http2.FrameData, flags, id)
		b = append(b, p[:n]...)
		p = p[n:]
	}
	return b
}
