package connect

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// zone is names, without the last dot, and their addresses. The addresses
// "servfail" and "silence" stand for what they say.
type zone map[string][]string

// resolver returns a resolver that asks the zone alone.
func (z zone) resolver(t *testing.T) *net.Resolver {
	t.Helper()
	names := dnstest.Zone{}
	for name, addrs := range z {
		var r dnstest.Records
		for _, a := range addrs {
			switch a {
			case "servfail":
				r.Code = dnsmessage.RCodeServerFailure
			case "silence":
				r.Silent = true
			default:
				r.Addrs = append(r.Addrs, a)
			}
		}
		names[name] = r
	}
	s := dnstest.New(names)
	t.Cleanup(s.Close)
	return s.OverPipes()
}

func TestResolve(t *testing.T) {
	h2test.CheckLeaks(t)
	z := zone{
		"one.test":   {"192.0.2.1"},
		"twice.test": {"192.0.2.1", "192.0.2.2", "192.0.2.1"},
		"none.test":  {},
		"bad.test":   {"servfail"},
	}
	tests := []struct {
		addr resolver.Address
		want []string // network and address of each endpoint
		err  string
	}{
		{addr: resolver.Address{Addr: "one.test:80"}, want: []string{"tcp 192.0.2.1:80"}},
		{addr: resolver.Address{Addr: "one.test:https"}, want: []string{"tcp 192.0.2.1:443"}},
		{addr: resolver.Address{Addr: "twice.test:80"}, want: []string{"tcp 192.0.2.1:80", "tcp 192.0.2.2:80"}},
		{addr: resolver.Address{Addr: "192.0.2.7:80"}, want: []string{"tcp 192.0.2.7:80"}},
		{addr: resolver.Address{Addr: "[::1]:80"}, want: []string{"tcp [::1]:80"}},
		{addr: resolver.Address{Addr: "[fe80::1%nosuch0]:80"}, want: []string{"tcp [fe80::1%nosuch0]:80"}},
		{addr: resolver.Address{Addr: "[fe80::1%25nosuch0]:80"}, want: []string{"tcp [fe80::1%nosuch0]:80"}},
		{addr: resolver.Address{Addr: "unix:///run/s"}, want: []string{"unix /run/s"}},
		{addr: resolver.Address{Addr: "unix:s"}, want: []string{"unix s"}},
		{addr: resolver.Address{Addr: "unix-abstract:s"}, want: []string{"unix @s"}},
		{addr: UnixSocket(resolver.Address{Addr: "one.test:80"}), want: []string{"unix one.test:80"}},
		{addr: UnixSocket(resolver.Address{Addr: "/run/a%20b"}), want: []string{"unix /run/a%20b"}},
		{addr: resolver.Address{Addr: "none.test:80"}, err: "the name exists but has no address"},
		{addr: resolver.Address{Addr: "absent.test:80"}, err: "lookup absent.test on "},
		{addr: resolver.Address{Addr: "bad.test:80"}, err: "server misbehaving"},
		{addr: resolver.Address{Addr: "one.test:nosuchservice"}, err: "unknown port"},
		{addr: resolver.Address{Addr: "192.0.2.7:99999"}, err: "port"},
		{addr: resolver.Address{Addr: "one.test"}, err: "missing port"},
	}
	cfg := &Config{Resolver: z.resolver(t)}
	for _, tt := range tests {
		t.Run(tt.addr.Addr, func(t *testing.T) {
			got, err := cfg.resolve(t.Context(), tt.addr)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			var all []string
			for _, e := range got {
				all = append(all, e.network+" "+e.address)
			}
			assert.Equal(t, tt.want, all)
		})
	}
}

func TestResolveMixesFamilies(t *testing.T) {
	cfg := &Config{Resolver: zone{"both.test": {"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"}}.resolver(t)}
	got, err := cfg.resolve(t.Context(), resolver.Address{Addr: "both.test:80"})
	require.NoError(t, err)
	require.Len(t, got, 4)
	for i := range 3 {
		assert.NotEqual(t, got[i].address[0] == '[', got[i+1].address[0] == '[', "%v", got)
	}
}

func TestResolveEndsWithTheContext(t *testing.T) {
	h2test.CheckLeaks(t) // package net would ask on for ten seconds
	cfg := &Config{Resolver: zone{"silent.test": {"silence"}}.resolver(t)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := cfg.resolve(ctx, resolver.Address{Addr: "silent.test:80"})
	require.ErrorIs(t, err, context.DeadlineExceeded)

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = cfg.resolve(gone, resolver.Address{Addr: "silent.test:80"})
	require.ErrorIs(t, err, context.Canceled)
}

func TestResolveLeavesAddressesToTheDialer(t *testing.T) {
	cfg := &Config{Dialer: func(context.Context, string) (net.Conn, error) { return nil, nil }}
	for addr, want := range map[string]resolver.Address{
		"a.test:80":     {Addr: "a.test:80"},
		"":              {Addr: ""},
		"what ever":     {Addr: "what ever"},
		"unix:s":        UnixSocket(resolver.Address{Addr: "s"}),
		"unix:///run/s": UnixSocket(resolver.Address{Addr: "/run/s"}),
		"unix:@s":       UnixSocket(resolver.Address{Addr: "@s"}),
	} {
		got, err := cfg.resolve(t.Context(), want)
		require.NoError(t, err)
		require.Len(t, got, 1)
		assert.Equal(t, addr, got[0].address)
	}
}
