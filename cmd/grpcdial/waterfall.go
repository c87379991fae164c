package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/text"
)

// barWidth is how many characters the whole time takes.
const barWidth = 32

// mostNames is how many names of a certificate are drawn.
const mostNames = 8

// manyDays is how long before its end a certificate is warned of.
const manyDays = 30

// labels are the phases' names in the drawing.
var labels = map[grpcdial.Phase]string{
	grpcdial.PhaseResolve: "resolve",
	grpcdial.PhaseDial:    "connect",
	grpcdial.PhaseProxy:   "proxy",
	grpcdial.PhaseTLS:     "TLS",
	grpcdial.PhaseHTTP2:   "SETTINGS",
	grpcdial.PhaseCheck:   "check",
	grpcdial.PhaseHealth:  "health",
	phaseReflect:          "reflect",
	phaseSend:             "send",
	phaseWait:             "wait",
	phaseReceive:          "receive",
}

// waterfall draws a report: a line for each step, with its time and a bar, and what
// it brought below it.
type waterfall struct {
	paint
	*report
	out   strings.Builder
	width int // of the column of addresses
}

// drawReport writes r to w.
func drawReport(w io.Writer, p paint, r *report) error {
	d := waterfall{paint: p, report: r}
	_, err := io.WriteString(w, d.draw())
	return err
}

func (d *waterfall) draw() string {
	for _, s := range d.steps {
		d.width = max(d.width, utf8.RuneCountInString(s.addr))
	}
	d.out.WriteString(d.bold(d.target) + "\n\n")
	said := false // READY comes before the health check or the RPC that follows it
	for i := range d.steps {
		s := &d.steps[i]
		if afterReady[s.phase] && !said {
			d.outcome()
			said = true
		}
		d.step(s)
	}
	if !said {
		d.outcome()
	}
	if d.status != nil {
		label := d.green(pad(d.status.Code().String(), 8))
		if d.status.Code() != codes.OK {
			label = d.red(pad(d.status.Code().String(), 8))
		}
		d.line(label, "", d.end.Sub(d.begin), strings.Repeat(" ", barWidth-1)+"│")
	}
	return d.out.String()
}

// outcome is the line for the state that the dial led to.
func (d *waterfall) outcome() {
	at, label := d.end, d.red(pad("FAILED", 8))
	if !d.ready.IsZero() {
		at, label = d.ready, d.green(pad("READY", 8))
	}
	d.line(label, "", at.Sub(d.begin), strings.Repeat(" ", d.column(at, barWidth-1))+"│")
}

func (d *waterfall) step(s *step) {
	end, mark, colour := s.end, "█", d.blue
	if afterReady[s.phase] {
		colour = d.green
	}
	if s.end.IsZero() {
		end = d.end
	}
	switch {
	case s.late(d.report):
		mark, colour = "░", d.dim
	case s.end.IsZero() || s.err != nil:
		mark, colour = "░", d.red
	}
	from := d.column(s.start, barWidth-1)
	to := max(d.column(end, barWidth), from+1)
	d.line(pad(labels[s.phase], 8), s.addr, end.Sub(s.start), strings.Repeat(" ", from)+colour(strings.Repeat(mark, to-from)))

	if s.phase == grpcdial.PhaseProxy {
		d.detail("through " + s.proxy)
	}
	if len(s.addrs) > 0 && !slices.Equal(s.addrs, []string{s.addr}) {
		d.detail(strings.Join(s.addrs, ", "))
	}
	if s.tls != nil {
		d.detail(session(s))
	}
	for _, c := range s.certificates() {
		d.certificate(c)
	}
	if s.phase == grpcdial.PhaseHTTP2 && s.err == nil && !s.end.IsZero() {
		d.detail(settings(s))
	}
	switch {
	case s.detail != "":
		d.detail(s.detail)
	case s.health == notOffered:
		d.detail("the server has no health service, and counts as healthy")
	case s.health != "" && s.err != nil:
		d.detail(d.red(s.health))
	case s.health != "":
		d.detail(s.health)
	case s.end.IsZero():
		d.detail(d.red("not finished"))
	case s.late(d.report):
		d.detail("given up: another address was faster")
	case s.err != nil:
		d.detail(d.red(reason(s.err)))
	}
}

