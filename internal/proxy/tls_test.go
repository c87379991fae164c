package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// to dials addr whatever the name is.
func to(addr string) DialFunc {
	return func(ctx context.Context, network, _ string) (net.Conn, error) { return dialer(ctx, network, addr) }
}

func TestHTTPS(t *testing.T) {
	h2test.CheckLeaks(t)
	ca := h2test.NewCA(t)
	server := &tls.Config{Certificates: []tls.Certificate{ca.Server("p.example", "127.0.0.1", "fe80::1")}, NextProtos: []string{"h2", "http/1.1"}}
	p := proxytest.ListenHTTP(t, map[string]string{"a.example:443": serve(t, greet)}, "Basic dXNlcjpzZWNyZXQ=", server)
	user := url.UserPassword("user", "secret")
	client := ca.ClientConfig("") // it has h2 in its ALPN, which a proxy must not choose
	for _, host := range []string{"p.example", "p.example:8443", "P.Example", "127.0.0.1", "[fe80::1%lo]:8443"} {
		t.Run(host, func(t *testing.T) {
			nc, err := Connect(t.Context(), to(p.Addr), &url.URL{Scheme: "https", User: user, Host: host}, "a.example:443", Options{TLS: client})
			require.NoError(t, err)
			defer nc.Close()
			exchange(t, nc)
		})
	}
	assert.Empty(t, client.ServerName, "the configuration is the caller's")
	assert.Equal(t, []string{"h2"}, client.NextProtos)

	t.Run("refused", func(t *testing.T) {
		_, err := Connect(t.Context(), to(p.Addr), &url.URL{Scheme: "https", Host: "p.example"}, "a.example:443", Options{TLS: client})
		e := failure(t, err)
		assert.Equal(t, 407, e.StatusCode)
		assert.Equal(t, "https://p.example", e.Proxy)
	})
	t.Run("client certificate", func(t *testing.T) {
		demanding := server.Clone()
		demanding.ClientAuth, demanding.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
		p := proxytest.ListenHTTP(t, map[string]string{"a.example:443": serve(t, greet)}, "", demanding)
		u := &url.URL{Scheme: "https", Host: "p.example"}
		_, err := Connect(t.Context(), to(p.Addr), u, "a.example:443", Options{TLS: client})
		e := failure(t, err)
		assert.Equal(t, StepHandshake, e.Step)
		assert.Contains(t, e.Hint(), "client certificate")

		known := client.Clone()
		known.Certificates = []tls.Certificate{ca.Client("me")}
		nc, err := Connect(t.Context(), to(p.Addr), u, "a.example:443", Options{TLS: known})
		require.NoError(t, err)
		defer nc.Close()
		exchange(t, nc)
	})
}

// A proxy that is not the one of the URL, or none of TLS at all, sees neither the
// credentials nor the target.
func TestHTTPSKeepsCredentials(t *testing.T) {
	h2test.CheckLeaks(t)
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	speaks := func(cert tls.Certificate) func(net.Conn) {
		return func(nc net.Conn) {
			if tc := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{cert}}); tc.Handshake() == nil {
				_, _ = io.Copy(io.Discard, tc)
			}
		}
	}
	tests := []struct {
		name      string
		peer      func(net.Conn)
		cause     func(error) bool
		hint      string
		permanent bool
	}{
		{"unknown authority", speaks(other.Server("p.example")), isAny[x509.UnknownAuthorityError], "system's roots", true},
		{"other name", speaks(ca.Server("q.example")), isAny[x509.HostnameError], `not for "p.example"`, true},
		{"expired", speaks(ca.Expired("p.example")), isAny[x509.CertificateInvalidError], "dates", true},
		{"plain HTTP", answering("HTTP/1.1 400 Bad Request\r\n\r\n"), isAny[tls.RecordHeaderError], "does not speak TLS", true},
		{"end", answeringAndEnding(""), func(err error) bool { return err == io.EOF }, "in the TLS handshake", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			heard := make(chan []byte, 1)
			addr := serve(t, func(nc net.Conn) {
				tapped := &tap{TCPConn: nc.(*net.TCPConn)}
				tt.peer(tapped)
				heard <- tapped.heard.Bytes()
			})
			nc, err := Connect(t.Context(), to(addr), &url.URL{Scheme: "https", User: url.UserPassword("user", "secret"), Host: "p.example"},
				"a.example:443", Options{TLS: ca.ClientConfig("")})
			assert.Nil(t, nc)
			e := failure(t, err)
			assert.Equal(t, StepTLS, e.Step)
			assert.True(t, tt.cause(e.Err), "%v", e.Err)
			assert.Contains(t, e.Hint(), tt.hint)
			assert.Equal(t, tt.permanent, e.Permanent())
			assert.NotContains(t, e.Error(), "secret")

			b := <-heard
			require.NotEmpty(t, b)
			assert.Equal(t, byte(22), b[0], "a TLS handshake record")
			for _, secret := range []string{"CONNECT", "a.example", "Basic", "dXNlcjpzZWNyZXQ"} {
				assert.NotContains(t, string(b), secret)
			}
		})
	}
}

// tap keeps what is read from a connection.
type tap struct {
	*net.TCPConn
	heard bytes.Buffer
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.TCPConn.Read(p)
	t.heard.Write(p[:n])
	return n, err
}

// WriteTo hides the one of *net.TCPConn, which would go past Read.
func (t *tap) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{t})
}
