package dns

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc/resolver"
	_ "google.golang.org/grpc/resolver/dns" // registers grpc-go's builder

	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// refused is the outcome of a target for which Build returns an error.
const refused = "refused"

// outcome is what a builder's resolver makes of a target: the addresses, in the
// order in which they come, or why there are none.
func outcome(t *testing.T, b resolver.Builder, authority, endpoint string) string {
	t.Helper()
	c := newChannel()
	r, err := b.Build(target(authority, endpoint), c, resolver.BuildOptions{})
	if err != nil {
		c.quiet(t)
		return refused
	}
	defer r.Close()
	switch call := c.next(t); {
	case call.err != nil:
		return "error"
	case len(call.addrs()) == 0:
		return "no address and no error"
	default:
		return strings.Join(call.addrs(), " ")
	}
}

func TestEndpointsNextToGRPCGo(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{
		"one.test":   {Addrs: []string{"192.0.2.1"}},
		"six.test":   {Addrs: []string{"2001:db8::1"}},
		"twice.test": {Addrs: []string{"192.0.2.1", "192.0.2.1"}},
		"empty.test": {},
		"bad.test":   {Code: dnsmessage.RCodeServerFailure},
	})
	tests := []struct {
		endpoint string
		want     string
		grpcgo   string // where it differs, on purpose
	}{
		{endpoint: "one.test", want: "192.0.2.1:443"},
		{endpoint: "one.test:50051", want: "192.0.2.1:50051"},
		{endpoint: "ONE.Test.:50051", want: "192.0.2.1:50051"},
		{endpoint: "[one.test]:50051", want: "192.0.2.1:50051"},
		{endpoint: "one.test:https", want: "192.0.2.1:https"},
		{endpoint: "six.test:50051", want: "[2001:db8::1]:50051"},

		{endpoint: "192.0.2.7", want: "192.0.2.7:443"},
		{endpoint: "192.0.2.7:80", want: "192.0.2.7:80"},
		{endpoint: "[192.0.2.7]:80", want: "192.0.2.7:80"},
		{endpoint: "::1", want: "[::1]:443"},
		{endpoint: "[::1]", want: "[::1]:443"},
		{endpoint: "[::1]:80", want: "[::1]:80"},
		{endpoint: "::1:80", want: "[::1:80]:443"},
		{endpoint: "::ffff:192.0.2.7", want: "[::ffff:192.0.2.7]:443"},
		{endpoint: "fe80::1%lo", want: "[fe80::1%lo]:443"},
		{endpoint: "[fe80::1%lo]:80", want: "[fe80::1%lo]:80"},
		{endpoint: "[fe80::1%25lo]:80", want: "[fe80::1%25lo]:80"}, // the dialer reads both forms

		{endpoint: "", want: refused},
		{endpoint: "one.test:", want: refused},
		{endpoint: "[::1]:", want: refused},
		{endpoint: ":", want: refused},
		{endpoint: "[::1", want: refused},
		{endpoint: "::1]:80", want: refused},
		{endpoint: "::1:50051", want: refused},
		{endpoint: "one.test:80:80", want: refused},
		// No dial to these can succeed, so they are refused while the error can still
		// say why.
		{endpoint: "one.test:65536", want: refused, grpcgo: "192.0.2.1:65536"},
		{endpoint: "one.test:80/path", want: refused, grpcgo: "192.0.2.1:80/path"},
		{endpoint: "[]", want: refused, grpcgo: "no address and no error"},

		// That a name does not exist, or has no address, is an error with us.
		{endpoint: "absent.test", want: "error", grpcgo: "no address and no error"},
		{endpoint: "empty.test", want: "error", grpcgo: "no address and no error"},
		{endpoint: "one.test/path", want: "error", grpcgo: "no address and no error"},
		{endpoint: "bad.test", want: "error"}, // grpc-go's holds no *net.DNSError
		// A hosts file that has an address twice makes no second connection.
		{endpoint: "twice.test", want: "192.0.2.1:443", grpcgo: "192.0.2.1:443 192.0.2.1:443"},
	}
	for _, tt := range tests {
		t.Run(tt.endpoint, func(t *testing.T) {
			assert.Equal(t, tt.want, outcome(t, NewBuilder(Config{}), s.Addr(), tt.endpoint))
			if tt.grpcgo == "" {
				tt.grpcgo = tt.want
			}
			assert.Equal(t, tt.grpcgo, outcome(t, resolver.Get("dns"), s.Addr(), tt.endpoint), "grpc-go")
		})
	}
	t.Run("localhost", func(t *testing.T) { // what it is, the hosts file says
		for _, endpoint := range []string{":50051", "localhost:50051", "[]:50051"} {
			ours := outcome(t, NewBuilder(Config{}), s.Addr(), endpoint)
			assert.Contains(t, ours, "127.0.0.1:50051")
			assert.Equal(t, outcome(t, resolver.Get("dns"), s.Addr(), endpoint), ours)
		}
	})
}

