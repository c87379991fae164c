package dns

import (
	"context"
	"errors"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/dnstest"
)

// inBubble runs f with a resolver for one.test, whose name server is reached
// over pipes and takes no time.
func inBubble(t *testing.T, z dnstest.Zone, cfg Config, f func(s *dnstest.Server, c *channel, r resolver.Resolver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := dnstest.New(z)
		cfg.Resolver = s.OverPipes()
		c := newChannel()
		r, err := NewBuilder(cfg).Build(target("", "one.test:80"), c, resolver.BuildOptions{})
		require.NoError(t, err)
		f(s, c, r)
		r.Close()
		c.quiet(t)
		s.Close()
	})
}

const someConfig = `{"loadBalancingPolicy":"round_robin"}`

func withConfig(js string) string { return `grpc_config=[{"serviceConfig":` + js + `}]` }

func TestSlowServiceConfig(t *testing.T) {
	one := dnstest.Records{Addrs: []string{"192.0.2.1"}}
	tests := []struct {
		name  string
		after time.Duration // when the TXT record comes
		txt   dnstest.Records
		want  []string // updates: when, pending or complete, with a service config or without
	}{
		{"within the bound", 600 * time.Millisecond, dnstest.Records{TXT: []string{withConfig(someConfig)}},
			[]string{"0s pending", "600ms complete config"}},
		{"within the bound, none", 600 * time.Millisecond, dnstest.Records{},
			[]string{"0s pending", "600ms complete"}},
		{"within the bound, a failure", 600 * time.Millisecond, dnstest.Records{Code: dnsmessage.RCodeRefused},
			[]string{"0s pending", "600ms complete"}},
		{"after the bound", 1500 * time.Millisecond, dnstest.Records{TXT: []string{withConfig(someConfig)}},
			[]string{"0s pending", "1s complete", "1.5s complete config"}},
		{"after the bound, none", 1500 * time.Millisecond, dnstest.Records{},
			[]string{"0s pending", "1s complete"}},
		{"never", time.Hour, dnstest.Records{},
			[]string{"0s pending", "1s complete"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				tt.txt.Held = gate
				s := dnstest.New(dnstest.Zone{"one.test": one, "_grpc_config.one.test": tt.txt})
				c := newChannel()
				begun := time.Now()
				r := build(t, NewBuilder(Config{Resolver: s.OverPipes(), LookupTimeout: 4 * time.Second}), c, "", "one.test:80")
				time.AfterFunc(tt.after, func() { close(gate) })
				time.Sleep(2 * time.Hour)
				r.Close()
				s.Close()

				var got []string
				for len(c.calls) > 0 {
					update := c.nextUpdate(t)
					assert.Equal(t, []string{"192.0.2.1:80"}, update.addrs())
					line := update.at.Sub(begun).String()
					if update.pending() {
						line += " pending"
					} else {
						line += " complete"
					}
					if update.state.ServiceConfig != nil {
						line += " config"
						assert.Equal(t, someConfig, update.config())
					}
					got = append(got, line)
				}
				assert.Equal(t, tt.want, got)
			})
		})
	}
}

func TestServiceConfigWaitOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		s := dnstest.New(dnstest.Zone{
			"one.test":              {Addrs: []string{"192.0.2.1"}},
			"_grpc_config.one.test": {TXT: []string{withConfig(someConfig)}, Held: gate},
		})
		c := newChannel()
		r := build(t, NewBuilder(Config{Resolver: s.OverPipes(), ServiceConfigWait: -1}), c, "", "one.test:80")
		first := c.nextUpdate(t)
		assert.False(t, first.pending())
		assert.Nil(t, first.state.ServiceConfig)
		close(gate)
		assert.Equal(t, someConfig, c.nextUpdate(t).config())
		r.Close()
		s.Close()
	})
}

// One that came before the addresses needs no second update.
func TestServiceConfigThatIsThereFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		s := dnstest.New(dnstest.Zone{
			"one.test":              {Addrs: []string{"192.0.2.1"}, Held: gate},
			"_grpc_config.one.test": {TXT: []string{withConfig(someConfig)}},
		})
		c := newChannel()
		r := build(t, NewBuilder(Config{Resolver: s.OverPipes()}), c, "", "one.test:80")
		synctest.Wait()
		c.quiet(t)
		close(gate)
		update := c.nextUpdate(t)
		assert.False(t, update.pending())
		assert.Equal(t, someConfig, update.config())
		time.Sleep(time.Hour)
		c.quiet(t)
		r.Close()
		s.Close()
	})
}

