package h2

import (
	"context"
	"io"
	"runtime"

	"golang.org/x/net/http2"
)

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
	if s.held.Load() {
		s.held.Store(false)
	}
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
			s.flushSentAndUnlock()
			return false
		}
		if s.sendWindow <= 0 {
			if s.awaitWindow(ctx) {
				return true
			}
			continue
		}
		n, gathers, ended := s.takeTurn(ctx, left)
		if ended {
			return true
		}
		if n == 0 {
			continue
		}
		first, second := msg, bulk
		if n < left {
			first = msg[:min(n, int64(len(msg)))]
			second = bulk[:n-int64(len(first))]
			msg, bulk = msg[len(first):], bulk[len(second):]
		} else {
			c.tally.sent++
		}
		left -= n
		s.queueAndUnlock(first, second, last && left == 0, gathers)
		if left == 0 {
			return false
		}
		c.mu.Lock()
	}
}

// awaitWindow waits until the server may have given the stream's window back. The connection's
// mu is held on entry, and on return unless the stream has ended.
func (s *Stream) awaitWindow(ctx context.Context) (ended bool) {
	c := s.c
	if s.wait.ready == nil {
		s.wait.ready = make(chan struct{}, 1)
	}
	s.blocked = true
	c.mu.Unlock()
	ended = s.pause(ctx)
	c.mu.Lock()
	s.blocked = false
	drain(s.wait.ready)
	if ended {
		c.mu.Unlock()
	}
	return ended
}

// takeTurn takes window and room for a turn, n bytes of those left: they are to be queued, with
// queueAndUnlock. 0: the stream's window is used up, or the stream has just ended. The
// connection's mu is held on entry, and on return unless the stream has ended.
func (s *Stream) takeTurn(ctx context.Context, left int64) (n int64, gathers, ended bool) {
	c := s.c
	got, ended := s.obtain(ctx, &c.window, min(left, c.turn(), s.sendWindow), false)
	if ended {
		return 0, false, true
	}
	if _, ended = s.obtain(ctx, &c.room, got, true); ended {
		c.mu.Lock()
		c.window.add(got)
		c.mu.Unlock()
		return 0, false, true
	}
	// The window may have shrunk meanwhile, by the server's SETTINGS.
	n = min(got, max(s.sendWindow, 0))
	if s.sendID == 0 {
		n = 0
	}
	if gathers = c.gathers(n); !gathers {
		n = min(n, turn)
	}
	c.window.add(got - n)
	c.room.add(got - n)
	c.inPend += n
	s.sendWindow -= n
	return n, gathers, false
}

// queueAndUnlock queues a part of a message, which lies in two places, half-closes after it if
// end is set, and has it written. The connection's mu is held on entry and released.
func (s *Stream) queueAndUnlock(first, second []byte, end, gathers bool) {
	c := s.c
	var g *gathered
	if gathers {
		g = c.gather(s.sendID, first, second, end)
	} else {
		b := c.pending()
		c.buffers.reserve(b, len(first)+len(second)+usualHeaders)
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
		c.flushSoonAndUnlock(false)
		if yields {
			runtime.Gosched()
		}
	default:
		s.flushSentAndUnlock()
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
