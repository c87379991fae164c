package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// destination is a target as it goes to a proxy.
type destination struct {
	host string     // a name in ASCII, or an IP address without zone
	ip   netip.Addr // the zero Addr for a name
	port uint16
}

func (d destination) String() string {
	return net.JoinHostPort(d.host, strconv.Itoa(int(d.port)))
}

// parseTarget reads "host:port". An absent host is localhost, which is the
// proxy's own; a port may be given by its service's name. The zone of an IPv6
// address is left out: it means something on this machine only (RFC 4007 §6).
func parseTarget(ctx context.Context, target string) (destination, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return destination{}, err
	}
	var d destination
	if d.port, err = portNumber(ctx, port, target); err != nil {
		return destination{}, err
	}
	if host == "" {
		host = "localhost"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return at(ip, d.port), nil
	}
	d.host, err = ascii(host)
	return d, err
}

// at is the destination with an IP address.
func at(ip netip.Addr, port uint16) destination {
	ip = ip.Unmap().WithZone("")
	return destination{host: ip.String(), ip: ip, port: port}
}

func portNumber(ctx context.Context, service, target string) (uint16, error) {
	n, err := strconv.ParseUint(service, 10, 16)
	if err != nil && service != "" {
		var named int
		named, err = net.DefaultResolver.LookupPort(ctx, "tcp", service)
		n = uint64(named)
	}
	if err != nil || n == 0 {
		return 0, &net.AddrError{Err: "unknown port", Addr: target}
	}
	return uint16(n), nil
}

// ascii is a host name as proxies and name servers take it (RFC 5891 §4). A
// byte that could end the name in a request is refused.
func ascii(host string) (string, error) {
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 0x80:
			name, err := idna.Lookup.ToASCII(host)
			if err != nil {
				return "", fmt.Errorf("host name %q: %w", host, err)
			}
			return name, nil
		case c <= ' ' || c == 0x7f || strings.IndexByte(`/?#@:\"<>[]`, c) >= 0:
			return "", fmt.Errorf("host name %q: %w", host, errHostByte)
		}
	}
	return host, nil
}

var errHostByte = errors.New("it has a character that no host name has")
