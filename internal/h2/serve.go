package h2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/bytepool"
	"github.com/grpcdial/grpcdial/internal/errno"
)

// Serve reads until the connection is lost or closed and returns the cause, which
// is never nil. It runs on its owner's goroutine, once, after Handshake.
//
// onDrain is called at most once, on this goroutine with no lock held, when the connection
// takes no new streams though Serve goes on: for running ones, with an
// http2.GoAwayError or ErrStreamIDs, or for the GOAWAY of a violation to arrive, with its
// *[ConnError].
//
// When Serve has returned, nothing of this connection runs but streams being
// ended on their callers' goroutines.
func (c *Conn) Serve(onDrain func(cause error)) error {
	if onDrain != nil {
		if c.early != nil {
			return c.early.wait(onDrain)
		}
		c.rd.onDrain = onDrain
	} // else ServeEarly has set it, whose call this is: one more frame would double the stack of a connection at rest
	// What a small call's response takes is called from here and is not deep, so that it fits in
	// the stack that the goroutine began with: one that has grown stays large while it waits.
	for {
		f, err := c.rd.readFrame()
		switch {
		case err != nil:
		case f.typ == http2.FrameData:
			err = c.rd.data(f)
		case c.rd.gathered:
			err = c.rd.headerBlock()
		}
		if err != nil {
			return c.ended(err)
		}
	}
}

// ended is the end of Serve, after err.
//
//go:noinline
func (c *Conn) ended(err error) error {
	if err == io.EOF && !c.rd.between {
		c.cutShort.Store(true)
	}
	how := lingering
	if _, violation := errors.AsType[*ConnError](err); !violation {
		err, how = c.firstFailure(err), silently
	}
	ours := c.shut(err, nil, how)
	if ours && how == lingering && !c.rd.drained {
		c.rd.onDrain(err)
	}
	c.closing.farewell.Wait() // the connection is closed when it has been said
	if ours && how == lingering {
		c.rd.linger()
	}
	c.nc.Close()
	c.flushers.Wait()
	c.rd.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// firstFailure is why writes failed, if they did before reads did with err. That the server
// closed the connection, or a TLS alert, explains more than the error of a write. But after
// a reset, of which the system reports to the first call alone, reads end as after a close.
func (c *Conn) firstFailure(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if failed := c.writeErr(); failed != nil && (err != io.EOF || errno.IsReset(failed)) && !isAlert(err) {
		return failed
	}
	return err
}

func (r *reader) release() {
	if r.buf != nil {
		bytepool.Messages.Put(r.buf)
	}
	r.buf, r.small, r.last = nil, nil, nil
}

// poke makes the reader look at the connection's state.
func (c *Conn) poke() {
	c.poked.Store(true)
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}

// handle acts on any frame but DATA.
func (r *reader) handle(f frameHeader, p []byte) error {
	switch f.typ {
	case http2.FrameHeaders:
		return r.headers(f, p)
	case http2.FrameContinuation:
		return r.continuation(f, p)
	case http2.FrameRSTStream:
		return r.reset(f, p)
	case http2.FrameSettings:
		switch {
		case f.id != 0:
			return connErrorf(http2.ErrCodeProtocol, "SETTINGS on stream %d", f.id)
		case f.flags.Has(http2.FlagSettingsAck) && len(p) > 0, len(p)%6 != 0:
			return connErrorf(http2.ErrCodeFrameSize, "SETTINGS of %d bytes", len(p))
		case f.flags.Has(http2.FlagSettingsAck):
			r.bw.acknowledged()
			return nil
		}
		return r.applySettings(p)
	case http2.FramePing:
		return r.ping(f, p)
	case http2.FrameGoAway:
		return r.goAway(f, p)
	case http2.FrameWindowUpdate:
		return r.windowUpdate(f, p)
	case http2.FramePriority:
		return r.priority(f)
	case http2.FramePushPromise:
		return connErrorf(http2.ErrCodeProtocol, "PUSH_PROMISE though push is off")
	}
	return nil // unknown frames are ignored (RFC 9113 section 4.1)
}

// priority ignores PRIORITY, but for the rules on its form (RFC 9113 section 6.3).
func (r *reader) priority(f frameHeader) error {
	if f.id == 0 {
		return connErrorf(http2.ErrCodeProtocol, "PRIORITY on stream 0")
	}
	if s := r.stream(f.id); s != nil && f.length != 5 {
		r.over(s, f.id, over(internal(fmt.Sprintf("the server sent a PRIORITY frame of %d bytes", f.length)), http2.ErrCodeFrameSize), false)
	}
	return nil
}

// known reports an error if the server names a stream that this side never
// opened (RFC 9113 section 5.1).
func (r *reader) known(f frameHeader) error {
	r.c.mu.Lock()
	next := r.c.nextID
	r.c.mu.Unlock()
	if f.id == 0 || f.id%2 == 0 || f.id >= next {
		return connErrorf(http2.ErrCodeProtocol, "%v on stream %d, which was never opened", f.typ, f.id)
	}
	return nil
}

// stream returns the open stream id, or nil.
func (r *reader) stream(id uint32) *Stream {
	if r.lastID == id {
		return r.last
	}
	r.c.mu.Lock()
	s := r.c.streams[id]
	r.c.mu.Unlock()
	if s != nil {
		r.lastID, r.last = id, s
	}
	return s
}

func (r *reader) headers(f frameHeader, p []byte) error {
	if r.stream(f.id) == nil {
		if err := r.known(f); err != nil {
			return err
		}
	}
	pad := 0
	if f.flags.Has(http2.FlagHeadersPadded) {
		if len(p) == 0 {
			return connErrorf(http2.ErrCodeFrameSize, "padded HEADERS without a pad length")
		}
		pad, p = int(p[0]), p[1:]
	}
	if f.flags.Has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return connErrorf(http2.ErrCodeFrameSize, "HEADERS too short for its priority")
		}
		p = p[5:]
	}
	if pad > len(p) {
		return connErrorf(http2.ErrCodeProtocol, "HEADERS with more padding than payload")
	}
	if r.hd == nil {
		r.hd = &headerDecoder{limit: r.c.cfg.headerListLimit()}
	}
	r.hd.begin(f.id, f.flags.Has(http2.FlagHeadersEndStream))
	return r.fragment(p[:len(p)-pad], f.flags.Has(http2.FlagHeadersEndHeaders))
}

