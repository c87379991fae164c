package e2e_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// restartLoad is how many RPCs TestEverythingWhileServersRestart makes.
// GRPCDIAL_TEST_RPCS sets another number, 100000 for one.
func restartLoad(t *testing.T) int64 {
	const few = 1000
	s := os.Getenv("GRPCDIAL_TEST_RPCS")
	if s == "" {
		return few
	}
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(t, err)
	return n
}

// echoSlowly is a handler that answers a request with itself, at the end of a unary RPC or
// five times, and is slow or fails now and then.
func echoSlowly(handled *atomic.Int64) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		replies := 1
		if strings.HasSuffix(method, "/Stream") {
			replies = 5
		}
		m := new(wrapperspb.StringValue)
		if err := s.RecvMsg(m); err != nil {
			return err
		}
		switch n := handled.Add(1); {
		case n%50 == 0:
			select {
			case <-time.After(50 * time.Millisecond):
			case <-s.Context().Done():
				return status.FromContextError(s.Context().Err()).Err()
			}
		case n%70 == 0:
			return status.Error(codes.Unavailable, "now and then")
		}
		for i := range replies {
			if err := s.SendMsg(wrapperspb.String(fmt.Sprintf("%s#%d", m.Value, i))); err != nil {
				return err
			}
		}
		return nil
	}
}

// askSlowly and askSlowStream make an RPC and check the replies. The error is that of the RPC.
func askSlowly(ctx context.Context, t *testing.T, cc grpc.ClientConnInterface, request string, opts ...grpc.CallOption) error {
	reply := new(wrapperspb.StringValue)
	err := cc.Invoke(ctx, "/test.Slow/Unary", wrapperspb.String(request), reply, opts...)
	if err == nil {
		assert.Equal(t, request+"#0", reply.Value)
	}
	return err
}

func askSlowStream(ctx context.Context, t *testing.T, cc grpc.ClientConnInterface, request string, opts ...grpc.CallOption) error {
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Slow/Stream", opts...)
	if err != nil {
		return err
	}
	if err := s.SendMsg(wrapperspb.String(request)); err != nil {
		return err
	}
	for i := 0; ; i++ {
		reply := new(wrapperspb.StringValue)
		switch err := s.RecvMsg(reply); err {
		case nil:
			assert.Equal(t, fmt.Sprintf("%s#%d", request, i), reply.Value)
		case io.EOF:
			assert.Equal(t, 5, i, "replies to %s", request)
			return nil
		default:
			return err
		}
	}
}

// Servers that restart, in good order and without a word, that are slow and fail now and
// then, while RPCs are hedged, each new connection is checked, and connections are made for
// want of streams and renewed. Each RPC ends once, with its own replies; few fail; nothing
// is left.
func TestEverythingWhileServersRestart(t *testing.T) {
	total := restartLoad(t)
	var handled, checks, begun, finished, failed atomic.Int64
	servers := make([]*diaryServer, 3)
	addrs := make([]string, len(servers))
	for i := range servers {
		s := &diaryServer{t: t, addr: "127.0.0.1:0", opts: []grpc.ServerOption{
			grpc.MaxConcurrentStreams(10), grpc.UnknownServiceHandler(echoSlowly(&handled)),
		}}
		s.start()
		t.Cleanup(func() { s.stop((*grpc.Server).Stop) })
		servers[i], addrs[i] = s, s.addr
	}
	attempts := new(ends)
	cc := plain(t, "ipv4:"+strings.Join(addrs, ","), fastBackoff(), grpcdial.WithStatsHandler(attempts),
		grpcdial.WithMaxConnectionsPerSubchannel(4), grpcdial.WithMaxConnectionAge(500*time.Millisecond, 200*time.Millisecond),
		grpcdial.WithDefaultConfig(grpcdial.ServiceConfig{
			LoadBalancing: []grpcdial.LoadBalancingPolicy{{Name: "round_robin"}},
			MethodSettings: []grpcdial.MethodSettings{{Names: []grpcdial.MethodName{{}}, Hedging: &grpcdial.HedgingPolicy{
				MaxAttempts: 4, HedgingDelay: 25 * time.Millisecond, NonFatalStatusCodes: []codes.Code{codes.Unavailable},
			}}},
		}),
		grpcdial.WithConnectCheck(func(ctx context.Context, info grpcdial.ConnectCheckInfo) error {
			if n := checks.Add(1); n%5 == 0 {
				return fmt.Errorf("check %d does not pass", n)
			}
			err := askSlowly(ctx, t, info.Conn, "check")
			if status.Code(err) == codes.Unavailable {
				return nil // the server fails now and then
			}
			return err
		}))

	var callers sync.WaitGroup
	for range 40 { // more than the streams that two connections take
		callers.Go(func() {
			for {
				n := begun.Add(1)
				if n > total {
					return
				}
				ask := askSlowly
				if n%4 == 0 {
					ask = askSlowStream
				}
				ctx, cancel := context.WithTimeout(t.Context(), backendtest.Patience)
				var ended atomic.Int64
				err := ask(ctx, t, cc, fmt.Sprint("rpc ", n), grpc.WaitForReady(true), grpc.OnFinish(func(error) { ended.Add(1) }))
				cancel()
				assert.EqualValues(t, 1, ended.Load(), "rpc %d ended once", n)
				if finished.Add(1); err != nil {
					failed.Add(1)
					assert.Equal(t, codes.Unavailable, status.Code(err), "rpc %d: %v", n, err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		callers.Wait()
	}()
	restarts, renewals := 0, 0
	for running := true; running; restarts++ {
		next := time.NewTimer(20 * time.Millisecond)
		select {
		case <-done:
			running = false
		case <-next.C:
			s := servers[rand.IntN(len(servers))]
			if how := (*grpc.Server).GracefulStop; restarts%3 > 0 {
				s.stop(how)
			} else {
				s.stop((*grpc.Server).Stop)
			}
			s.start()
			if restarts%4 == 0 { // the server that was down may not have been connected to again
				if err := cc.Renew(backendtest.Bounded(t)); err != nil {
					require.ErrorAs(t, err, new(*grpcdial.DialError))
				}
				renewals++
			}
		}
		next.Stop()
	}
	t.Logf("%d RPCs in %d attempts, %d failed; %d restarts, %d renewals, %d checks", finished.Load(), attempts.begun.Load(), failed.Load(), restarts, renewals, checks.Load())
	assert.Equal(t, total, finished.Load())
	assert.Less(t, failed.Load(), total/20, "a reply or an attempt cut by a server that stops without a word")
	assert.Zero(t, rpcsRunning(t, cc), "RPCs that run")
	backendtest.Eventually(t, func() bool { return attempts.begun.Load() == attempts.ended.Load() }, "each attempt has ended")
	require.NoError(t, cc.Close())
	backendtest.AssertNothingRuns(t)
}
