// Package dnstest is a name server for tests, with records that the test sets:
// over UDP and TCP on a loopback port, or without sockets over pipes.
package dnstest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Zone is names, without the last dot and in lower case, and what is to be said
// about them. Other names do not exist.
type Zone map[string]Records

// Records are what is said about one name. The zero value is a name that exists
// and has nothing.
type Records struct {
	Addrs    []string         // IPv4 and IPv6 addresses, for questions of type A and AAAA
	TXT      []string         // cut into strings of 255 bytes on the way
	Code     dnsmessage.RCode // besides the records
	Silent   bool             // no answer
	Held     <-chan struct{}  // no answer before it is closed
	OverTCP  bool             // what comes by datagram is answered with "truncated"
	Question chan<- string    // gets the type of each question: "A", "AAAA", "TXT"
}

// Server answers questions about a zone.
type Server struct {
	udp     net.PacketConn // nil without sockets
	tcp     net.Listener   // nil without sockets
	closed  chan struct{}
	closing sync.Once
	wg      sync.WaitGroup

	mu   sync.Mutex
	zone Zone // guarded by mu
}

// New makes a server without sockets, for OverPipes. Close ends it.
func New(z Zone) *Server {
	return &Server{zone: z, closed: make(chan struct{})}
}

// Listen makes a server on a port of the loopback device. It ends with the test.
func Listen(t testing.TB, z Zone) *Server {
	t.Helper()
	s := New(z)
	for s.tcp == nil { // until there is a port that is free for both
		var err error
		if s.udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if s.tcp, err = net.Listen("tcp", s.udp.LocalAddr().String()); err != nil {
			_ = s.udp.Close()
		}
	}
	s.wg.Go(s.serveUDP)
	s.wg.Go(s.serveTCP)
	t.Cleanup(s.Close)
	return s
}

// Addr is the "host:port" of a server that listens.
func (s *Server) Addr() string { return s.udp.LocalAddr().String() }

// Close ends the server and returns when nothing of it runs. A second Close
// does nothing.
func (s *Server) Close() {
	s.closing.Do(func() { close(s.closed) })
	if s.udp != nil {
		_ = s.udp.Close()
		_ = s.tcp.Close()
	}
	s.wg.Wait()
}

// Set changes what is said about a name.
func (s *Server) Set(name string, r Records) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[name] = r
}

func (s *Server) find(name string) (Records, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.zone[strings.ToLower(strings.TrimSuffix(name, "."))]
	return r, ok
}

func (s *Server) serveUDP() {
	for {
		b := make([]byte, 1<<16)
		n, from, err := s.udp.ReadFrom(b)
		if err != nil {
			return
		}
		s.wg.Go(func() {
			if out := s.answer(b[:n], true); out != nil {
				_, _ = s.udp.WriteTo(out, from)
			}
		})
	}
}

func (s *Server) serveTCP() {
	for {
		nc, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() { s.serveStream(nc) })
	}
}

// serveStream answers one question after the other (RFC 1035 §4.2.2).
func (s *Server) serveStream(nc net.Conn) {
	defer nc.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(nc, length[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(nc, b); err != nil {
			return
		}
		if out := s.answer(b, false); out != nil {
			if _, err := nc.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
				return
			}
		}
	}
}

// OverPipes is a resolver that asks this server without sockets, for bubbles of
// testing/synctest. Close waits until its connections are closed.
func (s *Server) OverPipes() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		s.wg.Go(func() { s.serveStream(server) })
		return client, nil
	}}
}

// answer returns nil for silence.
func (s *Server) answer(raw []byte, datagram bool) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	r, exists := s.find(q.Name.String())
	if r.Question != nil {
		r.Question <- strings.TrimPrefix(q.Type.String(), "Type")
	}
	if r.Held != nil {
		select {
		case <-r.Held:
		case <-s.closed:
			return nil
		}
	}
	if r.Silent {
		return nil
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	m.RCode = r.Code
	if !exists {
		m.RCode = dnsmessage.RCodeNameError
	}
	if m.Truncated = datagram && r.OverTCP; !m.Truncated {
		m.Answers = r.answers(q)
	}
	out, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return out
}

func (r Records) answers(q dnsmessage.Question) (all []dnsmessage.Resource) {
	header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
	for _, a := range r.Addrs {
		switch ip := netip.MustParseAddr(a); {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			all = append(all, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: ip.As4()}})
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			all = append(all, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	for _, txt := range r.TXT {
		if q.Type == dnsmessage.TypeTXT {
			all = append(all, dnsmessage.Resource{Header: header, Body: &dnsmessage.TXTResource{TXT: chunks(txt)}})
		}
	}
	return all
}

// chunks cuts a text into the strings of a TXT record, of 255 bytes at most.
func chunks(s string) (all []string) {
	for len(s) > 255 {
		all = append(all, s[:255])
		s = s[255:]
	}
	return append(all, s)
}
