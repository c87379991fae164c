package grpcdial

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	grpcdns "google.golang.org/grpc/resolver/dns"
	grpcsc "google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/dns"
	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestUpdateStateInsideBuild(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc := plain(t, "scripted:///x", WithResolvers(backendtest.Scripted{OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
		for range 10 {
			if err := cc.UpdateState(backendtest.Addresses(b)); err != nil {
				return err
			}
		}
		return nil
	}}))
	got, err := backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	assert.Equal(t, "one", got)
}

// A resolver may update from within ResolveNow, which is asked for on every loss.
func TestUpdateStateInsideResolveNow(t *testing.T) {
	b := backendtest.Start(t, "one")
	var asked atomic.Int32
	cc := plain(t, "scripted:///x", fastBackoff(), WithResolvers(backendtest.Scripted{
		OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
			return cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: backendtest.UnusedAddr(t)}}})
		},
		OnResolveNow: func(cc resolver.ClientConn) {
			asked.Add(1)
			assert.NoError(t, cc.UpdateState(backendtest.Addresses(b)))
		},
	}))
	awaitReady(t, cc)
	before := asked.Load()
	assert.Positive(t, before, "asked after a failure")
	b.Cut()
	backendtest.Eventually(t, func() bool { return asked.Load() > before }, "asked after a loss")
	awaitReady(t, cc)
}

// A resolver whose Close waits for a goroutine that is in UpdateState, as dns
// does, does not hold up Close.
func TestCloseWhileResolverUpdates(t *testing.T) {
	for range 20 {
		var watcher sync.WaitGroup
		stop := make(chan struct{})
		cc, err := NewClient("scripted:///x", WithInsecure(), WithContextDialer(backendtest.Refuse), WithResolvers(backendtest.Scripted{
			OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
				watcher.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							_ = cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
							cc.ReportError(errors.New("hm"))
						}
					}
				})
				return nil
			},
			OnClose: func(resolver.ClientConn) { close(stop); watcher.Wait() },
		}))
		require.NoError(t, err)
		cc.Connect()
		awaitState(t, cc, connectivity.TransientFailure)
		require.NoError(t, cc.Close())
	}
}

// The verdict on an update is the policy's.
func TestVerdicts(t *testing.T) {
	verdict := errors.New("not like this")
	policy := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(*backendtest.Spy, balancer.ClientConnState) error { return verdict }}
	balancer.Register(policy)
	r, target, option := handResolver(t)
	verdicts := make(chan error, 10)
	r.UpdateStateCallback = func(err error) { verdicts <- err }
	cc := plain(t, target, option, WithContextDialer(backendtest.Refuse))
	cc.Connect()
	backendtest.Eventually(t, func() bool { defer func() { _ = recover() }(); return r.CC() != nil }, "built")

	r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
	assert.NoError(t, <-verdicts)
	r.UpdateState(resolver.State{})
	assert.ErrorIs(t, <-verdicts, balancer.ErrBadResolverState, "no addresses")
	r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}, ServiceConfig: r.CC().ParseServiceConfig(`{"loadBalancingConfig": [{"` + t.Name() + `": {}}]}`)})
	assert.Equal(t, verdict, <-verdicts)
	r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}, ServiceConfig: r.CC().ParseServiceConfig(`{`)})
	assert.ErrorIs(t, <-verdicts, balancer.ErrBadResolverState, "a bad service config")

	require.NoError(t, cc.Close())
	r.UpdateState(resolver.State{})
	assert.NoError(t, <-verdicts, "a closed channel has no verdict")
	r.CC().ReportError(errors.New("late"))
	r.CC().NewAddress(nil)
}

// When UpdateState returns, the channel is in the state that the update led to.
func TestVerdictComesAfterItsEffect(t *testing.T) {
	r, target, option := handResolver(t)
	cc := plain(t, target, option, WithContextDialer(backendtest.Hang))
	cc.Connect()
	backendtest.Eventually(t, func() bool { defer func() { _ = recover() }(); return r.CC() != nil }, "built")
	for range 50 {
		r.UpdateState(resolver.State{})
		require.Equal(t, connectivity.TransientFailure, cc.GetState())
		r.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
		require.Equal(t, connectivity.Connecting, cc.GetState())
	}
}

