package h2

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// writeMode is how bytes get to the socket.
type writeMode uint8

const (
	// writeDirect: the frames are the socket's bytes; non-blocking attempts.
	writeDirect writeMode = iota
	// writeLayered: crypto/tls turns frames into records, which the Wire
	// collects; non-blocking attempts.
	writeLayered
	// writeBlocking: any other connection; a goroutine writes.
	writeBlocking
)

// Conn is one HTTP/2 client connection. All methods but [Conn.Serve] and
// [Conn.Handshake] are safe for concurrent use.
type Conn struct {
	// Set once in New.
	wire    *Wire
	nc      net.Conn
	cfg     Config
	buffers bufferPool
	peer    *peer.Peer
	done    chan struct{} // closed when no new stream can be opened any more

	rd reader // the reader's own
	ka keepalive

	answered     atomic.Bool
	tooManyPings atomic.Bool
	poked        atomic.Bool // the reader shall look at the state
	mode         writeMode   // set once in New

	// For Counts, written by the reader.
	received atomic.Int64 // messages
	left     atomic.Int64 // what the server may still send on the connection

	flushers sync.WaitGroup // goroutines that write
	farewell sync.WaitGroup // the goroutine that says goodbye where that may block; added to under mu, before the state is closed

	mu sync.Mutex
	// Guarded by mu.
	state    connState
	shaken   bool           // the handshake is done
	flushing bool           // somebody writes
	writing  bool           // what is handed but not written may be on its way
	cause    error          // why it is not open
	endWith  *status.Status // what streams end with when they are cut; nil: lost
	goAway   *http2.GoAwayError
	streams  map[uint32]*Stream
	doomed   []*Stream // taken out of the table by the loss of the connection, to be ended when no write is under way
	nextID   uint32
	enc      headerEncoder
	slots    quota // MAX_CONCURRENT_STREAMS
	window   quota // the connection's send window
	room     quota // in the pending buffer
	maxOpen  int64 // the peer's MAX_CONCURRENT_STREAMS
	streamW  int64 // the peer's INITIAL_WINDOW_SIZE
	recvW    int64 // ours, which new streams begin with; written by the reader only
	maxSend  int   // the peer's MAX_FRAME_SIZE
	maxList  uint64
	tally    tally

	pend      *buffer     // frames that wait to be written; nil when there are none
	spare     *buffer     // the other of the two buffers while a flush is running
	unheld    *time.Timer // ends the doomed if a Write goes on though the connection is closed
	handed    uint64      // bytes of frames given to a write so far
	written   uint64      // of these, bytes that the socket took
	inPend    int64       // room taken by what is in pend
	inFlight  int64       // room taken by what is being written
	acks      int         // answers to the peer's frames that wait to be written
	ackFlight int         // of these, those being written
	writeErr  error       // why nothing can be written any more; flushing is true then, and nobody's
	hearing   *time.Timer // ends the connection some time after writeErr

	freeMu sync.Mutex
	free   []*Stream // unary stream objects for reuse
}

type connState uint8

const (
	stateOpen     connState = iota // takes new streams
	stateDraining                  // serves those it has
	stateClosed
)

const unlimited = 1 << 40

// New prepares a client connection on nc, which is w itself or what the
// credentials' handshake made of w. It does no I/O.
func New(w *Wire, nc net.Conn, cfg Config) *Conn {
	c := &Conn{
		wire:    w,
		nc:      nc,
		mode:    writeBlocking,
		cfg:     cfg.withDefaults(),
		peer:    &peer.Peer{Addr: nc.RemoteAddr(), LocalAddr: nc.LocalAddr(), AuthInfo: cfg.AuthInfo},
		done:    make(chan struct{}),
		streams: make(map[uint32]*Stream),
		nextID:  1,
		enc:     newHeaderEncoder(),
		maxOpen: unlimited,
		streamW: initialWindow,
		maxSend: maxFrameSize,
	}
	if w.raw != nil {
		if nc == net.Conn(w) {
			c.mode = writeDirect
		} else if t, ok := nc.(*tls.Conn); ok && t.NetConn() == net.Conn(w) {
			c.mode = writeLayered
		}
	}
	w.heard = true // what comes from here on is this connection's matter
	c.slots.avail = unlimited
	c.window.avail = initialWindow
	c.recvW = int64(c.cfg.StreamWindow)
	c.room.avail = int64(c.cfg.WriteBufferSize)
	c.buffers = pendingPool(c.cfg.WriteBufferSize)
	c.rd.init(c)
	return c
}

