package grpcdial

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/addresslist"
	"github.com/grpcdial/grpcdial/internal/foreignselector"
	"github.com/grpcdial/grpcdial/internal/text"
)

// The schemes that a target without one may fall back to. grpc brings resolver
// builders for both.
const (
	schemePassthrough = "passthrough"
	schemeDNS         = "dns"
)

// The schemes of unix sockets.
const (
	schemeUnix         = "unix"
	schemeUnixAbstract = "unix-abstract"
)

// chooseTarget finds out what a channel made by by, with o, is to connect to,
// and which builder makes its resolver. It is parseTarget for the default
// scheme that these ask for, after the targets that cannot work are refused.
func chooseTarget(target string, by constructor, o *dialOptions) (resolver.Target, resolver.Builder, error) {
	scheme, userScheme := defaultScheme(by, o.dialer != nil, resolver.GetDefaultScheme())
	lookup := builderLookup(o.resolvers, registered)
	w := readTarget(target, lookup)
	if w.builder != nil && isXDS(reflect.TypeOf(w.builder)) && !foreignselector.Registered() {
		return resolver.Target{}, nil, noXDS(target)
	}
	if w.builder == nil && scheme == schemeDNS && !userScheme && programSetPassthrough() {
		scheme = schemePassthrough
	}
	if o.dialer == nil && !userScheme {
		if err := refuseTrap(w, lookup); err != nil {
			return resolver.Target{}, nil, err
		}
	}
	if err := refusePassword(w, o.dialer != nil || userScheme); err != nil {
		return resolver.Target{}, nil, err
	}
	if o.dialer != nil && !userScheme {
		return checkList(parseTargetForDialer(w, lookup))
	}
	return checkList(parseTarget(w, scheme, lookup))
}

// registered returns the builder that the program has registered for a scheme, or ours
// for ipv4 and ipv6; nil if there is none.
func registered(scheme string) resolver.Builder {
	if b := resolver.Get(scheme); b != nil {
		return b
	}
	return addresslist.Get(scheme)
}

// checkList refuses a list of addresses in which one is none. Other results of
// parseTarget are passed on.
func checkList(t resolver.Target, b resolver.Builder, err error) (resolver.Target, resolver.Builder, error) {
	if list, ok := b.(addresslist.Builder); ok {
		if _, wrong := list.Parse(t); wrong != nil {
			return resolver.Target{}, nil, fmt.Errorf("grpcdial: target %s: %w", text.QuoteTarget(t.String()), wrong)
		}
	}
	return t, b, err
}

// defaultScheme returns the scheme of targets that have none, and whether it
// is the program's own choice (resolver.SetDefaultScheme), which wins. registered
// is what resolver.GetDefaultScheme returns: passthrough unless the program
// set it. One that set it to passthrough is found out by programSetPassthrough.
func defaultScheme(by constructor, customDialer bool, registered string) (scheme string, userScheme bool) {
	switch {
	case registered != schemePassthrough:
		return registered, true
	case by == byDial, customDialer:
		return schemePassthrough, false
	default:
		return schemeDNS, false
	}
}

// programSetPassthrough reports whether the program has called
// resolver.SetDefaultScheme("passthrough"), which it may do in init functions only:
// programs that moved to grpc.NewClient do so to keep what their targets meant. What
// it returns later is what it returned first. grpc-go keeps that to itself, but its
// channels show it.
var programSetPassthrough = sync.OnceValue(func() bool {
	cc, err := grpc.NewClient("x", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return false
	}
	defer cc.Close()
	return strings.HasPrefix(cc.CanonicalTarget(), schemePassthrough+":")
})

// builderLookup looks a scheme up in own and then in the registry. Schemes are
// case-insensitive (RFC 3986 §3.1); the ones asked for are lower-case.
func builderLookup(own []resolver.Builder, registry func(scheme string) resolver.Builder) func(string) resolver.Builder {
	return func(scheme string) resolver.Builder {
		for _, b := range own {
			if strings.EqualFold(b.Scheme(), scheme) {
				return b
			}
		}
		return registry(scheme)
	}
}

// written is a target as the program wrote it, and what that is as a URI.
type written struct {
	target  string
	uri     url.URL          // the zero value: it is none
	builder resolver.Builder // of its scheme; nil if it has none
}

