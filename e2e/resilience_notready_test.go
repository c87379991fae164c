package e2e_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// listenDeaf returns the address of a host that does not answer: a listener's
// whose queue is full.
func listenDeaf(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	queued, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = queued.Close() })
	return addr
}

// A channel that does not become READY says where it failed and why.
func TestNotReadyAndWhy(t *testing.T) {
	h2test.CheckLeaks(t)
	ca := h2test.NewCA(t)
	clientTLS := credentials.NewTLS(ca.ClientConfig("backend.example"))
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	secureWeb := httptest.NewUnstartedServer(http.NotFoundHandler())
	secureWeb.Config.ErrorLog = log.New(io.Discard, "", 0)
	secureWeb.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Server("backend.example")}, NextProtos: []string{"http/1.1"}}
	secureWeb.StartTLS()
	t.Cleanup(secureWeb.Close)
	tests := []struct {
		name   string
		target string
		creds  credentials.TransportCredentials
		phase  grpcdial.Phase
		says   string
		as     any
		is     error
	}{
		{"nothing listens", backendtest.UnusedAddr(t), nil, grpcdial.PhaseDial, "refused", new(*net.OpError), syscall.ECONNREFUSED},
		{"nothing answers", listenDeaf(t), nil, grpcdial.PhaseDial, "not finished after", nil, nil},
		{"TLS to plaintext", backendtest.Start(t, "one").Addr, clientTLS, grpcdial.PhaseTLS, "without TLS", new(tls.RecordHeaderError), nil},
		{"plaintext to TLS", backendtest.StartEcho(t, grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example")))).Addr, nil, grpcdial.PhaseHTTP2, "TLS", nil, io.EOF},
		{"an HTTP/1 server", web.Listener.Addr().String(), nil, grpcdial.PhaseHTTP2, "HTTP/1", nil, nil},
		{"an HTTPS/1 server", secureWeb.Listener.Addr().String(), clientTLS, grpcdial.PhaseTLS, "ALPN", new(tls.AlertError), nil},
	}
	dials := map[string]func(context.Context, string, credentials.TransportCredentials) error{
		"DialContext": func(ctx context.Context, target string, creds credentials.TransportCredentials) error {
			_, err := grpcdial.DialContext(ctx, target, grpcdial.WithTransportCredentials(creds), grpcdial.WithBlock())
			return err
		},
		"AwaitReady": func(ctx context.Context, target string, creds credentials.TransportCredentials) error {
			return channelTo(t, target, creds).AwaitReady(ctx)
		},
	}
	var all sync.WaitGroup
	results := make(map[string]chan error)
	for _, tt := range tests {
		if tt.creds == nil {
			tt.creds = insecure.NewCredentials()
		}
		for name, dial := range dials {
			result := make(chan error, 1)
			results[tt.name+", "+name] = result
			all.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				defer cancel()
				result <- dial(ctx, tt.target, tt.creds)
			})
		}
	}
	begun := time.Now()
	all.Wait()
	assert.Less(t, time.Since(begun), 20*time.Second)
	for _, tt := range tests {
		for name := range dials {
			t.Run(tt.name+", "+name, func(t *testing.T) {
				err := <-results[tt.name+", "+name]
				t.Log(err)
				var e *grpcdial.DialError
				require.ErrorAs(t, err, &e)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				require.Len(t, e.Attempts, 1)
				assert.Equal(t, tt.target, e.Attempts[0].Addr)
				assert.Equal(t, tt.phase, e.Attempts[0].Phase)
				assert.Contains(t, err.Error(), tt.says)
				if tt.as != nil {
					assert.ErrorAs(t, err, tt.as)
				}
				if tt.is != nil {
					assert.ErrorIs(t, err, tt.is)
				}
			})
		}
	}
}
