package h2

import (
	"context"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Request is what the opening HEADERS of a stream says. It is read while the
// stream is opened and not kept.
type Request struct {
	// Method is the ":path", "/service/method".
	Method string
	// Authority is the ":authority".
	Authority string
	// ContentSubtype is what follows "application/grpc+"; empty for none.
	ContentSubtype string
	// Encoding is grpc-encoding; empty for none.
	Encoding string
	// AcceptEncoding is grpc-accept-encoding; empty for none.
	AcceptEncoding string
	// PreviousAttempts is grpc-previous-rpc-attempts, sent if above 0 (gRFC A6).
	PreviousAttempts int
	// Metadata is the application's. Keys are lower-case and validated by the
	// caller; values of "-bin" keys are raw. Reserved names are left out.
	Metadata metadata.MD
	// Extra holds further pairs of key and value, under the same rules. They come
	// before Metadata.
	Extra []string
	// Began is when the RPC began, or a later attempt of it, for Counts.
	Began time.Time
	// MaxRecv is the largest message accepted, in bytes as received.
	MaxRecv int
	// Aside says that the RPC is not one of those that the connection is there for: a
	// health check, say. See Conn.Answered.
	Aside bool
	// Follows says that the program's next call sends a message: HEADERS wait for it, so that both
	// leave in one write. They leave too with the frames of any other stream, and if the program
	// receives first or cancels. Unary ignores it.
	Follows bool
	// Watched says that the caller cancels the stream, once it is open, when its context ends.
	Watched bool
	// Opened, if not nil, is called once when the stream is open, on the caller's
	// goroutine with no lock held, before anything is waited for. It gets the server's
	// description.
	Opened func(*peer.Peer)

	granted *grantedSlot // not nil: the request has a slot already
}

// Stream is one RPC attempt on a connection.
type Stream struct {
	c *Conn

	// end signals that the stream has ended: for a unary stream it gets one token, so that
	// the object can be used again; for any other it is closed.
	end  chan struct{}
	stop func() bool // ends the watch of the context; nil for unary streams. Set once.

	queued  time.Duration // how long it waited for a slot; written by open
	allowed uint32        // if it did, how many streams the server allowed; written by open
	unary   bool          // set once

	// Guarded by Conn.mu.
	sendID     uint32 // 0 once out of the connection's table
	blocked    bool   // the sender waits for sendWindow
	halfClosed bool   // END_STREAM is queued
	aside      bool   // Request.Aside; written with mu held too, so it may be read with either
	sendWindow int64
	sentAt     time.Duration // when the latest message was queued, since epoch
	burst      int           // messages that followed each other as in a burst
	deadline   time.Time
	safeUntil  uint64 // the request counts as sent once the connection's output got this far
	wait       waiter // the sender's place in a queue

	heard atomic.Bool // something came since the latest message was queued
	held  atomic.Bool // its HEADERS may be pending, and no flush is on its way

	mu sync.Mutex
	// Guarded by mu. The reader checks id, which is never used twice, before it
	// touches anything, since a unary stream object may have begun a new life.
	id         uint32
	size       int64 // the window's
	window     int64 // what the server may still send
	credit     int64 // received by the program, not given back to the server yet
	came       int64 // bytes of messages, prefixes among them
	taken      int64 // of these, bytes that are or were credit
	maxRecv    int
	arrived    chan struct{} // capacity 1: wakes the receiver; nil for unary streams
	headers    chan struct{} // closed when headers have come or the stream has ended; nil while nothing waits for that
	exhausted  bool          // the server has used the window up, and has not had most of it since
	waiting    bool          // a receiver waits for a message
	gotHeaders bool
	gotData    bool
	ended      bool
	part       partial        // the message that is coming
	in         inbox          // whole messages, not received yet
	messages   int            // whole messages so far
	largest    int            // bytes of the largest that had a buffer of its own
	body       []byte         // of a response that is not gRPC's, or of DATA before HEADERS
	notGRPC    *status.Status // it is none, and this is what its HTTP status says
	httpErr    *status.Status // what the HTTP status, if it is not 200, of gRPC's own says
	header     []hpack.HeaderField
	trailer    []hpack.HeaderField
	encoding   string
	err        *Error // how it ended; nil for OK

	informedSize uint64 // of the lists of header blocks that were no part of the response, ...
	informed     int32  // ... and how many there were

	outHeader, inHeader, inTrailer int32 // sizes on the wire

	// The receiver's alone.
	out      inbox // what it has taken from in
	received int64 // bytes of messages that Recv returned
	reported int64 // of these, bytes that are in taken
	step     int64 // how many more may be missing there
}

// begin readies the receive side for a new life. Conn.mu is held.
func (s *Stream) begin(id uint32, req *Request) {
	s.mu.Lock()
	s.id = id
	s.aside = req.Aside
	s.size, s.window, s.credit, s.came, s.taken = s.c.recvW, s.c.recvW, 0, 0, 0
	s.exhausted = false
	s.maxRecv = req.MaxRecv
	s.mu.Unlock()
}

// is reports whether this is the stream id, which has not ended.
func (s *Stream) is(id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id == id
}

// Cancel ends the stream with st and sends RST_STREAM to the server, unless the stream
// has ended already. It may be called from any goroutine, any number of times.
func (s *Stream) Cancel(st *status.Status) {
	s.c.cancel(s, http2.ErrCodeCancel, &Error{Status: st, Local: true, GivenUp: true})
}

// finish ends the stream; e is nil for status OK. The caller has taken the
// stream out of the table and holds no lock. Messages that came whole outlive the
// end, whatever it is: see Recv and Discard.
func (s *Stream) finish(e *Error) {
	s.mu.Lock()
	s.id, s.ended, s.err = 0, true, e
	s.part = partial{} // the reader may be reading into its buffer, so the garbage collector gets that
	if e != nil && (e.GivenUp || e.Cause != nil) {
		s.trailer, s.inTrailer = emptied(s.trailer), 0 // if they came, they lost
	}
	s.mu.Unlock()
	s.signalEnd()
}

func (s *Stream) signalEnd() {
	if s.unary {
		s.end <- struct{}{}
		return
	}
	if s.stop != nil {
		s.stop()
	}
	s.mu.Lock()
	if !s.gotHeaders && s.headers != nil {
		close(s.headers)
	}
	s.mu.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	close(s.end)
}

// Drop forgets the messages that Recv has not looked at yet. It may be called on any
// goroutine, and while the stream runs: what comes after it is kept. A stream that is
// forgotten without it leaves them to the garbage collector.
func (s *Stream) Drop() {
	var dropped inbox
	s.mu.Lock()
	s.in.take(&dropped, s.part.open)
	s.mu.Unlock()
}

// Discard frees all messages that came and Recv has not returned. It is called on the
// receiver's goroutine, and may be while the stream runs, as Drop.
func (s *Stream) Discard() {
	s.mu.Lock()
	s.in.take(&s.out, s.part.open)
	s.mu.Unlock()
	s.out.release()
}

// Recv returns the next message. At the end, and when all that came whole before it
// has been received, it returns io.EOF if the status was OK, else *Error. One
// goroutine may receive at a time, beside one that sends.
//
// All that is there is taken at once, without the lock for each, but what is given back to
// the server is what was returned: the window bounds both inboxes together.
func (s *Stream) Recv() (Message, error) {
	for {
		if s.out.whole > 0 {
			m, n := s.out.next()
			if s.received += int64(n); s.received-s.reported >= s.step {
				s.mu.Lock()
				id, credit := s.report()
				s.mu.Unlock()
				s.c.creditStream(id, credit)
			}
			return m, nil
		}
		s.mu.Lock()
		if s.in.whole > 0 {
			s.in.take(&s.out, s.part.open)
			id, credit := s.report()
			s.mu.Unlock()
			s.c.creditStream(id, credit)
			continue
		}
		s.out.release()
		if s.ended {
			err := s.err
			s.mu.Unlock()
			if err != nil {
				return Message{}, err
			}
			return Message{}, io.EOF
		}
		s.waiting = true
		s.ranDry()
		s.awaited()
		id, credit := s.report()
		s.mu.Unlock()
		s.c.creditStream(id, credit)
		s.flushHeld()
		<-s.arrived
	}
}

// report is the receiver's grant, with what it has received. What it receives from then on
// and what is kept here are no more than owing together until it reports again. mu is held.
func (s *Stream) report() (id uint32, credit int64) {
	s.reported = s.received
	s.consume(s.received)
	credit = s.grant()
	if s.step = s.owing() - s.credit; s.ended {
		s.step = math.MaxInt64 // the stream has ended: the server needs no more window for it
	}
	return s.id, credit
}

// consume counts the bytes of messages up to offset as received by the program. mu is held.
func (s *Stream) consume(offset int64) {
	if offset > s.taken {
		s.credit += offset - s.taken
		s.taken = offset
	}
}

// owing is how much of the window is kept at most before it is given back: a quarter of it,
// and of a large one less, so that a server that is far away hears of it early. mu is held.
func (s *Stream) owing() int64 { return min(s.size/4, mostOwing) }

// grant returns what to give back to the server now; 0: nothing. mu is held.
func (s *Stream) grant() (credit int64) {
	if s.ended || s.credit < s.owing() {
		return 0
	}
	credit, s.credit = s.credit, 0
	s.window += credit
	return credit
}

// Header waits for the response headers. ok is false if the stream ended
// without any, or if ctx ended first.
func (s *Stream) Header(ctx context.Context) (md metadata.MD, ok bool) {
	if ready := s.headersReady(); ready != nil {
		s.flushHeld()
		select {
		case <-ready:
		case <-ctx.Done():
		}
	}
	return s.HeaderMD(), s.HasHeader()
}

// headersReady returns a channel that is closed when the headers have come or the stream has ended;
// nil if that is so. Most programs do not ask.
func (s *Stream) headersReady() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gotHeaders || s.ended {
		return nil
	}
	if s.headers == nil {
		s.headers = make(chan struct{})
	}
	return s.headers
}

