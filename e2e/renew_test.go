package e2e_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// localAddr returns where the connection comes from that an RPC is sent on.
func localAddr(t *testing.T, cc grpc.ClientConnInterface) string {
	t.Helper()
	var p peer.Peer
	_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.Peer(&p))
	require.NoError(t, err)
	return p.LocalAddr.String()
}

// Renew replaces the connection to each backend. A stream that runs goes on where it is.
func TestRenew(t *testing.T) {
	backends := backendtest.StartAll(t, "a", "b", "c")
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(backends...))
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin))
	require.NoError(t, cc.Renew(backendtest.Bounded(t)), "an idle channel has nothing to renew")
	assert.Equal(t, connectivity.Idle, cc.GetState())
	backendtest.AwaitNames(t, cc, "a", "b", "c")
	stream, err := cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Backend/Stream")
	require.NoError(t, err)
	exchange := func() {
		t.Helper()
		require.NoError(t, stream.SendMsg(new(wrapperspb.StringValue)))
		require.NoError(t, stream.RecvMsg(new(wrapperspb.StringValue)))
	}
	exchange()
	var transitions atomic.Int32
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		for range cc.Watch(ctx) {
			transitions.Add(1)
		}
	})

	require.NoError(t, cc.Renew(backendtest.Bounded(t)))
	draining := 0
	for _, e := range cc.Snapshot().Endpoints {
		if e.Draining {
			draining++
			assert.Equal(t, 1, e.Streams)
		}
	}
	assert.Equal(t, 1, draining, "that of the stream")
	exchange()
	for _, b := range backends {
		assert.Equal(t, 2, b.Accepted(), b.Name)
	}
	backendtest.AwaitNames(t, cc, "a", "b", "c")
	require.NoError(t, stream.CloseSend())
	require.Equal(t, io.EOF, stream.RecvMsg(new(wrapperspb.StringValue)))
	backendtest.Eventually(t, func() bool { return len(cc.Snapshot().Endpoints) == 3 }, "the old connection ends with its last RPC")
	cancel()
	watching.Wait()
	assert.EqualValues(t, 1, transitions.Load(), "the channel stays READY")
}

// No RPC fails or is cut when connections are renewed all the time, with one connection or
// several for each backend.
func TestRenewUnderLoad(t *testing.T) {
	for name, opts := range map[string][]grpcdial.DialOption{
		"one connection": nil,
		"scaled":         {grpcdial.WithMaxConnectionsPerSubchannel(3)},
		"by age":         {grpcdial.WithMaxConnectionAge(20*time.Millisecond, 10*time.Millisecond), grpcdial.WithMaxConnectionsPerSubchannel(2)},
	} {
		t.Run(name, func(t *testing.T) {
			var backends []*backendtest.Backend
			for _, name := range []string{"a", "b"} {
				backends = append(backends, backendtest.Start(t, name, grpc.MaxConcurrentStreams(4)))
			}
			r, target, option := handResolver(t)
			r.InitialState(backendtest.Addresses(backends...))
			cc := plain(t, target, append(opts, option, grpcdial.WithDefaultServiceConfig(backendtest.RoundRobin))...)
			awaitReady(t, cc)
			var done atomic.Int64
			stop := backendtest.Repeat(16, func() bool {
				_, err := backendtest.AskName(backendtest.Bounded(t), cc)
				done.Add(1)
				return assert.NoError(t, err)
			})
			for range 10 {
				goal := done.Load() + 100
				require.NoError(t, cc.Renew(backendtest.Bounded(t)))
				backendtest.Eventually(t, func() bool { return done.Load() > goal || t.Failed() }, "RPCs go on")
			}
			stop()
			for _, b := range backends {
				assert.GreaterOrEqual(t, b.Accepted(), 10)
			}
		})
	}
}

// A backend that cannot be connected to keeps the connection that it has, and the error
// names it.
func TestRenewFails(t *testing.T) {
	b := backendtest.Start(t, "one")
	var dials atomic.Int32
	refuses := true
	cc := plain(t, b.Addr, fastBackoff(), grpcdial.WithContextDialer(func(ctx context.Context, addr string) (c net.Conn, err error) {
		if dials.Add(1) == 2 && refuses {
			return backendtest.Refuse(ctx, addr)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}))
	before := localAddr(t, cc)
	err := cc.Renew(backendtest.Bounded(t))
	var e *grpcdial.DialError
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Attempts, 1)
	assert.Equal(t, b.Addr, e.Attempts[0].Addr)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.ErrorContains(t, err, "no new connection for")
	assert.Equal(t, connectivity.Ready, e.State)
	assert.Equal(t, before, localAddr(t, cc), "the connection stays in use")
	require.NoError(t, cc.Renew(backendtest.Bounded(t)))
	assert.NotEqual(t, before, localAddr(t, cc))
	assert.EqualValues(t, 3, dials.Load())
}

