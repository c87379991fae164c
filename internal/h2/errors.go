package h2

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/errno"
	"github.com/grpcdial/grpcdial/internal/text"
)

var (
	errEOF = io.EOF

	// ErrClosed is the cause of a connection that this side closed without
	// giving another.
	ErrClosed = errors.New("connection closed")
	// ErrStreamIDs is the cause of a connection that is drained because its
	// stream ids are used up (RFC 9113 section 5.1.1).
	ErrStreamIDs = errors.New("the connection's stream ids are used up")
	// ErrKeepalive is the cause of a connection whose peer did not answer a
	// keepalive PING in time (gRFC A8).
	ErrKeepalive = errors.New("keepalive: the peer did not answer a PING in time")
)

// Error is how a stream ended, if not with status OK.
type Error struct {
	Status *status.Status
	// Unsent: the request never left this side whole. It may be sent again, any
	// number of times.
	Unsent bool
	// Unprocessed: the server said that it did not process the request
	// (REFUSED_STREAM, or an id above GOAWAY's). It may be sent again.
	Unprocessed bool
	// Serving, with Unprocessed: the server serves others. The connection that GOAWAY ends
	// has served some, or will serve those that run; the server that refused this request
	// has taken one that was sent before it, and still runs. RPCs that are Aside do not
	// count.
	Serving bool
	// Local: made by this side (cancellation, deadline, a limit), not by the
	// server or the loss of the connection.
	Local bool
	// GivenUp: the program ended the stream, by its context, by Cancel, or by closing
	// the connection with a status. Local is set too.
	GivenUp bool
	// Cause is why the connection ended, if that was the reason.
	Cause error
	// Stage is how far the request was when this side ended the stream.
	Stage Stage
	// Queued is how long a request without a stream had waited for a slot, and Allowed how
	// many streams the server allowed then (MAX_CONCURRENT_STREAMS); 0 if it did not wait.
	Queued  time.Duration
	Allowed uint32
	// Conn is the connection that did not take the request, if that was not open any more.
	Conn *Conn

	elsewhere *Conn // has a slot for the request, which goes there; never seen outside
}

// Stage is how far a request has come.
type Stage uint8

const (
	// StageSent: the server has all that the application gave, or it is on its way.
	StageSent Stage = iota
	// StageSlot: it waits for one of the streams that the server allows
	// (MAX_CONCURRENT_STREAMS).
	StageSlot
	// StageSend: it waits for the server to take more (flow control), or for the
	// network to.
	StageSend
	// StageUnopened: it was over before a stream was asked for, and nothing was sent.
	StageUnopened
)

func (e *Error) Error() string              { return e.Status.Message() }
func (e *Error) Unwrap() error              { return e.Cause }
func (e *Error) GRPCStatus() *status.Status { return e.Status }

// ConnError is a violation of HTTP/2 by the peer that ends the connection. It
// unwraps to the http2.ConnectionError that is sent in our GOAWAY.
type ConnError struct {
	Code   http2.ErrCode
	Reason string
}

func (e *ConnError) Error() string { return fmt.Sprintf("HTTP/2 %v: %s", e.Code, e.Reason) }

// Unwrap returns the code as an http2.ConnectionError.
func (e *ConnError) Unwrap() error { return http2.ConnectionError(e.Code) }