func (r *reader) continuation(f frameHeader, p []byte) error {
	if r.hd == nil || r.hd.id == 0 {
		return connErrorf(http2.ErrCodeProtocol, "CONTINUATION on stream %d outside a header block", f.id)
	}
	if r.hd.continuations++; r.hd.continuations > freeContinuations+r.hd.wire/leastContinuation {
		return connErrorf(http2.ErrCodeEnhanceYourCalm, "a header block of %d bytes in %d CONTINUATION frames", r.hd.wire, r.hd.continuations)
	}
	return r.fragment(p, f.flags.Has(http2.FlagContinuationEndHeaders))
}

// fragment takes a part of a header block. The whole is left to headerBlock, which Serve calls.
func (r *reader) fragment(p []byte, end bool) error {
	r.gathered = end
	return r.hd.gather(p, end)
}

// headerBlock acts on a whole header block.
func (r *reader) headerBlock() error {
	r.gathered = false
	id := r.hd.id
	s := r.stream(id)
	wanted := s != nil && s.is(id)
	b, err := r.hd.decode(wanted)
	if err != nil || !wanted {
		return err
	}
	s.mu.Lock()
	if s.id != id {
		s.mu.Unlock()
		return nil
	}
	r.serves(s)
	if !s.aside {
		r.c.answers.Store(r.c.answers.Load() + 1)
	}
	v := s.onHeaders(b, r.hd.endStream)
	s.mu.Unlock()
	if v.over {
		r.over(s, id, v, r.hd.endStream)
	}
	return nil
}

