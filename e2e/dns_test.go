package e2e_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/dnstest"
)

// txt is a TXT record with a service config (gRFC A2).
func txt(config string) dnstest.Records {
	return dnstest.Records{TXT: []string{`grpc_config=[{"serviceConfig":` + config + `}]`}}
}

// asked is the target for a name that a name server is asked for.
func asked(s *dnstest.Server, name string) string { return "dns://" + s.Addr() + "/" + name }

func TestDNSNames(t *testing.T) {
	one := backendtest.Start(t, "one")
	port := backendtest.PortOf(t, one.Addr)
	backendtest.StartAt(t, "two", "127.0.0.2:"+port)
	backendtest.StartAt(t, "six", "[::1]:"+port)
	s := dnstest.Listen(t, dnstest.Zone{
		"one.test":               {Addrs: []string{"127.0.0.1"}},
		"six.test":               {Addrs: []string{"::1"}},
		"big.test":               {Addrs: []string{"127.0.0.1"}, OverTCP: true},
		"dead.test":              {Addrs: []string{"127.0.0.9", "127.0.0.2"}},
		"both.test":              {Addrs: []string{"127.0.0.1", "127.0.0.2"}},
		"_grpc_config.both.test": txt(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
	})
	for name, want := range map[string][]string{
		"one.test":  {"one"},
		"ONE.test.": {"one"},
		"six.test":  {"six"},
		"big.test":  {"one"},
		"dead.test": {"two"},
		"both.test": {"one", "two"},
	} {
		t.Run(name, func(t *testing.T) {
			target := asked(s, name+":"+port)
			backendtest.AwaitNames(t, plain(t, target), want...)
			dialed, err := grpcdial.DialContext(backendtest.Bounded(t), strings.Replace(target, "dns:", "DNS:", 1), grpcdial.WithInsecure(), grpcdial.WithBlock())
			require.NoError(t, err)
			defer dialed.Close()
			assert.Equal(t, target, dialed.CanonicalTarget())
			backendtest.AwaitNames(t, dialed, want...)
		})
	}
}

// The error for a name that cannot be resolved has the question, the name server and the
// answer.
func TestDNSFailures(t *testing.T) {
	s := dnstest.Listen(t, dnstest.Zone{
		"empty.test":   {TXT: []string{"hello"}},
		"bad.test":     {Code: dnsmessage.RCodeServerFailure},
		"refused.test": {Code: dnsmessage.RCodeRefused},
		"silent.test":  {Silent: true},
	})
	gone := dnstest.Listen(t, dnstest.Zone{})
	gone.Close()
	for _, tt := range []struct {
		name     string
		server   *dnstest.Server
		says     string
		notFound bool
		timeout  bool
	}{
		{"absent.test", s, "no such host", true, false},
		{"empty.test", s, "the name exists but has no address", true, false},
		{"bad.test", s, "server misbehaving (SERVFAIL)", false, false},
		{"refused.test", s, "server misbehaving (REFUSED)", false, false},
		{"silent.test", s, "i/o timeout", false, true},
		{"any.test", gone, "connection refused", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := asked(tt.server, tt.name+":443")
			check := func(t *testing.T, err error) {
				t.Helper()
				var e *grpcdial.DialError
				require.ErrorAs(t, err, &e)
				require.Len(t, e.Attempts, 1)
				assert.Equal(t, grpcdial.PhaseResolve, e.Attempts[0].Phase)
				assert.Equal(t, tt.name+":443", e.Attempts[0].Addr)
				assert.False(t, e.Attempts[0].Permanent)
				assert.NotEmpty(t, e.Attempts[0].Hint)
				var d *net.DNSError
				require.ErrorAs(t, err, &d)
				assert.Equal(t, tt.server.Addr(), d.Server)
				assert.Equal(t, tt.name, d.Name)
				assert.Equal(t, tt.notFound, d.IsNotFound)
				assert.Equal(t, tt.timeout, d.IsTimeout)
				assert.Contains(t, err.Error(), "lookup "+tt.name+" on "+tt.server.Addr()+": ")
				assert.Contains(t, err.Error(), tt.says)
				assert.NotContains(t, err.Error(), "\n")
			}
			var opts grpcdial.DNSOptions
			if tt.timeout {
				opts.Timeout = 50 * time.Millisecond
			}
			cc := plain(t, target, grpcdial.WithDNS(opts))
			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			check(t, err)
			assert.NotErrorIs(t, err, context.DeadlineExceeded, "the look-up's time-out is not that of the RPC")

			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			err = cc.AwaitReady(ctx)
			check(t, err)
			assert.ErrorIs(t, err, context.DeadlineExceeded)

			if tt.name == "absent.test" { // the wait takes its time
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, err = grpcdial.DialContext(ctx, target, grpcdial.WithInsecure(), grpcdial.WithBlock())
				check(t, err)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			}
		})
	}
	t.Run("not answered yet", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := grpcdial.DialContext(ctx, asked(s, "silent.test:443"), grpcdial.WithInsecure(), grpcdial.WithBlock())
		assert.ErrorContains(t, err, "silent.test:443: resolve not finished after ")
		backendtest.AssertNothingRuns(t)
	})
}

