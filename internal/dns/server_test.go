package dns

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// zone is names, without the last dot, and what is to be said about them. Other
// names do not exist.
type zone map[string]records

type records struct {
	addrs    []string
	txt      []string
	code     dnsmessage.RCode
	silent   bool            // no answer
	held     <-chan struct{} // no answer before it is closed
	overTCP  bool            // what comes by datagram is answered with "truncated"
	question chan<- string   // gets the type of each question
}

// nameServer answers questions about a zone, over UDP and TCP or over pipes.
type nameServer struct {
	udp    net.PacketConn // nil without sockets
	tcp    net.Listener   // nil without sockets
	closed chan struct{}
	wg     sync.WaitGroup

	mu   sync.Mutex
	zone zone // guarded by mu
}

func newZone(z zone) *nameServer {
	return &nameServer{zone: z, closed: make(chan struct{})}
}

// serve starts a name server on a port of the loopback device. It ends with the
// test.
func serve(t *testing.T, z zone) *nameServer {
	t.Helper()
	s := newZone(z)
	for { // until there is a port that is free for both
		var err error
		s.udp, err = net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		if s.tcp, err = net.Listen("tcp", s.udp.LocalAddr().String()); err == nil {
			break
		}
		require.NoError(t, s.udp.Close())
	}
	s.wg.Go(s.serveUDP)
	s.wg.Go(s.serveTCP)
	t.Cleanup(s.close)
	return s
}

// addr is what a target's authority says.
func (s *nameServer) addr() string { return s.udp.LocalAddr().String() }

func (s *nameServer) close() {
	close(s.closed)
	if s.udp != nil {
		_ = s.udp.Close()
		_ = s.tcp.Close()
	}
	s.wg.Wait()
}

// set changes what is said about a name.
func (s *nameServer) set(name string, r records) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[name] = r
}

func (s *nameServer) find(name string) (records, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.zone[strings.ToLower(strings.TrimSuffix(name, "."))]
	return r, ok
}

func (s *nameServer) serveUDP() {
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

func (s *nameServer) serveTCP() {
	for {
		nc, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() { s.serveStream(nc) })
	}
}

// serveStream answers one question after the other (RFC 1035 §4.2.2).
func (s *nameServer) serveStream(nc net.Conn) {
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

// overPipes is a resolver that asks this server without sockets.
func (s *nameServer) overPipes() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		s.wg.Go(func() { s.serveStream(server) })
		return client, nil
	}}
}

// answer returns nil for silence.
func (s *nameServer) answer(raw []byte, datagram bool) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	r, exists := s.find(q.Name.String())
	if r.question != nil {
		r.question <- strings.TrimPrefix(q.Type.String(), "Type")
	}
	if r.held != nil {
		select {
		case <-r.held:
		case <-s.closed:
			return nil
		}
	}
	if r.silent {
		return nil
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	m.RCode = r.code
	if !exists {
		m.RCode = dnsmessage.RCodeNameError
	}
	if m.Truncated = datagram && r.overTCP; !m.Truncated {
		m.Answers = r.answers(q)
	}
	out, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return out
}

func (r records) answers(q dnsmessage.Question) (all []dnsmessage.Resource) {
	header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
	for _, a := range r.addrs {
		switch ip := netip.MustParseAddr(a); {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			all = append(all, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: ip.As4()}})
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			all = append(all, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	for _, txt := range r.txt {
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
