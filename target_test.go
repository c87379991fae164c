package grpcdial

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/addresslist"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// schemeBuilder is a builder that only has its scheme.
type schemeBuilder string

func (b schemeBuilder) Scheme() string { return string(b) }
func (b schemeBuilder) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, net.ErrClosed
}

func TestChooseTarget(t *testing.T) {
	dialer, own := WithContextDialer(backendtest.NoDial), WithResolvers(schemeBuilder("own"), schemeBuilder("Upper"))
	tests := []struct {
		name      string
		by        constructor
		target    string
		opts      []DialOption
		canonical string
		endpoint  string
	}{
		{"Dial, host and port", byDial, "backend:50051", nil, "passthrough:///backend:50051", "backend:50051"},
		{"NewClient, host and port", byNewClient, "backend:50051", nil, "dns:///backend:50051", "backend:50051"},
		{"NewClient, host", byNewClient, "backend", nil, "dns:///backend", "backend"},
		{"port", byDial, ":50051", nil, "passthrough:///:50051", ":50051"},
		{"IPv6", byNewClient, "[::1]:50051", nil, "dns:///[::1]:50051", "[::1]:50051"},
		{"IPv6 without a port", byNewClient, "fe80::", nil, "dns:///fe80::", "fe80::"},
		{"explicit dns", byDial, "dns:///backend:50051", nil, "dns:///backend:50051", "backend:50051"},
		{"dns, opaque", byDial, "dns:backend:50051", nil, "dns:///backend:50051", "backend:50051"},
		{"dns with its server", byDial, "dns://8.8.8.8/backend", nil, "dns://8.8.8.8/backend", "backend"},
		{"scheme in capitals", byDial, "DNS:///backend:50051", nil, "dns:///backend:50051", "backend:50051"},
		{"passthrough", byNewClient, "passthrough:///backend:1", nil, "passthrough:///backend:1", "backend:1"},
		{"unix, relative", byNewClient, "unix:run/s.sock", nil, "unix:///run/s.sock", "run/s.sock"},
		{"unix, absolute", byNewClient, "unix:///run/s.sock", nil, "unix:///run/s.sock", "run/s.sock"},
		{"unix-abstract", byNewClient, "unix-abstract:name", nil, "unix-abstract:///name", "name"},
		{"unknown scheme", byNewClient, "zk://h/p", nil, "dns:///zk://h/p", "zk://h/p"},
		{"unknown scheme, Dial", byDial, "zk://h/p", nil, "passthrough:///zk://h/p", "zk://h/p"},
		{"escapes", byDial, "dns:///%5B::1%5D:80", nil, "dns:///[::1]:80", "[::1]:80"},
		{"escapes without a scheme", byNewClient, "a%20b", nil, "dns:///a b", "a b"},
		{"stray percent", byNewClient, "100%:80", nil, "dns:///100%:80", "100%:80"},
		{"stray percent at the end", byNewClient, "dns:///a%2", nil, "dns:///a%2", "a%2"},
		{"zone", byNewClient, "[fe80::1%lo]:80", nil, "dns:///[fe80::1%lo]:80", "[fe80::1%lo]:80"},
		{"zone as in a URI", byNewClient, "[fe80::1%25lo]:80", nil, "dns:///[fe80::1%lo]:80", "[fe80::1%lo]:80"},
		{"zone that looks like an escape", byNewClient, "[fe80::1%ec0]:80", nil, "dns:///[fe80::1%ec0]:80", "[fe80::1%ec0]:80"},
		{"zone after a scheme", byDial, "dns:///[fe80::1%lo]:80", nil, "dns:///[fe80::1%lo]:80", "[fe80::1%lo]:80"},
		{"zone without brackets", byNewClient, "fe80::1%lo", nil, "dns:///fe80::1%lo", "fe80::1%lo"},
		{"query", byNewClient, "dns:///backend?x=y", nil, "dns:///backend", "backend"},

		{"own resolver", byDial, "own://a/e", []DialOption{own}, "own://a/e", "e"},
		{"own resolver in capitals", byDial, "upper:///e", []DialOption{own}, "upper:///e", "e"},
		{"xds with a resolver", byNewClient, "xds:///e", []DialOption{WithResolvers(schemeBuilder("xds"))}, "xds:///e", "e"},
		{"http with a resolver", byNewClient, "http://h:80", []DialOption{WithResolvers(schemeBuilder("http"))}, "http://h:80/", ""},
		{"port left empty, of a scheme", byNewClient, "own:", []DialOption{own}, "own:///", ""},

		{"dialer", byNewClient, "backend:50051", []DialOption{dialer}, "passthrough:///backend:50051", "backend:50051"},
		{"dialer, Dial", byDial, "backend:50051", []DialOption{dialer}, "passthrough:///backend:50051", "backend:50051"},
		{"dialer, http", byNewClient, "http://h:80/p?q#f", []DialOption{dialer}, "passthrough:///http://h:80/p?q#f", "http://h:80/p?q#f"},
		{"dialer, empty", byNewClient, "", []DialOption{dialer}, "passthrough:///", ""},
		{"dialer, port left empty", byNewClient, "localhost:", []DialOption{dialer}, "passthrough:///localhost:", "localhost:"},
		{"dialer, as written", byDial, "/a%20b\n%", []DialOption{dialer}, "passthrough:////a%20b\n%", "/a%20b\n%"},
		{"dialer, password", byNewClient, "user:p#w@h:1", []DialOption{dialer}, "passthrough:///user:p#w@h:1", "user:p#w@h:1"},
		{"dialer, known scheme", byNewClient, "dns:///backend:1", []DialOption{dialer}, "dns:///backend:1", "backend:1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := newDialOptions(tt.by, tt.opts)
			require.NoError(t, err)
			got, b, err := chooseTarget(tt.target, tt.by, o)
			require.NoError(t, err)
			assert.Equal(t, tt.canonical, got.String())
			assert.Equal(t, tt.endpoint, got.Endpoint())
			require.NotNil(t, b)
			assert.Equal(t, got.URL.Scheme, strings.ToLower(b.Scheme()))
		})
	}
}