func connErrorf(code http2.ErrCode, format string, args ...any) *ConnError {
	return &ConnError{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// PrefaceError says that the server's first frame was not SETTINGS (RFC 9113
// section 3.4).
type PrefaceError struct {
	// First holds the first bytes the server sent, at most 1 KiB; empty if
	// none came.
	First []byte
	// Err is why no more came (io.EOF, a network error, the context's error), the
	// http2.GoAwayError that came instead, or nil.
	Err error
}

func (e *PrefaceError) Error() string {
	const shown = 64
	first := e.First[:min(len(e.First), shown)]
	goAway := errors.As(e.Err, new(http2.GoAwayError))
	switch {
	case len(e.First) == 0 && e.Err == io.EOF:
		return "the server closed the connection without a word"
	case len(e.First) == 0 && e.Err != nil:
		return fmt.Sprintf("no HTTP/2 SETTINGS from the server: %v", e.Err)
	case goAway:
		return fmt.Sprintf("want HTTP/2 SETTINGS from the server: %v", e.Err)
	case e.Err == nil:
		return fmt.Sprintf("want HTTP/2 SETTINGS from the server, got %q", first)
	case e.Err == io.EOF:
		return fmt.Sprintf("want HTTP/2 SETTINGS from the server, got %q and the end of the connection", first)
	}
	return fmt.Sprintf("want HTTP/2 SETTINGS from the server, got %q, then: %v", first, e.Err)
}

func (e *PrefaceError) Unwrap() error { return e.Err }

// FirstBytes returns First.
func (e *PrefaceError) FirstBytes() []byte { return e.First }

// goAwayError is a GOAWAY of the server's as the cause of what it ended.
type goAwayError struct {
	http2.GoAwayError
	public error // what Config.GoAway made of it; nil: nothing
}

// publish makes the public form. The error does not change after it.
func (e *goAwayError) publish(cfg *Config) {
	if cfg.GoAway != nil {
		e.public = cfg.GoAway(uint32(e.ErrCode), e.DebugData, e.LastStreamID)
	}
}

// Unwrap returns the two forms of it.
func (e *goAwayError) Unwrap() []error {
	if e.public == nil {
		return []error{e.GoAwayError}
	}
	return []error{e.GoAwayError, e.public}
}

// IsOrderly reports whether err is a GOAWAY without an error: servers end connections so
// that are idle or old, or when they restart.
func IsOrderly(err error) bool {
	g, ok := errors.AsType[http2.GoAwayError](err)
	return ok && g.ErrCode == http2.ErrCodeNo
}

// UnreadError says that the server sent its SETTINGS and did not read this side's.
type UnreadError struct {
	// Err is the end of the wait for it: a network error, the context's error.
	Err error
}

func (e *UnreadError) Error() string {
	return fmt.Sprintf("the server sent its SETTINGS and does not read ours: %v", e.Err)
}

func (e *UnreadError) Unwrap() error { return e.Err }

// Unread reports true, for package failure.
func (e *UnreadError) Unread() bool { return true }

// errEndless ends the wait for a server that goes on sending.
var errEndless = errors.New("it goes on sending")

// lost is the end of a stream whose connection ended with cause.
func (c *Conn) lost(cause error) *Error {
	why := text.Of(cause)
	switch {
	case cause == io.EOF:
		if why = "the server closed it"; c.cutShort.Load() {
			why += " in the middle of a frame"
		}
	case errno.IsTimedOut(cause):
		why += "; nothing was acknowledged"
		if c.ka.bounded {
			why += fmt.Sprintf(" for %v, keepalive's time-out", c.cfg.KeepaliveTimeout)
		}
		why += ": the peer may be down, or packets are lost on the way"
	}
	return &Error{Status: status.Newf(codes.Unavailable, "connection to %s lost: %s", text.Target(fmt.Sprint(c.peer.Addr)), why), Cause: cause}
}

// quoted is what the peer sent, or its beginning, as a message of ours shows it.
func quoted(s string) string {
	const most = 200 // bytes
	return strconv.Quote(text.Cut(s, most))
}

// statusOfReset maps an RST_STREAM code as gRPC's PROTOCOL-HTTP2 document says.
func statusOfReset(code http2.ErrCode) codes.Code {
	switch code {
	case http2.ErrCodeRefusedStream:
		return codes.Unavailable
	case http2.ErrCodeCancel:
		return codes.Canceled
	case http2.ErrCodeEnhanceYourCalm, http2.ErrCodeFlowControl:
		return codes.ResourceExhausted
	case http2.ErrCodeInadequateSecurity:
		return codes.PermissionDenied
	case http2.ErrCodeNo, http2.ErrCodeProtocol, http2.ErrCodeInternal, http2.ErrCodeSettingsTimeout,
		http2.ErrCodeStreamClosed, http2.ErrCodeFrameSize, http2.ErrCodeCompression,
		http2.ErrCodeConnect, http2.ErrCodeHTTP11Required:
		return codes.Internal
	}
	return codes.Unknown
}
