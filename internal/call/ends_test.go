package call

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

func TestEndDuringBackoff(t *testing.T) {
	const slow = `"maxAttempts": 4, "initialBackoff": "1000s", "maxBackoff": "1000s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]`
	begin := func(t *testing.T) (*Channel, chan struct{}) {
		ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) { s.SendTrailers(codes.Unavailable, "not now") })
		failed := make(chan struct{}, 10) // it is decided that another attempt follows
		sc := ch.picker.Load().picker.(fixed).sc
		ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
			return balancer.PickResult{SubConn: sc, Done: func(balancer.DoneInfo) { failed <- struct{}{} }}, nil
		}))
		ch.SetConfig(retryConfig(t, slow, ""))
		return ch, failed
	}
	t.Run("unary, deadline", func(t *testing.T) {
		ch, _ := begin(t)
		err := ch.Invoke(timeout(t, aWhile), unaryMethod, request("x"), new(testpb.SimpleResponse))
		require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		assert.Equal(t, StageBackoff, err.(*Error).Stage)
		assert.ErrorContains(t, err, "waiting to try again: latest failure: not now")
		assert.ErrorIs(t, err, status.Error(codes.Unavailable, "not now"))
	})
	t.Run("unary, close", func(t *testing.T) {
		ch, failed := begin(t)
		go func() { <-failed; ch.Close() }()
		err := ch.Invoke(soon(t), unaryMethod, request("x"), new(testpb.SimpleResponse))
		assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
	})
	for _, end := range []string{"deadline", "cancel", "close"} {
		t.Run("stream, "+end, func(t *testing.T) {
			ch, failed := begin(t)
			ctx, cancel := context.WithCancel(soon(t))
			if end == "deadline" {
				ctx = timeout(t, aWhile)
			}
			var f finished
			cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod, f.option())
			require.NoError(t, err)
			require.NoError(t, cs.SendMsg(request("x")))
			require.NoError(t, cs.CloseSend())
			go func() {
				<-failed
				if end == "close" {
					ch.Close()
				} else if end == "cancel" {
					cancel()
				}
			}()
			err = cs.RecvMsg(new(testpb.SimpleResponse))
			want := codes.Canceled
			if end == "deadline" {
				want = codes.DeadlineExceeded
				assert.ErrorContains(t, err, "waiting to try again: latest failure: not now")
			}
			assert.Equal(t, want, status.Code(err), "%v", err)
			f.require(t, want)
			requireNoneActive(t, ch)
			cancel()
		})
	}
}

// No other attempt is made when the deadline has passed, though nothing has noticed that:
// the RPC ends with it, and with the failure before.
func TestDeadlinePassesBetweenAttempts(t *testing.T) {
	for kind, call := range map[string]func(*Channel, context.Context) error{
		"unary": func(ch *Channel, ctx context.Context) error {
			return ch.Invoke(ctx, unaryMethod, request("x"), new(testpb.SimpleResponse))
		},
		"stream": func(ch *Channel, ctx context.Context) error {
			cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod)
			require.NoError(t, err)
			require.NoError(t, cs.SendMsg(request("x")))
			require.NoError(t, cs.CloseSend())
			return cs.RecvMsg(new(testpb.SimpleResponse))
		},
	} {
		t.Run(kind, func(t *testing.T) {
			ctx := timeout(t, aWhile)
			attempts := 0
			ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
				attempts++
				<-ctx.Done()
				s.SendTrailers(codes.Unavailable, "not now", "grpc-retry-pushback-ms", "0")
			})
			ch.SetConfig(retryConfig(t, quickPolicy, ""))
			err := call(ch, lateContext{ctx})
			require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
			assert.Equal(t, StageBackoff, err.(*Error).Stage)
			assert.ErrorContains(t, err, "waiting to try again: latest failure: not now")
			assert.Equal(t, 1, attempts)
		})
	}
}

// TestUnsentIsTriedAgain loses connections under RPCs that wait for a free
// stream: they never reached the wire and go to the next connection.
func TestUnsentIsTriedAgain(t *testing.T) {
	srv := h2test.Listen(t)
	ch := New(Config{})
	ch.SetResolved(true)
	first := make(chan *h2test.Conn, 1)
	go func() {
		c := srv.Accept()
		c.Handshake(h2test.MaxConcurrentStreams(1))
		first <- c
	}()
	b := insecureBackend(t, srv.Addr())
	conn := <-first
	conn.Skip(h2test.WindowUpdates, h2test.SettingsAcks)
	ch.SetPicker(fixed{b})
	result := make(chan error, 3)
	invoke := func() { result <- ch.Invoke(soon(t), unaryMethod, request("x"), new(testpb.SimpleResponse)) }
	go invoke()
	conn.ExpectUnary()
	go invoke() // waits for a free stream
	cs := make(chan grpc.ClientStream, 1)
	go func() {
		s, err := ch.NewStream(soon(t), bidiDesc, bidiMethod) // too
		assert.NoError(t, err)
		cs <- s
	}()
	require.Eventually(t, func() bool { n, _ := ch.Active(); return n == 3 }, time.Minute, time.Millisecond)
	b.Conn().Close(errors.New("gone"), nil)
	assert.Equal(t, codes.Unavailable, status.Code(<-result), "the one that was sent")

	next := connect(t, startServer(t, streamService()), nil)
	ch.SetPicker(fixed{next})
	require.NoError(t, <-result)
	s := <-cs
	require.NoError(t, s.SendMsg(chunk(1)))
	require.NoError(t, s.RecvMsg(new(testpb.StreamingOutputCallResponse)))
}