func TestAuthoritiesNextToGRPCGo(t *testing.T) {
	h2test.CheckLeaks(t)
	tests := []struct {
		authority string
		server    string // that is asked
		grpcgo    string // where it differs: whether it refuses
	}{
		{authority: "192.0.2.53", server: "192.0.2.53:53"},
		{authority: "192.0.2.53:5353", server: "192.0.2.53:5353"},
		{authority: "ns.test", server: "ns.test:53"},
		{authority: ":5353", server: "localhost:5353"},
		{authority: "[2001:db8::53]", server: "[2001:db8::53]:53"},
		{authority: "[2001:db8::53]:5353", server: "[2001:db8::53]:5353"},
		{authority: "[fe80::53%lo]:53", server: "[fe80::53%lo]:53"},
		{authority: "192.0.2.53:", server: refused},
		{authority: "ns.test:65536", server: refused, grpcgo: "taken"}, // nothing can be asked there
	}
	for _, tt := range tests {
		t.Run(tt.authority, func(t *testing.T) {
			source, err := NewBuilder(Config{}).(*builder).source(tt.authority)
			if tt.server == refused {
				assert.ErrorContains(t, err, "name server")
			} else {
				require.NoError(t, err)
				assert.Equal(t, tt.server, source.Server)
			}
			r, err := resolver.Get("dns").Build(target(tt.authority, "one.test"), newChannel(), resolver.BuildOptions{})
			if err == nil {
				r.Close()
			}
			assert.Equal(t, tt.server == refused && tt.grpcgo == "", err != nil, "grpc-go: %v", err)
		})
	}
}

