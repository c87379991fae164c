package connect

import (
	"context"
	"net"
	"sync"
)

// query is one look-up of a host name.
//
// A net.Resolver returns when its context ends, but goes on asking in the
// background, for ten seconds and more if the name servers are silent. A query
// closes the connections of its look-up when it returns, and refuses new ones,
// so that what goes on ends at once. A system resolver that is called through
// cgo cannot be interrupted.
type query struct {
	resolver *net.Resolver

	mu    sync.Mutex
	conns []net.Conn // guarded by mu: all that were made, closed ones too
	over  bool       // guarded by mu
}

func (q *query) lookUp(ctx context.Context, host string) ([]net.IPAddr, error) {
	defer q.end()
	r := net.Resolver{PreferGo: q.resolver.PreferGo, StrictErrors: q.resolver.StrictErrors, Dial: q.dial}
	return r.LookupIPAddr(ctx, host)
}

// dial makes a connection to a name server, as the resolver would without us.
func (q *query) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := q.resolver.Dial
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
	return nc, nil
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
	}
	return true
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