// A name server that was wrong, or a name that was not there, is asked again.
func TestDNSNameThatAppearsLater(t *testing.T) {
	b := backendtest.Start(t, "late")
	s := dnstest.Listen(t, dnstest.Zone{"bad.test": {Code: dnsmessage.RCodeServerFailure}})
	var channels []*grpcdial.ClientConn
	for _, name := range []string{"absent.test", "bad.test"} {
		cc := plain(t, asked(s, name+":"+backendtest.PortOf(t, b.Addr)))
		cc.Connect()
		awaitState(t, cc, connectivity.TransientFailure)
		s.Set(name, dnstest.Records{Addrs: []string{"127.0.0.1"}})
		channels = append(channels, cc)
	}
	for _, cc := range channels {
		got, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		assert.Equal(t, "late", got)
	}
}

func TestDNSChangesAreFound(t *testing.T) {
	one := backendtest.Start(t, "one")
	port := backendtest.PortOf(t, one.Addr)
	two := backendtest.StartAt(t, "two", "127.0.0.2:"+port)
	s := dnstest.Listen(t, dnstest.Zone{
		"loses.test":     {Addrs: []string{"127.0.0.1"}},
		"refreshes.test": {Addrs: []string{"127.0.0.1"}},
	})
	t.Run("by refreshing", func(t *testing.T) {
		cc := plain(t, asked(s, "refreshes.test:"+port), grpcdial.WithDNS(grpcdial.DNSOptions{MinInterval: -1, Refresh: 10 * time.Millisecond}))
		backendtest.AwaitNames(t, cc, "one")
		s.Set("refreshes.test", dnstest.Records{Addrs: []string{"127.0.0.2"}})
		backendtest.Eventually(t, func() bool {
			got, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
			return err == nil && got == "two"
		}, "the new address")
	})
	t.Run("after a loss", func(t *testing.T) {
		var seen events
		cc := plain(t, asked(s, "loses.test:"+port), fastBackoff(), grpcdial.WithDNS(grpcdial.DNSOptions{MinInterval: -1}), seen.option())
		backendtest.AwaitNames(t, cc, "one")
		s.Set("loses.test", dnstest.Records{Addrs: []string{"127.0.0.2"}})
		one.Stop()
		backendtest.AwaitNames(t, cc, "two")

		// A name that is gone leaves the channel with the addresses it has.
		s.Set("loses.test", dnstest.Records{Code: dnsmessage.RCodeNameError})
		two.Cut() // which has the name looked up again
		backendtest.Eventually(t, func() bool { return seen.find(grpcdial.EventResolveDone).Err != nil }, "the look-up fails")
		got, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		assert.Equal(t, "two", got)
	})
}

