package proxy

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/grpcdial/grpcdial/internal/text"
)

// Step is how far a connection through a proxy came.
type Step string

// The steps, in their order.
const (
	StepChoose    Step = "choose"    // which proxy the target takes: the Func failed
	StepURL       Step = "url"       // the proxy's URL or the target is of no use: nothing was dialed
	StepResolve   Step = "resolve"   // the target's name, for socks5
	StepDial      Step = "dial"      // the network connection to the proxy
	StepTLS       Step = "tls"       // TLS with the proxy
	StepHandshake Step = "handshake" // CONNECT, or SOCKS 5
)

// maxBody is how much of a refusal's body an Error keeps, in bytes.
const maxBody = 1024

// Error says why there is no connection through a proxy. It holds no
// credentials: those that were sent to the proxy are masked in what it answered, and in
// the cause's text. It is not modified after it was returned.
type Error struct {
	Proxy  string // the proxy's URL without credentials; empty if none was chosen
	Target string // "host:port" as Connect was given it; empty from Address
	Step   Step

	// The proxy's answer, if it came to one that is a refusal. StatusCode is
	// HTTP's, or for socks5 and socks5h the reply of RFC 1928 §6; 0 is no answer.
	// Status is its text, "407 Proxy Authentication Required" for instance.
	StatusCode int
	Status     string

	// Challenges are the schemes in which an HTTP proxy would be authenticated to
	// (RFC 9110 §11.7.1), "Basic" for instance.
	Challenges []string

	// Authenticated says that a user name was sent.
	Authenticated bool

	Body string // of an HTTP answer: at most 1 KiB, without bytes that are no text
	Err  error  // the cause, or why an answer was cut; nil if the answer says all
}

// Error is one line that names the proxy, the target and the reason.
func (e *Error) Error() string {
	if e.Step == StepChoose {
		return fmt.Sprintf("the choice of a proxy for %q: %s", text.Target(e.Target), e.Reason())
	}
	if e.Target == "" {
		return fmt.Sprintf("proxy %q: %s", text.Target(e.Proxy), e.Reason())
	}
	return fmt.Sprintf("proxy %q for %q: %s", text.Target(e.Proxy), text.Target(e.Target), e.Reason())
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reason is the line of Error without the proxy and the target, for callers
// that have named them.
func (e *Error) Reason() string {
	switch {
	case e.StatusCode != 0:
		line := fmt.Sprintf("it answered %q", text.Cut(printable(e.Status), maxStatus))
		if body := e.bodyText(); body != "" {
			line += fmt.Sprintf(" and %q", body)
		}
		return line
	case e.Err == nil:
		return "it failed"
	}
	line := text.Cut(text.Of(e.Err), maxCause)
	switch e.Step {
	case StepResolve:
		return "the target's name: " + line
	case StepDial:
		return "the proxy was not reached: " + line
	case StepTLS:
		return "TLS with it: " + line
	default:
		return line
	}
}

// Bounds of what goes into a line, in bytes.
const (
	maxCause    = 500
	maxStatus   = 100
	maxBodyText = 200
	maxQuoted   = 40
)

// bodyText is the beginning of the body, if it is meant to be read: a page of markup is
// left out.
func (e *Error) bodyText() string {
	body := printable(e.Body)
	if strings.HasPrefix(body, "<") {
		return ""
	}
	return text.Cut(body, maxBodyText)
}

// printable is s on one line, without bytes that are no text.
func printable(s string) string { return text.Line(onlyText(s)) }

func onlyText(s string) string {
	return strings.ReplaceAll(text.Clean(s), string(utf8.RuneError), "")
}

// unexpectedError is an answer that is none in the protocol spoken.
type unexpectedError struct {
	want  string // what was due
	first []byte // what came: its first bytes
}

func (e *unexpectedError) Error() string {
	first := e.first
	more := ""
	if len(first) > maxQuoted {
		first, more = first[:maxQuoted], "..."
	}
	return fmt.Sprintf("it sent %q%s, which is no %s", first, more, e.want)
}