func TestServiceConfigStaysUntilTheNextAnswer(t *testing.T) {
	z := dnstest.Zone{
		"one.test":              {Addrs: []string{"192.0.2.1"}},
		"_grpc_config.one.test": {TXT: []string{withConfig(someConfig)}},
	}
	inBubble(t, z, Config{}, func(s *dnstest.Server, c *channel, r resolver.Resolver) {
		require.Equal(t, someConfig, c.settled(t).config())

		again := func(txt dnstest.Records) []call {
			s.Set("_grpc_config.one.test", txt)
			time.Sleep(time.Minute)
			r.ResolveNow(resolver.ResolveNowOptions{})
			time.Sleep(time.Minute)
			var all []call
			for len(c.calls) > 0 {
				all = append(all, c.nextUpdate(t))
				assert.False(t, all[len(all)-1].pending(), "RPCs are held once")
			}
			require.NotEmpty(t, all)
			return all
		}
		for _, failure := range []dnstest.Records{{Silent: true}, {Code: dnsmessage.RCodeServerFailure}, {Code: dnsmessage.RCodeRefused}} {
			all := again(failure)
			require.Len(t, all, 1, "%v", failure)
			assert.Equal(t, someConfig, all[0].config(), "%v", failure)
		}
		all := again(dnstest.Records{TXT: []string{withConfig(`{}`)}})
		assert.Equal(t, `{}`, all[len(all)-1].config())
		all = again(dnstest.Records{Code: dnsmessage.RCodeNameError})
		assert.Nil(t, all[len(all)-1].state.ServiceConfig)
		all = again(dnstest.Records{TXT: []string{"grpc_config=what"}})
		assert.ErrorContains(t, all[len(all)-1].state.ServiceConfig.Err, "_grpc_config.one.test")
	})
}

func TestMinInterval(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  Config
		want time.Duration
	}{
		"default": {Config{}, 30 * time.Second},
		"set":     {Config{MinInterval: 5 * time.Minute}, 5 * time.Minute},
		"none":    {Config{MinInterval: -1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}}, tt.cfg, func(_ *dnstest.Server, c *channel, r resolver.Resolver) {
				last := c.settled(t).at
				synctest.Wait() // at rest

				// Soon after: at the end of the interval, once.
				for range 3 {
					r.ResolveNow(resolver.ResolveNowOptions{})
				}
				next := c.settled(t).at
				assert.Equal(t, tt.want, next.Sub(last))
				time.Sleep(time.Hour)
				c.quiet(t) // not by itself

				// Long after: at once.
				r.ResolveNow(resolver.ResolveNowOptions{})
				asked := time.Now()
				assert.Equal(t, asked, c.settled(t).at)
				synctest.Wait()
			})
		})
	}
}

// What a channel asks for while it is given addresses is about those.
func TestResolveNowDuringAResolution(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dnstest.New(dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}, "_grpc_config.one.test": {Silent: true}})
		c := newChannel()
		r := build(t, NewBuilder(Config{Resolver: s.OverPipes()}), c, "", "one.test:80")
		require.True(t, c.next(t).pending())
		r.ResolveNow(resolver.ResolveNowOptions{})
		r.ResolveNow(resolver.ResolveNowOptions{})
		require.False(t, c.next(t).pending())
		c.next(t)
		time.Sleep(time.Hour)
		c.quiet(t)
		r.Close()
		s.Close()
	})
}

func TestRefresh(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  Config
		want time.Duration
	}{
		"longer than the interval":  {Config{Refresh: 2 * time.Minute}, 2 * time.Minute},
		"shorter than the interval": {Config{Refresh: time.Second}, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}}, tt.cfg, func(_ *dnstest.Server, c *channel, r resolver.Resolver) {
				last := c.settled(t).at
				for range 3 {
					next := c.settled(t).at
					assert.Equal(t, tt.want, next.Sub(last))
					last = next
				}
				// A ResolveNow comes before a refresh that is further away.
				synctest.Wait()
				r.ResolveNow(resolver.ResolveNowOptions{})
				assert.Equal(t, 30*time.Second, c.settled(t).at.Sub(last))
				synctest.Wait()
			})
		})
	}
}

// gaps are the times between calls.
func gaps(t *testing.T, c *channel, n int) []time.Duration {
	t.Helper()
	all := make([]time.Duration, n)
	last := c.next(t).at
	for i := range all {
		next := c.next(t).at
		all[i] = next.Sub(last)
		last = next
	}
	return all
}

