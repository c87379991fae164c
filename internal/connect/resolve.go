package connect

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"

	"google.golang.org/grpc/resolver"
)

// resolve finds what to dial for addr, in the order in which to try it. Only a
// host name costs a look-up; a dialer of the user's gets the address as it is.
func (cfg *Config) resolve(ctx context.Context, addr resolver.Address) ([]endpoint, error) {
	if cfg.Dialer != nil {
		name := addr.Addr
		if isUnixSocket(addr) {
			name = unixName(name)
		}
		return []endpoint{{address: name, shown: name}}, nil
	}
	if isUnixSocket(addr) {
		return []endpoint{unixEndpoint(addr.Addr)}, nil
	}
	if path, ok := unixPath(addr.Addr); ok {
		return []endpoint{unixEndpoint(path)}, nil
	}
	host, service, ip, err := split(addr.Addr)
	if err != nil {
		return nil, err
	}
	port, err := cfg.port(ctx, service, addr.Addr)
	if err != nil {
		return nil, err
	}
	if ip.IsValid() {
		return tcpEndpoints([]netip.Addr{ip}, port), nil
	}
	ips, err := cfg.lookUp(ctx, host)
	if err != nil {
		return nil, err
	}
	return tcpEndpoints(interleave(ips), port), nil
}

func (cfg *Config) resolver() *net.Resolver {
	if cfg.Resolver != nil {
		return cfg.Resolver
	}
	return net.DefaultResolver
}

// port is the number of a port, which may be given by its service's name.
func (cfg *Config) port(ctx context.Context, service, addr string) (uint16, error) {
	if n, err := strconv.ParseUint(service, 10, 16); err == nil {
		return uint16(n), nil
	}
	n, err := cfg.resolver().LookupPort(ctx, "tcp", service)
	if err == nil {
		return uint16(n), nil
	}
	if notFound := (*net.DNSError)(nil); errors.As(err, &notFound) && notFound.IsNotFound {
		err = &net.AddrError{Err: "unknown port", Addr: addr}
	}
	return 0, err
}

// lookUp returns the addresses of a host in the order of RFC 6724, each once.
func (cfg *Config) lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	q := query{resolver: cfg.resolver()}
	found, err := q.lookUp(ctx, host)
	if err != nil {
		return nil, err
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
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return ips, nil
}

// interleave alternates the address families, beginning with that of the first
// address, and keeps the order within each (RFC 8305 §4).
func interleave(ips []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, ip := range ips {
		if ip.Is4() == ips[0].Is4() {
			first = append(first, ip)
		} else {
			second = append(second, ip)
		}
	}
	mixed := make([]netip.Addr, 0, len(ips))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			mixed = append(mixed, first[i])
		}
		if i < len(second) {
			mixed = append(mixed, second[i])
		}
	}
	return mixed
}

func tcpEndpoints(ips []netip.Addr, port uint16) []endpoint {
	endpoints := make([]endpoint, len(ips))
	for i, ip := range ips {
		addr := netip.AddrPortFrom(ip, port).String()
		endpoints[i] = endpoint{network: "tcp", address: addr, shown: addr}
	}
	return endpoints
}
