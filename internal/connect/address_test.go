package connect

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"
)

func TestUnixPath(t *testing.T) {
	tests := []struct {
		addr, path string
		ok         bool
	}{
		{"unix:relative/s", "relative/s", true},
		{"unix:/run/s", "/run/s", true},
		{"unix:///run/s", "/run/s", true},
		{"unix:///run/a%20b", "/run/a b", true},
		{"unix:///run/100%", "/run/100%", true}, // no URL: as it is
		{"unix://s", "s", true},
		{"unix:@name", "@name", true},
		{"unix-abstract:name", "@name", true},
		{"/run/s", "/run/s", true},
		{"/run/a%20b", "/run/a%20b", true},
		{"@name", "@name", true},
		{"unix.test:80", "", false},
		{"127.0.0.1:80", "", false},
		{"[::1]:80", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.addr, func(t *testing.T) {
			path, ok := unixPath(tt.addr)
			require.Equal(t, tt.ok, ok)
			if ok {
				assert.Equal(t, tt.path, path)
			}
		})
	}
}

func TestSplit(t *testing.T) {
	tests := []struct {
		addr, host, port, ip string
		err                  string
	}{
		{addr: "a.test:80", host: "a.test", port: "80"},
		{addr: "a.test:https", host: "a.test", port: "https"},
		{addr: ":80", host: "localhost", port: "80"},
		{addr: "127.0.0.1:80", host: "127.0.0.1", port: "80", ip: "127.0.0.1"},
		{addr: "[::1]:80", host: "::1", port: "80", ip: "::1"},
		{addr: "[fe80::1%nosuch0]:80", host: "fe80::1%nosuch0", port: "80", ip: "fe80::1%nosuch0"},
		{addr: "[fe80::1%25nosuch0]:80", host: "fe80::1%25nosuch0", port: "80", ip: "fe80::1%nosuch0"},
		{addr: "a.test", err: "missing port"},
		{addr: "a.test:", err: "missing port"},
		{addr: "::1:80", err: "too many colons"},
		{addr: "", err: "missing port"},
	}
	for _, tt := range tests {
		t.Run(tt.addr, func(t *testing.T) {
			host, port, ip, err := split(tt.addr)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.host, host)
			assert.Equal(t, tt.port, port)
			if tt.ip == "" {
				assert.False(t, ip.IsValid())
			} else {
				assert.Equal(t, tt.ip, ip.String())
			}
		})
	}
}

func TestZoneName(t *testing.T) {
	exists := func(zone string) bool { return zone == "25" || zone == "251" || zone == "25g" }
	for zone, want := range map[string]string{
		"eth0":   "eth0",
		"25eth0": "eth0",
		"25":     "25",
		"2525":   "25",
		"251":    "251",
		"252":    "2",
		"25g":    "25g",
	} {
		assert.Equal(t, want, zoneName(zone, exists), zone)
	}
}

func TestZoneIsNoPartOfTheServersName(t *testing.T) {
	for authority, want := range map[string]string{
		"[fe80::1%eth0]:443":   "[fe80::1]:443",
		"[fe80::1%25eth0]:443": "[fe80::1]:443",
		"[fe80::1%eth0]":       "[fe80::1]",
		"fe80::1%eth0":         "fe80::1",
		"[fe80::1]:443":        "[fe80::1]:443",
		"a.test:443":           "a.test:443",
		"%2Frun%2Fs":           "%2Frun%2Fs",
		"a%20b:443":            "a%20b:443",
		"[a%b":                 "[a%b",
		"[a%b]:1":              "[a%b]:1",
		"":                     "",
	} {
		assert.Equal(t, want, withoutZone(authority), authority)
	}
}

func TestInterleave(t *testing.T) {
	parse := func(in ...string) []netip.Addr {
		var out []netip.Addr
		for _, s := range in {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	tests := []struct{ in, want []netip.Addr }{
		{parse("::1"), parse("::1")},
		{parse("::1", "::2", "::3", "1.1.1.1", "2.2.2.2"), parse("::1", "1.1.1.1", "::2", "2.2.2.2", "::3")},
		{parse("1.1.1.1", "2.2.2.2", "::1"), parse("1.1.1.1", "::1", "2.2.2.2")},
		{parse("1.1.1.1", "::1", "::2"), parse("1.1.1.1", "::1", "::2")},
		{parse("2.2.2.2", "1.1.1.1"), parse("2.2.2.2", "1.1.1.1")},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, interleave(tt.in))
	}
}

func TestUnixSocketIsKnownByItsMark(t *testing.T) {
	plain := resolver.Address{Addr: "s"}
	marked := UnixSocket(plain)
	assert.False(t, isUnixSocket(plain))
	assert.True(t, isUnixSocket(marked))
	assert.True(t, marked.Equal(UnixSocket(plain)))
	assert.False(t, marked.Equal(plain))
}