func TestPolicySeesEndpoints(t *testing.T) {
	states := make(chan resolver.State, 10)
	policy := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(_ *backendtest.Spy, s balancer.ClientConnState) error {
		states <- s.ResolverState
		return nil
	}}
	balancer.Register(policy)
	var conn resolver.ClientConn
	cc := plain(t, "scripted:///x", WithDefaultServiceConfig(policy.Config()), WithResolvers(backendtest.Scripted{OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
		conn = cc
		return nil
	}}))
	require.NoError(t, startAndWait(cc))

	attrs := attributes.New("k", "v")
	require.NoError(t, conn.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "a:1", BalancerAttributes: attrs}, {Addr: "b:1"}}}))
	got := <-states
	require.Len(t, got.Endpoints, 2)
	assert.Equal(t, []resolver.Address{{Addr: "a:1"}}, got.Endpoints[0].Addresses)
	assert.True(t, got.Endpoints[0].Attributes.Equal(attrs))
	assert.Len(t, got.Addresses, 2)

	endpoints := []resolver.Endpoint{{Addresses: []resolver.Address{{Addr: "a:1"}, {Addr: "b:1"}}}}
	require.NoError(t, conn.UpdateState(resolver.State{Endpoints: endpoints}))
	assert.Equal(t, endpoints, (<-states).Endpoints, "what the resolver gives stays")

	conn.NewAddress([]resolver.Address{{Addr: "c:1"}})
	assert.Equal(t, "c:1", (<-states).Endpoints[0].Addresses[0].Addr)
}

// startAndWait leaves idle and waits until the resolver is built.
func startAndWait(cc *ClientConn) error {
	_, err := cc.awaitResolver(context.Background(), false)
	return err
}

func TestResolverBuildOptions(t *testing.T) {
	ca := h2test.NewCA(t)
	creds := credentials.NewTLS(ca.ClientConfig("backend.example"))
	var got resolver.BuildOptions
	cc, err := NewClient("scripted:///x", WithTransportCredentials(creds), WithDisableServiceConfig(), WithContextDialer(backendtest.Refuse),
		WithResolvers(backendtest.Scripted{OnBuild: func(_ resolver.ClientConn, opts resolver.BuildOptions) error { got = opts; return nil }}))
	require.NoError(t, err)
	defer cc.Close()
	require.NoError(t, startAndWait(cc))
	assert.True(t, got.DisableServiceConfig)
	assert.Equal(t, "backend.example", got.Authority)
	assert.NotSame(t, creds, got.DialCreds, "a clone, which the resolver may change")
	assert.Equal(t, creds.Info(), got.DialCreds.Info())
	_, err = got.Dialer(context.Background(), "x:1")
	assert.Equal(t, error(backendtest.ErrRefused), err)
	require.NotNil(t, got.MetricsRecorder)
	got.MetricsRecorder.RecordInt64Count(nil, 1)
	got.MetricsRecorder.RegisterAsyncReporter(nil)()
}

func TestCredentialsBundleReachesTheResolver(t *testing.T) {
	bundle := testBundle{transport: insecure.NewCredentials()}
	var got resolver.BuildOptions
	cc, err := NewClient("scripted:///x", WithCredentialsBundle(bundle),
		WithResolvers(backendtest.Scripted{OnBuild: func(_ resolver.ClientConn, opts resolver.BuildOptions) error { got = opts; return nil }}))
	require.NoError(t, err)
	defer cc.Close()
	require.NoError(t, startAndWait(cc))
	assert.Equal(t, bundle, got.CredsBundle)
}

