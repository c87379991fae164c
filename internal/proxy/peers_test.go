package proxy

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// dialer dials as a program without a proxy does.
var dialer = new(net.Dialer).DialContext

// serve calls f for each connection to a loopback address until the test ends.
// Connections that f leaves open are closed then.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for nc := range open {
			_ = nc.Close()
		}
		open = nil
		mu.Unlock()
		running.Wait()
	})
	running.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if open == nil {
				_ = nc.Close()
			} else {
				open[nc] = true
			}
			mu.Unlock()
			running.Go(func() {
				defer nc.Close()
				f(nc)
			})
		}
	})
	return ln.Addr().String()
}

// greeting is what greet says first.
const greeting = "hello\n"

// greet speaks first, and then sends back what it gets.
func greet(nc net.Conn) {
	_, _ = io.WriteString(nc, greeting)
	_, _ = io.Copy(nc, nc)
}

// relay carries bytes both ways until both ends have ended.
func relay(client io.Reader, clientConn net.Conn, target net.Conn) {
	var done sync.WaitGroup
	done.Go(func() {
		_, _ = io.Copy(target, client)
		_ = target.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(clientConn, target)
	_ = clientConn.Close()
	done.Wait()
	_ = target.Close()
}

// log keeps what a peer saw.
type log[T any] struct {
	mu      sync.Mutex
	entries []T
}

func (l *log[T]) add(v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, v)
}

func (l *log[T]) all() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]T(nil), l.entries...)
}

// httpProxy is a proxy for CONNECT, which knows its targets by names of its own.
type httpProxy struct {
	addr string
	seen log[*http.Request]
}

// newHTTPProxy serves the targets that hosts names. authorization is the value
// that Proxy-Authorization must have; tlsConfig nil is plain HTTP.
func newHTTPProxy(t *testing.T, hosts map[string]string, authorization string, tlsConfig *tls.Config) *httpProxy {
	t.Helper()
	p := &httpProxy{}
	p.addr = serve(t, func(nc net.Conn) {
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

func (p *httpProxy) url(t *testing.T, scheme string, user *url.Userinfo) *url.URL {
	return &url.URL{Scheme: scheme, User: user, Host: p.addr}
}

// socksProxy is a proxy for SOCKS 5.
type socksProxy struct {
	addr string
	seen log[socksRequest]
}

// socksRequest is what a client asked for.
type socksRequest struct {
	methods        []byte
	user, password string
	name           string     // or
	ip             netip.Addr // one of them
	port           uint16
}

func (r socksRequest) target() string {
	host := r.name
	if host == "" {
		host = r.ip.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(r.port)))
}

// newSOCKSProxy serves the targets that hosts names; the others get the reply
// that the value is, or "host unreachable". user, if it is not empty, must be
// "name:password".
func newSOCKSProxy(t *testing.T, hosts map[string]string, user string) *socksProxy {
	t.Helper()
	p := &socksProxy{}
	p.addr = serve(t, func(nc net.Conn) {
		req, ok := readSOCKS(nc, user)
		if !ok {
			return
		}
		p.seen.add(req)
		reply := func(code byte) { _, _ = nc.Write([]byte{5, code, 0, 1, 192, 0, 2, 9, 0, 9}) }
		addr, ok := hosts[req.target()]
		if !ok {
			reply(socksHostUnreachable)
			return
		}
		if code, err := strconv.Atoi(addr); err == nil {
			reply(byte(code))
			return
		}
		target, err := net.Dial("tcp", addr)
		if err != nil {
			reply(socksRefused)
			return
		}
		reply(0)
		relay(nc, nc, target)
	})
	return p
}

// readSOCKS does a server's part of RFC 1928 and RFC 1929 up to the reply.
func readSOCKS(nc net.Conn, user string) (socksRequest, bool) {
	var r socksRequest
	failed := false
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(nc, b); err != nil {
			failed = true
		}
		return b
	}
	text := func() string { return string(read(int(read(1)[0]))) }
	write := func(b ...byte) { _, _ = nc.Write(b) }

	read(1)
	r.methods = []byte(text())
	switch wants := user != ""; {
	case !wants:
		write(5, 0)
	case len(r.methods) < 2:
		write(5, socksNoMethod)
		return r, false
	default:
		write(5, socksUserPassword)
		read(1)
		r.user, r.password = text(), text()
		if r.user+":"+r.password != user {
			write(1, 1)
			return r, false
		}
		write(1, 0)
	}
	switch kind := read(4)[3]; kind {
	case 1:
		r.ip, _ = netip.AddrFromSlice(read(4))
	case 4:
		r.ip, _ = netip.AddrFromSlice(read(16))
	case 3:
		r.name = text()
	}
	r.port = binary.BigEndian.Uint16(read(2))
	return r, !failed
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
