// Package failure says what went wrong while a connection was made: the phase,
// the cause, whether it can heal by itself, and what to do about it.
package failure

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/grpcdial/grpcdial/internal/text"
)

// Phase is a named step of making one connection. The values are those of the
// root package's Phase.
type Phase string

// The phases, in the order in which a connection goes through them.
const (
	Resolve Phase = "resolve" // a host name to addresses
	Dial    Phase = "dial"    // the network connection
	Proxy   Phase = "proxy"   // the proxy's handshake
	TLS     Phase = "tls"     // the transport credentials' handshake, whatever they are
	HTTP2   Phase = "http2"   // the HTTP/2 preface and the server's SETTINGS
	Check   Phase = "check"   // the program's check of the connection
	Health  Phase = "health"  // the health service's verdict on a connection that was made
)

// Attempt is one failed attempt to make a connection to one address. It is
// not modified after it was returned. Its texts are fit to leave the library, see
// package text; errors.As finds in Err what failed, untouched.
type Attempt struct {
	ID         uint64        // of the attempt in its channel, from 1; 0 for what is none of its attempts
	Addr       string        // what was dialed: "192.0.2.1:443", "unix:///run/x", or a host name that did not resolve
	ServerName string        // the name the credentials were asked to check
	Proxy      string        // the proxy's URL without credentials, if one was used
	Phase      Phase         // where it ended
	Start      time.Time     // when the attempt for this address began
	Elapsed    time.Duration // from Start to the failure
	Err        error         // the cause
	Hint       string        // what it means and what to do, when the table knows; else empty
	Permanent  bool          // will not heal by itself
}

// New is the attempt that began at start and ends now, in phase, because of
// err. Permanent and Hint are those that the table has for err.
func New(addr, serverName string, start time.Time, phase Phase, err error) *Attempt {
	permanent, hint := classify(phase, err)
	return &Attempt{
		Addr:       text.Target(addr),
		ServerName: text.Target(serverName),
		Phase:      phase,
		Start:      start,
		Elapsed:    time.Since(start),
		Err:        text.Error(err),
		Hint:       text.Cut(text.Line(hint), maxHint),
		Permanent:  permanent,
	}
}

// Error is one line: what was tried, where and when it ended, the cause, the
// hint.
func (a *Attempt) Error() string {
	var b strings.Builder
	a.writeWhat(&b)
	fmt.Fprintf(&b, ": %s failed after %v", a.Phase, text.Round(a.Elapsed))
	mark := ": "
	if cause := a.Cause(); cause != "" {
		b.WriteString(mark + cause)
		mark = "; "
	}
	if a.Hint != "" {
		b.WriteString(mark + text.Line(a.Hint))
	}
	return b.String()
}

// Unfinished is the line of an attempt that has not ended. Pending has the hints for it.
func (a *Attempt) Unfinished() string {
	var b strings.Builder
	a.writeWhat(&b)
	if a.Phase != "" {
		fmt.Fprintf(&b, ": %s", a.Phase)
	}
	fmt.Fprintf(&b, " not finished after %v", text.Round(a.Elapsed))
	if a.Hint != "" {
		b.WriteString(": " + text.Line(a.Hint))
	}
	return b.String()
}

// writeWhat writes what was tried.
func (a *Attempt) writeWhat(b *strings.Builder) {
	b.WriteString(text.Target(a.Addr))
	if a.Proxy != "" {
		b.WriteString(" via " + text.Target(a.Proxy))
	}
	if a.Phase == TLS && a.ServerName != "" && a.ServerName != a.Addr {
		fmt.Fprintf(b, " as %q", text.Target(withoutPort(a.ServerName)))
	}
}

// withoutPort is the part of an authority that a certificate is for.
func withoutPort(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		return host
	}
	return authority
}

// Unwrap returns the cause.
func (a *Attempt) Unwrap() error { return a.Err }

// Bounds of texts in a line, in bytes.
const (
	maxCause = 500
	maxHint  = 1000
)

// Cause is the text of Err on one line, without the address that the line
// already names; that of an error with a method Reason is what the method says.
// It is empty if the hint says it all.
func (a *Attempt) Cause() string {
	if a.Err == nil {
		return ""
	}
	whole := text.Of(a.Err)
	if a.Hint != "" && (strings.HasPrefix(a.Hint, whole) || !mayBeSettings(firstBytes(a.Err)) || a.tookTooLong()) {
		return ""
	}
	err := text.Original(a.Err)
	if own, ok := err.(interface{ Reason() string }); ok {
		return text.Cut(text.Line(own.Reason()), maxCause)
	}
	var op *net.OpError
	if errors.As(err, &op) && error(op) == err && op.Op == "dial" && op.Err != nil &&
		op.Addr != nil && strings.HasSuffix(a.Addr, op.Addr.String()) {
		whole = text.Of(op.Err)
	}
	return text.Cut(whole, maxCause)
}

// tookTooLong reports whether the cause is that the attempt's time was over, and
// nothing else. The line says how long it took; the words that package context has
// for it would be taken for the end of the caller's own context.
func (a *Attempt) tookTooLong() bool {
	if !errors.Is(a.Err, context.DeadlineExceeded) {
		return false
	}
	if a.Err.Error() == context.DeadlineExceeded.Error() {
		return true
	}
	var preface interface {
		error
		FirstBytes() []byte
	}
	return errors.As(a.Err, &preface)
}

// List is the failed attempts of one host name, one for each of its addresses
// that was tried, oldest first. It is an error that holds all of them.
type List []*Attempt

// maxLines is how many attempts a List prints; the rest is counted.
const maxLines = 8

// Error joins the attempts' lines.
func (l List) Error() string {
	if len(l) == 1 {
		return l[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d addresses failed", len(l))
	for i, a := range l {
		if i == maxLines {
			fmt.Fprintf(&b, " | and %d more", len(l)-i)
			break
		}
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString(" | ")
		}
		b.WriteString(a.Error())
	}
	return b.String()
}

// Unwrap returns the attempts.
func (l List) Unwrap() []error {
	errs := make([]error, len(l))
	for i, a := range l {
		errs[i] = a
	}
	return errs
}
