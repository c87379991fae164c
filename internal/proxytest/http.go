package proxytest

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
)

// HTTP is a proxy for CONNECT.
type HTTP struct {
	Addr string // "host:port"
	seen record[*http.Request]
}

// ListenHTTP makes a proxy for the targets that hosts names: "host:port" as it
// is asked for, and the address it leads to. Others are answered with 502.
// authorization is the value that Proxy-Authorization must have, or the answer
// is 407. tlsConfig nil is plain HTTP. The proxy ends with the test.
func ListenHTTP(t testing.TB, hosts map[string]string, authorization string, tlsConfig *tls.Config) *HTTP {
	t.Helper()
	p := &HTTP{}
	p.Addr = Serve(t, func(nc net.Conn) {
		if tlsConfig != nil {
			nc = tls.Server(nc, tlsConfig)
		}
		r := bufio.NewReader(nc)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		p.seen.add(req)
		if req.Header.Get("Proxy-Authorization") != authorization {
			_, _ = io.WriteString(nc, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"a, b\"\r\nContent-Length: 9\r\n\r\nwho goes?")
			return
		}
		addr, ok := hosts[req.Host]
		if !ok {
			_, _ = io.WriteString(nc, "HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\nno such host")
			return
		}
		target, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
		relay(r, nc, target)
	})
	return p
}

// Requests are those that the proxy has got, in order.
func (p *HTTP) Requests() []*http.Request { return p.seen.all() }