func readTarget(target string, lookup func(scheme string) resolver.Builder) written {
	w := written{target: target}
	if _, err := netip.ParseAddrPort(target); err == nil {
		return w // no URI: spares most dials the making of url.Parse's error
	}
	if u, err := parseURI(target); err == nil {
		w.uri, w.builder = *u, lookup(u.Scheme)
	}
	return w
}

// restingTarget is a target as a channel keeps it. Most are a scheme and a path, and a
// url.URL has room for nine more things.
type restingTarget struct {
	scheme, path string
	url          *url.URL // nil: there is nothing else
}

func resting(t resolver.Target) restingTarget {
	r := restingTarget{scheme: t.URL.Scheme, path: t.URL.Path}
	if t.URL != (url.URL{Scheme: r.scheme, Path: r.path}) {
		r.url = &t.URL
	}
	return r
}

// target returns the target, as resolvers and policies get it.
func (r *restingTarget) target() resolver.Target {
	if r.url != nil {
		return resolver.Target{URL: *r.url}
	}
	return resolver.Target{URL: url.URL{Scheme: r.scheme, Path: r.path}}
}

// endpoint returns the part that resolvers resolve.
func (r *restingTarget) endpoint() string { return r.target().Endpoint() }

// parseTarget reads a target as gRPC's naming document says. A target whose
// scheme is absent, or has no builder, is the endpoint of defaultScheme as a
// whole.
//
// A zone in an IPv6 address may be written with % or, as URIs want it, %25.
func parseTarget(w written, defaultScheme string, lookup func(scheme string) resolver.Builder) (resolver.Target, resolver.Builder, error) {
	if w.builder != nil {
		return resolver.Target{URL: w.uri}, w.builder, nil
	}
	target := w.target
	u, err := parseURI(defaultScheme + ":///" + target)
	if err != nil && strings.ContainsFunc(target, unicode.IsControl) {
		err = errors.New("it holds a control character, a line break perhaps, which no target may")
	} else if err != nil && text.Target(target) != target {
		err = errors.New("it is no valid URL") // package url quotes what may be a piece of the password
	}
	if err != nil {
		return resolver.Target{}, nil, fmt.Errorf("grpcdial: target %s: %w", text.QuoteTarget(target), text.Error(err))
	}
	b := lookup(u.Scheme)
	if b == nil {
		return resolver.Target{}, nil, noBuilder(target, u.Scheme)
	}
	return resolver.Target{URL: *u}, b, nil
}

// parseTargetForDialer is parseTarget for a channel with a dialer of the
// program's own: a target whose scheme has no builder is handed to the
// passthrough resolver, and by that to the dialer, as it is written. Nothing
// in it is taken for an escape or a query.
func parseTargetForDialer(w written, lookup func(scheme string) resolver.Builder) (resolver.Target, resolver.Builder, error) {
	if w.builder != nil {
		return resolver.Target{URL: w.uri}, w.builder, nil
	}
	b := lookup(schemePassthrough)
	if b == nil {
		return resolver.Target{}, nil, noBuilder(w.target, schemePassthrough)
	}
	return resolver.Target{URL: url.URL{Scheme: schemePassthrough, Path: "/" + w.target}}, b, nil
}

func noBuilder(target, scheme string) error {
	return fmt.Errorf("grpcdial: target %s: no resolver for scheme %q, the default: register one, or give it with WithResolvers", text.QuoteTarget(target), scheme)
}

// parseURI is url.Parse, except that a % that begins no escape stands for
// itself.
func parseURI(s string) (*url.URL, error) {
	s = escapeZone(s)
	u, err := url.Parse(s)
	if err != nil && strings.IndexByte(s, '%') >= 0 {
		if e := url.EscapeError(""); errors.As(err, &e) {
			u, err = url.Parse(escapeStrayPercent(s))
		}
	}
	if err != nil {
		// url.Error repeats the string, with what was put before it.
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err
		}
		return nil, err
	}
	return u, nil
}

// escapeZone writes the % before the zone of a bracketed IPv6 address as %25
// (RFC 6874), so that a zone whose name begins with hexadecimal digits is not
// taken for an escape.
func escapeZone(s string) string {
	_, rest, ok := strings.Cut(s, "[")
	if !ok {
		return s
	}
	host, _, ok := strings.Cut(rest, "]")
	if !ok {
		return s
	}
	addr, zone, ok := strings.Cut(host, "%")
	if !ok || strings.HasPrefix(zone, "25") {
		return s
	}
	if ip, err := netip.ParseAddr(addr); err != nil || !ip.Is6() {
		return s
	}
	at := len(s) - len(rest) + len(addr)
	return s[:at] + "%25" + s[at+1:]
}

