package call

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	"google.golang.org/protobuf/proto"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// scripted is a channel to a server that calls answer with the number of the
// attempt, from 0, once it has the whole request.
func scripted(t testing.TB, cfg Config, answer func(n int, s *h2test.Stream)) *Channel {
	t.Helper()
	srv := h2test.Listen(t)
	n := 0
	srv.Serve(func(s *h2test.Stream) {
		if s.Ended && !s.Reset {
			answer(n, s)
			n++
		}
	})
	return ready(t, cfg, insecureBackend(t, srv.Addr()))
}

func replyBytes(t testing.TB) []byte {
	t.Helper()
	b, err := proto.Marshal(&testpb.SimpleResponse{Username: "you"})
	require.NoError(t, err)
	return b
}

func retryConfig(t testing.TB, policy, rest string) *serviceconfig.Config {
	t.Helper()
	c, err := serviceconfig.Parse(`{"methodConfig": [{"name": [{}], "retryPolicy": {` + policy + `}}]` + rest + `}`)
	require.NoError(t, err)
	return c
}

const quickPolicy = `"maxAttempts": 4, "initialBackoff": "0.001s", "maxBackoff": "0.002s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]`

// dones counts the picker's Done.
type dones struct {
	sc    balancer.SubConn
	infos []balancer.DoneInfo
}

func (d *dones) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{SubConn: d.sc, Done: func(i balancer.DoneInfo) { d.infos = append(d.infos, i) }}, nil
}