// The wait ends with its context, and names what is in progress. Close ends it too.
func TestRenewEnds(t *testing.T) {
	b := backendtest.Start(t, "one")
	var dials atomic.Int32
	cc := plain(t, b.Addr, grpcdial.WithContextDialer(dialThenHang(&dials, 1)))
	awaitReady(t, cc)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := cc.Renew(ctx)
	var e *grpcdial.DialError
	require.ErrorAs(t, err, &e)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, e.Attempts, 1)
	assert.Equal(t, grpcdial.PhaseDial, e.Attempts[0].Phase)
	assert.Equal(t, grpcdial.ErrUnfinished, e.Attempts[0].Err)
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)

	ended := make(chan error)
	go func() { ended <- cc.Renew(backendtest.Bounded(t)) }()
	backendtest.Eventually(t, func() bool { return dials.Load() == 3 }, "another attempt, in the place of the first")
	require.NoError(t, cc.Close())
	assert.Equal(t, grpcdial.ErrClosed, <-ended)
	assert.Equal(t, grpcdial.ErrClosed, cc.Renew(backendtest.Bounded(t)))
	backendtest.AssertNothingRuns(t)
}

// A client certificate that was replaced reaches the server by Renew.
func TestRenewTakesANewCertificate(t *testing.T) {
	ca := h2test.NewCA(t)
	config := ca.ServerConfig("backend.example")
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	srv := h2test.Listen(t, h2test.WithTLSConfig(config))
	var serials sync.Map
	srv.Script(func(c *h2test.Conn) {
		c.Handshake()
		state := c.NetConn().(*tls.Conn).ConnectionState()
		serials.Store(state.PeerCertificates[0].Subject.CommonName, true)
		c.Loop(h2test.Echo)
	})
	var current atomic.Pointer[tls.Certificate]
	use := func(name string) {
		cert := ca.Client(name)
		current.Store(&cert)
	}
	use("first")
	client := ca.ClientConfig("backend.example")
	client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return current.Load(), nil }
	cc := newClient(t, srv.Addr(), grpcdial.WithTransportCredentials(credentials.NewTLS(client)))
	awaitReady(t, cc)
	backendtest.Eventually(t, func() bool { _, ok := serials.Load("first"); return ok }, "the first certificate")
	use("second")
	require.NoError(t, cc.Renew(backendtest.Bounded(t)))
	backendtest.Eventually(t, func() bool { _, ok := serials.Load("second"); return ok }, "the new certificate")
}

// Connections are replaced before they are older than WithMaxConnectionAge says, without a
// transition, and the old ones are closed.
func TestMaxConnectionAge(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc := plain(t, b.Addr, grpcdial.WithMaxConnectionAge(50*time.Millisecond, 25*time.Millisecond))
	awaitReady(t, cc)
	seq := cc.Snapshot().Seq
	backendtest.Eventually(t, func() bool { return b.Accepted() >= 5 }, "five connections")
	assert.Equal(t, seq, cc.Snapshot().Seq)
	assert.Equal(t, connectivity.Ready, cc.GetState())
	assert.LessOrEqual(t, len(inUse(cc)), 1)
	require.NoError(t, cc.Close())
	backendtest.AssertNothingRuns(t)
}

// A server that is gone for a while is replaced when it is back; what it has stays in use.
func TestMaxConnectionAgeOfAServerThatRefuses(t *testing.T) {
	b := backendtest.Start(t, "one")
	var dials atomic.Int32
	cc := plain(t, b.Addr, fastBackoff(), grpcdial.WithMaxConnectionAge(20*time.Millisecond, 0),
		grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if n := dials.Add(1); n > 1 && n < 5 {
				return backendtest.Refuse(ctx, addr)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}))
	before := localAddr(t, cc)
	backendtest.Eventually(t, func() bool { return localAddr(t, cc) != before }, "it is replaced when it can be")
	assert.GreaterOrEqual(t, dials.Load(), int32(5))
}

// The health of a backend is watched on the connection that is in use.
func TestHealthIsWatchedAfterRenew(t *testing.T) {
	a, b := backendtest.StartChecked(t, "a", serving), backendtest.StartChecked(t, "b", serving)
	r, target, option := handResolver(t)
	r.InitialState(backendtest.Addresses(a, b))
	cc := plain(t, target, option, grpcdial.WithDefaultServiceConfig(backendtest.CheckedConfig))
	backendtest.AwaitNames(t, cc, "a", "b")
	for range 3 {
		require.NoError(t, cc.Renew(backendtest.Bounded(t)))
		backendtest.Eventually(t, func() bool { return len(cc.Snapshot().Endpoints) == 2 }, "the old connections have ended")
		a.SetHealth(notServing)
		backendtest.AwaitNames(t, cc, "b")
		a.SetHealth(serving)
		backendtest.AwaitNames(t, cc, "a", "b")
	}
}

// A subchannel that is READY only while its backend is healthy stays so when it is renewed,
// and its health is watched on the new connection.
func TestRenewWithLegacyHealthChecking(t *testing.T) {
	states := make(chan balancer.SubConnState, 100)
	p := legacyPolicy(t, states)
	b := backendtest.StartChecked(t, "a", serving)
	cc := dialChecked(t, configChecked(p), []*backendtest.Backend{b})
	cc.Connect()
	backendtest.ExpectStates(t, states, connectivity.Connecting, connectivity.Ready)
	before := localAddr(t, cc)
	require.NoError(t, cc.Renew(backendtest.Bounded(t)))
	assert.NotEqual(t, before, localAddr(t, cc))
	backendtest.Eventually(t, func() bool { return len(cc.Snapshot().Endpoints) == 1 }, "the old connection has ended")
	assert.Empty(t, states)
	b.SetHealth(notServing)
	backendtest.ExpectStates(t, states, connectivity.TransientFailure)
	b.SetHealth(serving)
	backendtest.ExpectStates(t, states, connectivity.Ready)
}
