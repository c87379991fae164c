package proxy

import (
	"fmt"
	"strings"
	"unicode"
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
// credentials. It is not modified after it was returned.
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

	Body string // of an HTTP answer: at most 1 KiB, as it came
	Err  error  // the cause, or why an answer was cut; nil if the answer says all
}

// Error is one line that names the proxy, the target and the reason.
func (e *Error) Error() string {
	if e.Step == StepChoose {
		return fmt.Sprintf("the choice of a proxy for %q: %s", e.Target, e.Reason())
	}
	if e.Target == "" {
		return fmt.Sprintf("proxy %q: %s", e.Proxy, e.Reason())
	}
	return fmt.Sprintf("proxy %q for %q: %s", e.Proxy, e.Target, e.Reason())
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reason is the line of Error without the proxy and the target, for callers
// that have named them.
func (e *Error) Reason() string {
	switch {
	case e.StatusCode != 0:
		text := fmt.Sprintf("it answered %q", cut(e.Status, maxStatus))
		if body := e.bodyText(); body != "" {
			text += fmt.Sprintf(" and %q", body)
		}
		return text
	case e.Err == nil:
		return "it failed"
	}
	text := cut(oneLine(e.Err.Error()), maxCause)
	switch e.Step {
	case StepResolve:
		return "the target's name: " + text
	case StepDial:
		return "the proxy was not reached: " + text
	case StepTLS:
		return "TLS with it: " + text
	default:
		return text
	}
}

// Bounds of what goes into a line, in bytes.
const (
	maxCause    = 500
	maxStatus   = 100
	maxBodyText = 200
	maxQuoted   = 40
)

// bodyText is the beginning of the body as far as it is made for reading: a page of
// markup is left out, and so is what is no text.
func (e *Error) bodyText() string {
	text := oneLine(readable(e.Body))
	if strings.HasPrefix(text, "<") {
		return ""
	}
	return cut(text, maxBodyText)
}

// readable is s up to the first character that is neither printed nor space. What
// is not UTF-8 in it is replaced: it may be text in another encoding.
func readable(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) && !unicode.IsSpace(r) })
	if end >= 0 {
		s = s[:end]
	}
	return strings.ToValidUTF8(s, "?")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// cut shortens s to about n bytes, at the boundary of a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
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
