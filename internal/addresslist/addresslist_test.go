package addresslist

import (
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"
)

func target(t *testing.T, s string) resolver.Target {
	t.Helper()
	u, err := url.Parse(s)
	require.NoError(t, err)
	return resolver.Target{URL: *u}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		target string
		want   []string
		err    string
	}{
		{"ipv4:10.0.0.1:50051", []string{"10.0.0.1:50051"}, ""},
		{"ipv4:10.0.0.1:50051,10.0.0.2", []string{"10.0.0.1:50051", "10.0.0.2:443"}, ""},
		{"ipv4:///10.0.0.1:1", []string{"10.0.0.1:1"}, ""},
		{"ipv6:[2001:db8::1]:50051,[2001:db8::2]", []string{"[2001:db8::1]:50051", "[2001:db8::2]:443"}, ""},
		{"ipv6:2001:db8::1", []string{"[2001:db8::1]:443"}, ""},
		{"ipv6:[fe80::1%25lo]:5", []string{"[fe80::1%lo]:5"}, ""},
		{"ipv6:///[fe80::1%25%5D]:5", nil, "it is no IPv6 address"},
		{"ipv6:///fe80::1%25%5B", nil, `there is a bracket in its zone`},
		{"ipv4:", nil, "there is no address"},
		{"ipv4:10.0.0.1,", nil, `"": it is no IPv4 address`},
		{"ipv4:localhost:80", nil, `"localhost:80": it is no IPv4 address with or without a port; names are for the scheme dns`},
		{"ipv4:[::1]:80", nil, "it is no IPv4 address"},
		{"ipv6:10.0.0.1:80", nil, "it is no IPv6 address"},
		{"ipv4:10.0.0.1:0", nil, "its port is no number from 1 to 65535"},
		{"ipv4:10.0.0.1:http", nil, "its port"},
		{"ipv4:10.0.0.1:65536", nil, "its port"},
		{"ipv4://server/10.0.0.1", nil, `no place for "server"`},
	} {
		u := target(t, tt.target)
		got, err := Builder{u.URL.Scheme}.Parse(u)
		if tt.err != "" {
			assert.ErrorContains(t, err, tt.err, tt.target)
			continue
		}
		require.NoError(t, err, tt.target)
		var addrs []string
		for _, addr := range got {
			addrs = append(addrs, addr.String())
		}
		assert.Equal(t, tt.want, addrs)
	}
}

// The zone of an address means nothing to its server.
func TestServerNames(t *testing.T) {
	u := target(t, "ipv6:[fe80::1%25lo]:5,[fe80::2%25lo]:6")
	assert.Equal(t, "[fe80::1]:5", Builder{schemeIPv6}.OverrideAuthority(u))
	var cc states
	_, err := Builder{schemeIPv6}.Build(u, &cc, resolver.BuildOptions{})
	require.NoError(t, err)
	require.Len(t, cc.got.Addresses, 2)
	assert.Equal(t, resolver.Address{Addr: "[fe80::2%lo]:6", ServerName: "[fe80::2]:6"}, cc.got.Addresses[1])
}

// states keeps what a resolver has given.
type states struct {
	resolver.ClientConn
	got resolver.State
}

func (s *states) UpdateState(state resolver.State) error { s.got = state; return nil }

func FuzzParse(f *testing.F) {
	f.Add("10.0.0.1:50051,10.0.0.2")
	f.Add("[2001:db8::1]:50051")
	f.Add("[fe80::1%a b]:1,fe80::1%]")
	f.Fuzz(func(t *testing.T, list string) {
		for _, scheme := range []string{schemeIPv4, schemeIPv6} {
			addrs, err := Builder{scheme}.Parse(resolver.Target{URL: url.URL{Scheme: scheme, Opaque: list}})
			if err != nil {
				continue
			}
			assert.NotEmpty(t, addrs)
			for _, addr := range addrs {
				_, _, err := net.SplitHostPort(addr.String())
				assert.NoError(t, err)
			}
		}
	})
}
