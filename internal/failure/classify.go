package failure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/errno"
	"github.com/grpcdial/grpcdial/internal/text"
)

// ErrInsecure is the cause of an attempt whose connection is less secure than
// the credentials of the channel's RPCs demand.
var ErrInsecure = errors.New("per-RPC credentials require transport security, which the connection's credentials do not give")

// classify says whether err, which ended an attempt in phase, will not heal by
// itself, and what it means and what to do. The hint is empty for what the
// table does not know. It is a function of its arguments but for the hint about
// a certificate's dates, which asks the clock.
//
// An error that has the methods Permanent and Hint, as those of a proxy do, says
// it itself. So does that of a check, which may be about anything: see lasting.
func classify(phase Phase, err error) (permanent bool, hint string) {
	if phase == Check {
		if timeout(err) {
			hint = "the check did not pass in time: the server accepts connections and may be overloaded"
		}
		return lasting(err), hint
	}
	var own interface {
		Permanent() bool
		Hint() string
	}
	if errors.As(err, &own) {
		return own.Permanent(), own.Hint()
	}
	if row := find(phase, err); row != nil {
		return row.permanent, row.hint(err)
	}
	return false, ""
}

// lasting reports whether err, or an error in its chain, says that it will not heal: by a
// method Temporary that returns false. Those of package net do not count: a connection
// that was reset is not temporary there, and nothing that speaks against the next one.
func lasting(err error) bool {
	if err == nil {
		return false
	}
	if _, ok := err.(net.Error); ok {
		return false
	}
	if own, ok := err.(interface{ Temporary() bool }); ok && !own.Temporary() {
		return true
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return lasting(e.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), lasting)
	}
	return false
}

// find returns the first row of the table that applies.
func find(phase Phase, err error) *row {
	if err == nil {
		return nil
	}
	for i := range table {
		if row := &table[i]; (row.phase == every || row.phase == phase) && row.match(err) {
			return row
		}
	}
	return nil
}

// every stands for all phases.
const every Phase = ""

// A row is one kind of failure. Permanent is what waiting does not mend: the
// two sides disagree about the protocol or about their identities. A server that
// is not there, not reachable, slow or broken may be better the next time, and
// a reset or a silent end may come from a server that is restarting.
type row struct {
	name      string
	phase     Phase
	match     func(error) bool
	permanent bool
	hint      func(error) string
}

const (
	permanent = true
	transient = false
)