// endOfData acts on END_STREAM in a DATA frame: gRPC wants trailers.
func (r *reader) endOfData(id uint32) {
	s := r.stream(id)
	if s == nil {
		return
	}
	s.mu.Lock()
	if s.id != id {
		s.mu.Unlock()
		return
	}
	err := internal("server closed the stream without sending trailers")
	if s.notGRPC == nil {
		s.notGRPC = s.httpErr
	}
	if s.notGRPC != nil {
		err = s.notGRPCError()
	}
	s.mu.Unlock()
	r.over(s, id, over(err, http2.ErrCodeNo), true)
}

// over ends s as the verdict says. If the server may still send, or this side
// has not half-closed, the rest of the stream is cut off.
func (r *reader) over(s *Stream, id uint32, v verdict, serverEnded bool) {
	c := r.c
	c.mu.Lock()
	if s.sendID != id || !c.take(s) {
		c.mu.Unlock()
		return
	}
	c.tally.ended(serverEnded, v.err)
	if !serverEnded || !s.halfClosed {
		b := c.pending()
		b.b = appendRST(b.b, id, v.rst)
		r.dirty = true
	}
	draining := c.drained()
	c.mu.Unlock()
	s.finish(v.err)
	if draining {
		c.settle()
	}
}

func (r *reader) reset(f frameHeader, p []byte) error {
	if len(p) != 4 {
		return connErrorf(http2.ErrCodeFrameSize, "RST_STREAM of %d bytes", len(p))
	}
	s := r.stream(f.id)
	if s == nil {
		return r.known(f)
	}
	code := http2.ErrCode(binary.BigEndian.Uint32(p))
	c := r.c
	c.mu.Lock()
	if s.sendID != f.id || !c.take(s) {
		c.mu.Unlock()
		return nil
	}
	draining := c.drained()
	refused := code == http2.ErrCodeRefusedStream
	serving := refused && c.servesBefore(f.id)
	deadline := s.deadline
	c.mu.Unlock()
	st := statusOfReset(code)
	if st == codes.Canceled && !deadline.IsZero() && !time.Now().Before(deadline) {
		st = codes.DeadlineExceeded // which is why the server cancelled
	}
	s.finish(&Error{
		Status:      status.Newf(st, "stream terminated by RST_STREAM with error code: %v", code),
		Unprocessed: refused,
		Serving:     serving,
	})
	if draining {
		c.settle()
	}
	return nil
}

// servesBefore reports whether a stream below id runs: servers decide in order, so they
// have taken that. It looks at a few of the streams only, so as not to go through all of
// them for each one that is refused. mu is held.
func (c *Conn) servesBefore(id uint32) bool {
	left := 100
	for other, s := range c.streams {
		if other < id && !s.aside {
			return true
		}
		if left--; left == 0 {
			break
		}
	}
	return false
}

// answered counts an answer that the server made us queue. mu is held.
func (r *reader) answered() error {
	r.dirty = true
	if r.c.acks++; r.c.acks > maxQueuedAcks {
		return tooManyAcks()
	}
	return nil
}

//go:noinline
func tooManyAcks() error {
	return connErrorf(http2.ErrCodeEnhanceYourCalm, "more than %d PING or SETTINGS frames whose answers the server does not read", maxQueuedAcks)
}

func (r *reader) ping(f frameHeader, p []byte) error {
	switch {
	case len(p) != 8 || f.id != 0:
		return badPing(f)
	case f.flags.Has(http2.FlagPingAck):
		// That something was read is all that keepalive asks for.
		if [8]byte(p) == probeData {
			if size := r.bw.answered(r.c.recvW); size > 0 {
				r.widen(size)
			}
		}
		return nil
	}
	r.c.mu.Lock()
	if r.c.state == stateClosed {
		r.c.mu.Unlock()
		return nil
	}
	b := r.c.pending()
	b.b = appendPing(b.b, true, [8]byte(p))
	err := r.answered()
	r.c.mu.Unlock()
	return err
}

//go:noinline
func badPing(f frameHeader) error {
	if f.length != 8 {
		return connErrorf(http2.ErrCodeFrameSize, "PING of %d bytes", f.length)
	}
	return connErrorf(http2.ErrCodeProtocol, "PING on stream %d", f.id)
}

