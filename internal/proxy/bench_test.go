package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkConnect is one connection through a proxy on this machine, and as a
// measure the network connection to it alone.
func BenchmarkConnect(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	b.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				if _, err := http.ReadRequest(bufio.NewReader(nc)); err == nil {
					_, _ = io.WriteString(nc, "HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy.example (squid)\r\n\r\n")
					_, _ = io.Copy(io.Discard, nc)
				}
			}()
		}
	}()
	b.Run("http", func(b *testing.B) {
		b.ReportAllocs()
		u := &url.URL{Scheme: "http", Host: ln.Addr().String()}
		for b.Loop() {
			nc, err := Connect(b.Context(), dialer, u, "a.example:443", Options{UserAgent: "grpc-go-grpcdial/0"})
			require.NoError(b, err)
			_ = nc.(*net.TCPConn).SetLinger(0)
			_ = nc.Close()
		}
	})
	b.Run("dial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			nc, err := dialer(b.Context(), "tcp", ln.Addr().String())
			require.NoError(b, err)
			_ = nc.(*net.TCPConn).SetLinger(0)
			_ = nc.Close()
		}
	})
}
