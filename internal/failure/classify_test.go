package failure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// preface is an error as internal/h2 makes it.
type preface struct {
	first string
	err   error
}

func (e *preface) Error() string      { return fmt.Sprintf("server preface: %q: %v", e.first, e.err) }
func (e *preface) Unwrap() error      { return e.err }
func (e *preface) FirstBytes() []byte { return []byte(e.first) }

func bytesCame(s string) error { return &preface{first: s} }

func dialError(network string, errno error) error {
	return &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", errno)}
}

// remote is an alert that the server sent, as another TLS stack may report it.
func remote(a tls.AlertError) error { return &net.OpError{Op: "remote error", Err: a} }

func verification(err error) error { return &tls.CertificateVerificationError{Err: err} }

// verify is the error of x509 about a server's certificate.
func verify(t *testing.T, c tls.Certificate, roots *x509.CertPool, name string) error {
	t.Helper()
	_, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
	require.Error(t, err)
	return verification(err)
}

// timedOut is a net.Error that matches no context's error.
type timedOut struct{}

func (timedOut) Error() string   { return "timed out" }
func (timedOut) Timeout() bool   { return true }
func (timedOut) Temporary() bool { return true }

// selfExplained is an error that says itself what the table says of others.
type selfExplained struct {
	permanent bool
	hint      string
}

func (*selfExplained) Error() string     { return "proxy p for t: it answered 407" }
func (*selfExplained) Reason() string    { return "it answered\n407" }
func (e *selfExplained) Permanent() bool { return e.permanent }
func (e *selfExplained) Hint() string    { return e.hint }

