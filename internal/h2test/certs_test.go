package h2test_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"golang.org/x/net/http2"
)

func tlsClient(nc net.Conn, cfg *tls.Config) *tls.Conn { return tls.Client(nc, cfg) }

// handshake runs a TLS handshake in memory and returns both sides' errors.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	nc, conn := h2test.Pipe(t)
	done := make(chan error)
	go func() {
		tc := tls.Server(conn.NetConn(), server)
		err := tc.Handshake()
		if err == nil {
			_, err = tc.Read(make([]byte, 1)) // TLS 1.3 judges the client's certificate after the handshake
		}
		done <- err
	}()
	tc := tls.Client(nc, client)
	clientErr = tc.Handshake()
	if clientErr == nil {
		_, clientErr = tc.Write([]byte("x"))
	} else {
		nc.Close()
	}
	return <-done, clientErr
}

func TestCertificates(t *testing.T) {
	ca := h2test.NewCA(t)
	with := func(cert tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{cert}} }
	check := func(t *testing.T) {
		for _, name := range []string{"localhost", "127.0.0.1"} {
			serverErr, clientErr := handshake(t, ca.ServerConfig("localhost", "127.0.0.1"), ca.ClientConfig(name))
			noError(t, serverErr)
			noError(t, clientErr)
		}

		_, err := handshake(t, ca.ServerConfig("other.test"), ca.ClientConfig("localhost"))
		var name x509.HostnameError
		equal(t, true, errors.As(err, &name))

		_, err = handshake(t, ca.ServerConfig("localhost"), h2test.NewCA(t).ClientConfig("localhost"))
		var unknown x509.UnknownAuthorityError
		equal(t, true, errors.As(err, &unknown))

		for _, cert := range []tls.Certificate{ca.Expired("localhost"), ca.NotYetValid("localhost")} {
			_, err = handshake(t, with(cert), ca.ClientConfig("localhost"))
			var invalid x509.CertificateInvalidError
			equal(t, true, errors.As(err, &invalid))
			equal(t, x509.Expired, invalid.Reason)
		}
	}
	t.Run("today", check)
	t.Run("in a bubble", func(t *testing.T) { synctest.Test(t, check) })
}

func TestClientCertificates(t *testing.T) {
	ca := h2test.NewCA(t)
	server := ca.ServerConfig("localhost")
	server.ClientAuth = tls.RequireAndVerifyClientCert
	server.ClientCAs = ca.Pool()

	client := ca.ClientConfig("localhost")
	serverErr, _ := handshake(t, server, client)
	contains(t, serverErr.Error(), "client didn't provide a certificate")

	client.Certificates = []tls.Certificate{ca.Client("somebody")}
	serverErr, clientErr := handshake(t, server, client)
	noError(t, serverErr)
	noError(t, clientErr)

	client.Certificates = []tls.Certificate{h2test.NewCA(t).Client("somebody")}
	client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &client.Certificates[0], nil }
	serverErr, _ = handshake(t, server, client)
	contains(t, serverErr.Error(), "unknown authority")

	pool := x509.NewCertPool()
	equal(t, true, pool.AppendCertsFromPEM(ca.PEM()))
	equal(t, true, pool.Equal(ca.Pool()))
}

func TestPipeWithTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc, conn := h2test.Pipe(t, h2test.WithTLS())
		done := make(chan error, 1)
		tc := tls.Client(nc, h2test.DefaultCA().ClientConfig("localhost"))
		go func() {
			_, err := io.WriteString(tc, http2.ClientPreface)
			done <- err
		}()
		conn.ExpectPreface()
		noError(t, <-done)
		equal(t, "h2", tc.ConnectionState().NegotiatedProtocol)
	})
}
