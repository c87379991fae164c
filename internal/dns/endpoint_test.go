package dns

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestRefusalsSayHowToMend(t *testing.T) {
	for endpoint, want := range map[string]string{
		"":                 `write "host" or "host:port"`,
		"one.test:":        `"one.test:" ends where its port should be`,
		"one.test:70000":   `port "70000" is above 65535`,
		"one.test:80/path": `"80/path" is no port`,
		"one.test:-80":     `port "-80" has a sign`,
		" ":                `write "host" or "host:port"`,
		" one.test:80":     `white space at an end: write "one.test:80"`,
		"one.test:80 ":     `white space at an end: write "one.test:80"`,
		"tcp://one.test:1": `no resolver serves the scheme "tcp" of "tcp://one.test:1": register one, or drop "tcp://"`,
		"2001:db8:::1:80":  `[address]:port`,
		"[]":               "the host is missing",
		"fe80::1%]":        `"fe80::1%]" has a bracket in its zone`,
		"[::1":             "missing ']'",
	} {
		_, err := NewBuilder(Config{}).Build(target("", endpoint), newChannel(), resolver.BuildOptions{})
		assert.ErrorContains(t, err, want, endpoint)
	}
	_, err := NewBuilder(Config{}).Build(target("192.0.2.53:", "one.test"), newChannel(), resolver.BuildOptions{})
	assert.ErrorContains(t, err, `name server in the target's authority: "192.0.2.53:" ends`)
}

func TestScheme(t *testing.T) {
	assert.Equal(t, "dns", NewBuilder(Config{}).Scheme())
}

// An address is there when Build returns, and nothing is done for it later.
func TestIPAddress(t *testing.T) {
	h2test.CheckLeaks(t)
	c := newChannel()
	cfg := brisk
	cfg.Refresh = time.Microsecond
	r, err := NewBuilder(cfg).Build(target("192.0.2.53:53", "[2001:db8::1]:80"), c, resolver.BuildOptions{})
	require.NoError(t, err)
	require.Len(t, c.calls, 1)
	update := c.nextUpdate(t)
	assert.Equal(t, []string{"[2001:db8::1]:80"}, update.addrs())
	assert.Len(t, update.state.Endpoints, 1)
	assert.False(t, update.pending())
	r.ResolveNow(resolver.ResolveNowOptions{})
	r.Close()
	c.quiet(t)
}

// FuzzSplitEndpoint holds that what is accepted is a host and a port.
func FuzzSplitEndpoint(f *testing.F) {
	for _, s := range []string{"", "a", "a:1", ":1", "[::1]:1", "::1", "[]", "a:", "a:b:c", "[a]b:1", "fe80::1%lo", "::%]", "::%["} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		host, port, err := splitEndpoint(endpoint, "443")
		if err != nil {
			return
		}
		if host == "" || port == "" {
			t.Fatalf("%q: host %q, port %q", endpoint, host, port)
		}
		if _, _, err := net.SplitHostPort(net.JoinHostPort(host, port)); err != nil {
			t.Fatalf("%q: host %q, port %q: %v", endpoint, host, port, err)
		}
	})
}
