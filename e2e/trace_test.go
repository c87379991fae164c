package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// events are those that a trace has received.
type events struct {
	backendtest.Record[grpcdial.DialEvent]
}

// find returns the latest event of a kind.
func (s *events) find(kind grpcdial.EventKind) (found grpcdial.DialEvent) {
	for _, e := range s.All() {
		if e.Kind == kind {
			found = e
		}
	}
	return found
}

// reached reports whether the latest transition led to a state.
func (s *events) reached(state connectivity.State) bool {
	e := s.find(grpcdial.EventState)
	return e.Kind != "" && e.To == state
}

// await waits for an event of a kind.
func (s *events) await(t *testing.T, kind grpcdial.EventKind) grpcdial.DialEvent {
	t.Helper()
	backendtest.Eventually(t, func() bool { return s.find(kind).Kind != "" }, string(kind))
	return s.find(kind)
}

func (s *events) option() grpcdial.DialOption {
	return grpcdial.WithDialTrace(&grpcdial.DialTrace{Every: s.Add})
}

// A channel's whole life as a trace reports it, as text: the events of the channel, then
// those of its connections, since the two happen beside each other.
func TestTraceGolden(t *testing.T) {
	g := golden{file: "trace.golden"}
	ca := h2test.NewCA(t)
	creds := grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example")))
	isReady := func(seen *events) bool { return seen.reached(connectivity.Ready) }
	hasFailed := func(seen *events) bool {
		return seen.reached(connectivity.TransientFailure) && seen.find(grpcdial.EventBackoff).Kind != ""
	}
	run := func(name, target string, done func(*events) bool, opts ...grpcdial.DialOption) {
		t.Helper()
		seen := new(events)
		cc, err := grpcdial.Dial(target, append([]grpcdial.DialOption{seen.option(), grpcdial.WithConnectParams(longBackoff)}, opts...)...)
		require.NoError(t, err)
		backendtest.Eventually(t, func() bool { return done(seen) }, name)
		require.NoError(t, cc.Close())
		var channel, conns []string
		for _, e := range seen.All() {
			switch e.Kind {
			case grpcdial.EventResolveStart, grpcdial.EventResolveDone, grpcdial.EventState:
				channel = append(channel, e.String())
			default:
				conns = append(conns, e.String())
			}
		}
		g.add(name, append(channel, conns...)...)
	}

	srv := h2test.Listen(t)
	srv.Script(func(c *h2test.Conn) {
		c.Handshake(h2test.MaxConcurrentStreams(100), h2test.InitialWindowSize(1<<20))
		c.ExpectClosed()
	})
	run("a plaintext connection", srv.Addr(), isReady, grpcdial.WithInsecure())

	secure := h2test.Listen(t, h2test.WithTLSConfig(ca.ServerConfig("backend.example")))
	secure.Script(func(c *h2test.Conn) {
		c.Handshake()
		c.ExpectClosed()
	})
	run("a TLS connection", secure.Addr(), isReady, creds)

	names := dnstest.Listen(t, dnstest.Zone{"backend.example": {Addrs: []string{"127.0.0.1"}}})
	_, port, _ := strings.Cut(srv.Addr(), ":")
	run("a name that is looked up", "dns://"+names.Addr()+"/backend.example:"+port, isReady, grpcdial.WithInsecure())
	run("a name that is not there", "dns://"+names.Addr()+"/absent.example:443",
		func(seen *events) bool { return seen.reached(connectivity.TransientFailure) }, grpcdial.WithInsecure())

	p := proxytest.ListenHTTP(t, map[string]string{"backend.example:443": secure.Addr()}, "", nil)
	run("through a proxy", "passthrough:///backend.example:443", isReady, creds, grpcdial.WithProxy(proxyAt("http://"+p.Addr)))
	run("a proxy that refuses", "passthrough:///other.example:443", hasFailed, creds, grpcdial.WithProxy(proxyAt("http://"+p.Addr)))
	run("refused", backendtest.UnusedAddr(t), hasFailed, grpcdial.WithInsecure())

	pings := h2test.Listen(t)
	seenReady := make(chan struct{})
	pings.Script(func(c *h2test.Conn) {
		c.Handshake()
		<-seenReady
		c.GoAway(0, http2.ErrCodeEnhanceYourCalm, "too_many_pings")
		c.ExpectClosed()
	})
	tell := sync.OnceFunc(func() { close(seenReady) })
	defer tell()
	run("a server that complains of pings", pings.Addr(), func(seen *events) bool {
		if isReady(seen) {
			tell()
		}
		return seen.reached(connectivity.Idle)
	}, grpcdial.WithInsecure(), grpcdial.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute}))
	g.check(t)
}