// Peer describes the server. It is shared and must not be changed.
func (c *Conn) Peer() *peer.Peer { return c.peer }

// Done is closed when no new stream can be opened any more: the connection is
// draining, lost or closed.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Streams is how many streams are open.
func (c *Conn) Streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

// Answered reports whether the server has answered an RPC, if only with headers.
func (c *Conn) Answered() bool { return c.answered.Load() }

// TooManyPings reports whether the server complained of keepalive PINGs
// (GOAWAY with ENHANCE_YOUR_CALM and "too_many_pings"; gRFC A8).
func (c *Conn) TooManyPings() bool { return c.tooManyPings.Load() }

// Drain refuses new streams, lets the open ones end, and then closes the
// connection with cause. It does not block.
func (c *Conn) Drain(cause error) {
	c.mu.Lock()
	c.drainLocked(cause)
	c.unlockAndSettle()
}

func (c *Conn) drainLocked(cause error) {
	if c.state != stateOpen {
		return
	}
	c.state, c.cause = stateDraining, cause
	close(c.done)
}

// unlockAndSettle releases mu, and closes a draining connection that has
// nothing left to do.
func (c *Conn) unlockAndSettle() {
	idle := c.state == stateDraining && len(c.streams) == 0
	cause := c.cause
	c.mu.Unlock()
	if idle {
		c.Close(cause, nil)
	}
}

// Close cuts the connection: each open stream ends at once with st (nil:
// Unavailable, with cause in its text), and Serve returns cause. It does
// not block, and it does not wait for Serve.
func (c *Conn) Close(cause error, st *status.Status) {
	if cause == nil {
		cause = ErrClosed
	}
	c.shut(cause, st, true)
}

// shut ends the connection, once. With goodbye, the server is told if its
// socket takes it; what was pending is dropped.
func (c *Conn) shut(cause error, st *status.Status, goodbye bool) {
	c.mu.Lock()
	if c.state == stateClosed {
		c.mu.Unlock()
		return
	}
	if c.state == stateOpen {
		close(c.done)
	}
	c.state, c.cause, c.endWith = stateClosed, cause, st
	for _, s := range c.streams {
		s.sendID = 0
		c.doomed = append(c.doomed, s)
	}
	c.streams = nil
	c.ka.stop()
	failed := c.writeErr != nil
	if failed {
		c.hearing.Stop()
	}
	writing := c.flushing && !failed
	c.flushing = true
	if writing && c.mode == writeBlocking {
		// Whoever writes ends the streams, and knows then which were sent. Should the
		// connection not let go of it, they do not wait for that.
		c.unheld = time.AfterFunc(writeReturns, c.endDoomed)
	}
	goodbye = goodbye && !writing && !failed
	if goodbye && c.mode == writeBlocking {
		c.farewell.Go(func() { c.sayGoodbyeApart(cause) })
	}
	c.mu.Unlock()

	switch {
	case !goodbye:
		// The raw connection goes first: a tls.Conn would otherwise wait up to 5 s
		// for a peer that does not read its closing alert.
		c.wire.Conn.Close()
	case c.mode != writeBlocking:
		c.sayGoodbye(cause)
		c.wire.Conn.Close()
	}
	if !writing {
		c.endDoomed()
	}
}

// writeReturns is how long a Write may take to return from a connection that was closed.
const writeReturns = 100 * time.Millisecond

// goodbyeWait is how long a connection that cannot be written to without blocking
// stays open for its GOAWAY.
const goodbyeWait = 50 * time.Millisecond

// sayGoodbyeApart is sayGoodbye in a goroutine of its own, where writes may block. It
// closes the connection.
func (c *Conn) sayGoodbyeApart(cause error) {
	bound := time.AfterFunc(goodbyeWait, func() {
		c.wire.Conn.Close()
		c.nc.Close()
	})
	b := c.goodbyeFrame(cause)
	_, err := c.nc.Write(b.b)
	c.buffers.put(b)
	if t, ok := c.nc.(*tls.Conn); ok && err == nil {
		_ = t.CloseWrite()
	}
	bound.Stop()
	c.wire.Conn.Close()
}

