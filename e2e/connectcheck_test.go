package e2e_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// serveWithHealth runs a grpc-go server with the health service and the methods of echo.
func serveWithHealth(t *testing.T, opts ...grpc.ServerOption) (addr string, h *health.Server, calls *atomic.Int64) {
	t.Helper()
	e := new(backendtest.Echo)
	srv := grpc.NewServer(append(opts, grpc.UnknownServiceHandler(e.Handle))...)
	h = health.NewServer()
	healthpb.RegisterHealthServer(srv, h)
	addr, _ = backendtest.Run(t, srv)
	t.Cleanup(h.Shutdown)
	return addr, h, &e.Calls
}

// askHealth is a check by the health service.
func askHealth(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
	reply, err := healthpb.NewHealthClient(info.Conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if reply.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the server is %v", reply.Status)
	}
	return nil
}

// A server that its health service speaks against is not connected to before that
// changes. No RPC of the program reaches it until then.
func TestConnectCheckByTheHealthService(t *testing.T) {
	addr, h, calls := serveWithHealth(t)
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	var failed, passed atomic.Int64
	var latest atomic.Pointer[grpcdial.DialEvent]
	cc := plain(t, addr, fastBackoff(), grpcdial.WithConnectCheck(askHealth), grpcdial.WithDialTrace(&grpcdial.DialTrace{
		CheckDone: func(e grpcdial.DialEvent) {
			if e.Err == nil {
				passed.Add(1)
			}
		},
		Failed: func(e grpcdial.DialEvent) {
			latest.Store(&e)
			if failed.Add(1) == 3 {
				h.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
			}
		},
	}))
	_, err := backendtest.CallEcho(t, cc, "Echo")
	assert.Equal(t, codes.Unavailable, status.Code(err))
	var dialError *grpcdial.DialError
	require.ErrorAs(t, err, &dialError)
	assert.Equal(t, grpcdial.PhaseCheck, dialError.Attempts[0].Phase)
	assert.Zero(t, calls.Load())

	got, err := backendtest.CallEcho(t, cc, "Echo", grpc.WaitForReady(true))
	require.NoError(t, err)
	assert.Equal(t, "hello", got)
	assert.GreaterOrEqual(t, failed.Load(), int64(3))
	assert.Equal(t, int64(1), passed.Load())
	e := latest.Load()
	assert.Equal(t, grpcdial.PhaseCheck, e.Phase)
	assert.False(t, e.Permanent)
	assert.NotZero(t, e.AttemptID)
	assert.Contains(t, e.String(), "check failed after")
	assert.Contains(t, e.String(), "the server is NOT_SERVING")
}

// What the check is called with, and that RPCs of both kinds run as on the channel:
// with its credentials, its authority, its default call options and its codec. They are
// none of the program's: interceptors and stats handlers do not get them.
func TestConnectCheckInfo(t *testing.T) {
	ca := h2test.NewCA(t)
	srv := backendtest.StartEcho(t, grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example"))))
	var intercepted atomic.Int64
	rpcs := &ends{}
	checked := make(chan grpcdial.ConnectCheckInfo, 1)
	check := func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
		if _, ok := ctx.Deadline(); !ok {
			return errors.New("the attempt's limit is not that of the context")
		}
		if _, err := backendtest.CallEcho(t, info.Conn, "Echo"); err != nil {
			return err
		}
		s, err := info.Conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Echo")
		if err != nil {
			return err
		}
		for i := range 3 {
			m := wrapperspb.String(fmt.Sprint("message ", i))
			reply := new(wrapperspb.StringValue)
			if err := errors.Join(s.SendMsg(m), s.RecvMsg(reply)); err != nil || reply.Value != strings.ToUpper(m.Value) {
				return fmt.Errorf("%q: %w", reply.Value, err)
			}
		}
		checked <- info
		return s.CloseSend()
	}
	cc := newClient(t, "passthrough:///"+srv.Addr,
		grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example"))),
		grpcdial.WithPerRPCCredentials(token{"x", true}),
		grpcdial.WithDefaultCallOptions(grpc.CallCustomCodec(shouting{})),
		grpcdial.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			intercepted.Add(1)
			return invoke(ctx, method, req, reply, conn, opts...)
		}),
		grpcdial.WithStatsHandler(rpcs),
		grpcdial.WithConnectCheck(check))
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	info := <-checked
	assert.Equal(t, "passthrough:///"+srv.Addr, info.Target)
	assert.Equal(t, srv.Addr, info.Addr)
	assert.Equal(t, "backend.example", info.ServerName)
	assert.Equal(t, srv.Addr, info.Peer.Addr.String())
	assert.IsType(t, credentials.TLSInfo{}, info.Peer.AuthInfo)
	assert.Equal(t, []string{"backend.example"}, info.TLS.PeerCertificates[0].DNSNames)
	request, md, _ := srv.Last()
	assert.Equal(t, "MESSAGE 2", request, "the default call options apply")
	assert.Equal(t, []string{"x"}, md["token-x"])
	assert.Equal(t, []string{"backend.example"}, md[":authority"])
	assert.Zero(t, intercepted.Load())
	assert.Zero(t, rpcs.begun.Load())

	_, err := backendtest.CallEcho(t, info.Conn, "Echo")
	assert.Error(t, err, "the check has returned")
	_, err = backendtest.CallEcho(t, cc, "Echo")
	assert.NoError(t, err)
}