// A bad service config after a good one changes nothing; a bad first one fails
// RPCs, wait-for-ready ones too, and the reason is in their error.
func TestBadServiceConfig(t *testing.T) {
	b := backendtest.Start(t, "one")
	const good, bad = `{"methodConfig": [{"name": [{}], "waitForReady": true}]}`, `{"methodConfig": 1}`
	type update struct {
		config string // "-": none
		ok     bool
	}
	for _, tt := range []struct {
		name    string
		opts    []DialOption
		updates []update
		works   bool
		waits   bool // the good config is in force
	}{
		{"good", nil, []update{{good, true}}, true, true},
		{"bad first", nil, []update{{bad, false}}, false, false},
		{"bad first, then good", nil, []update{{bad, false}, {good, true}}, true, true},
		{"bad after good", nil, []update{{good, true}, {bad, false}}, true, true},
		{"none after good", nil, []update{{good, true}, {"-", true}}, true, true},
		{"bad after none", nil, []update{{"-", true}, {bad, false}}, true, false},
		{"bad first with a default", []DialOption{WithDefaultServiceConfig(good)}, []update{{bad, false}}, true, true},
		{"bad but disabled", []DialOption{WithDisableServiceConfig()}, []update{{bad, true}}, true, false},
		{"disabled, with a default", []DialOption{WithDisableServiceConfig(), WithDefaultServiceConfig(good)}, []update{{"{}", true}}, true, true},
		{"empty after good", nil, []update{{good, true}, {"{}", true}}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var conn resolver.ClientConn
			cc := plain(t, "scripted:///x", append(tt.opts, WithResolvers(backendtest.Scripted{OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
				conn = cc
				return nil
			}}))...)
			require.NoError(t, startAndWait(cc))
			for _, u := range tt.updates {
				s := backendtest.Addresses(b)
				if u.config != "-" {
					s.ServiceConfig = conn.ParseServiceConfig(u.config)
				}
				err := conn.UpdateState(s)
				if u.ok {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, balancer.ErrBadResolverState)
				}
			}
			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			if !tt.works {
				assert.Equal(t, codes.Unavailable, status.Code(err))
				assert.Contains(t, err.Error(), "methodConfig")
				assert.Equal(t, connectivity.TransientFailure, cc.GetState())
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.waits, cc.GetMethodConfig("/test.Backend/Name").WaitForReady != nil)
		})
	}
}

func TestIllegalServiceConfigType(t *testing.T) {
	verdict := make(chan error, 1)
	cc := plain(t, "scripted:///x", WithResolvers(backendtest.Scripted{OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
		verdict <- cc.UpdateState(resolver.State{ServiceConfig: &grpcsc.ParseResult{Config: struct{ grpcsc.Config }{}}})
		return nil
	}}))
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assert.Contains(t, err.Error(), "illegal service config type")
	assert.ErrorIs(t, <-verdict, balancer.ErrBadResolverState)
}

// RPCs begun before the resolver has said anything see the method config that
// it says.
func TestRPCsWaitForTheFirstResult(t *testing.T) {
	b := backendtest.Start(t, "one")
	var conn resolver.ClientConn
	cc := plain(t, "scripted:///x", WithResolvers(backendtest.Scripted{OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
		conn = cc
		return nil
	}}))
	require.NoError(t, startAndWait(cc))
	result := make(chan error, 1)
	go func() { _, err := backendtest.AskName(backendtest.Bounded(t), cc); result <- err }()
	backendtest.Eventually(t, func() bool { running, _ := cc.calls.Active(); return running == 1 }, "begun")
	s := backendtest.Addresses(b)
	s.ServiceConfig = conn.ParseServiceConfig(`{"methodConfig": [{"name": [{}], "timeout": "0s"}]}`)
	require.NoError(t, conn.UpdateState(s))
	assert.Equal(t, codes.DeadlineExceeded, status.Code(<-result))
}

func TestResolverErrors(t *testing.T) {
	b := backendtest.Start(t, "one")
	var conn resolver.ClientConn
	cc := plain(t, "scripted:///x", WithResolvers(backendtest.Scripted{OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
		conn = cc
		return nil
	}}))
	require.NoError(t, startAndWait(cc))

	noHost := &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}
	conn.ReportError(noHost)
	assert.Equal(t, connectivity.TransientFailure, cc.GetState())
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	var dns *net.DNSError
	assert.ErrorAs(t, err, &dns)
	var e *DialError
	require.ErrorAs(t, err, &e)
	assert.Equal(t, PhaseResolve, e.Attempts[0].Phase)

	require.NoError(t, conn.UpdateState(backendtest.Addresses(b)))
	awaitReady(t, cc)
	conn.ReportError(noHost)
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	assert.NoError(t, err, "addresses that work are kept")
}

// The policy queue goes on while a resolver does not return.
func TestSlowResolverHoldsUpNothing(t *testing.T) {
	b := backendtest.Start(t, "one")
	stuck, release := make(chan struct{}, 10), make(chan struct{})
	cc := plain(t, "scripted:///x", WithResolvers(backendtest.Scripted{
		OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
			return cc.UpdateState(backendtest.Addresses(b))
		},
		OnResolveNow: func(resolver.ClientConn) {
			stuck <- struct{}{}
			<-release
		},
	}))
	awaitReady(t, cc)
	b.Cut()
	<-stuck
	awaitReady(t, cc)
	_, err := backendtest.AskName(backendtest.Bounded(t), cc)
	assert.NoError(t, err)
	close(release)
	start := time.Now()
	require.NoError(t, cc.Close())
	assert.Less(t, time.Since(start), 30*time.Second)
}

