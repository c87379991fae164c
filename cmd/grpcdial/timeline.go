package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/text"
)

// step is one phase of one dial: what it was about, when, and how it went.
type step struct {
	phase      grpcdial.Phase
	attempt    uint64 // the number of the attempt that it belongs to; 0: none
	addr       string
	serverName string // tls: the name that the certificate was checked against
	proxy      string // the proxy's URL, for what went through it

	start, end time.Time // end is zero if it had not ended when the dial was over
	err        error

	addrs    []string             // resolve: what there is to dial
	tls      *tls.ConnectionState // tls, when it went well and is crypto/tls's
	settings []grpcdial.Setting   // http2: the server's
	health   string               // health: the verdict
	detail   string               // of an RPC's phases: what it brought
}

// timeline collects the steps of one dial in the order in which they began. Its
// methods may be called from any goroutine.
type timeline struct {
	mu        sync.Mutex
	steps     []step // guarded by mu
	connected string // guarded by mu: the address of the latest connection that was ready
}

// ready notes which address the channel is connected to.
func (t *timeline) ready(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.connected = addr
}

// server is the address that the channel is connected to.
func (t *timeline) server() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.connected
}

// begin notes that s has begun.
func (t *timeline) begin(s step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, s)
}

// finish records the end of the step s. It is found by phase, attempt and address: of
// those, one only runs at a time. A resolver's further report, without a request, ends
// no step.
func (t *timeline) finish(s step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.findLocked(func(b *step) bool { return b.end.IsZero() && b.sameAs(&s) })
	if i < 0 {
		return
	}
	s.start = t.steps[i].start
	t.steps[i] = s
	if refusedByTLS(&s) {
		t.foldLocked(i)
	}
}

// sameAs reports whether two steps are about the same phase of the same attempt.
func (s *step) sameAs(other *step) bool {
	return s.phase == other.phase && s.attempt == other.attempt && s.addr == other.addr
}

// findLocked returns the number of the latest step that matches, -1 if none does.
func (t *timeline) findLocked(match func(*step) bool) int {
	for i := len(t.steps) - 1; i >= 0; i-- {
		if match(&t.steps[i]) {
			return i
		}
	}
	return -1
}

// refusedByTLS reports whether a TLS alert came in the place of the server's SETTINGS.
// A TLS 1.3 server looks at our certificate after our side of the handshake is done
// (RFC 8446 §4.4.2).
func refusedByTLS(s *step) bool {
	var alert tls.AlertError
	return s.phase == grpcdial.PhaseHTTP2 && errors.As(s.err, &alert)
}

// foldLocked makes step i the end of the TLS handshake before it, which it was.
func (t *timeline) foldLocked(i int) {
	late := t.steps[i]
	of := late
	of.phase = grpcdial.PhaseTLS
	if j := t.findLocked(of.sameAs); j >= 0 {
		t.steps[j].end, t.steps[j].err = late.end, late.err
		t.steps = slices.Delete(t.steps, i, i+1)
	}
}

// all returns the steps up to now.
func (t *timeline) all() []step {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.steps)
}

// report is the outcome of one check.
type report struct {
	target string // canonical
	state  connectivity.State
	steps  []step
	begin  time.Time
	ready  time.Time // zero: never
	end    time.Time // of all, the health check included
	err    error     // why it failed; nil if it did not

	status *status.Status // of the RPC that call makes; nil: there was none
}

// late reports whether the step was ended from our side because another address was
// faster.
func (s *step) late(r *report) bool { return !r.ready.IsZero() && errors.Is(s.err, context.Canceled) }

// certificate is what is to be said of one certificate.
type certificate struct {
	*x509.Certificate
	ours bool // it did not come from the server: it is the root that we trust
}

// certificates are those that the server sent, its own first, and the root to which
// they led if it is not among them. A chain that was not accepted is in the error.
func (s *step) certificates() (chain []certificate) {
	sent, verified := []*x509.Certificate(nil), [][]*x509.Certificate(nil)
	var refused *tls.CertificateVerificationError
	switch {
	case s.tls != nil:
		sent, verified = s.tls.PeerCertificates, s.tls.VerifiedChains
	case errors.As(s.err, &refused):
		sent = refused.UnverifiedCertificates
	}
	for _, c := range sent {
		chain = append(chain, certificate{c, false})
	}
	if len(verified) > 0 {
		root := verified[0][len(verified[0])-1]
		if !slices.ContainsFunc(sent, root.Equal) {
			chain = append(chain, certificate{root, true})
		}
	}
	return chain
}

// verifiedName is the name that the server's certificate was checked against, or
// would have been.
func (s *step) verifiedName() string {
	if s.tls != nil && s.tls.ServerName != "" {
		return text.Target(s.tls.ServerName)
	}
	if host, _, err := net.SplitHostPort(s.serverName); err == nil {
		return host
	}
	return s.serverName
}

// names are the subject alternative names of a certificate, as one writes them.
func (c certificate) names() []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for i, n := range names {
		names[i] = certificateName(n)
	}
	return names
}

func (c certificate) subject() string { return certificateName(c.Subject.String()) }
func (c certificate) issuer() string  { return certificateName(c.Issuer.String()) }

// certificateName is a name in a certificate, or its beginning, as it is shown.
func certificateName(n string) string { return text.Cut(text.Line(n), 200) }
