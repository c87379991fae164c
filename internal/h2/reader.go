package h2

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"time"

	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/bytepool"
)

// reader is the receiving side of a connection. Everything in it belongs to the
// goroutine that runs Serve.
type reader struct {
	c    *Conn
	sock socketRead

	// buf is where bytes are read into. It is pooled and given back while the
	// connection is quiet. small is for connections that cannot wait without a
	// buffer, and for the handshake.
	buf        *[]byte
	small      *[smallRead]byte
	narrow     int // the next read is for so many bytes, if it is not 0
	start, end int // the bytes read and not used yet

	more     bool // the latest read filled what it was given
	settings bool // the server's first SETTINGS has come
	dirty    bool // frames of the reader's wait to be flushed
	several  bool // something was delivered to other streams than served since the latest read
	gathered bool // hd has a whole header block, to be acted on before anything else is read
	drained  bool // lookAround has notified the owner that no new streams are taken
	between  bool // reading ended between two frames

	parts   *scatter       // nil until there was a read for it
	hd      *headerDecoder // nil before the first header block
	behind  int32          // bytes read since the receiver of wake was to be woken
	lastID  uint32         // the stream of the latest look-up
	last    *Stream
	bw      bandwidth
	window  int64      // what the server may still send on the connection
	credit  int64      // received, not given back to the server yet
	ahead   *aheadRead // a read that is under way; nil: none
	served  *Stream    // the only stream that something was delivered to since the latest read
	wake    *Stream    // its receiver is to be woken
	onDrain func(cause error)
}

// socketRead is one wait for bytes. Its callback is made once.
type socketRead struct {
	r      *reader  // which says where to read into, and is notified when nothing is there
	into   [][]byte // several places instead, if it is more than one
	n      int
	err    error
	waited bool
	fn     func(fd uintptr) bool
}

// smallRead is what a connection keeps to wait with, if it needs a buffer for
// that. Most answers to small calls fit.
const smallRead = 512

func (r *reader) init(c *Conn) {
	r.c = c
	r.window = int64(c.cfg.ConnWindow)
	c.left.Store(r.window)
	r.sock.r = r
	r.small = new([smallRead]byte) // until the handshake is done, at least
}

// bytes is the buffer in use.
func (r *reader) bytes() []byte {
	if r.buf != nil {
		return *r.buf
	}
	if r.small != nil {
		return r.small[:]
	}
	return nil
}

// space is where the next bytes go: into a message, or the buffer. It takes a buffer from the pool if there
// is none, or if the small one does not do.
func (r *reader) space() []byte {
	if r.sock.into != nil {
		return r.sock.into[0]
	}
	if r.buf == nil && (r.small == nil || r.more && r.narrow == 0 || r.end == len(r.small)) {
		b := bytepool.Messages.Get(r.size())
		r.end = copy(*b, r.bytes()[r.start:r.end])
		r.start = 0
		r.buf = b
	}
	if r.narrow > 0 {
		return r.bytes()[r.end:min(r.end+r.narrow, len(r.bytes()))]
	}
	return r.bytes()[r.end:]
}

// size is how much one read asks for.
func (r *reader) size() int {
	return min(max(r.c.cfg.ReadBufferSize, smallRead), maxReadBuffer)
}

// quiet is called when nothing is left to read: the buffer goes back.
func (r *reader) quiet() {
	if r.start == r.end && r.buf != nil {
		bytepool.Messages.Put(r.buf)
		r.buf = nil
		r.start, r.end = 0, 0
	}
}

// fill reads more into the buffer. It blocks.
func (r *reader) fill() error {
	r.beforeRead()
	n, err := r.read()
	r.end += n
	return err
}

// readInto reads into the places, one after the other, instead of the buffer, which is
// empty. It blocks.
func (r *reader) readInto(places [][]byte) (n int, err error) {
	r.beforeRead()
	r.sock.into = places
	n, err = r.read()
	r.sock.into = nil
	return n, err
}

// keep puts n bytes that were read into the places into the buffer, which is empty.
func (r *reader) keep(places [][]byte, n int) {
	if b := r.bytes(); len(b) < n || r.buf == nil {
		if r.buf != nil {
			bytepool.Messages.Put(r.buf)
		}
		r.buf = bytepool.Messages.Get(max(n, r.size()))
	}
	r.start, r.end = 0, 0
	for _, p := range places {
		r.end += copy((*r.buf)[r.end:n], p)
	}
}

// beforeRead ends a burst: those that wait for what was in it are woken, and what the
// reader queued while it worked on it is written.
func (r *reader) beforeRead() {
	r.notify()
	if r.dirty {
		if r.served != nil && !r.several {
			// The goroutine that this burst woke may be about to send: the answer to
			// a PING then leaves in the same write.
			runtime.Gosched()
		}
		r.dirty = false
		r.c.kick()
	}
	r.served, r.several = nil, false
	if r.last != nil && !r.last.unary {
		// A stream that the program forgets while this waits goes with what it holds.
		r.lastID, r.last = 0, nil
	}
	if r.start == r.end {
		r.start, r.end = 0, 0
		if r.settings && r.c.onSocket() {
			r.small = nil
		}
	}
}