func (r *reader) goAway(f frameHeader, p []byte) error {
	if len(p) < 8 {
		return connErrorf(http2.ErrCodeFrameSize, "GOAWAY of %d bytes", len(p))
	}
	if f.id != 0 {
		return connErrorf(http2.ErrCodeProtocol, "GOAWAY on stream %d", f.id)
	}
	g := r.parseGoAway(p)
	if g.LastStreamID != 0 && g.LastStreamID%2 == 0 {
		return connErrorf(http2.ErrCodeProtocol, "GOAWAY with the last stream id %d, which is not a client's", g.LastStreamID)
	}
	c := r.c
	if g.ErrCode == http2.ErrCodeEnhanceYourCalm && g.DebugData == "too_many_pings" {
		c.tooManyPings.Store(true)
	}
	c.mu.Lock()
	if c.goAway != nil && g.LastStreamID > c.goAway.LastStreamID {
		c.mu.Unlock()
		return connErrorf(http2.ErrCodeProtocol, "GOAWAY raised the last stream id from %d to %d", c.goAway.LastStreamID, g.LastStreamID)
	}
	c.goAway = g
	c.drainLocked(g)
	if c.failed != nil {
		if c.failed.listens = false; c.state == stateDraining {
			c.cause = g // the server's reason explains the write that failed
		}
	}
	var unprocessed []*Stream
	for id, s := range c.streams {
		if id > g.LastStreamID {
			unprocessed = append(unprocessed, s)
			c.take(s)
		}
	}
	handed, serving := c.handed, c.Answered() || c.serving()
	c.mu.Unlock()
	for _, s := range unprocessed {
		s.finish(&Error{
			Status:      status.Newf(codes.Unavailable, "the server did not process the request: %v", describeGoAway(g)),
			Unsent:      s.safeUntil > handed, // should it leave after all, the server has said that it will not look at it
			Unprocessed: true,
			Serving:     serving,
			Cause:       g,
		})
	}
	r.lookAround()
	c.settle()
	return nil
}

func describeGoAway(g *goAwayError) string {
	if g.DebugData == "" {
		return fmt.Sprintf("GOAWAY %v", g.ErrCode)
	}
	return fmt.Sprintf("GOAWAY %v %s", g.ErrCode, quoted(g.DebugData))
}

func (r *reader) windowUpdate(f frameHeader, p []byte) error {
	if len(p) != 4 {
		return connErrorf(http2.ErrCodeFrameSize, "WINDOW_UPDATE of %d bytes", len(p))
	}
	n := int64(binary.BigEndian.Uint32(p) &^ (1 << 31))
	c := r.c
	if f.id == 0 {
		if n == 0 {
			return connErrorf(http2.ErrCodeProtocol, "WINDOW_UPDATE of 0")
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.window.avail+n > maxWindow {
			return connErrorf(http2.ErrCodeFlowControl, "WINDOW_UPDATE makes the connection's window larger than 2^31-1")
		}
		c.window.add(n)
		return nil
	}
	s := r.stream(f.id)
	if s == nil {
		return r.known(f)
	}
	c.mu.Lock()
	if s.sendID != f.id {
		c.mu.Unlock()
		return nil
	}
	if n == 0 || s.sendWindow+n > maxWindow {
		code, what := http2.ErrCodeFlowControl, "the server raised the stream's window above 2^31-1"
		if n == 0 {
			code, what = http2.ErrCodeProtocol, "the server sent a WINDOW_UPDATE of 0"
		}
		c.mu.Unlock()
		r.over(s, f.id, over(internal(what), code), false)
		return nil
	}
	s.widen(n)
	c.mu.Unlock()
	return nil
}

// widen changes the stream's send window and wakes its sender if it can go on.
// The connection's mu is held.
func (s *Stream) widen(n int64) {
	s.sendWindow += n
	if s.blocked && s.sendWindow > 0 {
		s.blocked = false
		s.wait.ready <- struct{}{}
	}
}
