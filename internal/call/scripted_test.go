package call

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
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