func TestClassify(t *testing.T) {
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	header := func(b string) error {
		e := tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}
		copy(e.RecordHeader[:], b)
		return e
	}
	settings := "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"
	expired, future := ca.Expired("a.test"), ca.NotYetValid("a.test")

	tests := []struct {
		row       string // the row of the table; empty: none
		phase     Phase
		err       error
		permanent bool
		hint      []string // parts of the hint; none: no hint
	}{
		{"tls server", HTTP2, bytesCame("\x15\x03\x01\x00\x02\x02\x46"), true, []string{"the server speaks TLS", `alert "protocol version not supported"`, "transport credentials"}},
		{"tls server", HTTP2, bytesCame("\x15\x03\x01\x00\x02\x02\xfe"), true, []string{`alert "alert(254)"`}},
		{"tls server", HTTP2, bytesCame("\x16\x03\x03\x00\x7a"), true, []string{"the server speaks TLS"}},
		{"tls server", HTTP2, &preface{"\x15\x03\x03", io.EOF}, true, []string{"the server speaks TLS"}},
		{"tls server", HTTP2, bytesCame("\x17\x03\x04\x00\x7a"), true, []string{"the server speaks TLS"}},
		{"other bytes", HTTP2, bytesCame("\x16\x03\x05\x00\x7a"), true, []string{"not HTTP/2"}}, // no version of TLS
		{"other bytes", HTTP2, bytesCame("\x18\x03\x03\x00\x7a"), true, []string{"not HTTP/2"}}, // no type of record
		{"https server", HTTP2, bytesCame("HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n<center>The plain HTTP request was sent to HTTPS port</center>"), true, []string{`"HTTP/1.1 400 Bad Request"`, "speaks TLS"}},
		{"https server", HTTP2, bytesCame("HTTP/1.1 400 Bad Request\r\n\r\nYou're speaking plain HTTP to an SSL-enabled server port."), true, []string{"speaks TLS"}},
		{"http/1 server", HTTP2, bytesCame("HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n\r\n"), true, []string{`"HTTP/1.1 505 HTTP Version Not Supported"`, "gRPC port"}},
		{"http/1 server", HTTP2, &preface{"HTTP/1.0 400 Bad", io.EOF}, true, []string{`"HTTP/1.0 400 Bad"`}},
		{"goaway", HTTP2, bytesCame("\x00\x00\x0d\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0bstorm rest"), false, []string{"GOAWAY ENHANCE_YOUR_CALM", `"storm"`}},
		{"goaway", HTTP2, bytesCame("\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), false, []string{"GOAWAY NO_ERROR:"}},
		{"goaway", HTTP2, bytesCame("\x00\x00\x08\x07\x00"), false, []string{"with GOAWAY:"}},
		{"other bytes", HTTP2, bytesCame("SSH-2.0-OpenSSH_9.6\r\n"), true, []string{`"SSH-2.0-OpenSSH_9.6\r\n"`, "not HTTP/2"}},
		{"other bytes", HTTP2, bytesCame(strings.Repeat("x", 500)), true, []string{`xxx"...`}},
		{"other bytes", HTTP2, bytesCame("\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\xff\xff"), true, []string{"not HTTP/2"}},
		{"other bytes", HTTP2, bytesCame("\x00\x00\x06\x04\x00\x00\x00\x00\x01"), true, []string{"not HTTP/2"}},
		{"http2 time-out within settings", HTTP2, &preface{settings[:7], context.DeadlineExceeded}, false, []string{"did not finish its SETTINGS"}},
		{"http2 time-out within settings", HTTP2, &preface{settings[:2], timedOut{}}, false, []string{"did not finish its SETTINGS"}},

		{"http2 unread", HTTP2, unreadSettings{context.DeadlineExceeded}, false, []string{"does not read"}},
		{"ended unread", HTTP2, unreadSettings{io.EOF}, false, []string{"after its SETTINGS"}},

		{"http/2 violation", HTTP2, fmt.Errorf("enable push: %w", http2.ConnectionError(http2.ErrCodeProtocol)), true, []string{"breaks the rules"}},

		{"canceled", Dial, &net.OpError{Op: "dial", Err: context.Canceled}, false, nil},
		{"canceled", TLS, context.Canceled, false, nil},
		{"insecure", TLS, fmt.Errorf("local credentials: %w", ErrInsecure), true, []string{"use TLS"}},

		{"unknown authority", TLS, verify(t, ca.Server("a.test"), other.Pool(), "a.test"), true, []string{"RootCAs", "CN=h2test CA"}},
		{"unknown authority", TLS, verification(x509.UnknownAuthorityError{Cert: selfSigned(t)}), true, []string{"self-signed", "CN=self"}},
		{"unknown authority", TLS, verification(x509.UnknownAuthorityError{}), true, []string{"RootCAs"}},
		{"host name", TLS, verify(t, ca.Server("a.test", "192.0.2.1"), ca.Pool(), "b.test"), true, []string{`for "a.test", "192.0.2.1"`, `asked for "b.test"`, "WithAuthority"}},
		{"host name", TLS, verify(t, ca.Server("1.test", "2.test", "3.test", "4.test", "5.test", "6.test", "7.test"), ca.Pool(), "b.test"), true, []string{`"5.test", and 2 more`}},
		{"host name", TLS, verify(t, ca.Server(), ca.Pool(), "b.test"), true, []string{"no subject alternative names", `"b.test"`}},
		{"certificate dates", TLS, verify(t, expired, ca.Pool(), "a.test"), true, []string{"ended on 1995-01-01", "renew"}},
		{"certificate dates", TLS, verify(t, future, ca.Pool(), "a.test"), true, []string{"begins on 2110-01-01", "clock"}},
		{"certificate dates", TLS, verification(x509.CertificateInvalidError{Cert: ca.Server("a.test").Leaf, Reason: x509.Expired}), true, []string{"Time in the TLS configuration"}},
		{"certificate dates", TLS, verification(x509.CertificateInvalidError{Reason: x509.Expired}), true, []string{"outside its dates"}},
		{"certificate invalid", TLS, verify(t, ca.Client("a.test"), ca.Pool(), "a.test"), true, []string{"reissue it"}},
		{"no roots", TLS, verification(x509.SystemRootsError{Err: errors.New("none")}), true, []string{"install"}},
		{"certificate", TLS, verification(errors.New("x509: unhandled critical extension")), true, []string{"not accepted"}},

		{"certificate required", TLS, remote(116), true, []string{"requires a client certificate"}},
		{"client certificate", TLS, remote(42), true, []string{"client certificate"}},
		{"client certificate", TLS, remote(43), true, []string{"client certificate"}},
		{"client certificate", TLS, remote(44), true, []string{"client certificate"}},
		{"client certificate", TLS, remote(45), true, []string{"client certificate"}},
		{"client certificate", TLS, remote(46), true, []string{"client certificate"}},
		{"unknown ca", TLS, remote(48), true, []string{"does not trust the authority"}},
		{"access denied", TLS, remote(49), true, []string{"denied access"}},
		{"handshake failure", TLS, remote(40), true, []string{"in common"}},
		{"handshake failure", TLS, remote(71), true, []string{"in common"}},
		{"protocol version", TLS, remote(70), true, []string{"1.2 or later"}},
		{"unrecognized name", TLS, remote(112), true, []string{"no certificate for the name"}},
		{"no application protocol", TLS, remote(120), true, []string{"h2 by ALPN"}},
		{"internal error", TLS, remote(80), false, []string{"on its side"}},
		{"", TLS, remote(100), false, nil},
		{"", TLS, &net.OpError{Op: "local error", Err: tls.AlertError(70)}, false, nil},

		{"plaintext http/2 server", TLS, header("\x00\x00\x06\x04\x00"), true, []string{"HTTP/2 without TLS", "insecure credentials"}},
		{"plaintext http/1 server", TLS, header("HTTP/"), true, []string{`"HTTP/"`, "HTTP/1 without TLS"}},
		{"plaintext http/1 server", TLS, WithFirstBytes(header("HTTP/"), []byte("HTTP/1.1 400 Bad Request\r\n\r\n")), true, []string{`"HTTP/1.1 400 Bad Request"`, "HTTP/1 without TLS"}},
		{"no tls", TLS, WithFirstBytes(header("SSH-2"), []byte("SSH-2.0-OpenSSH_9.6\r\n")), true, []string{`"SSH-2.0-OpenSSH_9.6\r\n"`}},
		{"no tls", TLS, WithFirstBytes(header("SSH-2"), []byte("SS")), true, []string{`"SSH-2"`}},
		{"no tls", TLS, WithFirstBytes(io.EOF, []byte("no\n")), true, []string{`"no\n"`}},
		{"no tls", TLS, header("SSH-2"), true, []string{`"SSH-2"`, "neither TLS nor HTTP/2", "gRPC port"}},
		{"no alpn", TLS, errors.New("credentials: cannot check peer: missing selected ALPN property. And more"), true, []string{"ALPN", "proxy"}},

		{"name service time-out", Resolve, &net.DNSError{Err: "i/o timeout", Name: "a.test", IsTimeout: true}, false, []string{"in time", "DNS"}},
		{"name service time-out", Resolve, context.DeadlineExceeded, false, []string{"DNS"}},
		{"no such host", Resolve, &net.DNSError{Err: "no such host", Name: "a.test", IsNotFound: true}, false, []string{`"a.test"`}},
		{"too many files", Resolve, &net.DNSError{Err: "too many open files", Name: "a.test", UnwrapErr: syscall.EMFILE}, false, []string{"raise the limit"}},
		{"name service", Resolve, &net.DNSError{Err: "server misbehaving", Name: "a.test", IsTemporary: true}, false, []string{"failed"}},
		{"address", Dial, &net.OpError{Op: "dial", Err: &net.AddrError{Err: "missing port in address", Addr: "a.test"}}, true, []string{"host:port"}},
		{"address", Resolve, &net.AddrError{Err: "too many colons in address", Addr: "::1:80"}, true, []string{"[IPv6]:port"}},
		{"address", Resolve, &net.AddrError{Err: "too many colons in address", Addr: "tcp://a.test:80"}, true, []string{`scheme "tcp"`, `drop "tcp://"`}},
		{"address", Resolve, &net.AddrError{Err: "unknown port", Addr: "a.test:80 "}, true, []string{`"a.test:80 "`, `write "a.test:80"`}},

		{"dial time-out", Dial, dialError("tcp", syscall.ETIMEDOUT), false, []string{"firewall"}},
		{"dial time-out", Dial, context.DeadlineExceeded, false, []string{"firewall"}},
		{"tls time-out", TLS, context.DeadlineExceeded, false, []string{"TLS handshake"}},
		{"http2 time-out", HTTP2, &preface{"", context.DeadlineExceeded}, false, []string{"no SETTINGS", "require TLS"}},
		{"health time-out", Health, context.DeadlineExceeded, false, []string{"health"}},
		{"unix socket refused", Dial, dialError("unix", syscall.ECONNREFUSED), false, []string{"no process listens on it"}},
		{"unix socket name", Dial, dialError("unix", syscall.EINVAL), true, []string{"too long"}},
		{"unix socket absent", Dial, dialError("unix", syscall.ENOENT), false, []string{"no such socket"}},
		{"refused", Dial, dialError("tcp", syscall.ECONNREFUSED), false, []string{"nothing listens"}},
		{"refused", Dial, dialError("tcp", syscall.Errno(10061)), false, []string{"nothing listens"}},
		{"unreachable", Dial, dialError("tcp", syscall.ENETUNREACH), false, []string{"no route"}},
		{"unreachable", Dial, dialError("tcp", syscall.EHOSTUNREACH), false, []string{"no route"}},
		{"unreachable", Dial, dialError("tcp", syscall.ENETDOWN), false, []string{"no route"}},
		{"unreachable", Dial, dialError("tcp", syscall.Errno(10051)), false, []string{"no route"}},
		{"unreachable", Dial, dialError("tcp", syscall.Errno(10065)), false, []string{"no route"}},
		{"no local address", Dial, dialError("tcp", syscall.Errno(10049)), false, []string{"connect from"}},
		{"no address family", Dial, dialError("tcp", syscall.Errno(10047)), false, []string{"address family"}},
		{"too many files", Dial, dialError("tcp", syscall.ENFILE), false, []string{"raise the limit"}},
		{"no local address", Dial, dialError("tcp", syscall.EADDRNOTAVAIL), false, []string{"connect from"}},
		{"no address family", Dial, dialError("tcp", syscall.EAFNOSUPPORT), false, []string{"address family"}},
		{"too many files", Dial, dialError("tcp", syscall.EMFILE), false, []string{"raise the limit"}},
		{"permission", Dial, dialError("unix", syscall.EACCES), false, []string{"permissions"}},

		{"", Proxy, &selfExplained{permanent: true, hint: "log in"}, true, []string{"log in"}},
		{"", Dial, fmt.Errorf("x: %w", &selfExplained{}), false, nil},
		{"ended in tls", TLS, io.EOF, false, []string{"may not speak TLS"}},
		{"ended in tls", TLS, &net.OpError{Op: "read", Err: syscall.ECONNRESET}, false, []string{"may not speak TLS"}},
		{"ended before settings", HTTP2, &preface{"", io.EOF}, false, []string{"without a word", "require TLS"}},
		{"ended before settings within tls", HTTP2, WithinTLS(&preface{"", io.EOF}), false, []string{"without a word", "require a client certificate"}},
		{"http2 time-out within tls", HTTP2, WithinTLS(&preface{"", context.DeadlineExceeded}), false, []string{"finished the TLS handshake", "not speak HTTP/2"}},
		{"http/1 server", HTTP2, WithinTLS(&preface{"HTTP/1.1 502 Bad Gateway\r\n", io.EOF}), true, []string{"502 Bad Gateway"}},
		{"ended before settings", HTTP2, &preface{"", syscall.ECONNRESET}, false, []string{"without a word"}},
		{"ended before settings", HTTP2, &preface{"", syscall.EPIPE}, false, []string{"without a word"}},
		{"ended before settings", HTTP2, &preface{"", syscall.ECONNABORTED}, false, []string{"without a word"}},
		{"ended before settings", HTTP2, &preface{"", syscall.Errno(10053)}, false, []string{"without a word"}},
		{"ended before settings", HTTP2, &preface{"", syscall.Errno(10054)}, false, []string{"without a word"}},
		{"ended within settings", HTTP2, &preface{settings[:4], io.ErrUnexpectedEOF}, false, []string{"before its SETTINGS were complete"}},
		{"ended within settings", HTTP2, WithinTLS(&preface{settings[:4], syscall.ECONNRESET}), false, []string{"before its SETTINGS were complete"}},

		{"", Dial, errors.New("the dialer's own"), false, nil},
		{"", Dial, io.EOF, false, nil},
		{"", HTTP2, nil, false, nil},
	}

	seen := make(map[string]bool)
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %v", tt.phase, tt.err), func(t *testing.T) {
			name := ""
			if row := find(tt.phase, tt.err); row != nil {
				name = row.name
			}
			require.Equal(t, tt.row, name)
			seen[name] = true

			permanent, hint := classify(tt.phase, tt.err)
			assert.Equal(t, tt.permanent, permanent)
			if tt.hint == nil {
				assert.Empty(t, hint)
			}
			for _, part := range tt.hint {
				assert.Contains(t, hint, part)
			}
			assert.NotContains(t, hint, "\n")
		})
	}
	for _, row := range table {
		assert.True(t, seen[row.name], "no case for the row %q", row.name)
	}
}