// TestRefusedTargets: targets that no connection can come of are refused by the
// constructor. grpc-go makes a channel of all that are URLs with the default scheme
// in front, and leaves the rest to its RPCs; we differ on purpose.
func TestRefusedTargets(t *testing.T) {
	tests := []struct {
		target string
		parts  []string
		theirs bool // refused by grpc-go too
	}{
		{"", []string{"empty", "host:port"}, false},
		{"http://backend:8080", []string{`"http://backend:8080"`, `drop "http://"`, `dial "backend:8080"`, "WithInsecure"}, false},
		{"HTTP://backend/path?q", []string{`drop "HTTP://"`, `dial "backend:80"`}, false},
		{"https://backend", []string{`drop "https://"`, `dial "backend:443"`, "WithTransportCredentials"}, false},
		{"https://[::1]:8443/x", []string{`dial "[::1]:8443"`}, false},
		{"https://", []string{`dial "host:443"`}, false},
		{"localhost:", []string{`"localhost:"`, `"localhost:port"`}, false},
		{"[::1]:", []string{`"[::1]:port"`}, false},
		{"a\nb", []string{`"a\nb"`, "control character, a line break perhaps"}, true},
		{"http://user:pw@backend:8080", []string{`"http://xxxxx@backend:8080"`, `dial "backend:8080"`}, false},
		{"user:pw@backend:8080", []string{`"xxxxx@backend:8080"`, `drop what is before the "@"`}, false},
		{"passthrough:///user:pw@backend:8080", []string{`"passthrough:///xxxxx@backend:8080"`, `drop what is before the "@"`}, false},
		{"passthrough:///user:p#w@backend:8080", []string{`"passthrough:///xxxxx@backend:8080"`, "percent-encode"}, false},
		{"unix:", []string{`"unix:"`, "no path", "unix:///absolute/path or unix:relative/path"}, false},
		{"unix:///", []string{"no path"}, false},
		{"UNIX:?x", []string{"no path"}, false},
		{"unix://run/s.sock", []string{`"run" where an authority stands`, `"unix:///run/s.sock"`, `"unix:run/s.sock"`}, false},
		{"unix-abstract:", []string{"no name", "unix-abstract:name"}, false},
		{"unix-abstract://name", []string{`"unix-abstract:name"`}, false},
		{"xds:///backend", []string{`"xds:///backend"`, `import _ "github.com/grpcdial/grpcdial/xds"`, "grpcdial/xds"}, false},
	}
	for _, tt := range tests {
		for _, by := range []constructor{byDial, byNewClient} {
			o, err := newDialOptions(by, nil)
			require.NoError(t, err)
			_, _, err = chooseTarget(tt.target, by, o)
			require.Error(t, err, tt.target)
			for _, part := range tt.parts {
				assert.ErrorContains(t, err, part)
			}
			assert.NotContains(t, err.Error(), "\n")
		}
		assert.Equal(t, tt.theirs, grpcTarget(tt.target, byNewClient) == "", "%q", tt.target)
	}
}