func TestRetries(t *testing.T) {
	unavailable := func(s *h2test.Stream, extra ...string) { s.SendTrailers(codes.Unavailable, "not now", extra...) }
	tests := []struct {
		name     string
		config   string // "" for none
		cfg      Config
		opts     []grpc.CallOption
		answer   func(n int, s *h2test.Stream)
		code     codes.Code
		message  string
		previous []string // grpc-previous-rpc-attempts of the attempts
		dones    []codes.Code
	}{
		{
			name: "no policy", answer: func(_ int, s *h2test.Stream) { unavailable(s) },
			code: codes.Unavailable, message: "not now", previous: []string{""}, dones: []codes.Code{codes.Unavailable},
		},
		{
			name: "third time lucky", config: quickPolicy,
			answer: func(n int, s *h2test.Stream) {
				if n < 2 {
					unavailable(s)
				} else {
					s.Reply(replyBytes(t))
				}
			},
			previous: []string{"", "1", "2"}, dones: []codes.Code{codes.Unavailable, codes.Unavailable, codes.OK},
		},
		{
			name: "attempts used up", config: quickPolicy, answer: func(_ int, s *h2test.Stream) { unavailable(s) },
			code: codes.Unavailable, message: "failed after 4 attempts: not now", previous: []string{"", "1", "2", "3"},
			dones: []codes.Code{codes.Unavailable, codes.Unavailable, codes.Unavailable, codes.Unavailable},
		},
		{
			name: "the channel's bound", config: quickPolicy, cfg: Config{MaxAttempts: 2}, answer: func(_ int, s *h2test.Stream) { unavailable(s) },
			code: codes.Unavailable, message: "failed after 2 attempts: not now", previous: []string{"", "1"}, dones: []codes.Code{codes.Unavailable, codes.Unavailable},
		},
		{
			name: "disabled", config: quickPolicy, cfg: Config{DisableRetry: true}, answer: func(_ int, s *h2test.Stream) { unavailable(s) },
			code: codes.Unavailable, message: "not now", previous: []string{""}, dones: []codes.Code{codes.Unavailable},
		},
		{
			name: "another code", config: quickPolicy, answer: func(_ int, s *h2test.Stream) { s.SendTrailers(codes.Internal, "oh") },
			code: codes.Internal, message: "oh", previous: []string{""}, dones: []codes.Code{codes.Internal},
		},
		{
			name: "headers commit", config: quickPolicy,
			answer: func(_ int, s *h2test.Stream) { s.SendHeaders(); unavailable(s) },
			code:   codes.Unavailable, message: "not now", previous: []string{""}, dones: []codes.Code{codes.Unavailable},
		},
		{
			name: "pushback", config: strings.Replace(quickPolicy, "0.001s", "1000s", 1),
			answer: func(n int, s *h2test.Stream) {
				if n == 0 {
					unavailable(s, "grpc-retry-pushback-ms", "2")
				} else {
					s.Reply(replyBytes(t))
				}
			},
			previous: []string{"", "1"}, dones: []codes.Code{codes.Unavailable, codes.OK},
		},
		{
			name: "pushback says stop", config: quickPolicy, answer: func(_ int, s *h2test.Stream) { unavailable(s, "grpc-retry-pushback-ms", "-1") },
			code: codes.Unavailable, message: "not now", previous: []string{""}, dones: []codes.Code{codes.Unavailable},
		},
		{
			name: "refused once", answer: func(n int, s *h2test.Stream) {
				if n == 0 {
					s.RST(http2.ErrCodeRefusedStream)
				} else {
					s.Reply(replyBytes(t))
				}
			},
			previous: []string{"", ""}, dones: []codes.Code{codes.Unavailable, codes.OK},
		},
		{
			name: "refused once, retries disabled", cfg: Config{DisableRetry: true}, answer: func(n int, s *h2test.Stream) {
				if n == 0 {
					s.RST(http2.ErrCodeRefusedStream)
				} else {
					s.Reply(replyBytes(t))
				}
			},
			previous: []string{"", ""}, dones: []codes.Code{codes.Unavailable, codes.OK},
		},
		{
			name: "refused twice", answer: func(n int, s *h2test.Stream) { s.RST(http2.ErrCodeRefusedStream) },
			code: codes.Unavailable, previous: []string{"", ""}, dones: []codes.Code{codes.Unavailable, codes.Unavailable},
		},
		{
			name: "refused, then by policy", config: quickPolicy, answer: func(n int, s *h2test.Stream) {
				if n < 3 {
					s.RST(http2.ErrCodeRefusedStream)
				} else {
					s.Reply(replyBytes(t))
				}
			},
			previous: []string{"", "", "1", "2"}, dones: []codes.Code{codes.Unavailable, codes.Unavailable, codes.Unavailable, codes.OK},
		},
	}
	// All RPCs have one request and one reply, so that one table serves the kinds of calls.
	kinds := map[string]func(*Channel, context.Context, ...grpc.CallOption) error{
		"unary": func(ch *Channel, ctx context.Context, opts ...grpc.CallOption) error {
			return ch.Invoke(ctx, unaryMethod, request("x"), new(testpb.SimpleResponse), opts...)
		},
		"stream": func(ch *Channel, ctx context.Context, opts ...grpc.CallOption) error {
			cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod, opts...)
			if err != nil {
				return err
			}
			if err := cs.SendMsg(request("x")); err != nil {
				return err
			}
			if err := cs.CloseSend(); err != nil {
				return err
			}
			if err := cs.RecvMsg(new(testpb.SimpleResponse)); err != nil {
				return err
			}
			if err := cs.RecvMsg(new(testpb.SimpleResponse)); err != io.EOF {
				return fmt.Errorf("want io.EOF, got %v", err)
			}
			return nil
		},
		"unary through NewStream, headers first": func(ch *Channel, ctx context.Context, opts ...grpc.CallOption) error {
			cs, err := ch.NewStream(ctx, unaryDesc, unaryMethod, opts...)
			if err != nil {
				return err
			}
			if err := cs.SendMsg(request("x")); err != nil {
				return err
			}
			if _, err := cs.Header(); err != nil {
				return err
			}
			return cs.RecvMsg(new(testpb.SimpleResponse))
		},
	}
	for kind, call := range kinds {
		for _, tt := range tests {
			t.Run(kind+"/"+tt.name, func(t *testing.T) {
				var previous []string
				ch := scripted(t, tt.cfg, func(n int, s *h2test.Stream) {
					previous = append(previous, s.Headers.Field("grpc-previous-rpc-attempts"))
					for _, m := range s.Take() {
						assert.Equal(t, "\x1a\x03\x12\x01x", string(m.Payload), "every attempt sends the message")
					}
					tt.answer(n, s)
				})
				if tt.config != "" {
					ch.SetConfig(retryConfig(t, tt.config, ""))
				}
				d := &dones{sc: ch.picker.Load().picker.(fixed).sc}
				ch.SetPicker(d)
				var f finished
				err := call(ch, soon(t), append(tt.opts, f.option())...)
				require.Equal(t, tt.code, status.Code(err), "%v", err)
				if tt.message != "" {
					assert.Equal(t, tt.message, status.Convert(err).Message())
				}
				assert.Equal(t, tt.previous, previous)
				f.require(t, tt.code)
				var got []codes.Code
				for _, i := range d.infos {
					got = append(got, status.Code(i.Err))
					assert.True(t, i.BytesSent)
				}
				assert.Equal(t, tt.dones, got)
				requireNoneActive(t, ch)
			})
		}
	}
}