func TestServiceConfigsNextToGRPCGo(t *testing.T) {
	h2test.CheckLeaks(t)
	hostname, err := os.Hostname()
	require.NoError(t, err)

	const a, b = `{"loadBalancingPolicy":"a"}`, `{"loadBalancingPolicy":"b"}`
	const none, invalid = "none", "invalid"
	long := `{"loadBalancingPolicy":"` + strings.Repeat("long ", 500) + `"}`
	list := func(choices ...string) []string { return []string{"grpc_config=[" + strings.Join(choices, ",") + "]"} }
	tests := []struct {
		name   string
		txt    []string
		want   string
		grpcgo string // where it differs, on purpose
	}{
		{name: "one choice", txt: list(`{"serviceConfig":` + a + `}`), want: a},
		{name: "more than a string holds", txt: list(`{"serviceConfig":` + long + `}`), want: long},
		{name: "the first that matches wins", txt: list(`{"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: a},
		{name: "no record", want: none},
		{name: "another attribute", txt: []string{"v=spf1 -all"}, want: none},
		{name: "white space", txt: []string{"grpc_config= [ {\"serviceConfig\" :\t" + a + "} ] "}, want: a},

		{name: "percentage 0", txt: list(`{"percentage":0,"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: b},
		{name: "percentage 100", txt: list(`{"percentage":100,"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: a},
		{name: "this host", txt: list(`{"clientHostname":["x","`+hostname+`"],"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: a},
		{name: "other hosts", txt: list(`{"clientHostname":["x","`+hostname+`x"],"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: b},
		{name: "host names have case", txt: list(`{"clientHostname":["`+strings.ToUpper(hostname)+`X"],"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: b},
		{name: "Go", txt: list(`{"clientLanguage":["java","GO"],"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: a},
		{name: "other languages", txt: list(`{"clientLanguage":["java","c++"],"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: b},
		{name: "all of them", txt: list(`{"percentage":100,"clientLanguage":["GO"],"clientHostname":["` + hostname + `"],"serviceConfig":` + a + `}`), want: a},
		{name: "not all of them", txt: list(`{"percentage":0,"clientLanguage":["GO"],"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: b},

		// A2: "each string is case insensitive", and what is empty matches all.
		{name: "go", txt: list(`{"clientLanguage":["go"],"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: a, grpcgo: b},
		{name: "no language", txt: list(`{"clientLanguage":[],"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: a, grpcgo: b},
		{name: "no host", txt: list(`{"clientHostname":[],"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: a, grpcgo: b},
		// No choice for this client is no service config; grpc-go's channel calls it
		// invalid and fails all RPCs.
		{name: "none matches", txt: list(`{"percentage":0,"serviceConfig":` + a + `}`), want: none, grpcgo: invalid},
		{name: "empty list", txt: list(), want: none, grpcgo: invalid},

		{name: "no JSON", txt: []string{"grpc_config=what"}, want: invalid},
		{name: "no list", txt: []string{`grpc_config={"serviceConfig":` + a + `}`}, want: invalid},
		{name: "cut short", txt: []string{`grpc_config=[{"serviceConfig":` + a}, want: invalid},
		{name: "something behind", txt: []string{`grpc_config=[{"serviceConfig":` + a + `}]]`}, want: invalid},
		{name: "nothing", txt: []string{"grpc_config="}, want: invalid},
		{name: "wrong type", txt: list(`{"clientLanguage":"go","serviceConfig":` + a + `}`), want: invalid},
		{name: "percentage 1.5", txt: list(`{"percentage":1.5,"serviceConfig":` + a + `}`), want: invalid},
		// A2: these make the whole service config invalid.
		{name: "percentage 101", txt: list(`{"percentage":101,"serviceConfig":` + a + `}`), want: invalid, grpcgo: a},
		{name: "percentage -1", txt: list(`{"percentage":-1,"serviceConfig":`+a+`}`, `{"serviceConfig":`+b+`}`), want: invalid, grpcgo: b},
		{name: "unexpected field", txt: list(`{"clientlang":["go"],"serviceConfig":` + a + `}`), want: invalid, grpcgo: a},
		{name: "no service config", txt: list(`{}`, `{"serviceConfig":`+b+`}`), want: invalid, grpcgo: b},
		{name: "no object", txt: list(`{"serviceConfig":"x"}`), want: invalid, grpcgo: `"x"`},
		{name: "invalid behind the one that matches", txt: list(`{"serviceConfig":`+a+`}`, `{"percentage":101,"serviceConfig":`+b+`}`), want: invalid, grpcgo: a},
		// A record is a service config or it is not: grpc-go joins all of them.
		{name: "among others", txt: []string{"v=spf1 -all", `grpc_config=[{"serviceConfig":` + a + `}]`}, want: a, grpcgo: none},
		{name: "several", txt: []string{`grpc_config=[{"serviceConfig":` + b + `}]`, `grpc_config=[{"serviceConfig":` + a + `}]`}, want: a, grpcgo: invalid},
	}
	s := dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}})
	chosen := func(t *testing.T, b resolver.Builder) string {
		c := newChannel()
		build(t, b, c, s.Addr(), "one.test")
		switch update := c.settled(t); {
		case update.state.ServiceConfig == nil:
			return none
		case update.state.ServiceConfig.Err != nil:
			return invalid
		default:
			return update.config()
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.Set("_grpc_config.one.test", dnstest.Records{TXT: tt.txt, OverTCP: true})
			assert.Equal(t, tt.want, chosen(t, NewBuilder(Config{})))
			if tt.grpcgo == "" {
				tt.grpcgo = tt.want
			}
			assert.Equal(t, tt.grpcgo, chosen(t, resolver.Get("dns")), "grpc-go")
		})
	}
}