// goodbyeFrame is a GOAWAY that says why the connection ends.
func (c *Conn) goodbyeFrame(cause error) *buffer {
	code, debug := http2.ErrCodeNo, ""
	if ce := (*ConnError)(nil); errors.As(cause, &ce) {
		code, debug = ce.Code, ce.Reason[:min(len(ce.Reason), 256)]
	}
	b := c.buffers.get()
	b.b = appendGoAway(b.b, code, debug)
	return b
}

// sayGoodbye makes one non-blocking attempt at GOAWAY and, under TLS, the closing
// alert. The caller owns the flush.
func (c *Conn) sayGoodbye(cause error) {
	b := c.goodbyeFrame(cause)
	if c.mode == writeDirect {
		_, _ = c.wire.tryWrite(b.b)
	} else {
		c.wire.cork()
		_, err := c.nc.Write(b.b)
		if t, ok := c.nc.(*tls.Conn); ok && err == nil {
			_ = t.CloseWrite()
		}
		if out := c.wire.uncork(); out != nil {
			_, _ = c.wire.tryWrite(out.b)
			c.buffers.put(out)
		}
	}
	c.buffers.put(b)
}

// endDoomed ends the streams of a closed connection. It runs once no write is
// under way, so that it is known which of them were sent; or if one does not end.
func (c *Conn) endDoomed() {
	c.mu.Lock()
	if c.unheld != nil {
		c.unheld.Stop()
	}
	doomed := c.doomed
	c.doomed = nil
	written := c.written
	if c.writing {
		written = c.handed // some of it may have arrived
	}
	cause, st, goAway := c.cause, c.endWith, c.goAway
	c.mu.Unlock()
	for _, s := range doomed {
		var e *Error
		switch {
		case st != nil:
			e = &Error{Status: st, Cause: cause, Local: true, GivenUp: true}
		case goAway != nil && cause != error(*goAway):
			e = c.lost(cause)
			e.Status = status.Newf(codes.Unavailable, "connection to %v lost: %v, after %v", c.peer.Addr, cause, describeGoAway(goAway))
		default:
			e = c.lost(cause)
		}
		e.Unsent = st == nil && s.safeUntil > written
		s.finish(e)
	}
}

// take removes s from the table. It reports false if it was not there: somebody
// else is ending it. mu is held.
func (c *Conn) take(s *Stream) bool {
	id := s.sendID
	if id == 0 {
		return false
	}
	s.sendID = 0
	delete(c.streams, id)
	c.slots.add(1)
	return true
}

// cancel ends s from this side.
func (c *Conn) cancel(s *Stream, code http2.ErrCode, e *Error) {
	c.mu.Lock()
	id := s.sendID
	if !c.take(s) {
		c.mu.Unlock()
		return
	}
	e.Stage = c.stage(s)
	b := c.pending()
	b.b = appendRST(b.b, id, code)
	c.flushAndUnlock()
	s.finish(e)
	c.settle()
}

// stage is how far the request of s has come. mu is held.
func (c *Conn) stage(s *Stream) Stage {
	waits := s.blocked || s.wait.q != nil // the sender does
	if waits || s.unary && (!s.halfClosed || s.safeUntil > c.written) {
		return StageSend
	}
	return StageSent
}

// settle closes a draining connection that has nothing left to do.
func (c *Conn) settle() {
	c.mu.Lock()
	c.unlockAndSettle()
}

// creditStream gives n bytes of a stream's window back.
func (c *Conn) creditStream(id uint32, n int64) {
	if id == 0 || n == 0 {
		return
	}
	c.mu.Lock()
	if c.state == stateClosed || c.streams[id] == nil {
		c.mu.Unlock()
		return
	}
	b := c.pending()
	b.b = appendWindowUpdate(b.b, id, uint32(n))
	c.flushAndUnlock()
}

// recycle keeps a unary stream object for the next call.
func (c *Conn) recycle(s *Stream) {
	c.freeMu.Lock()
	if len(c.free) < maxFreeStreams {
		c.free = append(c.free, s)
	}
	c.freeMu.Unlock()
}

// unaryStream returns a stream object for a unary call.
func (c *Conn) unaryStream() *Stream {
	c.freeMu.Lock()
	if n := len(c.free); n > 0 {
		s := c.free[n-1]
		c.free[n-1] = nil
		c.free = c.free[:n-1]
		c.freeMu.Unlock()
		return s
	}
	c.freeMu.Unlock()
	return &Stream{c: c, unary: true, end: make(chan struct{}, 1)}
}
