package grpcdial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/failure"
)

// TestSampleOfAFailure: the failed dial in the package's documentation has the text that
// such a failure has.
func TestSampleOfAFailure(t *testing.T) {
	attempt := func(addr, name string, phase failure.Phase, elapsed time.Duration, err error) Attempt {
		a := failure.New(addr, name, time.Now(), phase, err)
		a.Elapsed = elapsed
		return publicAttempt(a)
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443},
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	issued := &x509.Certificate{Issuer: pkix.Name{CommonName: "Example CA"}, RawIssuer: []byte("Example CA"), RawSubject: []byte("api.example.com")}
	untrusted := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{Cert: issued}}
	failed := &DialError{
		Target: "dns:///api.example.com:443", State: connectivity.TransientFailure,
		Elapsed: 5 * time.Second, InState: 4990 * time.Millisecond, Err: context.DeadlineExceeded,
		Attempts: []Attempt{
			attempt("192.0.2.1:443", "api.example.com:443", failure.Dial, 1200*time.Microsecond, refused),
			attempt("192.0.2.2:443", "api.example.com:443", failure.TLS, 8300*time.Microsecond, untrusted),
		},
	}

	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var sample []string
	for line := range strings.Lines(string(doc)) {
		text := strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "//\t")
		if strings.HasPrefix(text, "grpcdial: no connection") || strings.HasPrefix(text, "\t192.0.2.") {
			sample = append(sample, text)
		}
	}
	assert.Equal(t, failed.Error(), strings.Join(sample, "\n"))
}
