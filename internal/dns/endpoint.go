package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/grpcdial/grpcdial/internal/text"
)

// HostPort is the endpoint of a target as "host:port", with the default port if it
// has none. The error is that of Build.
func HostPort(endpoint string) (string, error) {
	host, port, err := splitEndpoint(endpoint, defaultPort)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// IsAddress reports whether an endpoint is an IP address, with or without a port, that Build
// delivers as it is.
func IsAddress(endpoint string) bool {
	host, _, err := splitEndpoint(endpoint, defaultPort)
	return err == nil && isAddress(host)
}

// isAddress reports whether a host is an IP address.
func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// splitEndpoint takes "host", "host:port" or ":port" apart. An IPv6 address may
// stand without brackets if it has no port.
func splitEndpoint(endpoint, defaultPort string) (host, port string, err error) {
	if strings.TrimSpace(endpoint) == "" {
		return "", "", errors.New(`there is no host: write "host" or "host:port"`)
	}
	if trimmed := strings.TrimSpace(endpoint); trimmed != endpoint {
		return "", "", fmt.Errorf("%s has white space at an end: write %s", text.QuoteTarget(endpoint), text.QuoteTarget(trimmed))
	}
	if ip, err := netip.ParseAddr(endpoint); err == nil {
		if strings.ContainsAny(ip.Zone(), "[]") { // net/netip takes any zone, a dialer does not
			return "", "", fmt.Errorf("%s has a bracket in its zone: the zone is the name or the number of a network interface", text.QuoteTarget(endpoint))
		}
		return endpoint, defaultPort, nil
	}
	if scheme, _, ok := strings.Cut(endpoint, "://"); ok {
		return "", "", fmt.Errorf("no resolver serves the scheme %q of %s: register one, or drop %q", scheme, text.QuoteTarget(endpoint), scheme+"://")
	}
	host, port, err = net.SplitHostPort(endpoint)
	switch {
	case err != nil:
		// Without a port it must be well formed with one.
		if host, port, err = net.SplitHostPort(endpoint + ":" + defaultPort); err != nil || host == "" {
			return "", "", malformed(endpoint, err)
		}
	case port == "":
		return "", "", fmt.Errorf("%s ends where its port should be: write the port, or drop the colon for port %s", text.QuoteTarget(endpoint), defaultPort)
	case host == "":
		host = "localhost" // as net.Dial does
	}
	return host, port, checkPort(endpoint, port)
}

func malformed(endpoint string, err error) error {
	reason := "the host is missing"
	if e := (*net.AddrError)(nil); errors.As(err, &e) {
		reason = e.Err
	}
	return fmt.Errorf("%s is neither a host nor a host and a port (%s): an IPv6 address with a port is written [address]:port", text.QuoteTarget(endpoint), reason)
}

// checkPort refuses what can be neither a number of a port nor a service's
// name. Which names there are is for the dialer to know.
func checkPort(endpoint, port string) error {
	_, err := strconv.ParseUint(port, 10, 16)
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%s: port %q is above 65535", text.QuoteTarget(endpoint), port)
	}
	if _, err := strconv.Atoi(port); err == nil && (port[0] == '-' || port[0] == '+') {
		return fmt.Errorf("%s: port %q has a sign", text.QuoteTarget(endpoint), port)
	}
	if strings.Contains(port, "/") {
		return fmt.Errorf("%s: %s is no port: a target has no path after the port", text.QuoteTarget(endpoint), text.QuoteTarget(port))
	}
	return nil
}

// isLocalhost says whether host is one of the names that RFC 6761 §6.3 keeps
// from name servers.
func isLocalhost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
