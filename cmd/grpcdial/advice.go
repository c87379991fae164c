package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"slices"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/errno"
)

// What servers say that want a client certificate and got none (RFC 8446 §6): the
// first, or one of the others in TLS 1.2.
const (
	alertCertificateRequired tls.AlertError = 116
	alertHandshakeFailure    tls.AlertError = 40
	alertBadCertificate      tls.AlertError = 42
)

// advice translates the attempts' hints, which speak of the library, into flags of
// this command.
func advice(c *commandLine, err error) (all []string) {
	for _, a := range attempts(err) {
		if text := adviceFor(c, a); text != "" && !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

func adviceFor(c *commandLine, a grpcdial.Attempt) string {
	var alert tls.AlertError
	var notTLS tls.RecordHeaderError
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	switch {
	case c.plaintext && a.Phase == grpcdial.PhaseHTTP2 && startsTLS(a.Err):
		return "without --plaintext: the server speaks TLS"
	case c.plaintext && a.Phase == grpcdial.PhaseHTTP2 && (errors.Is(a.Err, io.EOF) || errno.IsEnded(a.Err)):
		return "without --plaintext: servers that expect TLS end such a connection without a word"
	case errors.As(a.Err, &notTLS) && startsHTTP2(notTLS.RecordHeader):
		return "--plaintext: the server speaks HTTP/2 without TLS"
	case errors.As(a.Err, &name):
		return "--authority NAME, with a name that the certificate has"
	case errors.As(a.Err, &authority):
		return "--cacert FILE, with the authority that signed the server's certificate, or --insecure to look at the server without verifying it"
	case c.cert == "" && errors.As(a.Err, &alert) && alert == alertCertificateRequired:
		return "--cert FILE --key FILE: the server requires a client certificate"
	case c.cert == "" && errors.As(a.Err, &alert) && (alert == alertHandshakeFailure || alert == alertBadCertificate):
		return "--cert FILE --key FILE: the server may require a client certificate"
	case c.cert == "" && !c.plaintext && a.Phase == grpcdial.PhaseHTTP2 && errors.Is(a.Err, io.EOF):
		return "--cert FILE --key FILE, if the server requires a client certificate"
	default:
		return ""
	}
}

// startsHTTP2 reports whether what came in the place of a TLS record is the beginning
// of a SETTINGS or GOAWAY frame (RFC 9113 §4.1).
func startsHTTP2(header [5]byte) bool {
	const settings, goAway = 4, 7
	return header[0] == 0 && (header[3] == settings || header[3] == goAway)
}

// startsTLS reports whether the server's answer, as far as err has it, is a TLS
// record: an alert or a handshake message of TLS 1.x (RFC 8446 §5.1).
func startsTLS(err error) bool {
	var answer interface {
		error
		FirstBytes() []byte
	}
	if !errors.As(err, &answer) {
		return false
	}
	b := answer.FirstBytes()
	return len(b) >= 2 && (b[0] == 21 || b[0] == 22) && b[1] == 3
}