// read waits until something comes, and puts it where space says.
func (r *reader) read() (n int, err error) {
	for idle := 0; ; {
		if r.settings && r.c.onSocket() {
			n, err = r.c.wire.tryRead(&r.sock)
		} else {
			if r.settings {
				// Only a read shows whether more is there.
				r.quiet()
			}
			n, err = r.readConn()
		}
		if n > 0 {
			r.narrow = 0
			r.heard()
			return n, nil
		}
		if err == nil {
			// Nothing, which is no end (io.Reader); but not time and again.
			if idle++; idle < maxIdleReads {
				continue
			}
			err = io.ErrNoProgress
		}
		if isTimeout(err) && r.settings && r.c.poked.Swap(false) {
			_ = r.c.nc.SetReadDeadline(time.Time{})
			r.lookAround()
			continue
		}
		return 0, err
	}
}

// readConn reads, or waits for a read that is under way.
func (r *reader) readConn() (n int, err error) {
	p := r.space()
	if a := r.ahead; a != nil {
		<-a.done
		n = copy(p, a.b)
		if a.b = a.b[n:]; len(a.b) == 0 {
			r.ahead, err = nil, a.err
		}
	} else {
		n, err = r.c.nc.Read(p)
	}
	r.more = n == len(p)
	return n, err
}

// onSocket reports whether the frames are a socket's bytes.
func (c *Conn) onSocket() bool { return !c.apart && !c.layered }

// isTimeout reports whether a deadline ended a read. Not each net.Conn calls that
// os.ErrDeadlineExceeded.
func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// serves notes that something is delivered to s.
func (r *reader) serves(s *Stream) {
	r.several = r.several || r.served != nil && r.served != s
	r.served = s
	if !s.heard.Load() {
		s.heard.Store(true)
	}
}

// wakes notes that the receiver of s has something to receive. It is woken when this burst
// is through, or goes on with another stream: it finds more then.
func (r *reader) wakes(s *Stream) {
	if r.wake != s {
		r.notify()
		r.wake, r.behind = s, 0
	}
}

func (r *reader) notify() {
	if s := r.wake; s != nil {
		r.wake = nil
		select {
		case s.arrived <- struct{}{}:
		default:
		}
	}
}

// lookAround notifies the owner, once, that the connection takes no new streams.
func (r *reader) lookAround() {
	r.c.mu.Lock()
	state, cause := r.c.state, r.c.cause
	if r.c.goAway != nil {
		cause = r.c.goAway
	}
	r.c.mu.Unlock()
	if state == stateDraining && !r.drained {
		r.drained = true
		r.onDrain(cause)
	}
}

// peek returns the next n bytes, reading as needed.
func (r *reader) peek(n int) ([]byte, error) {
	for r.end-r.start < n {
		if b := r.bytes(); r.start+n > len(b) && (r.buf != nil || r.small != nil) {
			r.makeRoom(n)
		}
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
	return r.bytes()[r.start : r.start+n], nil
}

// makeRoom moves what is left to the front, of a larger buffer if it must.
func (r *reader) makeRoom(n int) {
	b := r.bytes()
	if n > len(b) {
		larger := bytepool.Messages.Get(max(n, r.size()))
		copy(*larger, b[r.start:r.end])
		if r.buf != nil {
			bytepool.Messages.Put(r.buf)
		}
		r.buf = larger
	} else {
		copy(b, b[r.start:r.end])
	}
	r.start, r.end = 0, r.end-r.start
}

type frameHeader struct {
	length int
	typ    http2.FrameType
	flags  http2.Flags
	id     uint32
}

func parseFrameHeader(b []byte) frameHeader {
	return frameHeader{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		typ:    http2.FrameType(b[3]),
		flags:  http2.Flags(b[4]),
		id:     binary.BigEndian.Uint32(b[5:]) &^ (1 << 31),
	}
}

// parseGoAway returns the GOAWAY with the payload p, which has eight bytes at least. Its debug
// data repeats no secret of a proxy's.
func (r *reader) parseGoAway(p []byte) *goAwayError {
	g := &goAwayError{GoAwayError: http2.GoAwayError{
		LastStreamID: binary.BigEndian.Uint32(p) &^ (1 << 31),
		ErrCode:      http2.ErrCode(binary.BigEndian.Uint32(p[4:])),
		DebugData:    r.c.cfg.Secrets.Mask(string(p[8:min(len(p), 8+maxErrorBody)])),
	}}
	g.publish(&r.c.cfg)
	return g
}

// readFrame reads one frame and acts on it. DATA, and a whole header block, begin
// calls that go deep, and are left to Serve.
func (r *reader) readFrame() (f frameHeader, err error) {
	h, err := r.peek(frameHeaderLen)
	if err != nil {
		r.between = r.start == r.end
		return f, err
	}
	f = parseFrameHeader(h)
	if f.length > maxFrameSize || r.hd != nil && r.hd.id != 0 && (f.typ != http2.FrameContinuation || f.id != r.hd.id) {
		return f, r.misplaced(f)
	}
	if f.typ == http2.FrameData {
		r.start += frameHeaderLen
		return f, nil
	}
	b, err := r.peek(frameHeaderLen + f.length)
	if err != nil {
		return f, err
	}
	r.start += len(b)
	return f, r.handle(f, b[frameHeaderLen:])
}

// misplaced is why f is refused before it is read.
//
//go:noinline
func (r *reader) misplaced(f frameHeader) error {
	if f.length > maxFrameSize {
		return connErrorf(http2.ErrCodeFrameSize, "a frame of %d bytes; at most %d are accepted", f.length, maxFrameSize)
	}
	return connErrorf(http2.ErrCodeProtocol, "%v on stream %d inside the header block of stream %d", f.typ, f.id, r.hd.id)
}
