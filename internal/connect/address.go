package connect

import (
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/proxy"
	"github.com/grpcdial/grpcdial/internal/text"
)

// unixKey is the address attribute of UnixSocket.
type unixKey struct{}

// UnixSocket marks an address as the path of a unix socket, "@" first for an
// abstract one. It is for what the resolvers of the schemes unix and
// unix-abstract deliver: their own mark is internal to grpc-go.
func UnixSocket(addr resolver.Address) resolver.Address {
	addr.Attributes = addr.Attributes.WithValue(unixKey{}, true)
	return addr
}

func isUnixSocket(addr resolver.Address) bool {
	return addr.Attributes.Value(unixKey{}) != nil
}

// endpoint is one thing to dial.
type endpoint struct {
	network, address string   // for net.Dialer; with a dialer of the user's, address is what it gets
	shown            string   // Attempt.Addr: fit to leave the library
	proxy            *url.URL // that connects to address; nil: none

	phases chan<- struct{} // of race, see phaseDone; nil: the endpoint races with none
}

// phaseDone reports to race that a phase of the way to e has succeeded. It does not
// wait, and may be called after the race.
func (e endpoint) phaseDone() {
	select {
	case e.phases <- struct{}{}:
	default: // race has not heard of the one before yet, or there is none
	}
}

// failed is the attempt at e that began at start and ended now, in phase, because
// of err.
func (e endpoint) failed(authority string, start time.Time, phase failure.Phase, err error) *failure.Attempt {
	a := failure.New(e.shown, authority, start, phase, err)
	a.Proxy, a.Hint = proxy.Redact(e.proxy), proxy.Secrets(e.proxy).MaskQuoted(a.Hint)
	return a
}

// masked returns err, which ended a handshake with e, without what was sent to e's proxy:
// it may be the proxy that answered in place of the server, and echoed it.
func (e endpoint) masked(err error) error {
	secrets := proxy.Secrets(e.proxy)
	if secrets == nil {
		return err
	}
	return secrets.Error(failure.MapFirstBytes(err, secrets.MaskBytes))
}

func unixEndpoint(path string) endpoint {
	return endpoint{network: "unix", address: path, shown: text.Target(unixName(path))}
}

// unixName is the form in which a unix socket's path goes to dialers and into
// errors.
func unixName(path string) string {
	if filepath.IsAbs(path) {
		return "unix://" + path
	}
	return "unix:" + path
}

// unixPath takes the path out of the forms in which an address can say that it
// is a unix socket: unix:path, unix:///absolute, unix-abstract:name, and a bare
// absolute path or @name, which are no host and port. Escapes of the URL forms
// are decoded.
func unixPath(addr string) (path string, ok bool) {
	if name, ok := strings.CutPrefix(addr, "unix-abstract:"); ok {
		return "@" + name, true
	}
	rest, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return addr, strings.HasPrefix(addr, "/") || strings.HasPrefix(addr, "@")
	}
	if !strings.HasPrefix(rest, "/") {
		return rest, true
	}
	u, err := url.Parse(addr)
	if err != nil {
		return strings.TrimPrefix(rest, "//"), true
	}
	if u.Path == "" {
		return u.Host, true
	}
	return u.Path, true
}

// split parses "host:port". An absent host is localhost. An IP literal is
// returned as such too, with its zone as the system names it.
func split(addr string) (host, port string, ip netip.Addr, err error) {
	host, port, err = net.SplitHostPort(addr)
	if err != nil {
		return "", "", ip, err
	}
	if port == "" {
		return "", "", ip, &net.AddrError{Err: "missing port in address", Addr: addr}
	}
	if host == "" {
		host = "localhost"
	}
	if ip, err = netip.ParseAddr(host); err == nil && ip.Zone() != "" {
		ip = ip.WithZone(zoneName(ip.Zone(), interfaceExists))
	}
	return host, port, ip, nil // ip is the zero Addr for a name
}

// zoneName decodes the zone of an address that was written as in a URL, where
// "%" is "%25" (RFC 6874 §2): "25eth0" is eth0, unless exists knows an
// interface of that very name or number.
func zoneName(zone string, exists func(string) bool) string {
	decoded, ok := strings.CutPrefix(zone, "25")
	if !ok || decoded == "" || exists(zone) {
		return zone
	}
	return decoded
}

func interfaceExists(zone string) bool {
	if _, err := net.InterfaceByName(zone); err == nil {
		return true
	}
	index, err := strconv.Atoi(zone)
	if err != nil {
		return false
	}
	_, err = net.InterfaceByIndex(index)
	return err == nil
}

// withoutZone removes the zone of an IPv6 literal from an authority: it means
// something on this machine only and is no part of the server's name
// (RFC 6874 §4).
func withoutZone(authority string) string {
	before, rest, ok := strings.Cut(authority, "%")
	if !ok {
		return authority
	}
	if strings.HasPrefix(before, "[") {
		if i := strings.IndexByte(rest, ']'); i >= 0 && isIPv6(before[1:]) {
			return before + rest[i:]
		}
		return authority
	}
	if isIPv6(before) {
		return before
	}
	return authority
}

func isIPv6(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Is6()
}