func escapeStrayPercent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteByte(s[i])
		if s[i] == '%' && !(i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2])) {
			b.WriteString("25")
		}
	}
	return b.String()
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// isXDS reports whether builder is grpc-go's for xDS. What its resolvers choose
// routes and clusters with goes through types that grpc-go does not export: the nested
// module xds translates them.
func isXDS(builder reflect.Type) bool {
	if builder.Kind() == reflect.Pointer {
		builder = builder.Elem()
	}
	return strings.HasPrefix(builder.PkgPath(), "google.golang.org/grpc/internal/xds/")
}

func noXDS(target string) error {
	return fmt.Errorf("grpcdial: target %s: xDS needs the module of grpcdial's for it: import _ \"github.com/grpcdial/grpcdial/xds\"", text.QuoteTarget(target))
}

// refuseTrap refuses targets that no connection can come of: those that have
// no address in them, and web URLs and xDS targets for which there is no resolver.
// It holds where the default scheme is passthrough or dns and the dialer is ours.
func refuseTrap(w written, lookup func(scheme string) resolver.Builder) error {
	target, u := w.target, &w.uri
	if target == "" {
		return errors.New(`grpcdial: the target is empty: say where to connect to, "host:port" for instance`)
	}
	if u.Scheme == "xds" && w.builder == nil {
		return noXDS(target)
	}
	if u.Scheme == "vsock" && w.builder == nil {
		return fmt.Errorf("grpcdial: target %s: no resolver serves scheme \"vsock\": give WithContextDialer a dialer that makes vsock connections, and dial %s",
			text.QuoteTarget(target), text.QuoteTarget("passthrough:///"+u.Opaque))
	}
	if w.builder != nil && isBuiltIn(w.builder) && (u.Scheme == schemeUnix || u.Scheme == schemeUnixAbstract) {
		if err := refuseSocket(target, u); err != nil {
			return err
		}
	}
	for _, web := range []struct{ scheme, port, security string }{
		{"http", "80", "with WithInsecure"},
		{"https", "443", "with WithTransportCredentials"},
	} {
		prefix := web.scheme + "://"
		if len(target) < len(prefix) || !strings.EqualFold(target[:len(prefix)], prefix) || lookup(web.scheme) != nil {
			continue
		}
		address := target[len(prefix):]
		if text.Target(target) != target { // a user name and a password have no place in a target
			address = address[strings.LastIndexByte(address, '@')+1:]
		}
		if i := strings.IndexAny(address, "/?#"); i >= 0 {
			address = address[:i]
		}
		if address == "" {
			address = "host"
		}
		if u, err := url.Parse(prefix + address); err == nil && u.Port() == "" {
			address = strings.TrimSuffix(address, ":") + ":" + web.port
		}
		return fmt.Errorf("grpcdial: target %s is a web URL, and no resolver serves scheme %q: drop %q and dial %s %s",
			text.QuoteTarget(target), web.scheme, target[:len(prefix)], text.QuoteTarget(address), web.security)
	}
	if host, ok := strings.CutSuffix(target, ":"); ok && !isIP(target) && !strings.Contains(host, "/") {
		if w.builder == nil {
			return fmt.Errorf("grpcdial: target %s ends where its port should be: write %s with the port that the server listens on", text.QuoteTarget(target), text.QuoteTarget(host+":port"))
		}
	}
	return nil
}

// refuseSocket refuses a target of scheme unix or unix-abstract without a name, or with an
// authority, as "unix://dir/socket" has.
func refuseSocket(target string, u *url.URL) error {
	if u.Host != "" {
		path := u.Host + u.Path
		write := text.QuoteTarget(u.Scheme + ":" + path)
		if u.Scheme == schemeUnix {
			write = text.QuoteTarget(u.Scheme+":///"+path) + ", or for a relative path " + write
		}
		return fmt.Errorf("grpcdial: target %s has %s where an authority stands, and sockets have none: write %s",
			text.QuoteTarget(target), text.QuoteTarget(u.Host), write)
	}
	if strings.Trim(u.Path+u.Opaque, "/") != "" {
		return nil
	}
	if u.Scheme == schemeUnixAbstract {
		return fmt.Errorf("grpcdial: target %s has no name: write unix-abstract:name", text.QuoteTarget(target))
	}
	return fmt.Errorf("grpcdial: target %s has no path: write unix:///absolute/path or unix:relative/path", text.QuoteTarget(target))
}

