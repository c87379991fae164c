package h2

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// SlotQueue is where RPCs wait for a stream on one of several connections to a server: one
// queue for all of them, first come, first served (gRFC A105). An RPC that finds no slot on
// the connection that it was sent to waits here, and goes to the connection that has one
// first. Connections join while they take streams; a connection that has not joined has a
// queue of its own.
//
// A waiter is granted a slot by the connection that frees it, with Conn.mu held. Conn.mu
// comes before the queue's mutex, which is held for a few steps and never while another
// connection's mutex is taken.
//
// A waiter counts itself in before it looks for free slots, and a connection frees a slot
// before it looks for waiters; both look with Conn.mu held. So one of the two sees the
// other, and no slot stays free while an RPC waits.
type SlotQueue struct {
	wanted  func()       // set once
	waiting atomic.Int32 // written with mu held

	mu    sync.Mutex
	conns []*Conn       // guarded by mu: those that take streams
	line  []*slotWaiter // guarded by mu: the oldest first
}

// slotWaiter is an RPC in the queue.
type slotWaiter struct {
	ready chan struct{} // closed when it has left the line
	conn  *Conn         // written before that: has a slot for it
	last  *Conn         // written before that: the end of the last connection ended the wait; else nil
}

// NewSlotQueue returns a queue without connections. wanted is called, with no lock held,
// when an RPC has begun to wait.
func NewSlotQueue(wanted func()) *SlotQueue { return &SlotQueue{wanted: wanted} }

// Waiting returns how many RPCs wait.
func (q *SlotQueue) Waiting() int { return int(q.waiting.Load()) }

// Join adds a connection, which leaves by itself when it takes no new streams. RPCs that
// wait for a slot of it alone go to the end of the queue. A connection joins one queue.
func (q *SlotQueue) Join(c *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateOpen || c.queue != nil {
		return
	}
	c.queue = q
	q.mu.Lock()
	q.conns = append(q.conns, c)
	q.mu.Unlock()
	for c.slots.head != nil {
		w := c.slots.head
		c.slots.remove(w)
		w.ready <- struct{}{} // without a slot
	}
	c.serveQueue()
}

// HasSlot reports whether a stream can be opened now.
func (c *Conn) HasSlot() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == stateOpen && c.slots.avail > 0
}

// serveQueue grants free slots to RPCs that wait in the queue. mu is held.
func (c *Conn) serveQueue() {
	q := c.queue
	if q == nil {
		return
	}
	for c.state == stateOpen && c.slots.avail > 0 && q.waiting.Load() > 0 {
		if !q.grant(c) {
			return
		}
		c.slots.avail--
	}
}

// grant gives the oldest waiter a slot of c. It reports false if there is none.
func (q *SlotQueue) grant(c *Conn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.line) == 0 {
		return false
	}
	w := q.line[0]
	q.line[0] = nil
	q.line = q.line[1:]
	q.waiting.Add(-1)
	w.conn = c
	close(w.ready)
	return true
}

// leaveQueue takes the connection out of its queue: it takes no new streams. The last one
// ends the wait of all: they pick again. mu is held.
func (c *Conn) leaveQueue() {
	q := c.queue
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.conns, c)
	if i < 0 {
		return
	}
	q.conns = slices.Delete(q.conns, i, i+1)
	if len(q.conns) > 0 {
		return
	}
	for _, w := range q.line {
		w.last = c
		close(w.ready)
	}
	q.waiting.Add(-int32(len(q.line)))
	q.line = nil
}

// wait waits for a slot of any of the connections, for a request that was sent to c. It
// returns one with a slot for the caller, or why there is none.
func (q *SlotQueue) wait(ctx context.Context, c *Conn) (*Conn, *Error) {
	w := &slotWaiter{ready: make(chan struct{})}
	q.mu.Lock()
	conns := slices.Clone(q.conns)
	if len(conns) == 0 { // c was the last, and has left just now
		q.mu.Unlock()
		return nil, c.refuse()
	}
	q.line = append(q.line, w)
	q.waiting.Add(1)
	q.mu.Unlock()
	for _, c := range conns {
		c.mu.Lock()
		c.serveQueue()
		c.mu.Unlock()
	}
	select {
	case <-w.ready:
	default:
		q.wanted()
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		q.giveUp(w)
	}
	switch {
	case ctx.Err() != nil:
		// A slot that was granted may have come from RPCs that were cancelled together with
		// it; see await.
		if w.conn != nil {
			w.conn.giveSlotBack()
		}
		err := contextError(ctx)
		err.Unsent = true
		return nil, err
	case w.conn == nil:
		return nil, w.last.refuse()
	}
	return w.conn, nil
}

// refuse is refusal, with mu not held.
func (c *Conn) refuse() *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusal()
}

// giveUp takes a waiter out of the line if it is there.
func (q *SlotQueue) giveUp(w *slotWaiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.line, w); i >= 0 {
		q.line = slices.Delete(q.line, i, i+1)
		q.waiting.Add(-1)
	}
}

// giveSlotBack gives a slot back that was granted and is not used.
func (c *Conn) giveSlotBack() {
	c.mu.Lock()
	c.freeSlot()
	c.unlockAndSettle()
}

// freeSlot makes a slot available. mu is held.
func (c *Conn) freeSlot() {
	c.slots.add(1)
	c.serveQueue()
}

// slot takes a slot for s, after a wait if none is free. mu is held on entry, and on
// return without an error. With an error mu has been released: elsewhere is a connection
// with a slot for the request, if that was the reason.
func (c *Conn) slot(ctx context.Context, s *Stream, req *Request) *Error {
	if g := req.granted; g != nil {
		s.queued, s.allowed = g.queued, g.allowed
		return nil
	}
	if c.slots.try(1, true) > 0 {
		return nil
	}
	since, allowed := time.Now(), uint32(c.maxOpen)
	for c.queue == nil {
		if err := c.await(ctx, &s.wait, &c.slots, 1); err != nil {
			err.Stage, err.Queued, err.Allowed = StageSlot, time.Since(since), allowed
			return err
		}
		if s.wait.got > 0 {
			s.queued, s.allowed = time.Since(since), allowed
			return nil
		}
	}
	q := c.queue
	c.mu.Unlock()
	on, err := q.wait(ctx, c)
	if err != nil {
		err.Stage, err.Queued, err.Allowed = StageSlot, time.Since(since), allowed
		return err
	}
	return &Error{elsewhere: on, Queued: time.Since(since), Allowed: allowed}
}

// grantedSlot is a slot that the request has on the connection that it is sent to.
type grantedSlot struct {
	queued  time.Duration
	allowed uint32
}

// sentOn returns the connection that the request of err has a slot on, with the request
// for it; nil if it has none. It follows a wait, so what it allocates is of no account, and
// is not inlined: the frames of all other requests would be larger.
//
//go:noinline
func (err *Error) sentOn(req *Request) (*Conn, *Request) {
	if err.elsewhere == nil {
		return nil, nil
	}
	again := *req
	again.granted = &grantedSlot{err.Queued, err.Allowed}
	return err.elsewhere, &again
}