// table has all the rules; the first row that matches holds. Rows about the server's
// answer come before those about the end of the connection, and types before kinds.
var table = []row{
	// What came where the server's SETTINGS were due.
	{"tls server", HTTP2, bytesThat(isTLSRecord), permanent, func(err error) string {
		if alert, ok := tlsAlert(firstBytes(err)); ok {
			return fmt.Sprintf("the server speaks TLS, it sent the alert %q: dial with transport credentials", strings.TrimPrefix(alert.Error(), "tls: "))
		}
		return "the server speaks TLS: dial with transport credentials"
	}},
	{"https server", HTTP2, bytesThat(wantsHTTPS), permanent, func(err error) string {
		return fmt.Sprintf("the server answered %q and asks for HTTPS: it speaks TLS, dial with transport credentials", statusLine(firstBytes(err)))
	}},
	{"http/1 server", HTTP2, bytesThat(isHTTP1), permanent, func(err error) string {
		return fmt.Sprintf("the server answered %q: it, or a proxy before it, does not speak HTTP/2 here; is this the gRPC port?", statusLine(firstBytes(err)))
	}},
	{"goaway", HTTP2, bytesThat(func(b []byte) bool { return isFrame(b, http2.FrameGoAway) }), transient, func(err error) string {
		return fmt.Sprintf("the server turned the connection away with %s: it may be shutting down", goAway(firstBytes(err)))
	}},
	{"other bytes", HTTP2, bytesThat(func([]byte) bool { return true }), permanent, func(err error) string {
		return fmt.Sprintf("the server sent %s, which is not HTTP/2: is this the gRPC port?", quoted(firstBytes(err)))
	}},

	{"http/2 violation", HTTP2, as[http2.ConnectionError], permanent,
		say("the server, or a proxy before it, breaks the rules of HTTP/2: is this the gRPC port?")},

	{"canceled", every, is(context.Canceled), transient, say("")},
	{"insecure", TLS, is(ErrInsecure), permanent,
		say("use TLS, or credentials that do not require it")},

	// The server's certificate.
	{"unknown authority", TLS, as[x509.UnknownAuthorityError], permanent, unknownAuthority},
	{"host name", TLS, as[x509.HostnameError], permanent, hostName},
	{"certificate dates", TLS, func(err error) bool {
		var e x509.CertificateInvalidError
		return errors.As(err, &e) && e.Reason == x509.Expired
	}, permanent, dates},
	{"certificate invalid", TLS, as[x509.CertificateInvalidError], permanent,
		say("the server's certificate, or one of those that signed it, is not valid for this use; reissue it")},
	{"no roots", TLS, as[x509.SystemRootsError], permanent,
		say("this system has no usable root certificates: install them, or set RootCAs in the TLS configuration")},
	{"certificate", TLS, as[*tls.CertificateVerificationError], permanent,
		say("the server's certificate was not accepted")},

	// What the server said in TLS.
	{"certificate required", TLS, alert(alertCertificateRequired), permanent,
		say("the server requires a client certificate: set Certificates in the TLS configuration")},
	{"client certificate", TLS, alert(alertBadCertificate, alertUnsupportedCertificate, alertCertificateRevoked, alertCertificateExpired, alertCertificateUnknown), permanent,
		say("the server does not accept our client certificate, or got none and requires one: check Certificates in the TLS configuration")},
	{"unknown ca", TLS, alert(alertUnknownCA), permanent,
		say("the server does not trust the authority that signed our client certificate")},
	{"access denied", TLS, alert(alertAccessDenied), permanent,
		say("the server accepted the client certificate but denied access")},
	{"handshake failure", TLS, alert(alertHandshakeFailure, alertInsufficientSecurity), permanent,
		say("client and server have no cipher suite, curve or signature in common, or the server requires a client certificate")},
	{"protocol version", TLS, alert(alertProtocolVersion), permanent,
		say("client and server have no TLS version in common: gRPC needs 1.2 or later")},
	{"unrecognized name", TLS, alert(alertUnrecognizedName), permanent,
		say("the server has no certificate for the name asked for: check the authority")},
	{"no application protocol", TLS, alert(alertNoApplicationProtocol), permanent,
		say("the server does not offer h2 by ALPN: is this the gRPC port?")},
	{"internal error", TLS, alert(alertInternalError), transient,
		say("the server's TLS failed on its side: its log may say more, it may lack a certificate for this name")},

	// What the server said that is not TLS.
	{"plaintext http/2 server", TLS, recordThat(func(b []byte) bool { return isFrame(b, http2.FrameSettings) || isFrame(b, http2.FrameGoAway) }), permanent,
		say("the server speaks HTTP/2 without TLS: dial with insecure credentials, or enable TLS at the server")},
	{"plaintext http/1 server", TLS, recordThat(isHTTP1), permanent, func(err error) string {
		return fmt.Sprintf("the server answered %q, it speaks HTTP/1 without TLS: is this the gRPC port?", statusLine(record(err)))
	}},
	{"no tls", TLS, recordThat(func([]byte) bool { return true }), permanent, func(err error) string {
		return fmt.Sprintf("the server sent %s, which is neither TLS nor HTTP/2: is this the gRPC port?", quoted(record(err)))
	}},
	// grpc-go's TLS credentials have no type for this: the one match by text.
	{"no alpn", TLS, func(err error) bool { return strings.Contains(err.Error(), noALPN) }, permanent,
		say("the server chose no protocol by ALPN, gRPC needs h2: a proxy that ends TLS may be in between, or the server is too old")},

	{"too many files", every, is(syscall.EMFILE, syscall.ENFILE), transient, // of a look-up too
		say("too many files are open: raise the limit, or close connections")},

	// Names and addresses.
	{"name service time-out", Resolve, timeout, transient,
		say("the name servers did not answer in time: check this machine's DNS configuration, or the server in the target's authority")},
	{"no such host", Resolve, func(err error) bool {
		var e *net.DNSError
		return errors.As(err, &e) && e.IsNotFound
	}, transient, func(err error) string {
		var e *net.DNSError
		errors.As(err, &e)
		return fmt.Sprintf("no address is known for %s: check the spelling, and the name server that was asked", text.QuoteTarget(e.Name))
	}},
	{"name service", Resolve, as[*net.DNSError], transient,
		say("the name servers failed: check this machine's DNS configuration, or the server in the target's authority")},
	{"address", every, as[*net.AddrError], permanent, func(err error) string {
		var e *net.AddrError
		errors.As(err, &e)
		return addressHint(e.Addr)
	}},

	// How the network failed.
	{"dial time-out", Dial, timeout, transient,
		say("nothing answered: the host may be down, or a firewall drops the packets")},
	{"tls time-out", TLS, timeout, transient,
		say("the server took the connection and did not finish the TLS handshake: it may not speak TLS, be overloaded, or be behind a path that loses large packets (MTU)")},
	{"ended unread", HTTP2, func(err error) bool { return unread(err) && ended(err) }, transient,
		say("the server closed the connection after its SETTINGS: it may be shutting down")},
	{"http2 unread", HTTP2, unread, transient,
		say("the server sends and does not read: it may be overloaded, or what is in between passes one direction only")},
	{"http2 time-out within settings", HTTP2, func(err error) bool { return timeout(err) && len(firstBytes(err)) > 0 }, transient,
		say("the server did not finish its SETTINGS: it may be overloaded, or what is in between cuts the connection")},
	{"http2 time-out within tls", HTTP2, func(err error) bool { return timeout(err) && IsWithinTLS(err) }, transient,
		say("the server took the connection, finished the TLS handshake and sent no SETTINGS: it may not speak HTTP/2, or be overloaded")},
	{"http2 time-out", HTTP2, timeout, transient,
		say("the server took the connection and sent no SETTINGS: it may require TLS, not speak HTTP/2, or be overloaded")},
	{"health time-out", Health, timeout, transient,
		say("the server's health service did not answer in time")},
	{"unix socket refused", Dial, func(err error) bool { return onUnix(err) && errno.IsRefused(err) }, transient,
		say("no process listens on it: is the server running, and is this its socket?")},
	{"unix socket name", Dial, func(err error) bool { return onUnix(err) && errors.Is(err, syscall.EINVAL) }, permanent,
		say("the system takes no such name for a socket: it may be too long, 107 bytes is the most on Linux")},
	{"unix socket absent", Dial, func(err error) bool { return onUnix(err) && errors.Is(err, fs.ErrNotExist) }, transient,
		say("there is no such socket: is the server running, is the path right?")},
	{"refused", every, errno.IsRefused, transient,
		say("nothing listens there, or a firewall rejects it: is the server running, is the port right?")},
	{"unreachable", every, errno.IsUnreachable, transient,
		say("there is no route to it: is the network up, does this machine support that address family?")},
	{"no local address", Dial, errno.IsNoLocalAddress, transient,
		say("this machine has no address or no free port to connect from")},
	{"no address family", Dial, errno.IsNoFamily, transient,
		say("this machine does not have this address family")},
	{"permission", Dial, is(fs.ErrPermission), transient,
		say("this system forbids it: check the socket's permissions, or the local firewall")},

	// How the server ended it.
	{"ended in tls", TLS, ended, transient,
		say("the server closed the connection in the TLS handshake: it may not speak TLS, or not accept this name")},
	{"ended within settings", HTTP2, func(err error) bool { return ended(err) && len(firstBytes(err)) > 0 }, transient,
		say("the server closed the connection before its SETTINGS were complete: it may be shutting down, or what is in between cuts the connection")},
	{"ended before settings within tls", HTTP2, func(err error) bool { return ended(err) && IsWithinTLS(err) }, transient,
		say("the server closed the connection without a word, after the TLS handshake: it may be shutting down, or require a client certificate")},
	{"ended before settings", HTTP2, ended, transient,
		say("the server closed the connection without a word: it may require TLS, or be shutting down")},
}

