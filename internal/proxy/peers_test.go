package proxy

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// dialer dials as a program without a proxy does.
var dialer = new(net.Dialer).DialContext

// serve calls f for each connection to a loopback address until the test ends.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	return proxytest.Serve(t, f)
}

// greeting is what greet says first.
const greeting = "hello\n"

// greet speaks first, and then sends back what it gets.
func greet(nc net.Conn) {
	_, _ = io.WriteString(nc, greeting)
	_, _ = io.Copy(nc, nc)
}

// answering answers what comes first with fixed bytes and waits for the
// client's end.
func answering(answer string) func(net.Conn) {
	return func(nc net.Conn) {
		_, _ = nc.Read(make([]byte, 4096))
		_, _ = io.WriteString(nc, answer)
		_, _ = io.Copy(io.Discard, nc)
	}
}

// answeringAndEnding is answering by a proxy that ends the connection then.
func answeringAndEnding(answer string) func(net.Conn) {
	return func(nc net.Conn) {
		_, _ = nc.Read(make([]byte, 4096))
		_, _ = io.WriteString(nc, answer)
		_ = nc.(interface{ CloseWrite() error }).CloseWrite()
		_, _ = io.Copy(io.Discard, nc)
	}
}

// resetting ends the connection hard when something has come.
func resetting(nc net.Conn) {
	_, _ = nc.Read(make([]byte, 1))
	_ = nc.(*net.TCPConn).SetLinger(0)
}

// exchange checks that nc leads to greet.
func exchange(t *testing.T, nc net.Conn) {
	t.Helper()
	b := make([]byte, len(greeting))
	_, err := io.ReadFull(nc, b)
	require.NoError(t, err)
	require.Equal(t, greeting, string(b))
	for i := range 3 {
		text := fmt.Sprintf("ping %d", i)
		_, err = io.WriteString(nc, text)
		require.NoError(t, err)
		b = make([]byte, len(text))
		_, err = io.ReadFull(nc, b)
		require.NoError(t, err)
		require.Equal(t, text, string(b))
	}
}

// failure is the *Error that err must be.
func failure(t *testing.T, err error) *Error {
	t.Helper()
	require.IsType(t, (*Error)(nil), err, "%v", err)
	return err.(*Error)
}

// serverTLS is TLS at a proxy that is p.example.
func serverTLS(nc net.Conn, ca *h2test.CA) *tls.Conn {
	return tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{ca.Server("p.example")}})
}

// readOnly is a connection that says what it has to say.
type readOnly struct {
	net.Conn
	pieces
}

func (r *readOnly) Read(p []byte) (int, error)  { return r.pieces.Read(p) }
func (r *readOnly) Write(p []byte) (int, error) { return len(p), nil }
func (r *readOnly) Close() error                { return nil }
