// Package addresslist resolves the schemes ipv4 and ipv6 of gRPC's naming document,
// whose targets list the addresses themselves:
//
//	ipv4:10.0.0.1:50051,10.0.0.2
//	ipv6:[2001:db8::1]:50051,[2001:db8::2]:50051
package addresslist

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/grpc/resolver"
)

// The schemes.
const (
	schemeIPv4 = "ipv4"
	schemeIPv6 = "ipv6"
)

// defaultPort is that of addresses without one, as the naming document has it.
const defaultPort = 443

// Get returns the builder for a scheme; nil if it is neither of the two.
func Get(scheme string) resolver.Builder {
	if scheme == schemeIPv4 || scheme == schemeIPv6 {
		return Builder{scheme}
	}
	return nil
}

// Builder builds the resolvers of one of the two schemes. They give the addresses once
// and have no goroutine.
type Builder struct{ scheme string }

// Scheme returns the scheme.
func (b Builder) Scheme() string { return b.scheme }

// OverrideAuthority returns the first address, without its zone. Each of several
// addresses has itself as its server name, so that certificates are verified for it.
func (b Builder) OverrideAuthority(t resolver.Target) string {
	addrs, err := b.Parse(t)
	if err != nil {
		return t.Endpoint()
	}
	return serverName(addrs[0])
}

// serverName is an address as the name of a server: a zone means something on this
// machine only (RFC 6874 §4).
func serverName(a netip.AddrPort) string {
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port()).String()
}

// Build gives the addresses of t to cc. The error is that of Parse.
func (b Builder) Build(t resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	addrs, err := b.Parse(t)
	if err != nil {
		return nil, err
	}
	var s resolver.State
	for _, addr := range addrs {
		a := resolver.Address{Addr: addr.String()}
		if len(addrs) > 1 {
			a.ServerName = serverName(addr)
		}
		s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{a}})
		s.Addresses = append(s.Addresses, a)
	}
	// To give them again would change nothing: the verdict has no use here.
	_ = cc.UpdateState(s)
	return still{}, nil
}

// still is a resolver that has said all.
type still struct{}

func (still) ResolveNow(resolver.ResolveNowOptions) {}
func (still) Close()                                {}

// Parse returns the addresses of a target, in their order. The error names the one that
// is none of the scheme's.
func (b Builder) Parse(t resolver.Target) ([]netip.AddrPort, error) {
	if t.URL.Host != "" {
		return nil, fmt.Errorf("scheme %s has no authority, so there is no place for %q: write %s:address,address", b.scheme, t.URL.Host, b.scheme)
	}
	list := strings.TrimPrefix(t.Endpoint(), "/")
	if list == "" {
		return nil, fmt.Errorf("there is no address: write %s:address or %s:address:port", b.scheme, b.scheme)
	}
	var addrs []netip.AddrPort
	for item := range strings.SplitSeq(list, ",") {
		addr, err := b.parse(item)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", item, err)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// parse reads "address", "address:port", or with the address in brackets.
func (b Builder) parse(item string) (netip.AddrPort, error) {
	item = strings.ReplaceAll(item, "%25", "%") // the zone of a URI, RFC 6874
	host, port := item, strconv.Itoa(defaultPort)
	if inner, rest, ok := strings.Cut(strings.TrimPrefix(item, "["), "]"); ok && item[0] == '[' && rest == "" {
		host = inner
	} else if _, err := netip.ParseAddr(item); err != nil || ok {
		if host, port, err = net.SplitHostPort(item); err != nil {
			return netip.AddrPort{}, fmt.Errorf("it is no %s address with or without a port", b.family())
		}
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("it is no %s address with or without a port; names are for the scheme dns", b.family())
	case ip.Is4() != (b.scheme == schemeIPv4):
		return netip.AddrPort{}, fmt.Errorf("it is no %s address", b.family())
	case strings.ContainsAny(ip.Zone(), "[]"): // net/netip takes any zone, a dialer does not
		return netip.AddrPort{}, fmt.Errorf("there is a bracket in its zone %q", ip.Zone())
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return netip.AddrPort{}, errors.New("its port is no number from 1 to 65535")
	}
	return netip.AddrPortFrom(ip, uint16(n)), nil
}

func (b Builder) family() string {
	if b.scheme == schemeIPv4 {
		return "IPv4"
	}
	return "IPv6"
}
