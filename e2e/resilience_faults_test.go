package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// rpcTally is what becomes of RPCs that are numbered from 0.
type rpcTally struct {
	begun    atomic.Int64   // attempts that servers have seen
	finished []atomic.Int32 // calls of OnFinish
	reset    []atomic.Bool  // a server has reset it with INTERNAL_ERROR
	answered []atomic.Int32 // answers with status OK that servers gave
}

func newRPCTally(n int) *rpcTally {
	return &rpcTally{finished: make([]atomic.Int32, n), reset: make([]atomic.Bool, n), answered: make([]atomic.Int32, n)}
}

// answerTo is what every server answers.
func answerTo(question string) string { return "answer to " + question }

// TestManyRPCsUnderFaults: of 100,000 RPCs, over servers that restart, send GOAWAY,
// refuse streams, reset them, fail them and cut connections, each ends once, with
// its own answer or with a status that says what happened to it, and all counts
// add up.
func TestManyRPCsUnderFaults(t *testing.T) {
	total := 100_000
	if backendtest.UnderRace {
		total = 10_000
	}
	const callers = 64
	rpcs := newRPCTally(total)
	attempts := new(counts)

	var s resolver.State
	restarting := make([]*restartingServer, 2)
	for i := range restarting {
		restarting[i] = startRestarting(t, rpcs)
		s.Addresses = append(s.Addresses, resolver.Address{Addr: restarting[i].addr})
	}
	for range 2 {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: startFaulty(t, rpcs)})
	}
	r, target, option := handResolver(t)
	r.InitialState(s)
	cc := plain(t, target, option, noBackoff(), grpcdial.WithStatsHandler(attempts), grpcdial.WithDefaultServiceConfig(`{
		"loadBalancingConfig": [{"round_robin": {}}],
		"methodConfig": [{"name": [{}], "waitForReady": true, "retryPolicy": {"maxAttempts": 5,
			"initialBackoff": "0.001s", "maxBackoff": "0.005s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`))

	var next, well, unavailable, internal atomic.Int64
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= total {
					return
				}
				err := askNumbered(cc, n, rpcs)
				switch status.Code(err) {
				case codes.OK:
					well.Add(1)
					assert.GreaterOrEqual(t, rpcs.answered[n].Load(), int32(1), "RPC %d: a server has answered it", n)
				case codes.Unavailable:
					unavailable.Add(1)
				case codes.Internal:
					internal.Add(1)
					assert.True(t, rpcs.reset[n].Load(), "RPC %d: no server has reset it: %v", n, err)
				default:
					assert.NoError(t, err, "RPC %d", n)
				}
			}
		})
	}
	running.Wait()
	for _, r := range restarting {
		r.rest()
	}
	calls := callsOf(t, cc)
	require.NoError(t, cc.Close())

	for n := range rpcs.finished {
		assert.EqualValues(t, 1, rpcs.finished[n].Load(), "RPC %d ended once", n)
		assert.LessOrEqual(t, rpcs.answered[n].Load(), int32(5), "RPC %d: an attempt for each answer", n)
	}
	failed := unavailable.Load() + internal.Load()
	t.Logf("%d RPCs: %d well, %d Unavailable, %d Internal; %d attempts, %d connections, %d restarts",
		total, well.Load(), unavailable.Load(), internal.Load(), attempts.begun.Load(), attempts.connsBegun.Load(), restarting[0].restarts+restarting[1].restarts)
	assert.EqualValues(t, total, well.Load()+failed)
	assert.Less(t, failed, int64(total/10), "retries help")
	assert.EqualValues(t, total, calls.CallsStarted)
	assert.Equal(t, well.Load(), calls.CallsSucceeded)
	assert.Equal(t, failed, calls.CallsFailed)
	assert.Greater(t, attempts.begun.Load(), int64(total), "some took more than one attempt")
	assert.Equal(t, attempts.begun.Load(), attempts.ended.Load(), "attempts that began and ended")
	assert.Equal(t, well.Load(), attempts.endedWell.Load(), "attempts that ended well: one for each RPC that did")
	assert.LessOrEqual(t, rpcs.begun.Load(), attempts.begun.Load(), "servers have seen what was an attempt")
	assert.GreaterOrEqual(t, rpcs.begun.Load(), well.Load()+internal.Load())
	assert.Equal(t, attempts.connsBegun.Load(), attempts.connsEnded.Load(), "connections")
	backendtest.AssertNothingRuns(t)
}

// askNumbered makes one RPC, a stream now and then, and holds its answers to what
// was asked.
func askNumbered(cc *grpcdial.ClientConn, n int, rpcs *rpcTally) error {
	ctx, cancel := context.WithTimeout(context.Background(), backendtest.Patience)
	defer cancel()
	finish := grpc.OnFinish(func(error) { rpcs.finished[n].Add(1) })
	question := wrapperspb.String(strconv.Itoa(n))
	if n%8 != 7 {
		answer := new(wrapperspb.StringValue)
		err := cc.Invoke(ctx, "/test.Numbered/Unary", question, answer, finish)
		if err == nil && answer.Value != answerTo(question.Value) {
			return fmt.Errorf("RPC %d got %q", n, answer.Value)
		}
		return err
	}
	stream, err := cc.NewStream(ctx, bidi, "/test.Numbered/Stream", finish)
	if err != nil {
		return err
	}
	const messages = 3
	for range messages {
		if stream.SendMsg(question) != nil {
			break // RecvMsg returns the cause
		}
	}
	_ = stream.CloseSend()
	for got := 0; ; got++ {
		answer := new(wrapperspb.StringValue)
		switch err := stream.RecvMsg(answer); {
		case err == io.EOF && got == messages:
			return nil
		case err == io.EOF:
			return fmt.Errorf("RPC %d got %d answers", n, got)
		case err != nil:
			return err
		case answer.Value != answerTo(question.Value):
			return fmt.Errorf("RPC %d got %q", n, answer.Value)
		}
	}
}