// refusePassword refuses a target with a user name and a password, of which neither
// grpc-go's resolvers nor servers make use. The builder of the target's scheme, if it is one
// of the program's, may want them, and so may a dialer or a
// default scheme of the program's, which taken says that there is. Not even these could
// use a password with a "#", "?" or "/" that is not percent-encoded: it cuts the target in
// two.
func refusePassword(w written, taken bool) error {
	target, known := w.target, w.builder
	if text.Target(target) == text.Clean(target) || known != nil && !isBuiltIn(known) {
		return nil
	}
	u := w.uri
	cut := u.User == nil && (strings.Contains(u.RawQuery+u.Fragment, "@") || u.Host != "" && strings.Contains(u.Path, "@"))
	switch {
	case known != nil && cut:
		return fmt.Errorf("grpcdial: target %s: percent-encode the password in it", text.QuoteTarget(target))
	case taken:
		return nil
	}
	return fmt.Errorf(`grpcdial: target %s has a user name and a password, which no server is given: drop what is before the "@"`, text.QuoteTarget(target))
}

// isBuiltIn reports whether b is one of grpc-go's own builders, or of ours.
func isBuiltIn(b resolver.Builder) bool {
	if _, ours := b.(addresslist.Builder); ours {
		return true
	}
	t := reflect.TypeOf(b)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return strings.HasPrefix(t.PkgPath(), "google.golang.org/grpc/internal/resolver/")
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// chooseAuthority returns the :authority of the channel's RPCs, which is also
// the name that transport credentials verify: serverName, the credentials' own
// (Info().ServerName), or withAuthority, the option's, which must agree if both
// are given; else what b overrides it with; else the target's endpoint.
func chooseAuthority(serverName, withAuthority string, t resolver.Target, b resolver.Builder) (string, error) {
	if serverName != "" && withAuthority != "" && serverName != withAuthority {
		return "", fmt.Errorf("grpcdial: the server name %s of the transport credentials contradicts WithAuthority(%s): "+
			"give one of them, or the same name to both", text.QuoteTarget(serverName), text.QuoteTarget(withAuthority))
	}
	if serverName != "" {
		return serverName, nil
	}
	if withAuthority != "" {
		return withAuthority, nil
	}
	if o, ok := b.(resolver.AuthorityOverrider); ok {
		return o.OverrideAuthority(t), nil
	}
	endpoint := t.Endpoint()
	if strings.HasPrefix(endpoint, ":") && !isIP(endpoint) {
		endpoint = "localhost" + endpoint
	}
	return encodeAuthority(withoutZone(endpoint)), nil
}

// withoutZone drops the zone of an IPv6 address, which means something on this
// host only and may not stand in an authority.
func withoutZone(endpoint string) string {
	bracketed := strings.HasPrefix(endpoint, "[")
	host, port := endpoint, ""
	if bracketed {
		end := strings.IndexByte(endpoint, ']')
		if end < 0 {
			return endpoint
		}
		host, port = endpoint[1:end], endpoint[end+1:]
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() == "" {
		return endpoint
	}
	host, _, _ = strings.Cut(host, "%")
	if bracketed {
		host = "[" + host + "]"
	}
	return host + port
}

// encodeAuthority percent-encodes the bytes that may not stand in an authority
// (RFC 3986 §3.2).
func encodeAuthority(s string) string {
	const hex = "0123456789ABCDEF"
	var b []byte // nil as long as nothing had to be encoded
	for i := range len(s) {
		c := s[i]
		switch {
		case inAuthority(c):
			if b != nil {
				b = append(b, c)
			}
		default:
			if b == nil {
				b = append(make([]byte, 0, len(s)+8), s[:i]...)
			}
			b = append(b, '%', hex[c>>4], hex[c&0xf])
		}
	}
	if b == nil {
		return s
	}
	return string(b)
}

// inAuthority reports whether c is unreserved, a sub-delimiter, or one of the
// delimiters of an authority's parts.
func inAuthority(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("-._~!$&'()*+,;=:[]@", c) >= 0
}