// unreadSettings is h2.UnreadError.
type unreadSettings struct{ error }

func (e unreadSettings) Unwrap() error { return e.error }
func (unreadSettings) Unread() bool    { return true }

type notTemporary struct{ error }

func (notTemporary) Temporary() bool { return false }

// The error of a check is judged by what the program says of it alone.
func TestClassifyCheck(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	for name, tt := range map[string]struct {
		err       error
		permanent bool
		hint      bool
	}{
		"an error":                            {err: io.EOF},
		"marked":                              {err: notTemporary{io.EOF}, permanent: true},
		"marked within":                       {err: fmt.Errorf("checked: %w", notTemporary{io.EOF}), permanent: true},
		"marked among others":                 {err: errors.Join(reset, notTemporary{io.EOF}), permanent: true},
		"a reset, which is not temporary":     {err: fmt.Errorf("checked: %w", reset)},
		"refused, which another check may be": {err: syscall.ECONNREFUSED},
		"a bad address":                       {err: &net.AddrError{Err: "x"}},
		"no time left":                        {err: context.DeadlineExceeded, hint: true},
	} {
		t.Run(name, func(t *testing.T) {
			permanent, hint := classify(Check, tt.err)
			assert.Equal(t, tt.permanent, permanent)
			assert.Equal(t, tt.hint, hint != "")
		})
	}
}
