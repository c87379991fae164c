package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

func TestWithGiveUpCountsAttempts(t *testing.T) {
	for name, wait := range map[string]func(addr string, opts ...grpcdial.DialOption) error{
		"DialContext": func(addr string, opts ...grpcdial.DialOption) error {
			_, err := grpcdial.DialContext(backendtest.Bounded(t), addr, append(opts, grpcdial.WithBlock())...)
			return err
		},
		"AwaitReady": func(addr string, opts ...grpcdial.DialOption) error {
			cc, err := grpcdial.NewClient("passthrough:///"+addr, opts...)
			require.NoError(t, err)
			defer cc.Close()
			return cc.AwaitReady(backendtest.Bounded(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := backendtest.UnusedAddr(t)
			var seen []grpcdial.Attempt
			err := wait(addr, grpcdial.WithInsecure(), fastBackoff(), grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool {
				seen = append(seen, a)
				return len(seen) == 3
			}))
			var e *grpcdial.DialError
			require.ErrorAs(t, err, &e)
			require.Len(t, seen, 3)
			for _, a := range seen {
				assert.Equal(t, addr, a.Addr)
				assert.Equal(t, grpcdial.PhaseDial, a.Phase)
				assert.NotEmpty(t, a.Hint)
			}
			assert.Equal(t, seen[2].Err, e.Err)
			assert.ErrorIs(t, err, syscall.ECONNREFUSED)
			assert.NotErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.NotContains(t, err.Error(), "context")
		})
	}
}

// One address that is not given up keeps the wait going.
func TestWithGiveUpWaitsForTheOthers(t *testing.T) {
	b := backendtest.Start(t, "late")
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: backendtest.UnusedAddr(t)}, {Addr: "late:1"}}})
	var asked atomic.Int32
	cc := plain(t, target, option, fastBackoff(),
		grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if addr == "late:1" {
				if asked.Load() == 0 {
					return nil, errors.New("not yet")
				}
				addr = b.Addr
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}),
		grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool { asked.Add(1); return errors.Is(a.Err, syscall.ECONNREFUSED) }))
	awaitReady(t, cc)
	assert.Positive(t, asked.Load())
}

// A policy may say TRANSIENT_FAILURE while the first attempt at an address is running.
// That address may still succeed.
func TestWaitForAnAttemptThatIsRunning(t *testing.T) {
	for _, succeeds := range []bool{true, false} {
		t.Run(fmt.Sprint(succeeds), func(t *testing.T) {
			b := backendtest.Start(t, "slow")
			failed := make(chan struct{})
			p := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) error {
				for _, addr := range state.ResolverState.Addresses {
					sc, err := s.CC.NewSubConn([]resolver.Address{addr}, balancer.NewSubConnOptions{StateListener: func(now balancer.SubConnState) {
						if now.ConnectivityState == connectivity.Ready || now.ConnectivityState == connectivity.TransientFailure {
							s.CC.UpdateState(balancer.State{ConnectivityState: now.ConnectivityState, Picker: base.NewErrPicker(backendtest.ErrRefused)})
						}
					}})
					if err != nil {
						return err
					}
					sc.Connect()
				}
				return nil
			}}
			balancer.Register(p)
			r, target, option := handResolver(t)
			r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "bad:1"}, {Addr: "slow:1"}}})
			cc, err := grpcdial.DialContext(backendtest.Bounded(t), target, grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.FailOnNonTempDialError(true), option, grpcdial.WithConnectParams(longBackoff),
				grpcdial.WithDefaultServiceConfig(p.Config()),
				grpcdial.WithDialTrace(&grpcdial.DialTrace{State: func(e grpcdial.DialEvent) {
					if e.To == connectivity.TransientFailure {
						time.AfterFunc(20*time.Millisecond, func() { close(failed) })
					}
				}}),
				grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
					if addr == "bad:1" {
						return nil, backendtest.ErrRefused
					}
					<-failed
					if !succeeds {
						return nil, backendtest.ErrRefused
					}
					return new(net.Dialer).DialContext(ctx, "tcp", b.Addr)
				}))
			if !succeeds {
				var e *grpcdial.DialError
				require.ErrorAs(t, err, &e)
				assert.Len(t, e.Attempts, 2)
				assert.NotErrorIs(t, err, context.DeadlineExceeded)
				return
			}
			require.NoError(t, err)
			require.NoError(t, cc.Close())
		})
	}
}

