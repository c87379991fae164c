package failure

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/grpcdial/grpcdial/internal/text"
)

// The hints about the server's certificate, made from what is in it.

func unknownAuthority(err error) string {
	var e x509.UnknownAuthorityError
	errors.As(err, &e)
	switch {
	case e.Cert == nil:
		return "add the authority that signed the server's certificate to RootCAs in the TLS configuration"
	case bytes.Equal(e.Cert.RawIssuer, e.Cert.RawSubject):
		return fmt.Sprintf("the server's certificate %s is self-signed: add it to RootCAs in the TLS configuration", CertificateName(e.Cert.Subject))
	default:
		return fmt.Sprintf("add the authority %s to RootCAs in the TLS configuration, or let the server send the intermediate certificates too", CertificateName(e.Cert.Issuer))
	}
}

func hostName(err error) string {
	var e x509.HostnameError
	errors.As(err, &e)
	mend := "dial by a name it has, or set one with WithAuthority or the credentials' server name"
	names := CertificateNames(e.Certificate)
	if names == "" {
		return fmt.Sprintf("the server's certificate has no subject alternative names, the name asked for is %q: reissue it", e.Host)
	}
	return fmt.Sprintf("the server's certificate is for %s, we asked for %q: %s", names, e.Host, mend)
}

// CertificateNames quotes the first few names and addresses of a certificate.
func CertificateNames(c *x509.Certificate) string {
	const most = 5
	if c == nil {
		return ""
	}
	var names []string
	for _, n := range c.DNSNames {
		names = append(names, quotedName(n))
	}
	for _, ip := range c.IPAddresses {
		names = append(names, fmt.Sprintf("%q", ip))
	}
	if len(names) > most {
		names = append(names[:most:most], fmt.Sprintf("and %d more", len(names)-most))
	}
	return strings.Join(names, ", ")
}

// CertificateName quotes the name of a certificate's subject or issuer, or its
// beginning.
func CertificateName(n pkix.Name) string { return quotedName(n.String()) }

func quotedName(name string) string { return fmt.Sprintf("%q", text.Cut(name, 100)) }

func dates(err error) string {
	var e x509.CertificateInvalidError
	errors.As(err, &e)
	if e.Cert == nil {
		return "a certificate of the server is outside its dates: renew it, or set this machine's clock"
	}
	const layout = "2006-01-02 15:04 MST"
	from, to, now := e.Cert.NotBefore.UTC(), e.Cert.NotAfter.UTC(), time.Now().UTC()
	switch {
	case now.After(to):
		return fmt.Sprintf("a certificate of the server ended on %s: renew it, or set this machine's clock (%s)", to.Format(layout), now.Format(layout))
	case now.Before(from):
		return fmt.Sprintf("a certificate of the server begins on %s: set this machine's clock (%s), or the server's certificate is too new", from.Format(layout), now.Format(layout))
	default: // the TLS configuration has a clock of its own
		return fmt.Sprintf("a certificate of the server holds from %s to %s, which Time in the TLS configuration is outside of", from.Format(layout), to.Format(layout))
	}
}