func TestRetryThrottling(t *testing.T) {
	attempts := 0
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
		attempts++
		s.SendTrailers(codes.Unavailable, "not now")
	})
	const throttling = `, "retryThrottling": {"maxTokens": 4, "tokenRatio": 0.1}`
	ch.SetConfig(retryConfig(t, quickPolicy, throttling))
	err := ch.Invoke(soon(t), unaryMethod, request("x"), new(testpb.SimpleResponse))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Equal(t, "not now", status.Convert(err).Message())
	assert.Equal(t, 2, attempts, "the second failure takes the tokens to a half")

	ch.SetConfig(retryConfig(t, quickPolicy, throttling)) // the tokens stay
	_ = ch.Invoke(soon(t), unaryMethod, request("x"), new(testpb.SimpleResponse))
	assert.Equal(t, 3, attempts)

	ch.SetConfig(retryConfig(t, quickPolicy, `, "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1}`))
	_ = ch.Invoke(soon(t), unaryMethod, request("x"), new(testpb.SimpleResponse))
	assert.Equal(t, 7, attempts, "a new throttle")
}

// TestStreamReplay breaks a stream of many messages, of which some were sent
// before, some after the loss was noticed.
func TestStreamReplay(t *testing.T) {
	var got [][]string // what each attempt received
	ch := New(Config{})
	srv := h2test.Listen(t)
	srv.Serve(func(s *h2test.Stream) {
		if s.Reset {
			return
		}
		if s.Value == nil {
			got = append(got, nil)
			s.Value = len(got)
		}
		n := s.Value.(int)
		for _, m := range s.Take() {
			p := new(testpb.SimpleRequest)
			assert.NoError(t, proto.Unmarshal(m.Payload, p))
			got[n-1] = append(got[n-1], string(p.Payload.Body[:2]))
			if n <= 2 && len(got[n-1]) == 3*n {
				s.SendTrailers(codes.Unavailable, "not now")
				return
			}
		}
		if s.Ended {
			s.Reply(replyBytes(t))
		}
	})
	ch.SetPicker(fixed{insecureBackend(t, srv.Addr())})
	ch.SetResolved(true)
	ch.SetConfig(retryConfig(t, quickPolicy, ""))
	cs, err := ch.NewStream(soon(t), clientDesc, clientMethod)
	require.NoError(t, err)
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("%02d", i))
		body := want[i] + strings.Repeat("x", i*500)
		require.NoError(t, cs.SendMsg(request(body)))
	}
	require.NoError(t, cs.CloseSend())
	require.NoError(t, cs.RecvMsg(new(testpb.SimpleResponse)))
	require.Len(t, got, 3)
	assert.Equal(t, want[:3], got[0])
	assert.Equal(t, want[:6], got[1])
	assert.Equal(t, want, got[2])
	requireNoneActive(t, ch)
}

func TestRetryBufferLimitCommits(t *testing.T) {
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) { s.SendTrailers(codes.Unavailable, "not now") })
	ch.SetConfig(retryConfig(t, quickPolicy, ""))
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, grpc.MaxRetryRPCBufferSize(1000))
	require.NoError(t, err)
	require.NoError(t, cs.SendMsg(request(strings.Repeat("x", 500))))
	require.False(t, cs.(*clientStream).isCommitted())
	require.NoError(t, cs.SendMsg(request(strings.Repeat("x", 500))))
	require.True(t, cs.(*clientStream).isCommitted())
	require.NoError(t, cs.CloseSend())
	err = cs.RecvMsg(new(testpb.SimpleResponse))
	assert.Equal(t, "not now", status.Convert(err).Message(), "one attempt")
}