// The channel connects to a name's addresses while the service config is still
// being looked up, and its first RPC sees that config.
func TestDNSSlowServiceConfig(t *testing.T) {
	b := backendtest.Start(t, "one")
	slow := func(gate chan struct{}, config string) *dnstest.Server {
		r := txt(config)
		r.Held = gate
		return dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"127.0.0.1"}}, "_grpc_config.one.test": r})
	}
	target := func(s *dnstest.Server) string { return asked(s, "one.test:"+backendtest.PortOf(t, b.Addr)) }
	const noTime = `{"methodConfig":[{"name":[{}],"timeout":"0s"}]}`
	begin := func(cc *grpcdial.ClientConn) <-chan error {
		result := make(chan error, 1)
		go func() { _, err := backendtest.AskName(backendtest.Bounded(t), cc); result <- err }()
		backendtest.Eventually(t, func() bool { return rpcsRunning(t, cc) == 1 }, "begun")
		return result
	}

	t.Run("comes within the bound", func(t *testing.T) {
		gate := make(chan struct{})
		cc := plain(t, target(slow(gate, noTime)), grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: time.Minute}))
		awaitReady(t, cc)
		assert.Nil(t, cc.GetMethodConfig("/test.Backend/Name").Timeout)
		result := begin(cc)
		close(gate)
		assert.Equal(t, codes.DeadlineExceeded, status.Code(<-result))
		assert.NotNil(t, cc.GetMethodConfig("/test.Backend/Name").Timeout)
		assert.Equal(t, 1, b.Accepted(), "the connection that was made meanwhile")
	})
	t.Run("names another policy", func(t *testing.T) {
		gate := make(chan struct{})
		two := backendtest.StartAt(t, "two", "127.0.0.2:"+backendtest.PortOf(t, b.Addr))
		s := slow(gate, `{"loadBalancingConfig":[{"round_robin":{}}]}`)
		s.Set("one.test", dnstest.Records{Addrs: []string{"127.0.0.1", "127.0.0.2"}})
		cc := plain(t, target(s), grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: time.Minute}))
		awaitReady(t, cc)
		close(gate)
		backendtest.AwaitNames(t, cc, b.Name, two.Name)
	})
	t.Run("does not come", func(t *testing.T) {
		cc := plain(t, target(slow(make(chan struct{}), noTime)), grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: 50 * time.Millisecond}))
		begun := time.Now()
		require.NoError(t, <-begin(cc))
		assert.GreaterOrEqual(t, time.Since(begun), 50*time.Millisecond)
	})
	t.Run("comes late", func(t *testing.T) {
		gate := make(chan struct{})
		cc := plain(t, target(slow(gate, noTime)), grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: -1}))
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		require.NoError(t, err)
		close(gate)
		backendtest.Eventually(t, func() bool { return cc.GetMethodConfig("/test.Backend/Name").Timeout != nil }, "in force")
	})
	t.Run("goes idle meanwhile", func(t *testing.T) {
		gate := make(chan struct{})
		cc := plain(t, target(slow(gate, noTime)), grpcdial.WithIdleTimeout(20*time.Millisecond), grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: time.Minute}))
		awaitReady(t, cc)
		awaitState(t, cc, connectivity.Idle)
		result := begin(cc)
		awaitState(t, cc, connectivity.Ready)
		close(gate)
		assert.Equal(t, codes.DeadlineExceeded, status.Code(<-result), "it waited for its method config")
	})
	for name, option := range map[string]grpcdial.DialOption{
		"WithDisableServiceConfig": grpcdial.WithDisableServiceConfig(),
		"WithServiceConfig":        grpcdial.WithServiceConfig(make(chan grpcdial.ServiceConfig)),
	} {
		t.Run("not asked for by "+name, func(t *testing.T) {
			cc := plain(t, target(slow(make(chan struct{}), noTime)), option, grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: time.Minute}))
			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			assert.NoError(t, err)
		})
	}
}

