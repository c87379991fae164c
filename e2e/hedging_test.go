package e2e_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// scripted is a server whose n-th RPC, from 1, does what its script says; what it
// returns is the status, nil for an echo of the request.
type scripted struct {
	addr      string
	replies   int // if not 0, so many, which name the server and their number
	script    func(ctx context.Context, n int) error
	calls     atomic.Int64
	cancelled atomic.Int64

	mu       sync.Mutex
	previous []string // guarded by mu: grpc-previous-rpc-attempts of each
}

func serveScript(t *testing.T, script func(ctx context.Context, n int) error, opts ...grpc.ServerOption) *scripted {
	t.Helper()
	lis := backendtest.Listen(t)
	s := &scripted{addr: lis.Addr().String(), script: script}
	backendtest.RunOn(t, grpc.NewServer(append(opts, grpc.UnknownServiceHandler(s.handle))...), lis)
	return s
}

func (s *scripted) handle(_ any, stream grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	s.mu.Lock()
	s.previous = append(s.previous, strings.Join(md.Get("grpc-previous-rpc-attempts"), ","))
	s.mu.Unlock()
	stream.SetTrailer(metadata.Pairs("server", s.addr))
	err := s.script(stream.Context(), int(s.calls.Add(1)))
	if stream.Context().Err() != nil {
		s.cancelled.Add(1)
	}
	if err != nil {
		if ms, ok := strings.CutPrefix(status.Convert(err).Message(), "pushback "); ok {
			stream.SetTrailer(metadata.Pairs("grpc-retry-pushback-ms", ms))
		}
		return err
	}
	m := new(wrapperspb.StringValue)
	if err := stream.RecvMsg(m); err != nil && err != io.EOF {
		return err
	}
	if err := stream.SetHeader(metadata.Pairs("server", s.addr)); err != nil {
		return err
	}
	if s.replies == 0 {
		return stream.SendMsg(m)
	}
	for i := range s.replies {
		if err := stream.SendMsg(wrapperspb.String(fmt.Sprintf("%s@%s#%d", m.Value, s.addr, i))); err != nil {
			return err
		}
	}
	return nil
}

func (s *scripted) attempts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.previous...)
}

func hang(ctx context.Context) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

// hedged makes a channel to all of the servers, by round_robin, with a hedging policy.
func hedged(t *testing.T, policy grpcdial.HedgingPolicy, throttling *grpcdial.RetryThrottling, servers []*scripted, opts ...grpcdial.DialOption) *grpcdial.ClientConn {
	t.Helper()
	addrs := make([]string, len(servers))
	for i, s := range servers {
		addrs[i] = s.addr
	}
	cc := newClient(t, "ipv4:"+strings.Join(addrs, ","), append(opts, grpcdial.WithInsecure(), grpcdial.WithDefaultConfig(grpcdial.ServiceConfig{
		LoadBalancing:   []grpcdial.LoadBalancingPolicy{{Name: "round_robin"}},
		MethodSettings:  []grpcdial.MethodSettings{{Names: []grpcdial.MethodName{{}}, Hedging: &policy}},
		RetryThrottling: throttling,
	}))...)
	ctx := backendtest.Bounded(t)
	cc.Connect()
	for ready := 0; ready < len(servers); { // all of them
		require.NoError(t, ctx.Err())
		ready = 0
		for _, e := range cc.Snapshot().Endpoints {
			if e.State == connectivity.Ready {
				ready++
			}
		}
		runtime.Gosched()
	}
	return cc
}

// ends counts what a stats handler gets of attempts.
type ends struct{ begun, ended, cancelled atomic.Int64 }

func (e *ends) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (e *ends) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (e *ends) HandleConn(context.Context, stats.ConnStats)                       {}
func (e *ends) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.Begin:
		e.begun.Add(1)
	case *stats.End:
		e.ended.Add(1)
		if status.Code(s.Error) == codes.Canceled {
			e.cancelled.Add(1)
		}
	}
}