func TestBackoffAfterErrors(t *testing.T) {
	inBubble(t, dnstest.Zone{"one.test": {Code: dnsmessage.RCodeNameError}}, Config{}, func(s *dnstest.Server, c *channel, r resolver.Resolver) {
		want := time.Second
		for i, gap := range gaps(t, c, 14) {
			want = min(want*16/10, 120*time.Second)
			assert.InDelta(t, want.Seconds(), gap.Seconds(), 0.2*want.Seconds()+1e-6, "wait %d", i+1)
		}
		synctest.Wait()
		r.ResolveNow(resolver.ResolveNowOptions{}) // does not storm the server
		start := time.Now()
		s.Set("one.test", dnstest.Records{Addrs: []string{"192.0.2.1"}})
		found := c.settled(t)
		assert.GreaterOrEqual(t, found.at.Sub(start), 96*time.Second)

		// Found: the next failure begins anew.
		s.Set("one.test", dnstest.Records{Code: dnsmessage.RCodeServerFailure})
		time.Sleep(time.Hour)
		c.quiet(t)
		r.ResolveNow(resolver.ResolveNowOptions{})
		assert.InDelta(t, 1.6, gaps(t, c, 1)[0].Seconds(), 0.33)
		synctest.Wait()
	})
}

func TestBackoffIsConfigurable(t *testing.T) {
	cfg := Config{Backoff: backoff.Config{BaseDelay: time.Minute, Multiplier: 2, MaxDelay: 5 * time.Minute}}
	inBubble(t, dnstest.Zone{}, cfg, func(_ *dnstest.Server, c *channel, _ resolver.Resolver) {
		assert.Equal(t, []time.Duration{2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute}, gaps(t, c, 4))
		synctest.Wait()
	})
}

func TestBackoffAfterRefusedUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dnstest.New(dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}})
		c := newChannel()
		c.verdict = func(resolver.State) error { return errors.New("no") }
		cfg := Config{Resolver: s.OverPipes(), Backoff: backoff.Config{BaseDelay: time.Second, Multiplier: 2, MaxDelay: time.Minute}}
		r, err := NewBuilder(cfg).Build(target("", "one.test"), c, resolver.BuildOptions{DisableServiceConfig: true})
		require.NoError(t, err)
		assert.Equal(t, []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second}, gaps(t, c, 3))
		r.Close()
		s.Close()
	})
}

// The verdict on the complete update is the one that counts.
func TestRefusedPendingUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dnstest.New(dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}, "_grpc_config.one.test": {Silent: true}})
		c := newChannel()
		c.verdict = func(s resolver.State) error {
			if ServiceConfigPending(s) {
				return errors.New("not without a service config")
			}
			return nil
		}
		r := build(t, NewBuilder(Config{Resolver: s.OverPipes()}), c, "", "one.test")
		require.True(t, c.next(t).pending())
		require.False(t, c.next(t).pending())
		time.Sleep(time.Hour)
		c.quiet(t)
		r.Close()
		s.Close()
	})
}

// A look-up that does not heed its context, as the system's need not, is left
// to itself when its time is over, and by Close.
func TestLookupTimeout(t *testing.T) {
	for name, tt := range map[string]struct {
		set, want time.Duration
	}{
		"set":     {3 * time.Second, 3 * time.Second},
		"default": {0, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stuck := make(chan struct{})
				defer close(stuck)
				cfg := Config{LookupTimeout: tt.set, Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
					<-stuck
					return nil, errors.New("stuck")
				}}}
				c := newChannel()
				begun := time.Now()
				r := build(t, NewBuilder(cfg), c, "", "one.test")
				call := c.next(t)
				assert.Equal(t, tt.want, call.at.Sub(begun))
				var e *net.DNSError
				require.ErrorAs(t, call.err, &e)
				assert.True(t, e.IsTimeout)
				assert.Equal(t, "one.test", e.Name)

				time.Sleep(2 * time.Second) // into the next look-up
				closed := time.Now()
				r.Close()
				assert.Zero(t, time.Since(closed))
				c.quiet(t)
			})
		})
	}
}

// Package net would go on asking a silent server; its connections are closed in
// no time instead, those for the service config too.
func TestCloseLeavesNoLookUpBehind(t *testing.T) {
	for name, host := range map[string]dnstest.Records{"addresses": {Silent: true}, "service config": {Addrs: []string{"192.0.2.1"}}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := dnstest.New(dnstest.Zone{"one.test": host, "_grpc_config.one.test": {Silent: true}})
				r := build(t, NewBuilder(Config{Resolver: s.OverPipes()}), newChannel(), "", "one.test")
				synctest.Wait()
				closed := time.Now()
				r.Close()
				s.Close() // waits for its side of each connection
				assert.Zero(t, time.Since(closed))
			})
		})
	}
}

func TestNoGoroutineAtRest(t *testing.T) {
	s := dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}})
	c := newChannel()
	// Those that linger from before may end meanwhile; none may come.
	before := runtime.NumGoroutine()
	for range 50 {
		cfg := brisk
		cfg.Refresh = time.Hour
		build(t, NewBuilder(cfg), c, s.Addr(), "one.test")
		c.settled(t)
	}
	assert.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, time.Minute, time.Millisecond)
}