// line writes the four columns.
func (d *waterfall) line(label, addr string, took time.Duration, bar string) {
	fmt.Fprintf(&d.out, "%s  %s  %s  %s\n", label, pad(addr, d.width), padLeft(text.Round(took).String(), 7), bar)
}

// detail writes a line about the step above it.
func (d *waterfall) detail(line string) {
	fmt.Fprintf(&d.out, "          %s\n", line)
}

// column is where at stands in the bar, at most last.
func (d *waterfall) column(at time.Time, last int) int {
	whole := d.end.Sub(d.begin)
	if whole <= 0 {
		return 0
	}
	part := float64(at.Sub(d.begin)) / float64(whole)
	return min(max(int(math.Round(part*barWidth)), 0), last)
}

// session is the line about a TLS session.
func session(s *step) string {
	session := fmt.Sprintf("%s, %s", tls.VersionName(s.tls.Version), tls.CipherSuiteName(s.tls.CipherSuite))
	if s.tls.NegotiatedProtocol == "" {
		session += ", no ALPN"
	} else {
		session += ", ALPN " + text.Line(s.tls.NegotiatedProtocol)
	}
	if name := s.verifiedName(); name != "" {
		session += fmt.Sprintf(", as %q", name)
	}
	return session
}

// settings is the line about the server's SETTINGS.
func settings(s *step) string {
	if len(s.settings) == 0 {
		return "the defaults"
	}
	var all []string
	for _, v := range s.settings {
		all = append(all, v.String())
	}
	return strings.Join(all, " ")
}

func (d *waterfall) certificate(c certificate) {
	line := cmp.Or(c.subject(), "(no subject)")
	names := c.names()
	if n := len(names) - mostNames; n > 0 {
		names = append(names[:mostNames], fmt.Sprintf("and %d more", n))
	}
	if len(names) > 0 {
		line += " for " + strings.Join(names, ", ")
	}
	if c.ours {
		line += " (trusted here, not sent)"
	}
	d.detail(line)
	d.detail("  issued by " + c.issuer() + ", " + d.validity(c))
}

// validity says when the certificate ends, and how far that is away.
func (d *waterfall) validity(c certificate) string {
	const layout = "2006-01-02"
	from, to := c.NotBefore.UTC(), c.NotAfter.UTC()
	days := func(t time.Duration) string {
		if n := int(t / (24 * time.Hour)); n != 1 {
			return fmt.Sprintf("%d days", n)
		}
		return "1 day"
	}
	switch {
	case d.begin.After(to):
		return d.red(fmt.Sprintf("expired %s, %s ago", to.Format(layout), days(d.begin.Sub(to))))
	case d.begin.Before(from):
		return d.red(fmt.Sprintf("not valid before %s, in %s", from.Format(layout), days(from.Sub(d.begin))))
	}
	expiry := fmt.Sprintf("expires %s, in %s", to.Format(layout), days(to.Sub(d.begin)))
	if to.Sub(d.begin) < manyDays*24*time.Hour {
		return d.yellow(expiry)
	}
	return expiry
}

// answered is implemented by the cause of an attempt at which something else came than
// TLS or HTTP/2.
type answered interface {
	error
	FirstBytes() []byte
}

// reason is the text of err on one line, without the address that the line above it
// names.
func reason(err error) string {
	var said answered
	if errors.As(err, &said) {
		if line, ok := greeting(said.FirstBytes()); ok {
			return fmt.Sprintf("the server said %q", line)
		}
	}
	if own, ok := err.(interface{ Reason() string }); ok {
		return text.Line(own.Reason())
	}
	if op, ok := err.(*net.OpError); ok && op.Op == "dial" && op.Err != nil {
		err = op.Err
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		err = dns
	}
	return text.Of(err)
}

// greeting is the first line of what a server said that speaks something else; ok is
// false if it is no text.
func greeting(b []byte) (line string, ok bool) {
	const most = 80
	first, _, _ := bytes.Cut(b, []byte("\n"))
	line = string(bytes.TrimSpace(first[:min(len(first), most)]))
	noText := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
	return line, line != "" && !strings.ContainsFunc(line, noText)
}

func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}

func padLeft(s string, n int) string {
	return strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s))) + s
}
