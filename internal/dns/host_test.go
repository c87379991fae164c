package dns

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// brisk is a Config whose waits are too short to notice.
var brisk = Config{
	MinInterval: time.Millisecond,
	Backoff:     backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 10 * time.Millisecond},
}

func TestAddresses(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{
		"one.test":   {Addrs: []string{"192.0.2.1"}},
		"six.test":   {Addrs: []string{"2001:db8::1"}},
		"both.test":  {Addrs: []string{"2001:db8::1", "192.0.2.1"}},
		"twice.test": {Addrs: []string{"192.0.2.1", "192.0.2.1"}},
		"big.test":   {Addrs: []string{"192.0.2.1", "192.0.2.2"}, OverTCP: true},
	})
	for name, want := range map[string][]string{
		"one.test":       {"192.0.2.1:443"},
		"one.test:50051": {"192.0.2.1:50051"},
		"ONE.test.:80":   {"192.0.2.1:80"},
		"one.test:https": {"192.0.2.1:https"},
		"six.test:80":    {"[2001:db8::1]:80"},
		"both.test:80":   {"192.0.2.1:80", "[2001:db8::1]:80"},
		"twice.test:80":  {"192.0.2.1:80"},
		"big.test:80":    {"192.0.2.1:80", "192.0.2.2:80"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newChannel()
			build(t, NewBuilder(brisk), c, s.Addr(), name)
			update := c.settled(t)
			assert.ElementsMatch(t, want, update.addrs())
			require.Len(t, update.state.Endpoints, len(want))
			for i, e := range update.state.Endpoints {
				assert.Equal(t, update.state.Addresses[i:i+1], e.Addresses)
			}
			assert.Nil(t, update.state.ServiceConfig)
		})
	}
}

func TestErrorsNameTheServerAndTheCause(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{
		"empty.test":   {TXT: []string{"hello"}},
		"bad.test":     {Code: dnsmessage.RCodeServerFailure},
		"refused.test": {Code: dnsmessage.RCodeRefused},
		"big.test":     {Code: dnsmessage.RCodeServerFailure, OverTCP: true},
		"silent.test":  {Silent: true},
	})
	gone := dnstest.Listen(t, dnstest.Zone{})
	gone.Close() // no server listens any more

	short := brisk
	short.LookupTimeout = 50 * time.Millisecond
	tests := []struct {
		host     string
		server   string // the authority
		says     string
		notFound bool
		timeout  bool
	}{
		{host: "absent.test", says: "no such host", notFound: true},
		{host: "empty.test", says: "the name exists but has no address", notFound: true},
		{host: "Empty.test.", says: "the name exists but has no address", notFound: true},
		{host: "bad.test", says: "server misbehaving (SERVFAIL)"},
		{host: "refused.test", says: "server misbehaving (REFUSED)"},
		{host: "big.test", says: "server misbehaving (SERVFAIL)"},
		{host: "silent.test", says: "i/o timeout", timeout: true},
		{host: "any.test", server: gone.Addr(), says: "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.host, func(t *testing.T) {
			server, cfg := s.Addr(), brisk
			if tt.server != "" {
				server = tt.server
			}
			if tt.timeout {
				cfg = short
			}
			c := newChannel()
			build(t, NewBuilder(cfg), c, server, tt.host+":50051")
			err := c.next(t).err
			var e *net.DNSError
			require.ErrorAs(t, err, &e)
			assert.Equal(t, server, e.Server)
			assert.Equal(t, tt.host, e.Name)
			assert.Equal(t, tt.notFound, e.IsNotFound)
			assert.Equal(t, tt.timeout, e.IsTimeout)
			assert.True(t, strings.HasPrefix(err.Error(), "lookup "+tt.host+" on "+server+": "), err.Error())
			assert.Contains(t, err.Error(), tt.says)
			// The bound is the resolver's own, not that of a wait for the channel.
			assert.NotErrorIs(t, err, context.DeadlineExceeded)
		})
	}
}

func TestConfiguredResolverIsNamedByTheServerThatItReached(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{"bad.test": {Code: dnsmessage.RCodeServerFailure}})
	cfg := brisk
	cfg.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Addr())
	}}
	c := newChannel()
	build(t, NewBuilder(cfg), c, "", "bad.test")
	var e *net.DNSError
	require.ErrorAs(t, c.next(t).err, &e)
	assert.Equal(t, s.Addr(), e.Server)
}

func TestAddressesDoNotWaitForTheServiceConfig(t *testing.T) {
	h2test.CheckLeaks(t)
	gate := make(chan struct{})
	s := dnstest.Listen(t, dnstest.Zone{
		"one.test":              {Addrs: []string{"192.0.2.1"}},
		"_grpc_config.one.test": {TXT: []string{withConfig(someConfig)}, Held: gate},
	})
	cfg := brisk
	cfg.ServiceConfigWait = time.Hour
	c := newChannel()
	build(t, NewBuilder(cfg), c, s.Addr(), "one.test:80")
	first := c.nextUpdate(t)
	assert.True(t, first.pending())
	assert.Equal(t, []string{"192.0.2.1:80"}, first.addrs())
	assert.Nil(t, first.state.ServiceConfig)
	close(gate)
	second := c.nextUpdate(t)
	assert.False(t, second.pending())
	assert.Equal(t, []string{"192.0.2.1:80"}, second.addrs())
	assert.Equal(t, someConfig, second.config())
}

func TestNameThatAppearsLaterIsFound(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{})
	c := newChannel()
	build(t, NewBuilder(brisk), c, s.Addr(), "late.test:80")
	require.Error(t, c.next(t).err)
	s.Set("late.test", dnstest.Records{Addrs: []string{"192.0.2.9"}})
	for {
		if call := c.next(t); call.err == nil {
			assert.Equal(t, []string{"192.0.2.9:80"}, call.addrs())
			return
		}
	}
}