// An update that says no more than the one before, but that there is no service
// config, is not for the policy.
func TestDNSPolicySeesAnUpdateOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		config  string
		updates int
	}{
		"no service config": {"", 1},
		"one":               {`{"methodConfig":[{"name":[{}],"waitForReady":true}],"loadBalancingConfig":[{"` + t.Name() + `one":{}}]}`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			updates := make(chan []string, 10)
			policy := &backendtest.SpyPolicy{As: strings.ReplaceAll(t.Name(), "/", ""), OnUpdate: func(_ *backendtest.Spy, s balancer.ClientConnState) error {
				var addrs []string
				for _, e := range s.ResolverState.Endpoints {
					addrs = append(addrs, e.Addresses[0].Addr)
				}
				updates <- addrs
				return nil
			}}
			balancer.Register(policy)
			gate := make(chan struct{})
			r := dnstest.Records{}
			if tt.config != "" {
				r = txt(tt.config)
			}
			r.Held = gate
			s := dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}, "_grpc_config.one.test": r})
			cc := plain(t, asked(s, "one.test"), grpcdial.WithDefaultServiceConfig(policy.Config()), grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: time.Minute}))
			cc.Connect()
			assert.Equal(t, []string{"192.0.2.1:443"}, <-updates)
			close(gate)
			for range tt.updates - 1 {
				assert.Equal(t, []string{"192.0.2.1:443"}, <-updates)
			}
			backendtest.Eventually(t, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
				defer cancel()
				_, err := backendtest.AskName(ctx, cc)
				var e *grpcdial.RPCError
				return errors.As(err, &e) && e.Stage != grpcdial.StageResolve
			}, "RPCs are let through")
			assert.Empty(t, updates)
		})
	}
}

// What the policy says of addresses counts before their service config has come: a dial
// that ends then reports it. It stays the verdict if the config changes nothing, so
// that the name is looked up again.
func TestDNSPolicyRefusesAddressesEarly(t *testing.T) {
	updates := make(chan struct{}, 10)
	policy := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, _ balancer.ClientConnState) error {
		s.CC.UpdateState(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(backendtest.ErrRefused)})
		updates <- struct{}{}
		return errors.New("not these")
	}}
	balancer.Register(policy)
	gate := make(chan struct{})
	s := dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"192.0.2.1"}}, "_grpc_config.one.test": {Held: gate}})
	cc := plain(t, asked(s, "one.test"), grpcdial.WithDefaultServiceConfig(policy.Config()), grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: time.Minute, MinInterval: -1}))
	cc.Connect()
	<-updates
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	assert.ErrorContains(t, cc.AwaitReady(ctx), "the load-balancing policy refused the resolver's addresses: not these")
	assert.Empty(t, updates, "the service config is awaited")
	close(gate)
	<-updates
}

// An invalid service config that is the channel's first fails RPCs with the
// reason (gRFC A21), though a connection was made before it came.
func TestDNSInvalidServiceConfig(t *testing.T) {
	b := backendtest.Start(t, "one")
	const valid, invalid = `{"methodConfig":[{"name":[{}],"waitForReady":true}]}`, `{"methodConfig":1}`
	listen := func(t *testing.T, config string) (*dnstest.Server, chan struct{}) {
		gate := make(chan struct{})
		r := txt(config)
		r.Held = gate
		return dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"127.0.0.1"}}, "_grpc_config.one.test": r}), gate
	}
	wait := grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: time.Minute, MinInterval: -1})

	t.Run("first", func(t *testing.T) {
		s, gate := listen(t, invalid)
		cc := plain(t, asked(s, "one.test:"+backendtest.PortOf(t, b.Addr)), wait)
		awaitReady(t, cc)
		close(gate)
		for _, option := range []grpc.CallOption{grpc.WaitForReady(false), grpc.WaitForReady(true)} {
			_, err := backendtest.AskName(backendtest.Bounded(t), cc, option)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.ErrorContains(t, err, "methodConfig")
		}
		assert.Equal(t, connectivity.TransientFailure, cc.GetState())
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		err := cc.AwaitReady(ctx)
		assert.ErrorContains(t, err, "one.test:"+backendtest.PortOf(t, b.Addr)+": resolve failed")
		assert.ErrorContains(t, err, "methodConfig")

		s.Set("_grpc_config.one.test", txt(valid))
		awaitReady(t, cc)
		_, err = backendtest.AskName(backendtest.Bounded(t), cc)
		require.NoError(t, err)
	})
	t.Run("no choice list", func(t *testing.T) {
		s, gate := listen(t, invalid)
		s.Set("_grpc_config.one.test", dnstest.Records{TXT: []string{"grpc_config={}"}})
		close(gate)
		_, err := backendtest.AskName(backendtest.Bounded(t), plain(t, asked(s, "one.test:"+backendtest.PortOf(t, b.Addr)), wait))
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.ErrorContains(t, err, `the service config in the TXT record of "_grpc_config.one.test": not a list of choices`)
	})
	t.Run("with a default", func(t *testing.T) {
		s, gate := listen(t, invalid)
		cc := plain(t, asked(s, "one.test:"+backendtest.PortOf(t, b.Addr)), wait, grpcdial.WithDefaultServiceConfig(valid))
		awaitReady(t, cc)
		close(gate)
		_, err := backendtest.AskName(backendtest.Bounded(t), cc)
		require.NoError(t, err)
		assert.NotNil(t, cc.GetMethodConfig("/test.Backend/Name").WaitForReady)
	})
}

