package failure

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/text"
)

// firstBytes returns what the server sent where its SETTINGS frame was due.
// internal/h2 makes the error; this package knows its method only.
func firstBytes(err error) []byte {
	var e interface {
		error
		FirstBytes() []byte
	}
	if errors.As(err, &e) {
		return e.FirstBytes()
	}
	return nil
}

// WithFirstBytes returns err, which ended a TLS handshake, together with what the
// server sent where its TLS record was due, if it sent something else.
func WithFirstBytes(err error, first []byte) error {
	var header tls.RecordHeaderError
	if len(first) == 0 || errors.As(err, &header) && len(first) < len(header.RecordHeader) {
		return err
	}
	return &firstBytesError{err, first}
}

// MapFirstBytes returns err with f of what the server sent in place of its answer, if it
// sent something.
func MapFirstBytes(err error, f func([]byte) []byte) error {
	first := firstBytes(err)
	if len(first) == 0 {
		return err
	}
	return &firstBytesError{err, f(first)}
}

type firstBytesError struct {
	error
	first []byte
}

func (e *firstBytesError) Unwrap() error      { return e.error }
func (e *firstBytesError) FirstBytes() []byte { return e.first }

// WithinTLS returns err, which came in the place of the server's SETTINGS on a
// connection that is secure, so that the table knows that the server speaks TLS.
func WithinTLS(err error) error { return &withinTLS{err} }

// IsWithinTLS reports whether err was given to WithinTLS.
func IsWithinTLS(err error) bool { return as[*withinTLS](err) }

type withinTLS struct{ error }

func (e *withinTLS) Unwrap() error { return e.error }

// tlsAlert is what the alert record at the beginning of b says; ok is false if
// there is none. It is not encrypted before a handshake (RFC 8446 §6).
func tlsAlert(b []byte) (alert tls.AlertError, ok bool) {
	const alertRecord, header = 21, 5
	if len(b) < header+2 || b[0] != alertRecord {
		return 0, false
	}
	return tls.AlertError(b[header+1]), true
}

// isTLSRecord says whether b begins as a record of TLS 1.0 to 1.3 does
// (RFC 8446 §5.1): a content type, and a version whose first byte is 3.
func isTLSRecord(b []byte) bool {
	return len(b) >= 2 && b[0] >= 20 && b[0] <= 23 && b[1] == 3 && (len(b) == 2 || b[2] <= 4)
}

func isHTTP1(b []byte) bool { return bytes.HasPrefix(b, []byte("HTTP/")) }

// wantsHTTPS says whether an HTTP/1 answer is one of those that servers give to
// clear text on a TLS port: net/http and nginx name HTTPS, Apache names SSL.
func wantsHTTPS(b []byte) bool {
	return isHTTP1(b) && (bytes.Contains(b, []byte("HTTPS")) || bytes.Contains(b, []byte("SSL-enabled")))
}

// isFrame says whether b begins as an HTTP/2 frame of type t on stream 0 does
// (RFC 9113 §4.1). Of a header that is not complete, what is there decides;
// the type must be.
func isFrame(b []byte, t http2.FrameType) bool {
	if len(b) < 4 || b[0] != 0 || b[3] != byte(t) {
		return false
	}
	for _, c := range b[min(5, len(b)):min(9, len(b))] {
		if c != 0 {
			return false
		}
	}
	return true
}

// mayBeSettings says whether b could be the beginning of a SETTINGS frame, so
// that it does not identify the protocol.
func mayBeSettings(b []byte) bool {
	if len(b) < 4 {
		return len(b) == 0 || b[0] == 0
	}
	return isFrame(b, http2.FrameSettings)
}

// goAway describes a GOAWAY frame (RFC 9113 §6.8).
func goAway(b []byte) string {
	const header, fixed = 9, 8
	if len(b) < header+fixed {
		return "GOAWAY"
	}
	code := http2.ErrCode(binary.BigEndian.Uint32(b[header+4:]))
	length := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	debug := b[header+fixed : max(header+fixed, min(len(b), header+length))]
	if len(debug) == 0 {
		return fmt.Sprintf("GOAWAY %v", code)
	}
	return fmt.Sprintf("GOAWAY %v %s", code, quoted(debug))
}

// statusLine is the first line of an HTTP/1 answer.
func statusLine(b []byte) string {
	line, _, _ := strings.Cut(string(b), "\n")
	return text.Cut(text.Line(line), 80)
}

// quoted shows the beginning of b.
func quoted(b []byte) string {
	const most = 40
	if len(b) > most {
		return fmt.Sprintf("%q...", b[:most])
	}
	return fmt.Sprintf("%q", b)
}