// TestGoAway: streams above GOAWAY's id go to the next connection, once.
func TestGoAway(t *testing.T) {
	srv := h2test.Listen(t)
	ch := New(Config{})
	ch.SetResolved(true)
	accepted := make(chan *h2test.Conn, 1)
	go func() {
		c := srv.Accept()
		c.Handshake()
		accepted <- c
	}()
	old := insecureBackend(t, srv.Addr())
	conn := <-accepted
	conn.Skip(h2test.WindowUpdates, h2test.SettingsAcks)
	ch.SetPicker(fixed{old})
	result := make(chan error, 2)
	go func() { result <- ch.Invoke(soon(t), unaryMethod, request("x"), new(testpb.SimpleResponse)) }()
	h1, _ := conn.ExpectUnary()
	go func() { result <- ch.Invoke(soon(t), unaryMethod, request("x"), new(testpb.SimpleResponse)) }()
	conn.ExpectUnary()

	conn.GoAway(h1.StreamID, http2.ErrCodeNo, "bye")
	<-old.Conn().Done()
	next := connect(t, startServer(t, &testService{unary: echo}), nil)
	ch.SetPicker(fixed{next})
	require.NoError(t, <-result, "the second one, on the next connection")
	conn.ReplyUnary(h1.StreamID, replyBytes(t))
	require.NoError(t, <-result, "the first one, on the old connection")
}

// TestCloseWhileAnotherAttemptIsMade: the goroutine that makes the attempt ends it.
func TestCloseWhileAnotherAttemptIsMade(t *testing.T) {
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) { s.SendTrailers(codes.Unavailable, "not now") })
	ch.SetConfig(retryConfig(t, quickPolicy, ""))
	d := &dones{sc: ch.picker.Load().picker.(fixed).sc}
	again := make(chan struct{})
	n := 0
	ch.SetPicker(pickerFunc(func(i balancer.PickInfo) (balancer.PickResult, error) {
		if n++; n == 1 {
			return d.Pick(i)
		}
		close(again)
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}))
	var f finished
	var trailer metadata.MD
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, f.option(), grpc.Trailer(&trailer))
	require.NoError(t, err)
	require.NoError(t, cs.SendMsg(request("x")))
	require.NoError(t, cs.CloseSend())
	result := make(chan error, 1)
	go func() { result <- cs.RecvMsg(new(testpb.SimpleResponse)) }()
	<-again
	ch.Close()
	require.ErrorIs(t, <-result, grpc.ErrClientConnClosing)
	f.require(t, codes.Canceled)
	require.Len(t, d.infos, 1)
	assert.Equal(t, codes.Unavailable, status.Code(d.infos[0].Err))
}

// TestEndWhileAnotherAttemptIsDecided: what options point to is filled in before
// RecvMsg returns, also if the RPC ends while it is decided whether it is tried again.
func TestEndWhileAnotherAttemptIsDecided(t *testing.T) {
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
		s.SendTrailers(codes.DeadlineExceeded, "too late", "t", "1")
	})
	var f finished
	var trailer metadata.MD
	var p peer.Peer
	ctx := &deadlineHook{Context: soon(t)}
	cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod, f.option(), grpc.Trailer(&trailer), grpc.Peer(&p))
	require.NoError(t, err)
	require.NoError(t, cs.CloseSend())
	ctx.asked = func() { ch.Close() } // whether it was the RPC's own deadline is asked in order to decide
	require.ErrorContains(t, cs.RecvMsg(new(testpb.SimpleResponse)), "too late", "the server's word came before")
	assert.NotNil(t, p.Addr)
	assert.Equal(t, []string{"1"}, trailer["t"])
	f.require(t, codes.Canceled)
	requireNoneActive(t, ch)
}