// A channel whose name was looked up has its connection's goroutine and no other.
func TestDNSAtRest(t *testing.T) {
	b := backendtest.Start(t, "one")
	s := dnstest.Listen(t, dnstest.Zone{"one.test": {Addrs: []string{"127.0.0.1"}}})
	cc := plain(t, asked(s, "one.test:"+backendtest.PortOf(t, b.Addr)), grpcdial.WithDNS(grpcdial.DNSOptions{Refresh: time.Hour}))
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	assert.Contains(t, backendtest.AwaitOurs(t, 1)[0], "(*loop).serve")
}

// Close does not wait for name servers.
func TestDNSClose(t *testing.T) {
	s := dnstest.Listen(t, dnstest.Zone{
		"silent.test":           {Silent: true},
		"one.test":              {Addrs: []string{"127.0.0.1"}},
		"_grpc_config.one.test": {Silent: true},
	})
	for _, name := range []string{"silent.test", "one.test", "absent.test"} {
		backendtest.Within(t, 100*time.Millisecond, func(t *testing.T) time.Duration {
			var seen events
			cc := plain(t, asked(s, name), grpcdial.WithContextDialer(backendtest.Hang), seen.option())
			cc.Connect()
			if name != "silent.test" {
				seen.await(t, grpcdial.EventResolveDone)
			}
			begun := time.Now()
			require.NoError(t, cc.Close())
			took := time.Since(begun)
			backendtest.AssertNothingRuns(t)
			return took
		})
	}
}

// A policy that a service config in DNS has named runs on no goroutine of the program's, as any
// policy of the program's: that of Connect would wait for it.
func TestDNSPolicyDoesNotHoldConnectUp(t *testing.T) {
	one := backendtest.Start(t, "one")
	called, release := make(chan struct{}, 10), make(chan struct{})
	balancer.Register(&backendtest.SpyPolicy{
		As: "dns_slow_exit_idle",
		OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
			if s.Sub == nil {
				s.Connect(state.ResolverState.Addresses, nil)
			}
			return nil
		},
		OnExitIdle: func(*backendtest.Spy) {
			called <- struct{}{}
			<-release
		},
	})
	s := dnstest.Listen(t, dnstest.Zone{
		"one.test":              {Addrs: []string{"127.0.0.1"}},
		"_grpc_config.one.test": txt(backendtest.PolicyConfig("dns_slow_exit_idle")),
	})
	cc := plain(t, asked(s, "one.test:"+backendtest.PortOf(t, one.Addr)))
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)

	returned := make(chan struct{})
	go func() {
		cc.Connect()
		close(returned)
	}()
	defer close(release)
	for what, happened := range map[string]chan struct{}{"ExitIdle is called": called, "Connect returns": returned} {
		select {
		case <-happened:
		case <-backendtest.Bounded(t).Done():
			t.Fatal("not so: " + what)
		}
	}
}