// TestRetryBufferLimitOfUnaryRPCs: a request that is too large to be kept is not
// sent again by policy. It is there all the same, so what no server has processed
// goes again.
func TestRetryBufferLimitOfUnaryRPCs(t *testing.T) {
	attempts, refuse := 0, 0
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
		if attempts++; attempts <= refuse {
			s.RST(http2.ErrCodeRefusedStream)
			return
		}
		s.SendTrailers(codes.Unavailable, "not now")
	})
	ch.SetConfig(retryConfig(t, quickPolicy, ""))
	invoke := func(size int) string {
		attempts = 0
		err := ch.Invoke(soon(t), unaryMethod, request(strings.Repeat("x", size)), new(testpb.SimpleResponse), grpc.MaxRetryRPCBufferSize(1000))
		return status.Convert(err).Message()
	}
	assert.Equal(t, "failed after 4 attempts: not now", invoke(500))
	assert.Equal(t, "not now", invoke(1000))
	assert.Equal(t, 1, attempts)
	refuse = 1
	assert.Equal(t, "not now", invoke(1000))
	assert.Equal(t, 2, attempts)
}

func TestContextCommits(t *testing.T) {
	ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) { s.SendTrailers(codes.Unavailable, "not now") })
	ch.SetConfig(retryConfig(t, quickPolicy, ""))
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod)
	require.NoError(t, err)
	cs.Context()
	require.NoError(t, cs.CloseSend())
	assert.Equal(t, "not now", status.Convert(cs.RecvMsg(new(testpb.SimpleResponse))).Message(), "one attempt")
}

func TestEndDuringBackoff(t *testing.T) {
	const slow = `"maxAttempts": 4, "initialBackoff": "1000s", "maxBackoff": "1000s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]`
	begin := func(t *testing.T) (*Channel, chan struct{}) {
		failed := make(chan struct{}, 10)
		ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
			s.SendTrailers(codes.Unavailable, "not now")
			failed <- struct{}{}
		})
		ch.SetConfig(retryConfig(t, slow, ""))
		return ch, failed
	}
	t.Run("unary, deadline", func(t *testing.T) {
		ch, _ := begin(t)
		err := ch.Invoke(timeout(t, 50*time.Millisecond), unaryMethod, request("x"), new(testpb.SimpleResponse))
		require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		assert.Equal(t, PhaseBackoff, err.(*Error).Phase)
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
				ctx = timeout(t, 50*time.Millisecond)
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
			}
			assert.Equal(t, want, status.Code(err), "%v", err)
			f.require(t, want)
			requireNoneActive(t, ch)
			cancel()
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
	require.Eventually(t, func() bool { n, _ := ch.Active(); return n == 3 }, 10*time.Second, time.Millisecond)
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

// TestCloseWhileAnotherAttemptIsMade: whoever makes it ends it.
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
	ctx.asked = ch.Close // whether it was the RPC's own deadline is asked in order to decide
	require.ErrorIs(t, cs.RecvMsg(new(testpb.SimpleResponse)), grpc.ErrClientConnClosing)
	assert.NotNil(t, p.Addr)
	assert.Equal(t, []string{"1"}, trailer["t"])
	f.require(t, codes.Canceled)
	requireNoneActive(t, ch)
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
			err := call(timeout(t, 30*time.Millisecond), f.option())
			require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, PhaseSlot, err.(*Error).Phase)
			assert.Regexp(t, `waiting for 127\.0\.0\.1:\d+ to allow another stream \(MAX_CONCURRENT_STREAMS\)$`, err.Error())
			f.require(t, codes.DeadlineExceeded)
		})
	}
}

func TestDoneIsToldWhatTheServerSaid(t *testing.T) {
	load := func(md metadata.MD) any { return strings.Join(md["load"], ",") }
	ch := scripted(t, Config{ServerLoad: load}, func(_ int, s *h2test.Stream) {
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
	err = ch.Invoke(timeout(t, 20*time.Millisecond), unaryMethod, request("x"), new(testpb.SimpleResponse))
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
	requireNoneActive(t, ch)
}
