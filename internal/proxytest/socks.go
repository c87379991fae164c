package proxytest

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
)

// Of SOCKS 5 (RFC 1928 §3, §6 and RFC 1929 §2).
const (
	userPassword = 0x02
	noMethod     = 0xff

	unreachable = 4
	refused     = 5
)

// SOCKS is a proxy for SOCKS 5.
type SOCKS struct {
	Addr string // "host:port"
	seen record[SOCKSRequest]
}

// SOCKSRequest is what a client asked for.
type SOCKSRequest struct {
	Methods        []byte // of authentication, as offered
	User, Password string // empty if none were sent

	name string     // or
	ip   netip.Addr // one of them
	port uint16
}

// Target is the "host:port" asked for.
func (r SOCKSRequest) Target() string {
	host := r.name
	if host == "" {
		host = r.ip.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(r.port)))
}

// ListenSOCKS makes a proxy for the targets that hosts names: "host:port" as it
// is asked for, and the address it leads to or the number to reply. Others get
// the reply "host unreachable". user, if it is not empty, is the "name:password"
// that clients must send. The proxy ends with the test.
func ListenSOCKS(t testing.TB, hosts map[string]string, user string) *SOCKS {
	t.Helper()
	p := &SOCKS{}
	p.Addr = Serve(t, func(nc net.Conn) {
		req, ok := readSOCKS(nc, user)
		if !ok {
			return
		}
		p.seen.add(req)
		reply := func(code byte) { _, _ = nc.Write([]byte{5, code, 0, 1, 192, 0, 2, 9, 0, 9}) }
		addr, ok := hosts[req.Target()]
		if !ok {
			reply(unreachable)
			return
		}
		if code, err := strconv.Atoi(addr); err == nil {
			reply(byte(code))
			return
		}
		target, err := net.Dial("tcp", addr)
		if err != nil {
			reply(refused)
			return
		}
		reply(0)
		relay(nc, nc, target)
	})
	return p
}

// Requests are those that the proxy has got, in order.
func (p *SOCKS) Requests() []SOCKSRequest { return p.seen.all() }

// readSOCKS does a server's part of RFC 1928 and RFC 1929 up to the reply.
func readSOCKS(nc net.Conn, user string) (SOCKSRequest, bool) {
	var r SOCKSRequest
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
	r.Methods = []byte(text())
	switch wants := user != ""; {
	case !wants:
		write(5, 0)
	case len(r.Methods) < 2:
		write(5, noMethod)
		return r, false
	default:
		write(5, userPassword)
		read(1)
		r.User, r.Password = text(), text()
		if r.User+":"+r.Password != user {
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