// Each function of a trace receives its events, with their fields, and each kind of
// event has a function.
func TestTraceFunctions(t *testing.T) {
	ca := h2test.NewCA(t)
	srv := h2test.Listen(t, h2test.WithTLSConfig(ca.ServerConfig("backend.example")))
	srv.Script(func(c *h2test.Conn) {
		c.Lenient()
		c.Handshake(h2test.MaxConcurrentStreams(9))
		c.GoAway(0, http2.ErrCodeEnhanceYourCalm, "too_many_pings")
		c.ExpectClosed()
	})
	dead := backendtest.UnusedAddr(t)
	p := proxytest.ListenHTTP(t, map[string]string{"backend.example:443": srv.Addr(), "dead.example:443": dead}, "", nil)
	trace := new(grpcdial.DialTrace)
	var every events
	trace.Every = every.Add
	received := make(map[string]*events)
	for field, f := range reflect.ValueOf(trace).Elem().Fields() {
		if field.Name == "Every" {
			continue
		}
		seen := new(events)
		received[field.Name] = seen
		f.Set(reflect.ValueOf(seen.Add))
	}
	opts := []grpcdial.DialOption{
		grpcdial.WithDialTrace(trace), grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example"))),
		grpcdial.WithProxy(proxyAt("http://" + p.Addr)), grpcdial.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute}),
		grpcdial.WithConnectParams(longBackoff), grpcdial.WithConnectCheck(func(context.Context, grpcdial.ConnectCheckInfo) error { return nil }),
	}
	refused := grpcdial.ServiceConfig{Methods: map[string]grpcdial.MethodConfig{"no slash": {}}}
	for target, last := range map[string]grpcdial.EventKind{"backend.example:443": grpcdial.EventKeepalive, "dead.example:443": grpcdial.EventBackoff} {
		configs := make(chan grpcdial.ServiceConfig, 2)
		configs <- grpcdial.ServiceConfig{}
		configs <- refused
		cc, err := grpcdial.Dial(target, append(opts, grpcdial.WithServiceConfig(configs))...)
		require.NoError(t, err)
		every.await(t, last)
		every.await(t, grpcdial.EventConfigRefused)
		require.NoError(t, cc.Close())
	}

	n := 0
	for name, seen := range received {
		all := seen.All()
		n += len(all)
		require.NotEmpty(t, all, "%s receives nothing", name)
		for _, e := range all {
			assert.Equal(t, all[0].Kind, e.Kind, name)
			assert.False(t, e.Time.IsZero())
			assert.Contains(t, e.Target, "passthrough:///")
		}
		kind := strings.ReplaceAll(string(all[0].Kind), "_", "")
		assert.Equal(t, strings.ToLower(name), kind)
	}
	assert.Len(t, every.All(), n, "Every receives each, and nothing else")

	done := received["TLSDone"].All()[0]
	assert.EqualValues(t, 1, done.AttemptID)
	assert.Equal(t, "backend.example:443", done.Addr)
	assert.Equal(t, "http://"+p.Addr, done.Proxy)
	require.NotNil(t, done.TLS)
	assert.NotEmpty(t, done.TLS.PeerCertificates)
	assert.Positive(t, done.Elapsed)
	assert.Equal(t, []grpcdial.Setting{{ID: uint16(http2.SettingMaxConcurrentStreams), Value: 9}}, received["HTTP2Done"].All()[0].Settings)
	lost := received["Lost"].All()[0]
	assert.EqualValues(t, 1, lost.AttemptID)
	assert.ErrorAs(t, lost.Err, new(*grpcdial.GoAwayError))
	assert.Equal(t, 2*time.Minute, received["Keepalive"].All()[0].Keepalive)
	failed := received["Failed"].All()[0]
	assert.Equal(t, grpcdial.PhaseProxy, failed.Phase)
	assert.ErrorAs(t, failed.Err, new(*grpcdial.ProxyError))
	assert.NotEmpty(t, failed.Hint)
	assert.InDelta(t, time.Hour, received["Backoff"].All()[0].Wait, float64(time.Minute))
}

// proxyAt is a choice of one proxy for all.
func proxyAt(proxy string) func(string) (*url.URL, error) {
	return func(string) (*url.URL, error) { return url.Parse(proxy) }
}

// A trace may ask the channel, from wherever it is called.
func TestTraceMayCallTheChannel(t *testing.T) {
	b := backendtest.Start(t, "one")
	var channel atomic.Pointer[grpcdial.ClientConn]
	calls := make(map[grpcdial.EventKind]bool)
	var mu sync.Mutex
	cc := plain(t, "passthrough:///"+b.Addr, fastBackoff(), grpcdial.WithDialTrace(&grpcdial.DialTrace{Every: func(e grpcdial.DialEvent) {
		mu.Lock()
		calls[e.Kind] = true
		mu.Unlock()
		cc := channel.Load()
		cc.Snapshot()
		cc.GetState()
		cc.Connect()
		cc.ResetConnectBackoff()
		cc.GetMethodConfig("/a/b")
	}}))
	channel.Store(cc)
	awaitReady(t, cc)
	b.Stop()
	awaitState(t, cc, connectivity.TransientFailure)
	b.Start()
	awaitReady(t, cc)
	require.NoError(t, cc.Close())
	mu.Lock()
	defer mu.Unlock()
	for _, kind := range []grpcdial.EventKind{grpcdial.EventResolveStart, grpcdial.EventResolveDone, grpcdial.EventDialStart, grpcdial.EventDialDone, grpcdial.EventHTTP2Start, grpcdial.EventHTTP2Done,
		grpcdial.EventReady, grpcdial.EventFailed, grpcdial.EventLost, grpcdial.EventBackoff, grpcdial.EventState} {
		assert.True(t, calls[kind], kind)
	}
}