func TestNoBuilder(t *testing.T) {
	none := func(string) resolver.Builder { return nil }
	_, _, err := parseTarget(readTarget("zk://h/p", none), "dns", none)
	require.ErrorContains(t, err, `no resolver for scheme "dns"`)
	assert.ErrorContains(t, err, `"zk://h/p"`)
	_, _, err = parseTargetForDialer(readTarget("x", none), none)
	require.ErrorContains(t, err, `no resolver for scheme "passthrough"`)
}

func TestDefaultScheme(t *testing.T) {
	tests := []struct {
		name       string
		by         constructor
		dialer     bool
		registered string
		scheme     string
		user       bool
	}{
		{"Dial", byDial, false, "passthrough", "passthrough", false},
		{"NewClient", byNewClient, false, "passthrough", "dns", false},
		{"NewClient with a dialer", byNewClient, true, "passthrough", "passthrough", false},
		{"Dial, the program's", byDial, false, "xds", "xds", true},
		{"NewClient, the program's", byNewClient, false, "dns", "dns", true},
		{"NewClient with a dialer, the program's", byNewClient, true, "xds", "xds", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			scheme, user := defaultScheme(tt.by, tt.dialer, tt.registered)
			assert.Equal(t, tt.scheme, scheme)
			assert.Equal(t, tt.user, user)
		})
	}
}

func TestOwnResolversComeFirst(t *testing.T) {
	first, second, registered := schemeBuilder("x"), schemeBuilder("X"), schemeBuilder("y")
	lookup := builderLookup([]resolver.Builder{first, second}, func(string) resolver.Builder { return registered })
	assert.Equal(t, first, lookup("x"))
	assert.Equal(t, registered, lookup("z"))
}

// grpcTarget returns the canonical target that grpc-go gives target, "" if it
// refuses it.
func grpcTarget(target string, by constructor) string {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(backendtest.NoDial)}
	connect := grpc.NewClient
	if by == byDial {
		connect = grpc.Dial // what is compared with
	}
	cc, err := connect(target, options...)
	if err != nil {
		return ""
	}
	defer cc.Close()
	return cc.CanonicalTarget()
}

// sameTargets are targets that are read here as grpc-go reads them.
var sameTargets = []string{
	"backend", "backend:50051", ":50051", "[::1]:50051", "[::1]", "10.0.0.1:1", "a.b.c/d", "/path", "//a/b", "///a", "a b", "a%20b",
	"dns:backend", "dns:///backend:1", "dns://server/backend", "dns://server:53/backend:1", "dns://[::1]:53/backend", "dns:////a", "DNS:///a", "dns:///a?b=c", "dns:///a#b", "dns:///a%2Fb",
	"passthrough:a", "passthrough:///a", "passthrough://x/a", "unix:a", "unix:/a", "unix:///a", "unix:a/b c", "unix-abstract:a", "unix-abstract:///a",
	"zk:a", "zk://h/p", "zk:///p", "a?b", "a#b", "é:1", "dns:///é", "a\\b", "a|b", "a[b]", "1:2:3", "+:1", "%41%42:1", "user@host:1",
}

func TestTargetsAsGRPCReadsThem(t *testing.T) {
	for _, target := range sameTargets {
		for _, by := range []constructor{byDial, byNewClient} {
			o, err := newDialOptions(by, nil)
			require.NoError(t, err)
			got, _, err := chooseTarget(target, by, o)
			require.NoError(t, err, target)
			assert.Equal(t, grpcTarget(target, by), got.String(), "target %q", target)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, target := range append(sameTargets, "", "http://a", "localhost:", "[fe80::1%lo]:1", "%", "dns:///%zz", "[%]", "a\x00", "ipv6:[fe80::1%25a b]:1", "ipv6:fe80::1%]", "ipv4:10.0.0.1") {
		f.Add(target)
	}
	o, err := newDialOptions(byNewClient, nil)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, target string) {
		got, b, err := chooseTarget(target, byNewClient, o)
		if err != nil {
			assert.ErrorContains(t, err, "target")
			return
		}
		require.NotNil(t, b)
		authority, err := chooseAuthority("", "", got, b)
		require.NoError(t, err)
		for _, c := range []byte(authority) {
			assert.Truef(t, inAuthority(c) || c == '%', "authority %q of target %q", authority, target)
		}
		if _, ours := b.(addresslist.Builder); ours {
			return // grpc-go knows no lists of addresses
		}
		if theirs := grpcTarget(target, byNewClient); theirs != "" && escapeZone(target) == target {
			assert.Equal(t, theirs, got.String(), "target %q", target)
		}
	})
}

// authorityRecorder is a resolver builder that learns the channel's authority.
type authorityRecorder struct {
	scheme string
	got    chan string
}

func (r authorityRecorder) Scheme() string { return r.scheme }
func (r authorityRecorder) Build(_ resolver.Target, _ resolver.ClientConn, options resolver.BuildOptions) (resolver.Resolver, error) {
	r.got <- options.Authority
	return nil, net.ErrClosed
}