func TestResolveNowFindsChanges(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{"moves.test": {Addrs: []string{"192.0.2.1"}}})
	c := newChannel()
	r := build(t, NewBuilder(brisk), c, s.Addr(), "moves.test:80")
	require.Equal(t, []string{"192.0.2.1:80"}, c.settled(t).addrs())

	s.Set("moves.test", dnstest.Records{Addrs: []string{"192.0.2.2", "192.0.2.3"}})
	r.ResolveNow(resolver.ResolveNowOptions{})
	assert.ElementsMatch(t, []string{"192.0.2.2:80", "192.0.2.3:80"}, c.settled(t).addrs())

	// A name that is gone is an error: the channel keeps the addresses it has.
	s.Set("moves.test", dnstest.Records{Code: dnsmessage.RCodeNameError})
	r.ResolveNow(resolver.ResolveNowOptions{})
	assert.ErrorContains(t, c.next(t).err, "no such host")
}

func TestCloseCancelsLookUps(t *testing.T) {
	h2test.CheckLeaks(t)
	asked := make(chan string, 100)
	s := dnstest.Listen(t, dnstest.Zone{
		"silent.test":              {Silent: true, Question: asked},
		"_grpc_config.silent.test": {Silent: true, Question: asked},
		"one.test":                 {Addrs: []string{"192.0.2.1"}},
		"_grpc_config.one.test":    {Silent: true},
	})
	begun := time.Now()

	// While both are asked for.
	c := newChannel()
	r := build(t, NewBuilder(Config{}), c, s.Addr(), "silent.test")
	types := map[string]bool{}
	for range 3 {
		types[<-asked] = true
	}
	assert.Equal(t, map[string]bool{"A": true, "AAAA": true, "TXT": true}, types, "all at once")
	r.Close()
	r.Close()
	r.ResolveNow(resolver.ResolveNowOptions{})
	c.quiet(t)

	// While RPCs are held for the service config.
	c = newChannel()
	r = build(t, NewBuilder(Config{ServiceConfigWait: time.Hour}), c, s.Addr(), "one.test")
	require.True(t, c.next(t).pending())
	r.Close()
	c.quiet(t)

	// While the late service config is waited for.
	c = newChannel()
	r = build(t, NewBuilder(Config{ServiceConfigWait: -1}), c, s.Addr(), "one.test")
	require.False(t, c.next(t).pending())
	r.Close()
	c.quiet(t)

	assert.Less(t, time.Since(begun), 4*time.Second, "package net asks again after 5 s")
}

func TestCloseFromManyGoroutines(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}})
	cfg := brisk
	cfg.MinInterval, cfg.Refresh = -1, time.Microsecond
	for range 20 {
		c := newChannel()
		c.calls = make(chan call, 100_000)
		r, err := NewBuilder(cfg).Build(target(s.Addr(), "one.test"), c, resolver.BuildOptions{})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 10 {
					r.ResolveNow(resolver.ResolveNowOptions{})
				}
				r.Close()
			})
		}
		wg.Wait()
		for len(c.calls) > 0 {
			<-c.calls
		}
		r.ResolveNow(resolver.ResolveNowOptions{})
		c.quiet(t)
	}
}

func TestLocalhostAsksNoServerForAServiceConfig(t *testing.T) {
	h2test.CheckLeaks(t)
	asked := make(chan string, 100)
	s := dnstest.Listen(t, dnstest.Zone{
		"_grpc_config.localhost":     {Silent: true, Question: asked},
		"app.localhost":              {Addrs: []string{"127.0.0.1"}},
		"_grpc_config.app.localhost": {Silent: true, Question: asked},
	})
	for _, host := range []string{"localhost:80", "app.LocalHost.:80", ":80"} {
		c := newChannel()
		build(t, NewBuilder(brisk), c, s.Addr(), host)
		update := c.nextUpdate(t)
		assert.False(t, update.pending())
		assert.Contains(t, update.addrs(), "127.0.0.1:80", host)
	}
	assert.Empty(t, asked)
}

func TestServiceConfigCanBeDisabled(t *testing.T) {
	h2test.CheckLeaks(t)
	asked := make(chan string, 100)
	s := dnstest.Listen(t, dnstest.Zone{
		"one.test":              {Addrs: []string{"192.0.2.1"}},
		"_grpc_config.one.test": {Silent: true, Question: asked},
	})
	t.Run("by the option", func(t *testing.T) {
		c := newChannel()
		r, err := NewBuilder(brisk).Build(target(s.Addr(), "one.test"), c, resolver.BuildOptions{DisableServiceConfig: true})
		require.NoError(t, err)
		defer r.Close()
		assert.False(t, c.nextUpdate(t).pending())
	})
	t.Run("by the environment", func(t *testing.T) {
		t.Setenv("GRPC_ENABLE_TXT_SERVICE_CONFIG", "False")
		c := newChannel()
		build(t, NewBuilder(brisk), c, s.Addr(), "one.test")
		assert.False(t, c.nextUpdate(t).pending())
	})
	assert.Empty(t, asked)
}

func TestRefusedUpdateIsRetried(t *testing.T) {
	h2test.CheckLeaks(t)
	s := dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}})
	c := newChannel()
	refusals := 6 // each resolution makes one update or two
	c.verdict = func(resolver.State) error {
		if refusals > 0 {
			refusals--
			return errors.New("not with these")
		}
		return nil
	}
	cfg := brisk
	cfg.MinInterval = time.Hour
	build(t, NewBuilder(cfg), c, s.Addr(), "one.test")
	for range 7 {
		c.nextUpdate(t)
	}
}