// Attributes of the address, and its server name, reach the check.
func TestConnectCheckGetsTheAddress(t *testing.T) {
	srv := backendtest.StartEcho(t)
	type zone struct{}
	r, target, option := handResolver(t)
	addr := resolver.Address{Addr: srv.Addr, ServerName: "other.example"}
	addr.Attributes = addr.Attributes.WithValue(zone{}, "b")
	r.InitialState(resolver.State{Addresses: []resolver.Address{addr}})
	cc := plain(t, target, option, grpcdial.WithConnectCheck(func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
		if got := info.Attributes.Value(zone{}); got != "b" || info.ServerName != "other.example" {
			return fmt.Errorf("in zone %v as %q", got, info.ServerName)
		}
		_, err := backendtest.CallEcho(t, info.Conn, "Echo")
		return err
	}))
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	_, md, _ := srv.Last()
	assert.Equal(t, []string{"other.example"}, md[":authority"])
}

// forGood is an error that will not heal.
type forGood struct{ error }

func (forGood) Temporary() bool { return false }
func (e forGood) Unwrap() error { return e.error }

var errNotOurs = errors.New("the certificate is not one of ours")

// A check of the server's certificate, whose verdict is final: a dial that fails fast
// ends at once, with the check's own error.
func TestConnectCheckByTheCertificate(t *testing.T) {
	ca := h2test.NewCA(t)
	srv := backendtest.StartEcho(t, grpc.Creds(credentials.NewTLS(ca.ServerConfig("backend.example"))))
	var asked atomic.Int64
	pinned := func(leaf *x509.Certificate) grpcdial.DialOption {
		return grpcdial.WithConnectCheck(func(_ context.Context, info grpcdial.ConnectCheckInfo) error {
			asked.Add(1)
			if !info.TLS.PeerCertificates[0].Equal(leaf) {
				return forGood{errNotOurs}
			}
			return nil
		})
	}
	creds := grpcdial.WithTransportCredentials(credentials.NewTLS(ca.ClientConfig("backend.example")))
	_, err := grpcdial.Dial(srv.Addr, creds, grpcdial.WithBlock(), grpcdial.WithTimeout(10*time.Second), grpcdial.FailOnNonTempDialError(true), pinned(new(x509.Certificate)))
	require.ErrorIs(t, err, errNotOurs)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	var dialError *grpcdial.DialError
	require.ErrorAs(t, err, &dialError)
	require.Len(t, dialError.Attempts, 1)
	a := dialError.Attempts[0]
	assert.Equal(t, grpcdial.PhaseCheck, a.Phase)
	assert.True(t, a.Permanent)
	assert.Equal(t, srv.Addr, a.Addr)
	assert.Equal(t, "backend.example", a.ServerName)
	assert.Equal(t, int64(1), asked.Load())
	assert.Zero(t, srv.Calls.Load())

	cc, err := grpcdial.Dial(srv.Addr, creds, grpcdial.WithBlock(), pinned(new(x509.Certificate)), grpcdial.WithConnectCheck(nil), grpcdial.WithTimeout(10*time.Second))
	require.NoError(t, err, "the last option counts")
	require.NoError(t, cc.Close())
}

// An RPC of the check that fails because the connection was lost is no verdict for good,
// though package net calls a reset not temporary.
func TestConnectCheckThatLosesTheConnection(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Script(func(c *h2test.Conn) {
		c.Handshake()
		c.ExpectUnary()
		c.CloseHard()
	})
	attempts := make(chan grpcdial.Attempt, 100)
	cc := plain(t, srv.Addr(), grpcdial.WithConnectCheck(askHealth), grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool {
		attempts <- a
		return true
	}))
	require.Error(t, cc.AwaitReady(backendtest.Bounded(t)))
	a := <-attempts
	assert.Equal(t, grpcdial.PhaseCheck, a.Phase)
	assert.False(t, a.Permanent, "%v", a)
	assert.Equal(t, codes.Unavailable, status.Code(a.Err))
}