// A wait is asked about each failure, those too that change no state: the health of a
// backend that gets worse, and the next attempt at one of several addresses.
func TestGiveUpSeesFailuresThatChangeNoState(t *testing.T) {
	t.Run("health", func(t *testing.T) {
		b := backendtest.StartChecked(t, "a", healthpb.HealthCheckResponse_NOT_SERVING)
		cc := plain(t, "passthrough:///"+b.Addr, fastBackoff(), grpcdial.WithDefaultServiceConfig(backendtest.CheckedConfig), grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool {
			b.SetHealth(healthpb.HealthCheckResponse_SERVICE_UNKNOWN) // once NOT_SERVING was seen
			return strings.Contains(a.Err.Error(), "SERVICE_UNKNOWN")
		}))
		err := cc.AwaitReady(backendtest.Bounded(t))
		assert.ErrorContains(t, err, "SERVICE_UNKNOWN")
		assert.NotErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("one of several addresses", func(t *testing.T) {
		p := &backendtest.SpyPolicy{As: "grpcdial_test_sticky", OnUpdate: func(s *backendtest.Spy, state balancer.ClientConnState) (err error) {
			s.Sub, err = s.CC.NewSubConn(state.ResolverState.Addresses, balancer.NewSubConnOptions{StateListener: func(now balancer.SubConnState) {
				switch now.ConnectivityState {
				case connectivity.TransientFailure: // and that is what it stays
					s.CC.UpdateState(balancer.State{ConnectivityState: now.ConnectivityState, Picker: base.NewErrPicker(backendtest.ErrRefused)})
				case connectivity.Idle:
					s.Sub.Connect()
				}
			}})
			s.Sub.Connect()
			return err
		}}
		balancer.Register(p)
		r, target, option := handResolver(t)
		r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "a:1"}, {Addr: "b:1"}}})
		var rounds atomic.Int64
		cc := plain(t, target, option, fastBackoff(), grpcdial.WithDefaultServiceConfig(p.Config()), grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool { return a.Err == backendtest.ErrRefused }),
			grpcdial.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				switch {
				case addr == "a:1" && rounds.Add(1) == 1:
					return nil, errors.New("maybe")
				case addr == "b:1" && rounds.Load() > 1:
					return backendtest.Hang(ctx, addr)
				}
				return nil, backendtest.ErrRefused
			}))
		err := cc.AwaitReady(backendtest.Bounded(t))
		assert.ErrorIs(t, err, backendtest.ErrRefused)
		assert.NotErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestWithGiveUpIsAskedAboutTheResolver(t *testing.T) {
	r := manual.NewBuilderWithScheme("hand")
	r.BuildCallback = backendtest.ReportError
	begun := time.Now()
	_, err := grpcdial.DialContext(backendtest.Bounded(t), "hand:///x", grpcdial.WithInsecure(), grpcdial.WithBlock(), grpcdial.WithResolvers(r),
		grpcdial.WithGiveUp(func(a grpcdial.Attempt) bool { return a.Phase == grpcdial.PhaseResolve && a.Addr == "x" }))
	assert.ErrorContains(t, err, "no zone")
	assert.Less(t, time.Since(begun), 5*time.Second)
}

// The function may ask the channel.
func TestWithGiveUpMayCallTheChannel(t *testing.T) {
	var cc *grpcdial.ClientConn
	cc = plain(t, "passthrough:///"+backendtest.UnusedAddr(t), grpcdial.WithGiveUp(func(grpcdial.Attempt) bool {
		cc.ResetConnectBackoff()
		return cc.Snapshot().State == connectivity.TransientFailure
	}), fastBackoff())
	require.Error(t, cc.AwaitReady(backendtest.Bounded(t)))
}

// A resolver that cannot be built is not built again while a caller waits, so FailFast does
// not wait for it.
func TestFailFastWithoutAResolver(t *testing.T) {
	reason := errors.New("no such cluster")
	for name, c := range map[string]struct {
		target string
		option grpcdial.DialOption
		phase  grpcdial.Phase
	}{
		"target":  {"dns:///one.test:70000", grpcdial.EmptyDialOption{}, grpcdial.PhaseResolve},
		"builder": {"unbuilt:///one.test", grpcdial.WithResolvers(unbuilt{reason}), grpcdial.PhaseResolve},
		"proxy":   {"dns:///one.test:80", grpcdial.WithProxy(func(string) (*url.URL, error) { return nil, reason }), grpcdial.PhaseProxy},
	} {
		t.Run(name, func(t *testing.T) {
			cc := plain(t, c.target, c.option)
			err := cc.AwaitReady(backendtest.Bounded(t), grpcdial.FailFast())
			var e *grpcdial.DialError
			require.ErrorAs(t, err, &e)
			assert.NotErrorIs(t, err, context.DeadlineExceeded)
			require.Len(t, e.Attempts, 1)
			assert.Equal(t, c.phase, e.Attempts[0].Phase)
			assert.True(t, e.Attempts[0].Permanent)
			assert.Equal(t, name != "target", errors.Is(err, reason))
		})
	}
}

type unbuilt struct{ err error }

func (unbuilt) Scheme() string { return "unbuilt" }

func (u unbuilt) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, u.err
}
