package backendtest

import (
	"context"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// Hang is a dialer that waits until its context ends.
func Hang(ctx context.Context, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// ErrRefused is what a dialer returns whose connection is refused.
var ErrRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

// Refuse is a dialer that fails with ErrRefused.
func Refuse(context.Context, string) (net.Conn, error) { return nil, ErrRefused }

// Mute is a dialer to a server that accepts and says nothing.
func Mute(context.Context, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		buf := make([]byte, 1024)
		for {
			if _, err := server.Read(buf); err != nil {
				return
			}
		}
	}()
	return client, nil
}

// UnusedAddr returns an address on which nothing listens.
func UnusedAddr(t *testing.T) string { return h2test.RefusedAddr(t) }

// ServeRaw runs a server that does f with each connection and closes it.
func ServeRaw(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = lis.Close() })
	go func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			go func() { f(c); _ = c.Close() }()
		}
	}()
	return lis.Addr().String()
}

// PortOf is the port of "host:port".
func PortOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	return port
}

// NoDial is a dialer that fails.
func NoDial(context.Context, string) (net.Conn, error) { return nil, net.ErrClosed }