func say(text string) func(error) string { return func(error) string { return text } }

func is(targets ...error) func(error) bool {
	return func(err error) bool {
		return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
	}
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// bytesThat matches first bytes that identify the peer's protocol.
func bytesThat(match func([]byte) bool) func(error) bool {
	return func(err error) bool {
		b := firstBytes(err)
		return !mayBeSettings(b) && match(b)
	}
}

// alert matches alerts that the server sent.
func alert(kinds ...tls.AlertError) func(error) bool {
	return func(err error) bool {
		a, remote, ok := Alert(err)
		return ok && remote && slices.Contains(kinds, a)
	}
}

// record is what came in the place of a TLS record; empty if nothing did.
func record(err error) []byte {
	if first := firstBytes(err); first != nil {
		return first
	}
	var e tls.RecordHeaderError
	if !errors.As(err, &e) {
		return nil
	}
	return e.RecordHeader[:]
}

func recordThat(match func([]byte) bool) func(error) bool {
	return func(err error) bool { b := record(err); return len(b) > 0 && match(b) }
}

func timeout(err error) bool {
	var e net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &e) && e.Timeout()
}

func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errno.IsEnded(err)
}

// unread reports whether the server sent its SETTINGS and did not read ours.
func unread(err error) bool {
	var e interface{ Unread() bool }
	return errors.As(err, &e) && e.Unread()
}

func onUnix(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Net == "unix"
}

// addressHint says what is wrong with an address that is none.
func addressHint(addr string) string {
	if scheme, _, ok := strings.Cut(addr, "://"); ok {
		return fmt.Sprintf("no resolver serves the scheme %q: register one, or drop %q", scheme, scheme+"://")
	}
	if trimmed := strings.TrimSpace(addr); trimmed != addr {
		return fmt.Sprintf("%s has white space at its end: write %s", text.QuoteTarget(addr), text.QuoteTarget(trimmed))
	}
	return `an address is "host:port", "[IPv6]:port" or "unix:path"`
}