// overridingRecorder is an authorityRecorder that says what the authority is.
type overridingRecorder struct{ authorityRecorder }

func (overridingRecorder) OverrideAuthority(t resolver.Target) string { return "over-" + t.Endpoint() }

// grpcAuthority returns the authority that grpc-go chooses.
func grpcAuthority(t *testing.T, target string, got <-chan string, options ...grpc.DialOption) string {
	t.Helper()
	cc, err := grpc.NewClient(target, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	defer cc.Close()
	cc.Connect()
	return <-got
}

func TestChooseAuthority(t *testing.T) {
	tests := []struct {
		name       string
		target     string
		serverName string
		option     string
		override   bool
		want       string
		unlike     bool // grpc-go chooses another one, which is what is mended here
	}{
		{name: "endpoint", target: "rec:///backend:50051", want: "backend:50051"},
		{name: "port", target: "rec:///:50051", want: "localhost:50051"},
		{name: "empty", target: "rec:///", want: ""},
		{name: "target's authority is not the channel's", target: "rec://a/b", want: "b"},
		{name: "path", target: "rec:///a/b", want: "a%2Fb"},
		{name: "space and percent", target: "rec:///a b%25c", want: "a%20b%25c"},
		{name: "not ASCII", target: "rec:///é", want: "%C3%A9"},
		{name: "control", target: "rec:///a%0Ab", want: "a%0Ab"},
		{name: "delimiters", target: "rec:///-._~!$&'()*+,;=:[]@", want: "-._~!$&'()*+,;=:[]@"},
		{name: "others", target: `rec:///"<>\^{|}` + "`", want: "%22%3C%3E%5C%5E%7B%7C%7D%60"},
		{name: "port and path", target: "rec:///:1/a", want: "localhost:1%2Fa"},
		{name: "IPv6", target: "rec:///[::1]:1", want: "[::1]:1"},
		{name: "option", target: "rec:///backend:1", option: "x", want: "x"},
		{name: "option, overriding", target: "rec:///backend:1", option: "x", override: true, want: "x"},
		{name: "overriding", target: "rec:///backend:1", override: true, want: "over-backend:1"},
		{name: "credentials", target: "rec:///backend:1", serverName: "n", override: true, want: "n"},
		{name: "credentials and option", target: "rec:///backend:1", serverName: "n", option: "n", want: "n"},
		{name: "zone", target: "rec:///[fe80::1%25lo]:1", want: "[fe80::1]:1", unlike: true},
		{name: "zone without brackets", target: "rec:///fe80::1%25lo", want: "fe80::1", unlike: true},
		{name: "zone without a port", target: "rec:///[fe80::1%25lo]", want: "[fe80::1]", unlike: true},
		{name: "not a zone", target: "rec:///[a%25b]:1", want: "[a%25b]:1"},
		{name: "bracket", target: "rec:///[a", want: "[a"},
		{name: "IPv6 address that begins like a port", target: "rec:///::1", want: "::1", unlike: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			recorder := authorityRecorder{"rec", make(chan string, 1)}
			var b resolver.Builder = recorder
			if tt.override {
				b = overridingRecorder{recorder}
			}
			lookup := builderLookup([]resolver.Builder{b}, resolver.Get)
			target, found, err := parseTarget(readTarget(tt.target, lookup), "dns", lookup)
			require.NoError(t, err)
			require.Equal(t, b, found)
			got, err := chooseAuthority(tt.serverName, tt.option, target, b)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)

			if tt.serverName != "" {
				return
			}
			theirs := grpcAuthority(t, tt.target, recorder.got, grpc.WithResolvers(b), grpc.WithAuthority(tt.option))
			if tt.unlike {
				assert.NotEqual(t, theirs, got)
			} else {
				assert.Equal(t, theirs, got)
			}
		})
	}
}

func TestUnixAuthorityIsLocalhost(t *testing.T) {
	for _, target := range []string{"unix:a", "unix:///a/b", "unix-abstract:a"} {
		parsed, b, err := parseTarget(readTarget(target, resolver.Get), "dns", resolver.Get)
		require.NoError(t, err)
		got, err := chooseAuthority("", "", parsed, b)
		require.NoError(t, err)
		assert.Equal(t, "localhost", got)
	}
}

func TestContradictingAuthority(t *testing.T) {
	_, err := chooseAuthority("certificate.example", "option.example", resolver.Target{}, schemeBuilder("x"))
	require.Error(t, err)
	assert.ErrorContains(t, err, `"certificate.example"`)
	assert.ErrorContains(t, err, `WithAuthority("option.example")`)
}
