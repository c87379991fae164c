package lookup

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestAddrs(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{
		"both.test":  {Addrs: []string{"192.0.2.1", "2001:db8::1"}},
		"twice.test": {Addrs: []string{"192.0.2.1", "192.0.2.2", "192.0.2.1"}},
		"big.test":   {Addrs: []string{"192.0.2.1"}, OverTCP: true},
	})
	for host, want := range map[string][]string{
		"both.test":  {"192.0.2.1", "2001:db8::1"},
		"Twice.Test": {"192.0.2.1", "192.0.2.2"},
		"big.test.":  {"192.0.2.1"},
	} {
		ips, err := Server(s.Addr()).Addrs(t.Context(), host)
		require.NoError(t, err)
		var got []string
		for _, ip := range ips {
			got = append(got, ip.String())
		}
		assert.ElementsMatch(t, want, got, host)
	}
}

func TestErrors(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{
		"empty.test":   {TXT: []string{"hello"}},
		"bad.test":     {Code: dnsmessage.RCodeServerFailure},
		"refused.test": {Code: dnsmessage.RCodeRefused, OverTCP: true},
	})
	at := "on " + s.Addr() + ": "
	asks := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Addr())
	}}
	for host, want := range map[string]string{
		"absent.test":  "lookup absent.test " + at + "no such host",
		"empty.test":   "lookup empty.test " + at + "the name exists but has no address",
		"bad.test":     "lookup bad.test " + at + "server misbehaving (SERVFAIL)",
		"refused.test": "lookup refused.test " + at + "server misbehaving (REFUSED)",
	} {
		for _, source := range []Source{Server(s.Addr()), {Resolver: asks}} {
			_, err := source.Addrs(t.Context(), host)
			assert.EqualError(t, err, want)
			assert.IsType(t, (*net.DNSError)(nil), err)
		}
	}
}

// Names that the system's search list makes of a host are asked for in the
// background of a look-up; which ones is the machine's matter, so this asks the
// query itself.
func TestErrorNamesTheNameOfTheSearchListThatExists(t *testing.T) {
	q := Source{Server: "192.0.2.53:53"}.query()
	q.heard("db.", dnsmessage.RCodeNameError)
	q.heard("db.prod.test.", dnsmessage.RCodeSuccess)
	err := q.explain(&net.DNSError{Err: "no such host", Name: "db", IsNotFound: true}, "db")
	assert.EqualError(t, err, `lookup db on 192.0.2.53:53: no such host ("db.prod.test." exists but has no address)`)
}

// The context ends a look-up at once, with everything that was begun for it.
func TestContextEndsLookUps(t *testing.T) {
	asked := make(chan string, 10)
	s := dnstest.Listen(t, dnstest.Zone{"silent.test": {Silent: true, Question: asked}})
	for name, lookUp := range map[string]func(context.Context) error{
		"Addrs": func(ctx context.Context) error { _, err := Server(s.Addr()).Addrs(ctx, "silent.test"); return err },
		"TXT":   func(ctx context.Context) error { _, err := Server(s.Addr()).TXT(ctx, "silent.test"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- lookUp(ctx) }()
			<-asked
			begun := time.Now()
			cancel()
			err := <-ended
			require.Error(t, err)
			if name == "Addrs" {
				assert.ErrorIs(t, err, context.Canceled)
			}
			assert.Less(t, time.Since(begun), 4*time.Second, "package net asks again after 5 s")
			for len(asked) > 0 {
				<-asked
			}
		})
	}
}

func TestTXT(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{"one.test": {TXT: []string{"a", "b"}}})
	records, err := Server(s.Addr()).TXT(t.Context(), "one.test")
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"a", "b"}, records)
	_, err = Server(s.Addr()).TXT(t.Context(), "absent.test")
	var e *net.DNSError
	require.ErrorAs(t, err, &e)
	assert.True(t, e.IsNotFound)
}