// There are no events after Close, and one event of loss for each connection that was
// ready.
func TestTraceEndsWithClose(t *testing.T) {
	b := backendtest.Start(t, "one")
	for range 20 {
		var seen events
		var closed atomic.Bool
		cc, err := grpcdial.Dial(b.Addr, grpcdial.WithInsecure(), grpcdial.WithDialTrace(&grpcdial.DialTrace{Every: func(e grpcdial.DialEvent) {
			assert.False(t, closed.Load(), "%v", e)
			seen.Add(e)
		}}))
		require.NoError(t, err)
		if rand.N(2) == 0 {
			awaitReady(t, cc)
		}
		time.Sleep(rand.N(time.Millisecond)) // to close it in one state or another
		require.NoError(t, cc.Close())
		closed.Store(true)
		open := map[uint64]bool{}
		for _, e := range seen.All() {
			switch e.Kind {
			case grpcdial.EventReady:
				assert.False(t, open[e.AttemptID])
				open[e.AttemptID] = true
			case grpcdial.EventLost:
				assert.True(t, open[e.AttemptID])
				assert.ErrorIs(t, e.Err, grpc.ErrClientConnClosing)
				delete(open, e.AttemptID)
			}
		}
		assert.Empty(t, open)
	}
}

// A blocking dial returns after Ready was called: what a trace has measured is
// there to be used.
func TestTraceIsCompleteWhenTheDialReturns(t *testing.T) {
	b := backendtest.Start(t, "one")
	for range 20 {
		var ready atomic.Int32
		cc, err := grpcdial.Dial(b.Addr, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithDialTrace(&grpcdial.DialTrace{Ready: func(e grpcdial.DialEvent) {
			assert.Positive(t, e.Elapsed)
			ready.Add(1)
		}}))
		require.NoError(t, err)
		assert.EqualValues(t, 1, ready.Load())
		require.NoError(t, cc.Close())
	}
}

// One trace may serve many channels: events say which.
func TestTraceOfManyChannels(t *testing.T) {
	backends := backendtest.StartAll(t, "one", "two")
	var seen events
	for _, b := range backends {
		cc, err := grpcdial.Dial(b.Addr, grpcdial.WithInsecure(), grpcdial.WithBlock(), seen.option())
		require.NoError(t, err)
		defer cc.Close()
	}
	targets := map[string]bool{}
	for _, e := range seen.All() {
		targets[e.Target] = true
		if e.Kind == grpcdial.EventReady {
			assert.EqualValues(t, 1, e.AttemptID, "attempts are numbered in each channel")
		}
	}
	assert.Equal(t, map[string]bool{"passthrough:///" + backends[0].Addr: true, "passthrough:///" + backends[1].Addr: true}, targets)
}

// An answer of the health service other than SERVING is an event.
func TestTraceOfHealth(t *testing.T) {
	b := backendtest.StartChecked(t, "sick", healthpb.HealthCheckResponse_NOT_SERVING)
	var seen events
	cc := plain(t, b.Addr, grpcdial.WithDefaultServiceConfig(backendtest.CheckedConfig), seen.option())
	cc.Connect()
	failed := seen.await(t, grpcdial.EventFailed)
	assert.Equal(t, grpcdial.PhaseHealth, failed.Phase)
	assert.Equal(t, b.Addr, failed.Addr)
	assert.ErrorContains(t, failed.Err, "NOT_SERVING")
	var e *grpcdial.DialError
	backendtest.Eventually(t, func() bool { return errors.As(cc.Snapshot().Endpoints[0].Cause, &e) }, "it is in the picture of the channel")
	assert.Equal(t, grpcdial.PhaseHealth, e.Attempts[0].Phase)
	assert.Equal(t, connectivity.Ready, cc.Snapshot().Endpoints[0].State)
}

// Each thing that the resolver says is an event, an update without addresses too.
func TestTraceOfResolverUpdates(t *testing.T) {
	seen := new(events)
	r, target, option := handResolver(t)
	cc := plain(t, target, option, seen.option(), grpcdial.WithContextDialer(backendtest.Hang))
	cc.Connect()
	for _, s := range []resolver.State{
		{},
		{Addresses: []resolver.Address{{Addr: "a:1"}}},
		{Endpoints: []resolver.Endpoint{{Addresses: []resolver.Address{{Addr: "b:1"}, {Addr: "c:1"}}}}},
		{},
	} {
		r.UpdateState(s)
	}
	r.CC().ReportError(errors.New("no zone"))
	require.NoError(t, cc.Close())
	var said []string
	for _, e := range seen.All() {
		if e.Kind == grpcdial.EventResolveDone {
			said = append(said, fmt.Sprint(e.Addrs, " ", e.Err))
		}
	}
	const none = "[] the resolver gave no addresses"
	assert.Equal(t, []string{none, "[a:1] <nil>", "[b:1 c:1] <nil>", none, "[] no zone"}, said)
}