// The server of a connection that is refused reads a GOAWAY without an error. The check
// can be run again on a connection of its own.
func TestConnectCheckEndsInGoodOrder(t *testing.T) {
	srv := h2test.Listen(t)
	var round atomic.Int64
	cc := plain(t, srv.Addr(), fastBackoff(), grpcdial.WithConnectCheck(func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
		if err := askHealth(ctx, info); err != nil {
			return err
		}
		if round.Add(1) == 1 {
			return errNotOurs
		}
		return nil
	}))
	cc.Connect()
	reply := []byte{8, 1} // SERVING
	first := srv.Accept()
	first.Handshake()
	headers, _ := first.ExpectUnary()
	first.ReplyUnary(headers.StreamID, reply)
	first.Skip(h2test.RSTs, h2test.SettingsAcks, h2test.WindowUpdates)
	assert.Zero(t, first.ExpectGoAway(http2.ErrCodeNo).LastStreamID)
	first.ExpectClosed()

	second := srv.Accept()
	second.Handshake()
	headers, _ = second.ExpectUnary()
	second.ReplyUnary(headers.StreamID, reply)
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	done := make(chan error, 1)
	go func() {
		_, err := backendtest.CallEcho(t, cc, "Echo")
		done <- err
	}()
	headers, payload := second.ExpectUnary()
	second.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-done)
}

// A server that drains while the check runs: the RPC that the check began is served, and
// what has passed is replaced.
func TestConnectCheckOfAConnectionThatDrains(t *testing.T) {
	srv := h2test.Listen(t)
	cc := plain(t, srv.Addr(), fastBackoff(), grpcdial.WithConnectCheck(askHealth))
	cc.Connect()
	first := srv.Accept()
	first.Handshake()
	headers, _ := first.ExpectUnary()
	first.GoAway(headers.StreamID, http2.ErrCodeNo, "")
	first.ReplyUnary(headers.StreamID, []byte{8, 1})

	done := make(chan error, 1)
	go func() {
		_, err := backendtest.CallEcho(t, cc, "Echo", grpc.WaitForReady(true))
		done <- err
	}()
	second := srv.Accept()
	second.Handshake()
	headers, _ = second.ExpectUnary()
	second.ReplyUnary(headers.StreamID, []byte{8, 1})
	headers, payload := second.ExpectUnary()
	second.ReplyUnary(headers.StreamID, payload)
	require.NoError(t, <-done)
}

// Several addresses: one whose check does not pass is passed over.
func TestConnectCheckOfTheNextAddress(t *testing.T) {
	first, second := backendtest.StartEcho(t), backendtest.StartEcho(t)
	cc := plain(t, "ipv4:"+first.Addr+","+second.Addr, grpcdial.WithConnectCheck(func(_ context.Context, info grpcdial.ConnectCheckInfo) error {
		if info.Addr == first.Addr {
			return errNotOurs
		}
		return nil
	}))
	_, err := backendtest.CallEcho(t, cc, "Echo", grpc.WaitForReady(true))
	require.NoError(t, err)
	assert.Equal(t, int64(1), second.Calls.Load())
	assert.Zero(t, first.Calls.Load())
}

// Each connection is checked, the one after a loss too; RPCs in between wait.
func TestConnectCheckOfEachConnection(t *testing.T) {
	b := backendtest.Start(t, "a")
	var checks atomic.Int64
	cc := plain(t, b.Addr, fastBackoff(), grpcdial.WithConnectCheck(func(_ context.Context, info grpcdial.ConnectCheckInfo) error {
		checks.Add(1)
		_, err := backendtest.AskName(backendtest.Bounded(t), info.Conn)
		return err
	}))
	for round := range 3 {
		name, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		require.Equal(t, "a", name)
		require.Equal(t, int64(round+1), checks.Load())
		b.Cut()
		require.True(t, cc.WaitForStateChange(backendtest.Bounded(t), connectivity.Ready))
	}
}

// A renewal's connection is checked as any other is. One that does not pass leaves the
// connection in use, and RPCs run on.
func TestConnectCheckOfARenewal(t *testing.T) {
	b := backendtest.Start(t, "a")
	var refuse atomic.Bool
	cc := plain(t, b.Addr, fastBackoff(), grpcdial.WithConnectCheck(func(context.Context, grpcdial.ConnectCheckInfo) error {
		if refuse.Load() {
			return errNotOurs
		}
		return nil
	}))
	require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
	refuse.Store(true)
	err := cc.Renew(backendtest.Bounded(t))
	require.ErrorIs(t, err, errNotOurs)
	var failed *grpcdial.DialError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, grpcdial.PhaseCheck, failed.Attempts[0].Phase)
	assert.Equal(t, connectivity.Ready, cc.GetState())
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	refuse.Store(false)
	require.NoError(t, cc.Renew(backendtest.Bounded(t)))
	_, err = backendtest.AskName(backendtest.Bounded(t), cc)
	require.NoError(t, err)
	assert.Equal(t, 3, b.Accepted())
}
