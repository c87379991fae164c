package grpcdial

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/text"
)

// String returns the event as one line, without its time and the channel's target.
// It is what the command-line tool prints.
func (e DialEvent) String() string {
	var b strings.Builder
	if e.AttemptID > 0 {
		fmt.Fprintf(&b, "#%d ", e.AttemptID)
	}
	if e.Kind == EventFailed || e.Err != nil && e.phase() != "" {
		b.WriteString(e.failure())
		return b.String()
	}
	if e.Addr != "" {
		b.WriteString(text.Target(e.Addr))
		if e.Proxy != "" {
			b.WriteString(" via " + text.Target(e.Proxy))
		}
		b.WriteString(": ")
	}
	e.write(&b)
	return b.String()
}

// write writes what happened, without where.
func (e *DialEvent) write(b *strings.Builder) {
	switch e.Kind {
	case EventResolveStart:
		b.WriteString("resolving")
	case EventResolveDone:
		b.WriteString("resolved" + in(e.Elapsed) + ": " + listed(e.Addrs))
	case EventDialStart:
		b.WriteString("dialing")
	case EventDialDone:
		b.WriteString("dialed" + in(e.Elapsed))
	case EventProxyStart:
		b.WriteString("proxy handshake")
	case EventProxyDone:
		b.WriteString("proxy handshake done" + in(e.Elapsed))
	case EventTLSStart:
		fmt.Fprintf(b, "tls handshake as %q", text.Target(e.ServerName))
	case EventTLSDone:
		b.WriteString("tls handshake done" + in(e.Elapsed))
		if e.TLS != nil {
			b.WriteString(": " + describeTLS(e.TLS))
		}
	case EventHTTP2Start:
		b.WriteString("http2 preface")
	case EventHTTP2Done:
		b.WriteString("http2 preface done" + in(e.Elapsed) + ": " + e.settings())
	case EventCheckStart:
		b.WriteString("connection check")
	case EventCheckDone:
		b.WriteString("connection check done" + in(e.Elapsed))
	case EventReady:
		fmt.Fprintf(b, "ready after %v", text.Round(e.Elapsed))
	case EventLost:
		fmt.Fprintf(b, "lost after %v%s", text.Round(e.Elapsed), because(e.Err))
	case EventBackoff:
		fmt.Fprintf(b, "next attempt in %v", text.Round(e.Wait))
	case EventKeepalive:
		fmt.Fprintf(b, "keepalive: %v between pings from now on", e.Keepalive)
	case EventConfigRefused:
		b.WriteString("service config refused" + because(e.Err))
	case EventState:
		fmt.Fprintf(b, "%v to %v", e.From, e.To)
		if e.Elapsed > 0 {
			fmt.Fprintf(b, " after %v", text.Round(e.Elapsed))
		}
		if _, reported := e.Cause.(*DialError); !reported { // its attempts have been, one by one
			b.WriteString(because(e.Cause))
		}
	default:
		b.WriteString(e.Kind.words())
	}
}

// in says how long something took, if that is known.
func in(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf(" in %v", text.Round(d))
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + oneLine(err)
}

// oneLine is err's text on one line, with the addresses of a DialError in a row and
// without the code of a status.
func oneLine(err error) string {
	const most = 1000 // bytes
	if e, ok := err.(*DialError); ok {
		return e.summary(most)
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		err = errors.New(s.GRPCStatus().Message())
	}
	return text.Cut(text.Of(err), most)
}

// listed names the first few addresses.
func listed(addrs []string) string {
	const most = 8
	switch {
	case len(addrs) == 0:
		return "no address"
	case len(addrs) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(addrs[:most], ", "), len(addrs)-most)
	}
	return strings.Join(addrs, ", ")
}

// phase is that whose end the event is; empty for others.
func (e *DialEvent) phase() failure.Phase {
	if phase, done := e.step(); done {
		return phase
	}
	return ""
}

// step returns the phase that begins or is done with the event; empty for other events.
func (e *DialEvent) step() (phase failure.Phase, done bool) {
	for phase, kinds := range phaseEvents {
		if i := slices.Index(kinds[:], e.Kind); i >= 0 {
			return phase, i == 1
		}
	}
	return "", false
}

// failure is the line for what failed, in the words of a DialError.
func (e *DialEvent) failure() string {
	a := failure.Attempt{Addr: e.Addr, ServerName: e.ServerName, Proxy: e.Proxy, Phase: failure.Phase(e.Phase), Elapsed: e.Elapsed, Err: e.Err, Hint: e.Hint}
	if e.Kind != EventFailed {
		a.Phase = e.phase()
	}
	return a.Error()
}

func (e *DialEvent) settings() string {
	if len(e.Settings) == 0 {
		return "default SETTINGS"
	}
	var all []string
	for _, s := range e.Settings {
		all = append(all, s.String())
	}
	return strings.Join(all, " ")
}

// describeTLS names what was negotiated and whose certificate came.
func describeTLS(s *tls.ConnectionState) string {
	protocol := s.NegotiatedProtocol
	if protocol == "" {
		protocol = "no ALPN"
	}
	session := fmt.Sprintf("%s, %s, %s", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), text.Line(protocol))
	if len(s.PeerCertificates) == 0 {
		return session
	}
	c := s.PeerCertificates[0]
	return fmt.Sprintf("%s, certificate %s from %s until %s", session, failure.CertificateNames(c), failure.CertificateName(c.Issuer), c.NotAfter.UTC().Format(time.DateOnly))
}

// LogValue returns the event's fields that are set as a group of attributes, but
// for Kind and Time. It makes a DialEvent a value for package log/slog.
func (e DialEvent) LogValue() slog.Value { return slog.GroupValue(e.attrs()...) }

func (e *DialEvent) attrs() []slog.Attr {
	var all []slog.Attr
	line := func(key, value string) {
		if value != "" {
			all = append(all, slog.String(key, text.Line(value)))
		}
	}
	span := func(key string, value time.Duration) {
		if value != 0 {
			all = append(all, slog.Duration(key, value))
		}
	}
	line("target", e.Target)
	if e.AttemptID > 0 {
		all = append(all, slog.Uint64("attempt", e.AttemptID))
	}
	line("addr", e.Addr)
	line("server_name", e.ServerName)
	line("proxy", e.Proxy)
	line("phase", string(e.Phase))
	if e.Kind == EventState {
		all = append(all, slog.String("from", e.From.String()), slog.String("to", e.To.String()))
	}
	span("elapsed", e.Elapsed)
	span("wait", e.Wait)
	span("keepalive", e.Keepalive)
	if e.Kind == EventResolveDone && e.Err == nil {
		all = append(all, slog.Any("addrs", e.Addrs))
	}
	if e.TLS != nil {
		all = append(all, slog.String("tls", describeTLS(e.TLS)))
	}
	if e.Settings != nil {
		all = append(all, slog.String("settings", e.settings()))
	}
	if e.Err != nil {
		all = append(all, slog.String("error", oneLine(e.Err)))
	}
	if e.Cause != nil {
		all = append(all, slog.String("cause", oneLine(e.Cause)))
	}
	line("hint", e.Hint)
	if e.Kind == EventFailed || e.Permanent {
		all = append(all, slog.Bool("permanent", e.Permanent))
	}
	return all
}

// words is the kind for people to read.
func (k EventKind) words() string { return strings.ReplaceAll(string(k), "_", " ") }