// TestHedgingIsFaster: a reply that is slow is overtaken by one of another backend, and
// the loser is cancelled at its server.
func TestHedgingIsFaster(t *testing.T) {
	first := atomic.Bool{}
	script := func(ctx context.Context, _ int) error {
		if first.CompareAndSwap(false, true) {
			return hang(ctx)
		}
		return nil
	}
	servers := []*scripted{serveScript(t, script), serveScript(t, script)}
	handler := new(ends)
	cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: 20 * time.Millisecond}, nil, servers, grpcdial.WithStatsHandler(handler))
	finished := 0
	var p peer.Peer
	var header metadata.MD
	began := time.Now()
	reply, err := backendtest.CallEcho(t, cc, "Echo", grpc.Peer(&p), grpc.Header(&header), grpc.OnFinish(func(err error) { finished++; assert.NoError(t, err) }))
	require.NoError(t, err)
	assert.Equal(t, "hello", reply)
	assert.GreaterOrEqual(t, time.Since(began), 20*time.Millisecond)
	assert.Equal(t, 1, finished)
	assert.NotNil(t, header)
	assert.EqualValues(t, 2, handler.begun.Load())
	assert.EqualValues(t, 2, handler.ended.Load())
	assert.EqualValues(t, 1, handler.cancelled.Load())
	var slow, fast *scripted
	for i, s := range servers {
		if s.calls.Load() > 0 && s.attempts()[0] == "" {
			slow, fast = s, servers[1-i]
		}
	}
	require.NotNil(t, slow)
	assert.Equal(t, []string{"1"}, fast.attempts(), "another backend, with the number of the attempt")
	assert.Equal(t, fast.addr, p.Addr.String())
	require.Eventually(t, func() bool { return slow.cancelled.Load() == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
}

// TestHedgingOutcomes: which failure ends the RPC, which has the next attempt made at once,
// and how many there are.
func TestHedgingOutcomes(t *testing.T) {
	fail := func(c codes.Code, message string) error { return status.Error(c, message) }
	for name, tt := range map[string]struct {
		policy     grpcdial.HedgingPolicy
		throttling *grpcdial.RetryThrottling
		script     func(ctx context.Context, n int) error
		want       codes.Code
		calls      int64
		least      time.Duration
	}{
		"the first succeeds": {
			policy: grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: time.Hour},
			script: func(context.Context, int) error { return nil }, want: codes.OK, calls: 1,
		},
		"non-fatal, then well": {
			policy: grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: time.Hour, NonFatalStatusCodes: []codes.Code{codes.Unavailable}},
			script: func(_ context.Context, n int) error {
				if n == 1 {
					return fail(codes.Unavailable, "no")
				}
				return nil
			}, want: codes.OK, calls: 2,
		},
		"fatal": {
			policy: grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: time.Hour, NonFatalStatusCodes: []codes.Code{codes.Unavailable}},
			script: func(context.Context, int) error { return fail(codes.NotFound, "no") }, want: codes.NotFound, calls: 1,
		},
		"all fail": {
			policy: grpcdial.HedgingPolicy{MaxAttempts: 3, NonFatalStatusCodes: []codes.Code{codes.Unavailable}},
			script: func(context.Context, int) error { return fail(codes.Unavailable, "no") }, want: codes.Unavailable, calls: 3,
		},
		"at most five": {
			policy: grpcdial.HedgingPolicy{MaxAttempts: 9, NonFatalStatusCodes: []codes.Code{codes.Unavailable}},
			script: func(context.Context, int) error { return fail(codes.Unavailable, "no") }, want: codes.Unavailable, calls: 5,
		},
		"pushback stops": {
			policy: grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: time.Hour, NonFatalStatusCodes: []codes.Code{codes.Unavailable}},
			script: func(context.Context, int) error { return fail(codes.Unavailable, "pushback -1") }, want: codes.Unavailable, calls: 1,
		},
		"pushback delays": {
			policy: grpcdial.HedgingPolicy{MaxAttempts: 2, HedgingDelay: time.Hour, NonFatalStatusCodes: []codes.Code{codes.Unavailable}},
			script: func(_ context.Context, n int) error {
				if n == 1 {
					return fail(codes.Unavailable, "pushback 30")
				}
				return nil
			}, want: codes.OK, calls: 2, least: 30 * time.Millisecond,
		},
		"throttled": {
			policy:     grpcdial.HedgingPolicy{MaxAttempts: 5, HedgingDelay: time.Hour, NonFatalStatusCodes: []codes.Code{codes.Unavailable}},
			throttling: &grpcdial.RetryThrottling{MaxTokens: 4, TokenRatio: 0.1},
			script:     func(context.Context, int) error { return fail(codes.Unavailable, "no") }, want: codes.Unavailable, calls: 2,
		},
	} {
		for kind, invoke := range hedgeable {
			t.Run(name+", "+kind, func(t *testing.T) {
				s := serveScript(t, tt.script)
				handler := new(ends)
				cc := hedged(t, tt.policy, tt.throttling, []*scripted{s}, grpcdial.WithStatsHandler(handler))
				finished := 0
				began := time.Now()
				_, err := invoke(backendtest.Bounded(t), cc, "hello", grpc.OnFinish(func(error) { finished++ }))
				assert.Equal(t, tt.want, status.Code(err), "%v", err)
				assert.GreaterOrEqual(t, time.Since(began), tt.least)
				assert.Equal(t, tt.calls, s.calls.Load())
				assert.Equal(t, 1, finished)
				require.Eventually(t, func() bool { return handler.ended.Load() == tt.calls }, time.Minute, time.Millisecond)
				assert.Equal(t, tt.calls, handler.begun.Load())
			})
		}
	}
}