// Finished is closed when the stream has ended; not for a unary stream.
func (s *Stream) Finished() <-chan struct{} { return s.end }

// The following are for a stream that has ended: Unary has returned, Recv has
// returned an error, or Finished is closed. Those about headers may be used as soon as
// headers have come.

// Err is how the stream ended; nil for status OK.
func (s *Stream) Err() *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// HeaderMD returns the response headers in a map of the caller's own; nil if
// none came.
func (s *Stream) HeaderMD() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gotHeaders {
		return nil
	}
	return toMD(s.header)
}

// Trailer returns the trailers, or the only headers of a response that has
// nothing else, in a map of the caller's own. It is never nil.
func (s *Stream) Trailer() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	return toMD(s.trailer)
}

// TrailerValues returns the values of a trailer; nil if there are none.
func (s *Stream) TrailerValues(key string) (values []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.trailer {
		if f.Name == key {
			values = append(values, f.Value)
		}
	}
	return values
}

// Conn returns the connection that the stream is on. That is another one than that asked if
// the request waited in a SlotQueue.
func (s *Stream) Conn() *Conn { return s.c }

// Queued returns how long the stream waited for the server's MAX_CONCURRENT_STREAMS
// before it was opened, and if it did, how many streams the server allowed.
func (s *Stream) Queued() (waited time.Duration, allowed uint32) { return s.queued, s.allowed }

