package lookup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// query is one look-up.
//
// A net.Resolver returns when its context ends, or not even then, and goes on
// asking in the background, for ten seconds and more if the name servers are
// silent. A query makes the connections itself: it closes them when it ends, and
// refuses new ones, so that what goes on ends at once. Also it listens on them
// for what net.DNSError leaves out. A look-up that Go leaves to the system can
// neither be interrupted nor be listened to.
type query struct {
	source   Source
	resolver *net.Resolver // asks through dial

	mu     sync.Mutex
	conns  []net.Conn // guarded by mu: all that were made, closed ones too
	over   bool       // guarded by mu
	asked  string     // guarded by mu: the server that was connected to last
	empty  string     // guarded by mu: a name that exists, whatever it has
	failed uint16     // guarded by mu: a bit for each RCODE that was a failure to answer
	answer bool       // guarded by mu: a server has answered
}

func (s Source) query() *query {
	if s.Resolver == nil {
		s.Resolver = net.DefaultResolver
	}
	q := &query{source: s}
	q.resolver = &net.Resolver{PreferGo: s.Resolver.PreferGo, StrictErrors: s.Resolver.StrictErrors, Dial: q.dial}
	return q
}

// end closes what the look-up left open.
func (q *query) end() {
	q.mu.Lock()
	q.over = true
	conns := q.conns
	q.mu.Unlock()
	for _, nc := range conns {
		_ = nc.Close()
	}
}

// dial makes a connection to a name server.
func (q *query) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := q.source.Resolver.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	if !q.goesOn(nil) {
		return nil, net.ErrClosed
	}
	nc, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if !q.goesOn(nc) {
		_ = nc.Close()
		return nil, net.ErrClosed
	}
	// Package net distinguishes datagrams from a stream by this interface.
	if pc, ok := nc.(net.PacketConn); ok {
		return datagrams{&exchange{Conn: nc, query: q}, pc}, nil
	}
	return &exchange{Conn: nc, query: q, prefix: 2}, nil
}

// goesOn says whether the query has not ended, and keeps nc to be closed then.
func (q *query) goesOn(nc net.Conn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over {
		return false
	}
	if nc != nil {
		q.conns = append(q.conns, nc)
		q.asked = nc.RemoteAddr().String()
	}
	return true
}

// exchange is a connection on which one question is asked and answered. It is
// used by one goroutine.
type exchange struct {
	net.Conn
	query  *query
	prefix int    // bytes before a message: 2 on a stream (RFC 1035 §4.2.2)
	name   string // in the question
	read   int    // bytes of the stream; 0 for datagrams
}

// datagrams is an exchange that is a net.PacketConn too. It is read and written
// by the methods of net.Conn.
type datagrams struct {
	*exchange
	net.PacketConn
}

func (e *exchange) Write(b []byte) (int, error) {
	var p dnsmessage.Parser
	if len(b) >= e.prefix {
		if _, err := p.Start(b[e.prefix:]); err == nil {
			if question, err := p.Question(); err == nil {
				e.name = question.Name.String()
			}
		}
	}
	return e.Conn.Write(b)
}

// codeAt is where in a message the RCODE is: the low half of this byte (RFC 1035
// §4.1.1).
const codeAt = 3

func (e *exchange) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if at := e.prefix + codeAt - e.read; at >= 0 && at < n {
		e.query.heard(e.name, dnsmessage.RCode(b[at]&0xf))
	}
	if e.prefix > 0 {
		e.read += n
	}
	return n, err
}

// heard notes the RCODE of an answer about name.
func (q *query) heard(name string, code dnsmessage.RCode) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answer = true
	switch {
	case code == dnsmessage.RCodeNameError:
	case code != dnsmessage.RCodeSuccess:
		q.failed |= 1 << code
	case q.empty == "":
		q.empty = name
	}
}

const noAddress = "the name exists but has no address"

// codeNames are the RCODEs of RFC 1035 §4.1.1 that are failures to answer.
var codeNames = map[uint16]string{
	1 << dnsmessage.RCodeFormatError:    "FORMERR",
	1 << dnsmessage.RCodeServerFailure:  "SERVFAIL",
	1 << dnsmessage.RCodeNotImplemented: "NOTIMP",
	1 << dnsmessage.RCodeRefused:        "REFUSED",
}

// explain completes what package net says of a look-up of host that failed: by
// the server that was really asked, by the RCODE, and by whether the name
// exists. The result is a *net.DNSError.
func (q *query) explain(err error, host string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := net.DNSError{Err: err.Error(), Name: host}
	if known := (*net.DNSError)(nil); errors.As(err, &known) {
		e = *known
	}
	switch {
	case q.source.Server != "":
		e.Server = q.source.Server
	case q.asked != "" && (e.Server == "" || q.source.Resolver.Dial != nil):
		e.Server = q.asked
	}
	switch {
	case e.IsNotFound && q.empty == "":
	case e.IsNotFound && strings.EqualFold(strings.TrimSuffix(q.empty, "."), strings.TrimSuffix(host, ".")):
		e.Err = noAddress
	case e.IsNotFound: // one that the system's search list made of it
		e.Err = fmt.Sprintf("%s (%q exists but has no address)", e.Err, q.empty)
	case !e.IsTimeout && codeNames[q.failed] != "":
		e.Err = fmt.Sprintf("%s (%s)", e.Err, codeNames[q.failed])
	}
	return q.outOfFilesLocked(&e)
}