// TestHedgingEnds: with the program's context, and with Close, while attempts run.
func TestHedgingEnds(t *testing.T) {
	s := serveScript(t, func(ctx context.Context, _ int) error { return hang(ctx) })
	cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: time.Millisecond}, nil, []*scripted{s})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	err := cc.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))

	result := make(chan error, 1)
	before := s.calls.Load()
	go func() {
		result <- cc.Invoke(context.Background(), "/test.Echo/Echo", wrapperspb.String("x"), new(wrapperspb.StringValue))
	}()
	require.Eventually(t, func() bool { return s.calls.Load() > before }, time.Minute, time.Millisecond)
	require.NoError(t, cc.Close())
	require.ErrorIs(t, <-result, grpcdial.ErrClosed)
}

// Code of the program's may end the goroutine of a hedged attempt, as a test's FailNow does: the
// RPC ends, and does not wait for that attempt.
func TestHedgedAttemptWhoseGoroutineEnds(t *testing.T) {
	s := serveScript(t, func(ctx context.Context, _ int) error { return hang(ctx) })
	cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 3, HedgingDelay: time.Millisecond}, nil, []*scripted{s})
	for _, stream := range []bool{false, true} {
		var calls atomic.Int32
		creds := grpc.PerRPCCredentials(unwindingCredentials{func() {
			if calls.Add(1) == 2 {
				runtime.Goexit()
			}
		}})
		result := make(chan error, 1)
		go func() {
			reply := new(wrapperspb.StringValue)
			if !stream {
				result <- cc.Invoke(t.Context(), "/test.Echo/Echo", wrapperspb.String("x"), reply, creds)
				return
			}
			cs, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Echo", creds)
			if err == nil {
				_ = cs.SendMsg(wrapperspb.String("x"))
				err = cs.RecvMsg(reply)
			}
			result <- err
		}()
		select {
		case err := <-result:
			assert.Equal(t, codes.Internal, status.Code(err), err)
			assert.ErrorContains(t, err, "Goexit")
		case <-time.After(time.Minute):
			t.Fatalf("the RPC, a stream %t, does not end", stream)
		}
	}
	require.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
}

// A service config, which may be the resolver's, may ask for any number of attempts where the
// program has lifted the bound of gRFC A6: each takes memory at once, and a goroutine.
func TestHedgingIsBounded(t *testing.T) {
	s := serveScript(t, func(context.Context, int) error { return status.Error(codes.Unavailable, "always") })
	cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: math.MaxInt32, HedgingDelay: time.Hour, NonFatalStatusCodes: []codes.Code{codes.Unavailable}}, nil,
		[]*scripted{s}, grpcdial.WithMaxCallAttempts(math.MaxInt))
	_, err := backendtest.CallEcho(t, cc, "Echo")
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.EqualValues(t, 100, s.calls.Load())
}