// HasHeader reports whether response headers came that were not trailers.
func (s *Stream) HasHeader() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gotHeaders
}

// RecvEncoding is the response's grpc-encoding; empty for none.
func (s *Stream) RecvEncoding() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.encoding
}

// BytesReceived reports whether anything came from the server.
func (s *Stream) BytesReceived() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gotData
}

// Messages is how many messages came.
func (s *Stream) Messages() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages
}

// Message is the reply of a unary stream. Its bytes belong to the stream
// until Release.
func (s *Stream) Message() (m Message, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in.whole == 0 {
		return Message{}, false
	}
	return s.in.peek(), true
}

// WireLengths are the encoded sizes of the header blocks.
func (s *Stream) WireLengths() (outHeader, inHeader, inTrailer int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.outHeader), int(s.inHeader), int(s.inTrailer)
}

// Release gives a unary stream back. Nothing of it may be used after.
func (s *Stream) Release() {
	s.mu.Lock()
	s.in.release()
	s.header, s.trailer = emptied(s.header), emptied(s.trailer)
	s.messages, s.largest = 0, 0
	s.gotHeaders, s.gotData, s.ended = false, false, false
	s.body, s.notGRPC, s.httpErr, s.err = nil, nil, nil, nil
	s.encoding = ""
	s.informed, s.informedSize = 0, 0
	s.outHeader, s.inHeader, s.inTrailer = 0, 0, 0
	s.mu.Unlock()
	s.c.recycle(s)
}

func toMD(fields []hpack.HeaderField) metadata.MD {
	md := make(metadata.MD, len(fields))
	for _, f := range fields {
		md[f.Name] = append(md[f.Name], f.Value)
	}
	return md
}

// contextError is the end of a stream whose context has ended.
func contextError(ctx context.Context) *Error {
	return &Error{Status: status.FromContextError(ctx.Err()), Local: true, GivenUp: true}
}

func internal(msg string) *Error {
	return &Error{Status: status.New(codes.Internal, msg), Local: true}
}