// TestCloseBetweenSenderAndReceiver: the receiver saw a stream's end, but the sender was
// the first to decide what follows, and Close came between. That end is not the RPC's: it
// is of an attempt that is being decided on, or was replaced.
func TestCloseBetweenSenderAndReceiver(t *testing.T) {
	for _, tt := range []struct {
		name string
		code codes.Code // what the attempt ends with
		at   string     // where the sender is when Close comes
	}{
		{"no other attempt", codes.DeadlineExceeded, "deciding"},
		{"another attempt", codes.Unavailable, "picking"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) { s.SendTrailers(tt.code, "the attempt's") })
			ch.SetConfig(retryConfig(t, quickPolicy, ""))
			there, on := make(chan struct{}), make(chan struct{})
			stop := func() { close(there); <-on }
			sc := ch.picker.Load().picker.(fixed).sc
			n := 0
			ch.SetPicker(pickerFunc(func(balancer.PickInfo) (balancer.PickResult, error) {
				if n++; n > 1 {
					stop()
				}
				return balancer.PickResult{SubConn: sc}, nil
			}))
			ctx := &deadlineHook{Context: soon(t)}
			var f finished
			s, err := ch.NewStream(ctx, bidiDesc, bidiMethod, f.option())
			require.NoError(t, err)
			require.NoError(t, s.SendMsg(request("x")))
			require.NoError(t, s.CloseSend())
			cs := s.(*clientStream)
			a := cs.source() // the receiver's
			<-a.s.Finished()
			if tt.at == "deciding" {
				ctx.asked = func() { ctx.asked = nil; stop() }
			}
			sent := make(chan bool)
			go func() { sent <- cs.retryAfter(a) }() // the sender's
			<-there
			ch.Close()
			assert.True(t, cs.retryAfter(a), "the receiver does not know how it ends")
			result := make(chan error, 1)
			go func() { result <- s.RecvMsg(new(testpb.SimpleResponse)) }()
			close(on)
			assert.Equal(t, tt.at == "picking", <-sent)
			if err := <-result; tt.at == "picking" {
				assert.ErrorIs(t, err, grpc.ErrClientConnClosing)
				assert.True(t, cs.retryAfter(a), "a was replaced")
			} else {
				assert.ErrorContains(t, err, "the attempt's", "the server's word came before")
			}
			f.require(t, codes.Canceled)
			requireNoneActive(t, ch)
		})
	}
}

// deadlineHook is a context that calls asked, if it is not nil, when it is asked for
// its deadline.
type deadlineHook struct {
	context.Context
	asked func()
}

func (c *deadlineHook) Deadline() (time.Time, bool) {
	if c.asked != nil {
		c.asked()
	}
	return c.Context.Deadline()
}

func TestDeadlineWhileWaitingForAStream(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Serve(func(*h2test.Stream) {}, h2test.MaxConcurrentStreams(1))
	ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
	_, err := ch.NewStream(soon(t), bidiDesc, bidiMethod)
	require.NoError(t, err)
	for name, call := range map[string]func(context.Context, grpc.CallOption) error{
		"unary": func(ctx context.Context, o grpc.CallOption) error {
			return ch.Invoke(ctx, unaryMethod, request("x"), new(testpb.SimpleResponse), o)
		},
		"stream": func(ctx context.Context, o grpc.CallOption) error {
			_, err := ch.NewStream(ctx, bidiDesc, bidiMethod, o)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var f finished
			err := call(timeout(t, aWhile), f.option())
			require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, StageQueue, err.(*Error).Stage)
			assert.Regexp(t, `context deadline exceeded after \S+: waited \S+ for a stream: the server allows 1 at a time \(MAX_CONCURRENT_STREAMS of 127\.0\.0\.1:\d+\)$`, err.Error())
			f.require(t, codes.DeadlineExceeded)
		})
	}
}

func TestDoneReceivesWhatTheServerSaid(t *testing.T) {
	load := func(md metadata.MD) any { return strings.Join(md["load"], ",") }
	ch := scripted(t, Config{Hooks: &Hooks{ServerLoad: load}}, func(_ int, s *h2test.Stream) {
		s.SendMessage(replyBytes(t))
		s.SendTrailers(codes.OK, "", "load", "7")
	})
	d := &dones{sc: ch.picker.Load().picker.(fixed).sc}
	ch.SetPicker(d)
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request("x"), new(testpb.SimpleResponse)))
	require.Len(t, d.infos, 1)
	i := d.infos[0]
	assert.NoError(t, i.Err)
	assert.True(t, i.BytesSent)
	assert.True(t, i.BytesReceived)
	assert.Equal(t, []string{"7"}, i.Trailer["load"])
	assert.Equal(t, "7", i.ServerLoad)
}

func TestMethodTimeout(t *testing.T) {
	ch := scripted(t, Config{}, func(int, *h2test.Stream) {})
	c, err := serviceconfig.Parse(`{"methodConfig": [{"name": [{}], "timeout": "0.05s"}]}`)
	require.NoError(t, err)
	ch.SetConfig(c)
	err = ch.Invoke(context.Background(), unaryMethod, request("x"), new(testpb.SimpleResponse))
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
	cs, err := ch.NewStream(context.Background(), bidiDesc, bidiMethod)
	require.NoError(t, err)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(cs.RecvMsg(new(testpb.SimpleResponse))))

	// The caller's deadline counts if it is earlier.
	c, err = serviceconfig.Parse(`{"methodConfig": [{"name": [{}], "timeout": "1000s"}]}`)
	require.NoError(t, err)
	ch.SetConfig(c)
	err = ch.Invoke(timeout(t, aWhile), unaryMethod, request("x"), new(testpb.SimpleResponse))
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
	requireNoneActive(t, ch)
}