// counts is a stats handler that counts what begins and ends.
type counts struct {
	begun, ended, endedWell, connsBegun, connsEnded atomic.Int64
}

func (*counts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*counts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *counts) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.Begin:
		c.begun.Add(1)
	case *stats.End:
		c.ended.Add(1)
		if s.Error == nil {
			c.endedWell.Add(1)
		}
	}
}
func (c *counts) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		c.connsBegun.Add(1)
	case *stats.ConnEnd:
		c.connsEnded.Add(1)
	}
}

// restartingServer is a grpc-go server that goes, with or without a word, and comes
// back at the same address, over and over.
type restartingServer struct {
	t        *testing.T
	rpcs     *rpcTally
	addr     string
	resting  chan struct{}
	rest     func() // the server restarts no more, and is stopped
	restarts int    // read after rest
}

func startRestarting(t *testing.T, rpcs *rpcTally) *restartingServer {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &restartingServer{t: t, rpcs: rpcs, addr: lis.Addr().String(), resting: make(chan struct{})}
	var ended sync.WaitGroup
	ended.Go(func() { r.run(lis) })
	r.rest = sync.OnceFunc(func() {
		close(r.resting)
		ended.Wait()
	})
	t.Cleanup(r.rest)
	return r
}

func (r *restartingServer) run(lis net.Listener) {
	for {
		srv := grpc.NewServer(grpc.UnknownServiceHandler(r.handle))
		var served sync.WaitGroup
		served.Go(func() { _ = srv.Serve(lis) })
		select {
		case <-time.After(time.Duration(20+rand.IntN(60)) * time.Millisecond):
		case <-r.resting:
			srv.Stop()
			served.Wait()
			return
		}
		if r.restarts++; rand.IntN(2) == 0 {
			srv.Stop()
		} else {
			srv.GracefulStop()
		}
		served.Wait()
		if lis = r.listenAgain(); lis == nil {
			return
		}
	}
}

// listenAgain takes the address again, which the kernel may have given to a connection of
// another process meanwhile. nil: the server is to rest.
func (r *restartingServer) listenAgain() net.Listener {
	for {
		lis, err := net.Listen("tcp", r.addr)
		if err == nil {
			return lis
		}
		select {
		case <-r.resting:
			return nil
		case <-time.After(time.Millisecond):
		}
	}
}

func (r *restartingServer) handle(_ any, s grpc.ServerStream) error {
	r.rpcs.begun.Add(1)
	n := -1
	for {
		question := new(wrapperspb.StringValue)
		err := s.RecvMsg(question)
		if errors.Is(err, io.EOF) {
			r.rpcs.answered[n].Add(1)
			return nil
		} else if err != nil {
			return err
		}
		if n, err = strconv.Atoi(question.Value); err != nil {
			return err
		}
		if err := s.SendMsg(wrapperspb.String(answerTo(question.Value))); err != nil {
			return err
		}
	}
}

// startFaulty starts a server that answers most RPCs, and refuses, resets or fails
// the others; some of its connections end with GOAWAY after a while, some without.
func startFaulty(t *testing.T, rpcs *rpcTally) (addr string) {
	t.Helper()
	srv := h2test.Listen(t)
	conns := make(map[*h2test.Conn]int) // RPCs until a connection ends
	var mu sync.Mutex
	wears := func(c *h2test.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		if _, known := conns[c]; !known {
			conns[c] = 200 + rand.IntN(2000)
		}
		conns[c]--
		return conns[c] == 0
	}
	srv.Serve(func(s *h2test.Stream) {
		if s.Reset || s.Value == "done" {
			return
		}
		if s.Value == nil {
			s.Value = "begun"
			rpcs.begun.Add(1)
			if wears(s.Conn()) {
				if rand.IntN(2) == 0 {
					s.Value = "done"
					s.Conn().Close()
					return
				}
				s.Conn().GoAway(s.ID, http2.ErrCodeNo, "worn out")
			}
			if rand.IntN(50) == 0 {
				s.Value = "done"
				s.RST(http2.ErrCodeRefusedStream)
				return
			}
		}
		if !s.Ended {
			return
		}
		s.Value = "done"
		messages := s.Take()
		question := new(wrapperspb.StringValue)
		assert.NoError(t, proto.Unmarshal(messages[0].Payload, question))
		n, err := strconv.Atoi(question.Value)
		assert.NoError(t, err)
		switch rand.IntN(50) {
		case 0:
			rpcs.reset[n].Store(true)
			s.RST(http2.ErrCodeInternal)
			return
		case 1:
			s.SendTrailers(codes.Unavailable, "not now")
			return
		}
		answer, err := proto.Marshal(wrapperspb.String(answerTo(question.Value)))
		assert.NoError(t, err)
		for range messages {
			s.SendMessage(answer)
		}
		rpcs.answered[n].Add(1)
		s.SendTrailers(codes.OK, "")
	})
	return srv.Addr()
}
