// Package lookup asks name servers. Its look-ups end when their context ends,
// with all that was begun for them, and their errors name the server and the answer.
package lookup

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// Source is a set of name servers. It is a value without state: it may be copied, and used
// by any number of goroutines.
type Source struct {
	// Resolver asks. Its PreferGo, StrictErrors and Dial count. nil:
	// net.DefaultResolver.
	Resolver *net.Resolver

	// Server is "host:port" of the only name server that Resolver asks, for
	// errors to name. Empty: those that the system knows.
	Server string
}

// Server is a Source that asks the name server at hostPort and no other.
func Server(hostPort string) Source {
	return Source{Server: hostPort, Resolver: &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, hostPort)
		},
	}}
}

// Addrs returns the addresses of a host in the order of RFC 6724, each once, and
// one at least. IPv4 addresses are in their own form; an IPv6 address may have a
// zone, from the hosts file.
//
// The error is a *net.DNSError, and that of ctx too if ctx has ended.
func (s Source) Addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	q := s.query()
	defer q.end()
	found, err := q.resolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, q.explain(err, host)
	}
	ips := make([]netip.Addr, 0, len(found))
	seen := make(map[netip.Addr]bool, len(found))
	for _, f := range found {
		ip, ok := netip.AddrFromSlice(f.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		if ip.Is6() {
			ip = ip.WithZone(f.Zone)
		}
		if !seen[ip] {
			seen[ip] = true
			ips = append(ips, ip)
		}
	}
	if len(ips) == 0 {
		return nil, q.explain(&net.DNSError{Err: noAddress, Name: host, IsNotFound: true}, host)
	}
	return ips, nil
}

// TXT returns the TXT records of a name. The strings of a record are joined. The
// error is package net's, but for a look-up without free descriptors.
func (s Source) TXT(ctx context.Context, name string) ([]string, error) {
	q := s.query()
	defer q.end()
	defer context.AfterFunc(ctx, q.end)() // package net waits for an answer even then
	records, err := q.resolver.LookupTXT(ctx, name)
	if e := (*net.DNSError)(nil); errors.As(err, &e) {
		q.mu.Lock()
		defer q.mu.Unlock()
		return nil, q.outOfFilesLocked(e)
	}
	return records, err
}