// A dial that failed does not wait for a ResolveNow that does not return. The resolver
// is closed when it has.
func TestFailedDialLeavesASlowResolveNow(t *testing.T) {
	asked, release, closed := make(chan struct{}, 10), make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	dialed := make(chan error, 1)
	go func() {
		_, err := DialContext(ctx, "scripted:///x", WithInsecure(), WithBlock(), WithContextDialer(backendtest.Refuse), WithResolvers(backendtest.Scripted{
			OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
				return cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "a:1"}}})
			},
			OnResolveNow: func(resolver.ClientConn) { asked <- struct{}{}; <-release },
			OnClose:      func(resolver.ClientConn) { close(closed) },
		}))
		dialed <- err
	}()
	<-asked
	cancel()
	select {
	case err := <-dialed:
		assert.ErrorIs(t, err, context.Canceled)
	case <-time.After(time.Minute):
		t.Error("the dial waits for ResolveNow")
	}
	select {
	case <-closed:
		t.Error("the resolver was closed while ResolveNow ran")
	default:
	}
	close(release)
	<-closed
	assert.Empty(t, asked, "a resolver is not asked any more when the channel is being closed")
}

// ownDNS is a resolver builder of a program's own.
type ownDNS struct{ resolver.Builder }

// A resolver that the program chose serves scheme dns itself.
func TestWhoServesDNS(t *testing.T) {
	ours, theirs := dns.NewBuilder(dns.Config{}), grpcdns.NewBuilder()
	own := ownDNS{theirs}
	for name, tt := range map[string]struct {
		scheme string
		found  resolver.Builder
		given  []DialOption
		want   resolver.Builder
	}{
		"grpc-go's":              {"dns", theirs, nil, ours},
		"another one registered": {"dns", own, nil, own},
		"another one given":      {"dns", own, []DialOption{WithResolvers(own)}, own},
		"grpc-go's given":        {"dns", theirs, []DialOption{WithResolvers(theirs)}, theirs},
		"another scheme":         {"passthrough", resolver.Get("passthrough"), nil, resolver.Get("passthrough")},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := newDialOptions(byNewClient, tt.given)
			require.NoError(t, err)
			assert.IsType(t, tt.want, chooseDNS(tt.scheme, tt.found, o))
		})
	}
}

// A host name that the resolver passes through is looked up for the connection,
// and its addresses are tried.
func TestPassthroughNames(t *testing.T) {
	b := backendtest.Start(t, "one")
	s := dnstest.New(dnstest.Zone{
		"both.test": {Addrs: []string{"127.0.0.9", "127.0.0.1"}},
		"dead.test": {Addrs: []string{"127.0.0.8", "127.0.0.9"}},
	})
	t.Cleanup(s.Close)
	names := s.OverPipes()
	dial := func(name string) *ClientConn {
		cc := plain(t, "passthrough:///"+name+":"+backendtest.PortOf(t, b.Addr))
		cc.connect = func(ctx context.Context, cfg *connect.Config, addr resolver.Address, authority string) (*h2.Conn, error) {
			cfg.Resolver = names
			return connect.Connect(ctx, cfg, addr, authority)
		}
		return cc
	}
	got, err := backendtest.AskName(backendtest.Bounded(t), dial("both.test"))
	require.NoError(t, err)
	assert.Equal(t, "one", got)

	_, err = backendtest.AskName(backendtest.Bounded(t), dial("dead.test"))
	var e *DialError
	require.ErrorAs(t, err, &e)
	var addrs []string
	for _, a := range e.Attempts {
		assert.Equal(t, PhaseDial, a.Phase)
		addrs = append(addrs, a.Addr)
	}
	assert.ElementsMatch(t, []string{"127.0.0.8:" + backendtest.PortOf(t, b.Addr), "127.0.0.9:" + backendtest.PortOf(t, b.Addr)}, addrs)

	_, err = backendtest.AskName(backendtest.Bounded(t), dial("absent.test"))
	var d *net.DNSError
	require.ErrorAs(t, err, &d)
	assert.True(t, d.IsNotFound)
	require.ErrorAs(t, err, &e)
	assert.Equal(t, PhaseResolve, e.Attempts[0].Phase)
}
