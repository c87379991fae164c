package connect

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"

	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/lookup"
	"github.com/grpcdial/grpcdial/internal/proxy"
	"github.com/grpcdial/grpcdial/internal/text"
)

// resolve finds what to dial for addr, in the order in which to try it. Only a
// host name costs a look-up; a proxy, or a dialer of the user's, gets the address
// as it is.
func (cfg *Config) resolve(ctx context.Context, addr resolver.Address) ([]endpoint, error) {
	path, unix := addr.Addr, isUnixSocket(addr)
	if !unix {
		path, unix = unixPath(addr.Addr)
	}
	if via, target := throughProxy(addr); via != nil && !unix && cfg.Dialer == nil {
		return []endpoint{{address: target, shown: text.Target(target), proxy: via}}, nil
	}
	var via *url.URL
	if !unix {
		var err error
		if via, err = cfg.chooseProxy(ctx, addr.Addr); err != nil {
			return nil, err
		}
	}
	switch {
	case proxy.TakesNames(via):
		return []endpoint{{address: addr.Addr, shown: text.Target(addr.Addr), proxy: via}}, nil
	case via != nil:
		endpoints, err := cfg.lookUp(ctx, addr.Addr)
		if err != nil {
			return nil, &proxy.Error{Proxy: proxy.Redact(via), Target: addr.Addr, Step: proxy.StepResolve, Err: err}
		}
		for i := range endpoints {
			endpoints[i].proxy = via
		}
		return endpoints, nil
	case cfg.Dialer != nil:
		name := addr.Addr
		if isUnixSocket(addr) {
			name = unixName(name)
		}
		return []endpoint{{address: name, shown: text.Target(name)}}, nil
	case unix:
		return []endpoint{unixEndpoint(path)}, nil
	default:
		return cfg.lookUp(ctx, addr.Addr)
	}
}

// lookUp finds the IP addresses of "host:port", in the order in which to try
// them.
func (cfg *Config) lookUp(ctx context.Context, addr string) ([]endpoint, error) {
	host, service, ip, err := split(addr)
	if err != nil {
		return nil, err
	}
	port, err := cfg.port(ctx, service, addr)
	if err != nil {
		return nil, err
	}
	if ip.IsValid() {
		return tcpEndpoints([]netip.Addr{ip}, port), nil
	}
	step := Step{Phase: failure.Resolve, Addr: addr}
	cfg.begin(&step)
	var endpoints []endpoint
	ips, err := lookup.Source{Resolver: cfg.Resolver}.Addrs(ctx, host)
	if err == nil {
		endpoints = tcpEndpoints(interleave(ips), port)
	}
	if cfg.Trace != nil {
		for _, e := range endpoints {
			step.Addrs = append(step.Addrs, e.shown)
		}
	}
	cfg.end(&step, because(ctx, err))
	return endpoints, err
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
