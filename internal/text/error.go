package text

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// Of returns the text of err on one line: as Line returns it, with the lines of a
// list of errors separated by " | ". An Error method that panics, as one of a nil
// pointer does, makes the text that package fmt has for it.
func Of(err error) string {
	s, _, _ := raw(err)
	return line(s)
}

// Error returns err with the text that Of returns: err itself if that is its text, and
// nil for nil. errors.Is and errors.As find in it what they find in err. It calls err's
// Error method, which may be the program's: not to be called with a lock held.
func Error(err error) error { return shown(err, nil) }

// Error returns err with every secret masked in its text, and else as the function
// Error does.
func (s *Secrets) Error(err error) error { return shown(err, s) }

// Original returns the error that Error was given.
func Original(err error) error {
	if e, ok := err.(*shownError); ok {
		return e.err
	}
	return err
}

func shown(err error, secrets *Secrets) error {
	if err == nil {
		return nil
	}
	s, said, ok := raw(err)
	if text := line(secrets.Mask(s)); !ok || text != said {
		return &shownError{Original(err), text}
	}
	return err
}

// raw is err's text, without a password in an address, and the text as the error said it;
// ok is false if its method Error panics.
func raw(err error) (s, said string, ok bool) {
	defer func() {
		if !ok && recover() != nil {
			s = fmt.Sprintf("%v", err)
		}
	}()
	said = err.Error()
	return withoutUserinfo(err, said), said, true
}

// withoutUserinfo returns s, which is err's text, with the user information masked in the
// address or name that package net complains of: it writes them without quotes, so that
// Redact could not find where a password with a space begins.
func withoutUserinfo(err error, s string) string {
	if strings.IndexByte(s, '@') < 0 {
		return s
	}
	var addr *net.AddrError
	if errors.As(err, &addr) && addr.Addr != "" {
		s = strings.ReplaceAll(s, addr.Addr, redactTarget(addr.Addr))
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.Name != "" {
		s = strings.ReplaceAll(s, dns.Name, redactTarget(dns.Name))
	}
	return s
}

func line(s string) string { return Line(strings.ReplaceAll(s, "\n\t", " | ")) }

// shownError is an error whose own text may not leave as it is.
type shownError struct {
	err  error
	text string
}

func (e *shownError) Error() string { return e.text }
func (e *shownError) Unwrap() error { return e.err }
