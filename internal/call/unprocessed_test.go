package call

import (
	"context"
	"slices"
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
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A request that is refused is sent again as long as the server gets on with others, and
// not much longer.
func TestRefusedWhileOthersAreServed(t *testing.T) {
	for name, tt := range map[string]struct {
		ends []int // the refusals at which one of the other RPCs ends
		hang int   // how many of them do not end
		code codes.Code
		sent int
	}{
		"no others":             {nil, 0, codes.Unavailable, maxIdle + 1},
		"they end now and then": {[]int{15, 28}, 1, codes.OK, 31},
		"they hang":             {nil, 2, codes.Unavailable, maxIdleBusy + 1},
		"one ends, others hang": {[]int{5}, 1, codes.Unavailable, 5 + maxIdleBusy + 1},
		"the last of them ends": {[]int{5}, 0, codes.Unavailable, 5 + 1 + maxIdle},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := h2test.Listen(t)
			var others []*h2test.Stream
			began := make(chan struct{}, 10)
			sent := 0
			srv.Serve(func(s *h2test.Stream) {
				switch {
				case s.Reset:
				case s.Method() == "/t/Other":
					others = append(others, s)
					began <- struct{}{}
				case s.Ended:
					if sent++; sent > 30 {
						s.Reply(replyBytes(t))
						return
					}
					if slices.Contains(tt.ends, sent) {
						others[0].SendTrailers(codes.OK, "")
						others = others[1:]
					}
					s.RST(http2.ErrCodeRefusedStream)
				}
			})
			ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			for range len(tt.ends) + tt.hang {
				_, err := ch.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/t/Other")
				require.NoError(t, err)
				<-began
			}
			err := ch.Invoke(ctx, "/t/M", new(testpb.SimpleRequest), new(testpb.SimpleResponse))
			assert.Equal(t, tt.code, status.Code(err), "%v", err)
			assert.Equal(t, tt.sent, sent)
		})
	}
}

// A request that one backend has refused goes to another one, if the picker knows one.
func TestRefusedGoesElsewhere(t *testing.T) {
	refusing, serving := h2test.Listen(t), h2test.Listen(t)
	refusing.Serve(func(s *h2test.Stream) {
		if s.Ended && !s.Reset {
			s.RST(http2.ErrCodeRefusedStream)
		}
	})
	serving.Serve(func(s *h2test.Stream) {
		if s.Ended && !s.Reset {
			s.Reply(replyBytes(t))
		}
	})
	backends := []*backend{insecureBackend(t, refusing.Addr()), insecureBackend(t, serving.Addr())}
	var picks, dones atomic.Int32
	ch := ready(t, Config{Owner: owner{backends: func() int { return len(backends) }}}, backends[0])
	ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
		n := 0 // a picker that has its reasons
		if picks.Add(1) == maxOthers+1 {
			n = 1
		}
		return balancer.PickResult{SubConn: backends[n], Done: func(balancer.DoneInfo) { dones.Add(1) }}, nil
	}))
	invoke := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return ch.Invoke(ctx, "/t/M", new(testpb.SimpleRequest), new(testpb.SimpleResponse))
	}
	require.NoError(t, invoke())
	assert.Equal(t, picks.Load(), dones.Load(), "each pick is done with")
	assert.Equal(t, codes.Unavailable, status.Code(invoke()), "the picker knows no other")
	assert.Equal(t, picks.Load(), dones.Load())
	assert.Equal(t, int32(maxOthers+1+1+maxOthers+1), picks.Load())
}

// Another connection to the backend that has refused a request is not another backend.
func TestRefusedGoesToAnotherBackend(t *testing.T) {
	refusing, serving := h2test.Listen(t), h2test.Listen(t)
	var refusals atomic.Int32
	refusing.Serve(func(s *h2test.Stream) {
		if s.Ended && !s.Reset {
			refusals.Add(1)
			s.RST(http2.ErrCodeRefusedStream)
		}
	})
	serving.Serve(func(s *h2test.Stream) {
		if s.Ended && !s.Reset {
			s.Reply(replyBytes(t))
		}
	})
	one, two, other := insecureBackend(t, refusing.Addr()), insecureBackend(t, refusing.Addr()), insecureBackend(t, serving.Addr())
	one.Transport().Backend, two.Transport().Backend = one, one
	ch := ready(t, Config{Owner: owner{backends: func() int { return 2 }}}, one)
	var picks atomic.Int32
	order := []*backend{one, two, other}
	ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
		return balancer.PickResult{SubConn: order[picks.Add(1)-1]}, nil
	}))
	require.NoError(t, ch.Invoke(soon(t), "/t/M", new(testpb.SimpleRequest), new(testpb.SimpleResponse)))
	assert.EqualValues(t, 1, refusals.Load())
	assert.EqualValues(t, 3, picks.Load())
}

// RPCs that wait for a connection are counted, and ask for one.
func TestWaitingForAConnection(t *testing.T) {
	var asked atomic.Int32
	seen := make(chan int, 10)
	var ch *Channel
	ch = New(Config{Owner: owner{wanted: func() {
		asked.Add(1)
		seen <- ch.Waiting()
	}}})
	ch.SetResolved(true)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ch.Invoke(ctx, "/t/M", new(testpb.SimpleRequest), new(testpb.SimpleResponse)) }()
	assert.Equal(t, 1, <-seen, "it counts itself in first")
	ch.SetPicker(fixed{&backend{}})
	assert.Equal(t, 1, <-seen, "and so does one that a picker gives nothing")
	cancel()
	assert.Equal(t, codes.Canceled, status.Code(<-ended))
	assert.Zero(t, ch.Waiting())
	assert.Equal(t, int32(2), asked.Load())
}
