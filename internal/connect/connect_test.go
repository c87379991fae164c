package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

var plaintext = insecure.NewCredentials()

// finish closes a connection and waits for what it runs.
func finish(t *testing.T, c *h2.Conn) {
	t.Helper()
	done := errors.New("the test is done")
	c.Close(done, nil)
	assert.Equal(t, done, c.Serve(func(error) {}))
}

// attempt is the single failure that err must be.
func attempt(t *testing.T, err error) *failure.Attempt {
	t.Helper()
	require.IsType(t, (*failure.Attempt)(nil), err, "%v", err)
	return err.(*failure.Attempt)
}

func TestConnectForms(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t)
	srv.Serve(nil)
	_, port, err := net.SplitHostPort(srv.Addr())
	require.NoError(t, err)
	v6 := h2test.Listen(t, h2test.At("[::1]:0"))
	v6.Serve(nil)
	_, port6, err := net.SplitHostPort(v6.Addr())
	require.NoError(t, err)
	unix := h2test.Listen(t, h2test.Unix())
	unix.Serve(nil)
	abstract, err := net.Listen("unix", "@grpcdial-connect-test-"+port)
	require.NoError(t, err)
	backendtest.RunOn(t, grpc.NewServer(grpc.Creds(plaintext)), abstract)
	t.Chdir(filepath.Dir(unix.Addr()))

	for _, addr := range []resolver.Address{
		{Addr: srv.Addr()},
		{Addr: ":" + port},
		{Addr: "a.test:" + port},
		{Addr: v6.Addr()},
		{Addr: "[::1%lo]:" + port6},
		{Addr: "[::1%25lo]:" + port6},
		{Addr: "six.test:" + port6},
		{Addr: "unix:" + unix.Addr()},
		{Addr: "unix://" + unix.Addr()},
		{Addr: unix.Addr()},
		{Addr: "unix:" + filepath.Base(unix.Addr())},
		{Addr: abstract.Addr().String()},
		{Addr: "unix:" + abstract.Addr().String()},
		{Addr: "unix-abstract:" + strings.TrimPrefix(abstract.Addr().String(), "@")},
		UnixSocket(resolver.Address{Addr: unix.Addr()}),
		UnixSocket(resolver.Address{Addr: filepath.Base(unix.Addr())}),
	} {
		t.Run(addr.Addr, func(t *testing.T) {
			cfg := &Config{Creds: plaintext, Resolver: zone{"a.test": {"127.0.0.1"}, "six.test": {"::1"}}.resolver(t)}
			c, err := Connect(t.Context(), cfg, addr, "a.test")
			require.NoError(t, err)
			finish(t, c)
		})
	}
}

func TestConnectOverTLS(t *testing.T) {
	h2test.CheckLeaks(t)
	ca := h2test.NewCA(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := ca.ServerConfig("a.test", "::1")
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	backendtest.RunOn(t, grpc.NewServer(grpc.Creds(credentials.NewTLS(server))), ln)

	client := ca.ClientConfig("")
	client.Certificates = []tls.Certificate{ca.Client("me")}
	cfg := &Config{Creds: credentials.NewTLS(client), Secure: true, RequireSecurity: true}
	for _, authority := range []string{"a.test", "a.test:443", "[::1%lo]:443"} {
		t.Run(authority, func(t *testing.T) {
			c, err := Connect(t.Context(), cfg, resolver.Address{Addr: ln.Addr().String()}, authority)
			require.NoError(t, err)
			info, ok := c.Peer().AuthInfo.(credentials.TLSInfo)
			require.True(t, ok, "%T", c.Peer().AuthInfo)
			assert.Equal(t, "h2", info.State.NegotiatedProtocol)
			assert.Equal(t, ln.Addr().String(), c.Peer().Addr.String())
			finish(t, c)
		})
	}
}

func TestRequireSecurity(t *testing.T) {
	h2test.CheckLeaks(t)
	tcp, unix := h2test.Listen(t), h2test.Listen(t, h2test.Unix())
	tcp.Serve(nil)
	unix.Serve(nil)

	cfg := &Config{Creds: local.NewCredentials(), RequireSecurity: true}
	c, err := Connect(t.Context(), cfg, resolver.Address{Addr: unix.Target()}, "localhost")
	require.NoError(t, err, "local credentials call a unix socket private")
	finish(t, c)

	_, err = Connect(t.Context(), cfg, resolver.Address{Addr: tcp.Addr()}, "localhost")
	a := attempt(t, err)
	assert.Equal(t, failure.TLS, a.Phase)
	assert.ErrorIs(t, a, failure.ErrInsecure)
	assert.True(t, a.Permanent)

	c, err = Connect(t.Context(), &Config{Creds: local.NewCredentials()}, resolver.Address{Addr: tcp.Addr()}, "localhost")
	require.NoError(t, err)
	finish(t, c)
}

// TestContextLeavesTheConnectionAlone ends the context after the connection was
// made.
func TestContextLeavesTheConnectionAlone(t *testing.T) {
	h2test.CheckLeaks(t)
	srv := h2test.Listen(t, h2test.WithTLS())
	conns := make(chan *h2test.Conn, 1)
	srv.Script(func(c *h2test.Conn) {
		c.Handshake()
		conns <- c
		c.ExpectClosed()
	})
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Connect(ctx, &Config{Creds: credentials.NewTLS(srv.ClientTLS()), Secure: true}, resolver.Address{Addr: srv.Addr()}, "localhost")
	require.NoError(t, err)
	cancel()
	serving := make(chan error, 1)
	go func() { serving <- c.Serve(func(error) {}) }()
	(<-conns).GoAway(0, http2.ErrCodeNo, "bye") // arrives: the connection lives
	assert.ErrorAs(t, <-serving, new(http2.GoAwayError))
}

func TestBecause(t *testing.T) {
	boom := errors.New("boom")
	netTimeout := &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	netClosed := &net.OpError{Op: "read", Err: net.ErrClosed}
	open := t.Context()
	cancelled, cancel := context.WithCancel(open)
	cancel()
	passed, cancel := context.WithDeadline(open, time.Now().Add(-time.Second))
	defer cancel()
	tests := []struct {
		name string
		ctx  context.Context
		err  error
		want []error // all of them are in the result
		not  error
	}{
		{"the context goes on", open, netTimeout, []error{os.ErrDeadlineExceeded}, context.DeadlineExceeded},
		{"it ended, as the socket's deadline", passed, netTimeout, []error{context.DeadlineExceeded, os.ErrDeadlineExceeded}, context.Canceled},
		{"it ended, as a closed socket", cancelled, netClosed, []error{context.Canceled, net.ErrClosed}, context.DeadlineExceeded},
		{"its deadline has passed and its timer is late", lateTimer{open}, netTimeout, []error{context.DeadlineExceeded}, nil},
		{"it failed a moment before", passed, boom, []error{boom}, context.DeadlineExceeded},
		{"it says so itself", passed, context.DeadlineExceeded, []error{context.DeadlineExceeded}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := because(tt.ctx, tt.err)
			for _, want := range tt.want {
				assert.ErrorIs(t, err, want)
			}
			if tt.not != nil {
				assert.NotErrorIs(t, err, tt.not)
			}
		})
	}
}

// lateTimer is a context whose deadline has passed and that does not know yet.
type lateTimer struct{ context.Context }

func (lateTimer) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }
