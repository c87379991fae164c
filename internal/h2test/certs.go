package h2test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Validity of certificates. The wide span holds both today and the year 2000, at
// which a synctest bubble begins.
var (
	longAgo  = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	expired  = time.Date(1995, 1, 1, 0, 0, 0, 0, time.UTC)
	future   = time.Date(2110, 1, 1, 0, 0, 0, 0, time.UTC)
	farAhead = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
)

// CA is a certificate authority for tests. It signs with ECDSA P-256, so that a
// certificate costs tens of microseconds. Its methods may be called from any
// goroutine.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

var serial atomic.Int64

// NewCA makes an authority that only its own Pool trusts.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca, err := makeCA()
	if err != nil {
		t.Fatalf("h2test: making a CA: %v", err)
	}
	return ca
}

// DefaultCA returns the one authority of the process that WithTLS uses.
var DefaultCA = sync.OnceValue(func() *CA {
	ca, err := makeCA()
	if err != nil {
		panic(fmt.Sprintf("h2test: making a CA: %v", err))
	}
	return ca
})

func makeCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	n := serial.Add(1)
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(n),
		Subject:               pkix.Name{CommonName: fmt.Sprintf("h2test CA %d", n)},
		NotBefore:             longAgo,
		NotAfter:              farAhead,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// Pool returns a new pool that holds the authority alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// PEM returns the authority's certificate in PEM.
func (ca *CA) PEM() []byte { return append([]byte(nil), ca.pem...) }

// Server returns a certificate for a server with the names, which are DNS names
// or IP addresses.
func (ca *CA) Server(names ...string) tls.Certificate {
	return ca.issue(x509.ExtKeyUsageServerAuth, longAgo, farAhead, names)
}

// Client returns a certificate for a client with the common name.
func (ca *CA) Client(name string) tls.Certificate {
	return ca.issue(x509.ExtKeyUsageClientAuth, longAgo, farAhead, []string{name})
}

// Expired returns a server's certificate that ended in 1995.
func (ca *CA) Expired(names ...string) tls.Certificate {
	return ca.issue(x509.ExtKeyUsageServerAuth, longAgo, expired, names)
}

// NotYetValid returns a server's certificate that begins in 2110.
func (ca *CA) NotYetValid(names ...string) tls.Certificate {
	return ca.issue(x509.ExtKeyUsageServerAuth, future, farAhead, names)
}

// issue signs a leaf. It panics when the system gives no randomness.
func (ca *CA) issue(usage x509.ExtKeyUsage, from, to time.Time, names []string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("h2test: making a key: %v", err))
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)),
		NotBefore:    from,
		NotAfter:     to,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{usage},
	}
	if len(names) > 0 {
		tmpl.Subject.CommonName = names[0]
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		panic(fmt.Sprintf("h2test: signing a certificate: %v", err))
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(fmt.Sprintf("h2test: parsing a certificate: %v", err))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// ServerConfig returns a server's configuration with ALPN h2 and a certificate
// for the names.
func (ca *CA) ServerConfig(names ...string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{ca.Server(names...)}, NextProtos: []string{"h2"}}
}

// ClientConfig returns a client's configuration that trusts the authority alone
// and expects the server name, with ALPN h2.
func (ca *CA) ClientConfig(serverName string) *tls.Config {
	return &tls.Config{RootCAs: ca.Pool(), ServerName: serverName, NextProtos: []string{"h2"}}
}
