package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/grpcdial/grpcdial/internal/errno"
)

// Hint is what the failure means and what to do about it, on one line; empty if
// that is not known.
func (e *Error) Hint() string {
	if errors.Is(e.Err, context.Canceled) {
		return ""
	}
	switch e.Step {
	case StepResolve:
		return `socks5 looks names up on this side: is "socks5h" meant, for the proxy to do it?`
	case StepDial:
		return "this is about the proxy, not the target: is its address right, is it running?"
	case StepTLS:
		return tlsHint(e.Err)
	case StepHandshake:
		switch {
		case e.StatusCode == 0:
			return e.silenceHint()
		case e.isSOCKS():
			return socksHint(e.StatusCode)
		default:
			return e.statusHint()
		}
	default:
		return ""
	}
}

// Permanent reports whether another try would end the same way until a configuration is
// changed: this side's, or the proxy's.
func (e *Error) Permanent() bool {
	switch e.Step {
	case StepChoose:
		return errors.Is(e.Err, errUnusable) // the environment was read once
	case StepURL:
		return true
	case StepTLS:
		return isAny[*tls.CertificateVerificationError](e.Err) || isAny[tls.RecordHeaderError](e.Err)
	case StepHandshake:
		switch {
		case e.StatusCode == 0:
			return isAny[*unexpectedError](e.Err) || errors.Is(e.Err, errAuthMethods) || errors.Is(e.Err, errAuthRefused)
		case e.isSOCKS():
			return slices.Contains([]int{socksNotAllowed, socksNoCommand, socksNoAddressType}, e.StatusCode)
		default:
			return slices.Contains([]int{
				http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
				http.StatusMethodNotAllowed, http.StatusProxyAuthRequired, http.StatusNotImplemented,
			}, e.StatusCode)
		}
	default:
		return false
	}
}

func (e *Error) isSOCKS() bool { return strings.HasPrefix(e.Proxy, "socks") }

func isAny[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// statusHint reads the answer to a CONNECT.
func (e *Error) statusHint() string {
	switch e.StatusCode {
	case http.StatusProxyAuthRequired:
		switch {
		case len(e.Challenges) > 0 && !slices.ContainsFunc(e.Challenges, isBasic):
			return fmt.Sprintf("the proxy wants the authentication %s, and only Basic is spoken here", strings.Join(e.Challenges, " or "))
		case e.Authenticated:
			return "the proxy refused the user name or the password in its URL"
		default:
			return `the proxy wants a user name and a password: put "user:password@" before the host in its URL`
		}
	case http.StatusForbidden:
		return "the proxy does not connect to this target: its rules may know some ports or hosts only; NO_PROXY lists what to dial directly"
	case http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return "this may be a web server, or a proxy that is not set up for CONNECT: is its address right?"
	case http.StatusBadRequest:
		return "the proxy did not understand CONNECT: is its address right, does it expect https?"
	case http.StatusTooManyRequests:
		return "the proxy limits how much it is asked"
	case http.StatusBadGateway:
		return "the proxy did not reach the target: is it running, does the proxy know its name?"
	case http.StatusServiceUnavailable:
		return "the proxy did not reach the target, or has no room for more connections"
	case http.StatusGatewayTimeout:
		return "the target did not answer the proxy in time: it may be down, or a firewall is between them"
	}
	if e.StatusCode >= 300 && e.StatusCode < 400 {
		return "the proxy sends to a web page: it may want a login in a browser first"
	}
	return ""
}

func isBasic(scheme string) bool { return strings.EqualFold(scheme, "Basic") }

// socksHint reads a reply of RFC 1928 §6.
func socksHint(reply int) string {
	switch reply {
	case socksNotAllowed:
		return "the proxy's rules do not allow this target; NO_PROXY lists what to dial directly"
	case socksNetUnreachable, socksHostUnreachable, socksTTLExpired:
		return "the proxy did not reach the target: is it running, does the proxy know its name?"
	case socksRefused:
		return "the proxy reached the target's host and nothing listens there: is the server running, is the port right?"
	case socksNoAddressType:
		return "the proxy does not take this kind of address: socks5 sends IP addresses, socks5h names"
	default:
		return ""
	}
}

// silenceHint is for a handshake that came to no answer.
func (e *Error) silenceHint() string {
	var unexpected *unexpectedError
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.As(e.Err, &unexpected):
		return unexpected.hint(e.isSOCKS())
	case errors.Is(e.Err, errAuthMethods) && e.Authenticated:
		return "the proxy does not take a user name and a password, which is all that is spoken here"
	case errors.Is(e.Err, errAuthMethods):
		return `the proxy wants a user name and a password, or another method that is not spoken here: put "user:password@" before the host in its URL`
	case errors.Is(e.Err, errAuthRefused):
		return "check the user name and the password in the proxy's URL"
	case errors.As(e.Err, &op) && op.Op == "remote error":
		return "the proxy ended TLS: it may require a client certificate, which WithProxyTLSConfig sets" // RFC 8446 §4.4.2: it says so after our handshake
	case errors.Is(e.Err, context.DeadlineExceeded), errors.As(e.Err, &timeout) && timeout.Timeout():
		return "the proxy took the connection and did not answer in time: it may not reach the target, or speak another protocol than " + e.protocol()
	case errors.Is(e.Err, io.EOF), errors.Is(e.Err, io.ErrUnexpectedEOF), errno.IsEnded(e.Err):
		return "the proxy closed the connection without an answer: it may speak another protocol than " + e.protocol()
	default:
		return ""
	}
}

// protocol is the scheme of the proxy's URL.
func (e *Error) protocol() string {
	scheme, _, _ := strings.Cut(e.Proxy, ":")
	return scheme
}

// hint identifies the peer's protocol by its first bytes.
func (e *unexpectedError) hint(socks bool) string {
	switch {
	case len(e.first) > 1 && e.first[0] >= 20 && e.first[0] <= 23 && e.first[1] == 3: // a TLS record, RFC 8446 §5.1
		return `the proxy speaks TLS: its URL begins with "https://"`
	case socks && bytes.HasPrefix(e.first, []byte("HT")):
		return `the proxy speaks HTTP: its URL begins with "http://"`
	case !socks && bytes.HasPrefix(e.first, []byte{5}), !socks && bytes.HasPrefix(e.first, []byte{0, 0x5b}):
		return `the proxy speaks SOCKS: the URL of one for SOCKS 5 begins with "socks5://" or "socks5h://"`
	default:
		return "is this the proxy's port?"
	}
}

// tlsHint reads why there is no TLS with the proxy.
func tlsHint(err error) string {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		return `the proxy does not speak TLS: its URL begins with "http://", if its network may see the credentials`
	case errors.As(err, &authority):
		return "the proxy's certificate is signed by an authority that is not trusted here: add it to RootCAs in WithProxyTLSConfig, or to this system's roots"
	case errors.As(err, &name):
		return fmt.Sprintf("the proxy's certificate is not for %q: its URL has to have a name that the certificate has", name.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the proxy's certificate is outside its dates: renew it, or set this machine's clock"
	case errors.Is(err, context.DeadlineExceeded):
		return "the proxy did not finish the TLS handshake in time: it may not speak TLS"
	case errors.Is(err, io.EOF), errno.IsEnded(err):
		return "the proxy closed the connection in the TLS handshake: it may not speak TLS"
	default:
		return ""
	}
}
