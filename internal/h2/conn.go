package h2

import (
	"crypto/tls"
	"math"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/peer"

	"github.com/grpcdial/grpcdial/internal/latch"
)

// Conn is one HTTP/2 client connection. All methods but [Conn.Serve] and
// [Conn.Handshake] are safe for concurrent use.
type Conn struct {
	// Set once in New.
	wire    *Wire
	nc      net.Conn
	cfg     Config
	buffers *bufferPool
	peer    *peer.Peer
	done    latch.Latch // closed when no new stream can be opened any more
	apart   bool        // writes may block: a goroutine makes them. Otherwise the socket takes non-blocking attempts.
	layered bool        // crypto/tls turns frames into records, which the Wire collects

	rd    reader // the reader's own
	ka    keepalive
	early *early // the owner's; nil unless ServeEarly was called

	answers      atomic.Uint32 // headers that answer RPCs; written by the reader
	tooManyPings atomic.Bool
	poked        atomic.Bool // the reader shall look at the state
	cutShort     atomic.Bool // reading ended in the middle of a frame

	// For Counts, written by the reader.
	received atomic.Int64 // messages
	left     atomic.Int64 // what the server may still send on the connection

	flushers sync.WaitGroup // goroutines that write

	mu sync.Mutex
	// Guarded by mu.
	state    connState
	shaken   bool          // the handshake is done
	harmed   bool          // see Harmed
	letGo    bool          // Drain was called
	flushing bool          // a goroutine is writing
	awaited  bool          // a goroutine is on its way that flushes; see flushSoonAndUnlock
	writing  bool          // what is handed but not written may be on its way
	full     bool          // the socket did not take the latest write at once
	greeting chan struct{} // closed when the preface is written, or its write has failed; nil: nothing waits for that
	cause    error         // why it is not open
	goAway   *goAwayError
	streams  map[uint32]*Stream // nil before the first
	nextID   uint32
	aside    int32          // of streams, those that are Aside
	enc      *headerEncoder // nil before the first request; see encoder
	slots    quota          // MAX_CONCURRENT_STREAMS
	queue    *SlotQueue     // where RPCs wait for a slot; nil: in the quota's line
	window   quota          // the connection's send window
	room     quota          // in the pending buffer
	maxOpen  int64          // the peer's MAX_CONCURRENT_STREAMS
	streamW  int64          // the peer's INITIAL_WINDOW_SIZE
	recvW    int64          // ours, which new streams begin with; written by the reader only
	maxSend  int            // the peer's MAX_FRAME_SIZE
	maxList  uint64         // the peer's MAX_HEADER_LIST_SIZE
	tally    tally

	pend      *buffer      // frames that wait to be written; nil when there are none
	lastData  dataFrame    // the latest of the pending frames of DATA, if it may be extended; zero: none
	spare     *buffer      // the other of the two buffers while a flush is running
	handed    uint64       // bytes of frames given to a write so far
	written   uint64       // of these, bytes that the socket took
	inPend    int64        // room taken by what is in pend
	inFlight  int64        // room taken by what is being written
	acks      int32        // answers to the peer's frames that wait to be written
	ackFlight int32        // of these, those being written
	failed    *failedWrite // nil: writes go on
	closing   *closing     // nil before the connection is closed

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
		cfg:     cfg.withDefaults(),
		peer:    &peer.Peer{Addr: nc.RemoteAddr(), LocalAddr: nc.LocalAddr(), AuthInfo: cfg.AuthInfo},
		nextID:  1,
		maxOpen: unlimited,
		streamW: initialWindow,
		maxSend: maxFrameSize,
		maxList: math.MaxUint64,
	}
	if t, ok := nc.(*tls.Conn); ok && t.NetConn() == net.Conn(w) {
		c.layered = true
	}
	c.apart = w.raw == nil || nc != net.Conn(w) && !c.layered
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
func (c *Conn) Done() <-chan struct{} { return c.done.Done() }

// IsDone reports whether Done is closed.
func (c *Conn) IsDone() bool { return c.done.Closed() }

// Streams is how many streams are open.
func (c *Conn) Streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

// Answered reports whether the server has answered an RPC, if only with headers. RPCs
// that are Aside do not count.
func (c *Conn) Answered() bool { return c.Answers() > 0 }

// Answers is a number that grows with each answer, as Answered has them.
func (c *Conn) Answers() uint32 { return c.answers.Load() }

// Serving reports whether RPCs run on the connection, and may be answered yet. Those
// that are Aside do not count.
func (c *Conn) Serving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serving()
}

// serving is Serving. mu is held.
func (c *Conn) serving() bool { return len(c.streams) > int(c.aside) }

// Harmed reports whether the end of the connection ended an RPC whose request the
// server may have had. RPCs that are Aside do not count, nor does an end that the
// program wanted (Close with a status).
func (c *Conn) Harmed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.harmed
}

// TooManyPings reports whether the server complained of keepalive PINGs
// (GOAWAY with ENHANCE_YOUR_CALM and "too_many_pings"; gRFC A8).
func (c *Conn) TooManyPings() bool { return c.tooManyPings.Load() }

// Drain refuses new streams, lets the open ones end, and then closes the
// connection with cause. It does not wait for RPCs that are Aside, which end with the
// connection. It does not block.
func (c *Conn) Drain(cause error) {
	c.mu.Lock()
	c.drainLocked(cause)
	c.letGo = true
	c.unlockAndSettle()
}

func (c *Conn) drainLocked(cause error) {
	if c.state != stateOpen {
		return
	}
	c.state, c.cause = stateDraining, cause
	c.done.Close()
	c.leaveQueue()
}

// unlockAndSettle releases mu, and closes a draining connection that has
// nothing left to do.
func (c *Conn) unlockAndSettle() {
	idle := c.drained()
	cause := c.cause
	c.mu.Unlock()
	if idle {
		c.Close(cause, nil)
	}
}

// drained reports whether the connection is draining and has nothing left to do. mu is
// held.
func (c *Conn) drained() bool {
	return c.state == stateDraining && !c.listens() && (len(c.streams) == 0 || c.letGo && !c.serving())
}

// take removes s from the table. It reports false if s was not there: another goroutine
// is ending it. mu is held.
func (c *Conn) take(s *Stream) bool {
	id := s.sendID
	if id == 0 {
		return false
	}
	s.sendID = 0
	delete(c.streams, id)
	if s.aside {
		c.aside--
	}
	c.freeSlot()
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
	if others := len(c.streams) > 0; (c.awaited || others) && !s.heard.Load() {
		// A server that has sent nothing yet does not send in vain meanwhile, and often others are
		// cancelled together with this one.
		c.flushSoonAndUnlock(others)
	} else {
		c.flushAndUnlock()
	}
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
