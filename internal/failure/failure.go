// Package failure says what went wrong while a connection was made: the phase,
// the cause, whether it can heal by itself, and what to do about it.
package failure

import (
	"time"
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
	Health  Phase = "health"  // the health service's verdict on a connection that was made
)

// Attempt is one failed attempt to make a connection to one address. It is
// not modified after it was returned.
type Attempt struct {
	Addr       string        // what was dialed, as it was dialed: "192.0.2.1:443", a host name that did not resolve, "unix:///run/x"
	ServerName string        // the authority the credentials were asked to check; empty when it is the same as Addr
	Proxy      string        // the proxy's URL without credentials, if one was used
	Phase      Phase         // where it ended
	Start      time.Time     // when the attempt for this address began
	Elapsed    time.Duration // from Start to the failure
	Err        error         // the cause
	Hint       string        // what it means and what to do, when the table knows; else empty
	Permanent  bool          // will not heal by itself
}

// Error is one line: what was tried, where and when it ended, the cause, the hint.
func (a *Attempt) Error() string { return a.Addr + ": " + string(a.Phase) + ": " + a.Err.Error() }

// Unwrap returns the cause.
func (a *Attempt) Unwrap() error { return a.Err }

// List is the failed attempts of one host name, one for each of its addresses
// that was tried, oldest first. It is an error that holds all of them.
type List []*Attempt

// Error joins the attempts' lines.
func (l List) Error() string {
	s := ""
	for i, a := range l {
		if i > 0 {
			s += "; "
		}
		s += a.Error()
	}
	return s
}

// Unwrap returns the attempts.
func (l List) Unwrap() []error {
	errs := make([]error, len(l))
	for i, a := range l {
		errs[i] = a
	}
	return errs
}

// Classify says whether err, which ended an attempt in phase, will not heal by
// itself, and what it means and what to do. The hint is empty for what the
// table does not know.
func Classify(phase Phase, err error) (permanent bool, hint string) { return false, "" }