// hedgedLoad makes n RPCs on each of 8 goroutines to three servers, which send so many
// replies (0: an echo) and fail or hang now and then. It asserts that nearly all RPCs end
// well, and that each attempt ends. rpc makes an RPC with a request that no other has.
func hedgedLoad(t *testing.T, n, replies int, rpc func(ctx context.Context, cc grpc.ClientConnInterface, request string) error) {
	t.Helper()
	script := func(ctx context.Context, n int) error {
		switch {
		case n%7 == 0:
			return status.Error(codes.Unavailable, "now and then")
		case n%5 == 0:
			return hang(ctx)
		}
		return nil
	}
	servers := []*scripted{serveScript(t, script), serveScript(t, script), serveScript(t, script)}
	for _, s := range servers {
		s.replies = replies
	}
	handler := new(ends)
	cc := hedged(t, grpcdial.HedgingPolicy{MaxAttempts: 5, HedgingDelay: 2 * time.Millisecond, NonFatalStatusCodes: []codes.Code{codes.Unavailable}}, nil, servers, grpcdial.WithStatsHandler(handler))
	var callers sync.WaitGroup
	var well atomic.Int64
	for c := range 8 {
		callers.Go(func() {
			for i := range n {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // for an RPC whose last attempts hang
				if rpc(ctx, cc, fmt.Sprintf("%d/%d", c, i)) == nil {
					well.Add(1)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	assert.Greater(t, well.Load(), int64(8*n)*15/16, "five attempts seldom all fail")
	require.NoError(t, cc.Shutdown(backendtest.Bounded(t)))
	require.Eventually(t, func() bool { return handler.begun.Load() == handler.ended.Load() }, time.Minute, time.Millisecond)
}

// TestHedgingUnderLoad: each RPC has its own reply, and each attempt ends.
func TestHedgingUnderLoad(t *testing.T) {
	hedgedLoad(t, 100, 0, func(ctx context.Context, cc grpc.ClientConnInterface, request string) error {
		reply := new(wrapperspb.StringValue)
		err := cc.Invoke(ctx, "/test.Echo/Echo", wrapperspb.String(request), reply)
		if err == nil {
			assert.Equal(t, request, reply.Value)
		}
		return err
	})
}

// TestPerAttemptRecvTimeout: an attempt without a response is given up, and made again. Each
// has two seconds to reach the server, and the one that is answered to be so.
func TestPerAttemptRecvTimeout(t *testing.T) {
	settings := grpcdial.ServiceConfig{MethodSettings: []grpcdial.MethodSettings{{
		Names: []grpcdial.MethodName{{}},
		Retry: &grpcdial.RetryPolicy{MaxAttempts: 3, InitialBackoff: time.Millisecond, MaxBackoff: time.Millisecond, BackoffMultiplier: 1, PerAttemptRecvTimeout: 2 * time.Second},
	}}}
	for name, tt := range map[string]struct {
		hangs int
		want  codes.Code
		calls int64
	}{
		"two hang": {2, codes.OK, 3},
		"all hang": {9, codes.DeadlineExceeded, 3},
	} {
		for _, kind := range []string{"unary", "stream"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				s := serveScript(t, func(ctx context.Context, n int) error {
					if n <= tt.hangs {
						return hang(ctx)
					}
					return nil
				})
				cc := newClient(t, s.addr, grpcdial.WithInsecure(), grpcdial.WithDefaultConfig(settings))
				var err error
				if kind == "unary" {
					_, err = backendtest.CallEcho(t, cc, "Echo")
				} else {
					var stream grpc.ClientStream
					stream, err = cc.NewStream(backendtest.Bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Echo")
					require.NoError(t, err)
					require.NoError(t, stream.SendMsg(wrapperspb.String("x")))
					err = stream.RecvMsg(new(wrapperspb.StringValue))
				}
				assert.Equal(t, tt.want, status.Code(err), "%v", err)
				require.NotErrorIs(t, err, context.DeadlineExceeded, "the program's own has not passed")
				assert.Equal(t, tt.calls, s.calls.Load())
			})
		}
	}
}
