package call

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestStreamsUnderFire lets senders and receivers go on while the server refuses,
// fails and resets at random and contexts end: every RPC ends once, every pick's
// Done is called, and an RPC that ends well has echoed everything in order.
func TestStreamsUnderFire(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Serve(func(s *h2test.Stream) {
		if s.Reset {
			return
		}
		if s.Value == nil {
			s.Value = rand.IntN(8)
		}
		fail := func() {
			switch s.Value {
			case 0:
				s.RST(http2.ErrCodeRefusedStream)
			case 1, 2:
				s.SendTrailers(codes.Unavailable, "not now")
			case 3:
				s.RST(http2.ErrCodeInternal)
			}
		}
		if s.Value.(int) <= 3 {
			if s.Ended || rand.IntN(3) == 0 {
				fail()
			}
			return
		}
		h2test.Echo(s)
	})
	attempts := new(balance)
	ch := New(Config{StatsHandlers: []stats.Handler{attempts}})
	ch.SetResolved(true)
	ch.SetConfig(retryConfig(t, quickPolicy, ""))
	b := insecureBackend(t, srv.Addr())
	var picks, dones atomic.Int64
	ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
		picks.Add(1)
		return balancer.PickResult{SubConn: b, Done: func(balancer.DoneInfo) { dones.Add(1) }}, nil
	}))
	const workers, rounds = 8, 30
	var ends, well atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				if rand.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(context.Background(), time.Duration(rand.IntN(3000))*time.Microsecond)
				}
				err := talk(ctx, ch, grpc.OnFinish(func(error) { ends.Add(1) }))
				if err == nil {
					well.Add(1)
				}
				switch status.Code(err) {
				case codes.OK, codes.Unavailable, codes.Internal, codes.DeadlineExceeded:
				default:
					assert.NoError(t, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	requireNoneActive(t, ch)
	require.Eventually(t, func() bool { return ends.Load() == workers*rounds && dones.Load() == picks.Load() }, time.Minute, time.Millisecond)
	assert.NotZero(t, well.Load())
	assert.Equal(t, picks.Load(), attempts.begun.Load(), "each attempt has begun")
	assert.Equal(t, picks.Load(), attempts.ended.Load(), "and ended")
	assert.Zero(t, attempts.wrong.Load(), "in order")
}

// balance is a stats handler that holds each attempt to its order: Begin, headers
// before payloads, one End. When a context ends, End may be reported while the sender and
// the receiver still report a message, as in grpc-go.
type balance struct {
	stats.Handler
	begun, ended, wrong atomic.Int64
}

type attemptKey struct{}

func (b *balance) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, attemptKey{}, new(attemptSeen))
}

type attemptSeen struct {
	mu                           sync.Mutex
	begun, sent, received, ended bool // guarded by mu
}

func (b *balance) HandleRPC(ctx context.Context, s stats.RPCStats) {
	a := ctx.Value(attemptKey{}).(*attemptSeen)
	a.mu.Lock()
	defer a.mu.Unlock()
	ok := a.begun
	switch s.(type) {
	case *stats.Begin:
		ok = !a.begun
		a.begun = true
		b.begun.Add(1)
	case *stats.OutHeader:
		ok = ok && !a.sent && !a.ended
		a.sent = true
	case *stats.InHeader:
		ok = ok && a.sent && !a.received
		a.received = true
	case *stats.InPayload:
		ok = ok && a.received
	case *stats.OutPayload:
		ok = ok && a.sent
	case *stats.InTrailer:
		ok = ok && a.sent && !a.ended
	case *stats.End:
		ok = ok && !a.ended
		a.ended = true
		b.ended.Add(1)
	}
	if !ok {
		b.wrong.Add(1)
	}
}

// talk echoes some messages, sender and receiver each on its own goroutine.
func talk(ctx context.Context, ch *Channel, opts ...grpc.CallOption) error {
	cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod, opts...)
	if err != nil {
		return err
	}
	n := rand.IntN(20)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range n {
			if cs.SendMsg(request(fmt.Sprint(i))) != nil {
				return
			}
		}
		_ = cs.CloseSend()
	}()
	defer func() { <-sent }()
	for i := 0; ; i++ {
		m := new(testpb.SimpleRequest)
		if err := cs.RecvMsg(m); err == io.EOF {
			if i != n {
				return fmt.Errorf("want %d messages, got %d", n, i)
			}
			return nil
		} else if err != nil {
			return err
		}
		if got := string(m.Payload.Body); got != fmt.Sprint(i) {
			return fmt.Errorf("want message %d, got %s", i, got)
		}
	}
}
