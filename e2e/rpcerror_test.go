package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

const aWhile = 60 * time.Millisecond

// slowCodec marshals, and compresses, while something else happens.
type slowCodec struct{ meanwhile func() }

func (c slowCodec) Marshal(any) ([]byte, error) { c.meanwhile(); return []byte("x"), nil }
func (slowCodec) Unmarshal([]byte, any) error   { return nil }
func (slowCodec) Name() string                  { return "slow" }
func (slowCodec) Type() string                  { return "slow" }

func (c slowCodec) Do(w io.Writer, p []byte) error {
	c.meanwhile()
	_, err := w.Write(p)
	return err
}

// onRequest serves answer once a request is there.
func onRequest(t *testing.T, answer func(*h2test.Stream), settings ...http2.Setting) *h2test.Server {
	srv := h2test.Listen(t)
	srv.Serve(func(s *h2test.Stream) {
		if s.Ended && !s.Reset {
			answer(s)
		}
	}, settings...)
	return srv
}

// TestRPCError: errors.As finds where an RPC was and what it spent its time on, whatever
// kind it is of.
func TestRPCError(t *testing.T) {
	silent := func(*h2test.Stream) {}
	hang := func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	slowCreds := perRPC{get: func(ctx context.Context, _ ...string) (map[string]string, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	const retries = `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": %q, "maxBackoff": %q, "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
	mute := manual.NewBuilderWithScheme("mute")
	refuse := func(ctx context.Context, addr string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }

	type probe struct {
		target string
		dial   []grpcdial.DialOption
		call   []grpc.CallOption
		first  bool // the channel is READY before the RPC begins
		ends   bool // the RPC's deadline passes
	}
	for _, tt := range []struct {
		name string
		probe
		code     codes.Code
		stage    grpcdial.Stage
		attempts int
		peer     bool
		most     func(*grpcdial.RPCError) time.Duration // what most of the time was spent on
	}{
		{"resolving", probe{target: "mute:///x", dial: []grpcdial.DialOption{grpcdial.WithResolvers(mute)}, ends: true},
			codes.DeadlineExceeded, grpcdial.StageResolve, 0, false, func(e *grpcdial.RPCError) time.Duration { return e.Resolving }},
		{"connecting", probe{target: "passthrough:///x:1", dial: []grpcdial.DialOption{grpcdial.WithContextDialer(hang)}, ends: true},
			codes.DeadlineExceeded, grpcdial.StageConnect, 1, false, func(e *grpcdial.RPCError) time.Duration { return e.Connecting }},
		{"no connection", probe{target: "passthrough:///x:1", dial: []grpcdial.DialOption{grpcdial.WithContextDialer(refuse)}},
			codes.Unavailable, grpcdial.StageConnect, 1, false, nil},
		{"credentials", probe{target: onRequest(t, silent).Addr(), call: []grpc.CallOption{grpc.PerRPCCredentials(slowCreds)}, first: true, ends: true},
			codes.DeadlineExceeded, grpcdial.StageCredentials, 1, true, func(e *grpcdial.RPCError) time.Duration { return e.Preparing }},
		{"waiting for a stream", probe{target: onRequest(t, silent, h2test.MaxConcurrentStreams(0)).Addr(), first: true, ends: true},
			codes.DeadlineExceeded, grpcdial.StageQueue, 1, true, func(e *grpcdial.RPCError) time.Duration { return e.Queued }},
		{"sending", probe{target: onRequest(t, silent, h2test.InitialWindowSize(0)).Addr(), first: true, ends: true},
			codes.DeadlineExceeded, grpcdial.StageSend, 1, true, func(e *grpcdial.RPCError) time.Duration { return e.OnWire }},
		{"sent", probe{target: onRequest(t, silent).Addr(), first: true, ends: true},
			codes.DeadlineExceeded, grpcdial.StageReply, 1, true, func(e *grpcdial.RPCError) time.Duration { return e.OnWire }},
		{"lost", probe{target: onRequest(t, func(s *h2test.Stream) { s.Conn().Close() }).Addr(), first: true},
			codes.Unavailable, grpcdial.StageReply, 1, true, nil},
		{"encoding fails", probe{target: onRequest(t, silent).Addr(), call: []grpc.CallOption{grpc.ForceCodec(badCodec{errOwn, nil})}, first: true},
			codes.Internal, grpcdial.StageEncode, 1, true, nil},
		{"decoding fails", probe{target: onRequest(t, func(s *h2test.Stream) { s.Reply([]byte("\xff")) }).Addr(), first: true},
			codes.Internal, grpcdial.StageDecode, 1, true, nil},
		{"backing off", probe{target: onRequest(t, func(s *h2test.Stream) { s.SendTrailers(codes.Unavailable, "no") }).Addr(), first: true, ends: true,
			dial: []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(fmt.Sprintf(retries, "1000s", "1000s"))}},
			codes.DeadlineExceeded, grpcdial.StageBackoff, 1, false, func(e *grpcdial.RPCError) time.Duration { return e.BackingOff }},
		{"retries used up", probe{target: onRequest(t, func(s *h2test.Stream) { s.SendTrailers(codes.Unavailable, "no") }).Addr(), first: true,
			dial: []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(fmt.Sprintf(retries, "0.03s", "0.03s"))}},
			codes.Unavailable, grpcdial.StageReply, 3, true, func(e *grpcdial.RPCError) time.Duration { return e.BackingOff }},
		{"refused again and again", probe{target: onRequest(t, func(s *h2test.Stream) { s.RST(http2.ErrCodeRefusedStream) }).Addr(), first: true,
			dial: []grpcdial.DialOption{grpcdial.WithDefaultServiceConfig(fmt.Sprintf(retries, "0.03s", "0.03s"))}},
			codes.Unavailable, grpcdial.StageReply, 4, true, func(e *grpcdial.RPCError) time.Duration { return e.BackingOff }},
	} {
		for kind, run := range kindsOfRPC {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				cc := newClient(t, tt.target, append([]grpcdial.DialOption{grpcdial.WithInsecure()}, tt.dial...)...)
				if tt.first {
					require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
				}
				var err error
				var e *grpcdial.RPCError
				var took time.Duration
				// On a busy machine the deadline may pass before the RPC is where it is to be.
				there := func() bool { return e != nil && e.Stage == tt.stage && (tt.most == nil || tt.most(e) >= aWhile/2) }
				for patience := aWhile; patience < 5*time.Second && !there(); patience *= 4 {
					ctx := backendtest.Bounded(t)
					if tt.ends {
						ctx = endsAfter(t, patience)
					}
					begun := time.Now()
					err = run(ctx, cc, tt.call...)
					took = time.Since(begun)
					require.Equal(t, tt.code, status.Code(err), "%v", err)
					require.ErrorAs(t, err, &e)
				}
				assert.Equal(t, tt.stage, e.Stage, "%v", err)
				assert.Equal(t, tt.attempts, e.Attempts)
				assert.Equal(t, tt.peer, e.Peer != "", "%q", e.Peer)
				assert.LessOrEqual(t, e.Elapsed, took)
				if tt.ends {
					assert.GreaterOrEqual(t, e.Elapsed, aWhile/2)
				}
				sum := e.Resolving + e.Connecting + e.Picking + e.Preparing + e.Queued + e.BackingOff + e.OnWire
				assert.LessOrEqual(t, sum, e.Elapsed)
				if tt.most != nil {
					assert.GreaterOrEqual(t, tt.most(e), aWhile/2, "%+v", e)
				}
				assert.Equal(t, err.Error(), e.Error())
				assert.Equal(t, status.Convert(err).Message(), e.GRPCStatus().Message())
				assert.ErrorIs(t, e, status.Convert(err).Err(), "errors.Is with a status error")
				assert.Equal(t, tt.ends, errors.Is(e, context.DeadlineExceeded), "its causes are those of the RPC's error")
			})
		}
	}
}

// An RPC whose context had ended before it began waits for nothing, and its error says so.
func TestContextThatHadEndedBeforeTheRPC(t *testing.T) {
	answers := onRequest(t, func(s *h2test.Stream) { s.Reply(nil) })
	ready := newClient(t, answers.Addr(), grpcdial.WithInsecure())
	require.NoError(t, ready.AwaitReady(backendtest.Bounded(t)))
	// The first RPC of a channel, which has no result of its resolver, waits for none either.
	unresolved := newClient(t, "silent:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(manual.NewBuilderWithScheme("silent")))
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	past, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Hour))
	defer cancel()
	for _, cc := range []*grpcdial.ClientConn{ready, unresolved} {
		for kind, run := range kindsOfRPC {
			for ctx, code := range map[context.Context]codes.Code{cancelled: codes.Canceled, past: codes.DeadlineExceeded} {
				err := run(ctx, cc)
				require.Equal(t, code, status.Code(err), kind)
				assert.ErrorIs(t, err, ctx.Err())
				var e *grpcdial.RPCError
				require.ErrorAs(t, err, &e)
				assert.Equal(t, grpcdial.StageBegin, e.Stage)
				assert.Zero(t, e.Attempts)
				assert.ErrorContains(t, err, "had ended before the RPC began")
			}
		}
	}
}

// What says no more than a status has none.
func TestNoRPCError(t *testing.T) {
	answers := onRequest(t, func(s *h2test.Stream) { s.SendTrailers(codes.NotFound, "no") })
	cc := newClient(t, answers.Addr(), grpcdial.WithInsecure())
	var e *grpcdial.RPCError
	for kind, run := range kindsOfRPC {
		err := run(backendtest.Bounded(t), cc)
		assert.Equal(t, codes.NotFound, status.Code(err))
		assert.NotErrorAs(t, err, &e, kind)
	}
	require.NoError(t, cc.Close())
	assert.NotErrorAs(t, kindsOfRPC["unary"](backendtest.Bounded(t), cc), &e)

	e = new(grpcdial.RPCError) // a program's own
	assert.NotEmpty(t, e.Error())
	assert.Equal(t, codes.Unknown, status.Code(e))
	assert.NoError(t, errors.Unwrap(e))
}

// A deadline that passes while a request is being encoded is not said to have passed
// while the server was at work.
func TestDeadlineWhileEncoding(t *testing.T) {
	var sent atomic.Bool
	srv := h2test.Listen(t)
	srv.Serve(func(s *h2test.Stream) {
		if s.Frame.Data != nil {
			sent.Store(true)
		}
	})
	for what, option := range map[string]func(slowCodec) grpcdial.DialOption{
		"codec":      func(c slowCodec) grpcdial.DialOption { return grpcdial.WithDefaultCallOptions(grpc.ForceCodec(c)) },
		"compressor": func(c slowCodec) grpcdial.DialOption { return grpcdial.WithCompressor(c) },
	} {
		for kind, run := range kindsOfRPC {
			t.Run(what+"/"+kind, func(t *testing.T) {
				ctx, finished := newEndable(context.Background()), make(chan struct{})
				cc := newClient(t, srv.Addr(), grpcdial.WithInsecure(), option(slowCodec{func() {
					if ctx.end(context.DeadlineExceeded); kind == "unary" {
						time.Sleep(time.Millisecond)
					} else {
						<-finished
					}
				}}))
				require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
				err := run(ctx, cc, grpc.OnFinish(func(error) { close(finished) }))
				require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
				var e *grpcdial.RPCError
				require.ErrorAs(t, err, &e)
				assert.Equal(t, grpcdial.StageEncode, e.Stage)
				assert.Regexp(t, `^context deadline exceeded after \S+: encoding the request$`, status.Convert(err).Message())
				if kind == "unary" {
					assert.GreaterOrEqual(t, e.Preparing, time.Millisecond)
					assert.Zero(t, e.OnWire)
				}
			})
		}
	}
	assert.False(t, sent.Load(), "a message was sent")
}

// An RPC that the server refuses when its deadline has passed ends with that, though
// neither its context nor a timer has noticed yet.
func TestRefusedAfterTheDeadline(t *testing.T) {
	for name, refuse := range map[string]func(*h2test.Stream){
		"REFUSED_STREAM": func(s *h2test.Stream) { s.RST(http2.ErrCodeRefusedStream) },
		"GOAWAY":         func(s *h2test.Stream) { s.Conn().GoAway(0, http2.ErrCodeNo, "") },
	} {
		for kind, run := range kindsOfRPC {
			for _, attempts := range []int32{1, 2} { // that are made before it passes; no other follows the second
				t.Run(fmt.Sprintf("%s/%s/%d", name, kind, attempts), func(t *testing.T) {
					ctx := &unnoticed{Context: context.Background(), deadline: time.Now().Add(time.Hour)}
					var made atomic.Int32
					srv := onRequest(t, func(s *h2test.Stream) {
						if made.Add(1) == attempts {
							ctx.passes()
						}
						refuse(s)
					})
					cc := newClient(t, srv.Addr(), grpcdial.WithInsecure())
					require.NoError(t, cc.AwaitReady(backendtest.Bounded(t)))
					err := run(ctx, cc)
					assert.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
					assert.ErrorIs(t, err, context.DeadlineExceeded)
					var e *grpcdial.RPCError
					require.ErrorAs(t, err, &e)
					assert.EqualValues(t, attempts, e.Attempts)
					assert.Equal(t, attempts, made.Load())
				})
			}
		}
	}
}

// unnoticed is a context whose deadline passes without being noticed.
type unnoticed struct {
	context.Context
	mu       sync.Mutex
	deadline time.Time // guarded by mu
}

func (c *unnoticed) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline, true
}

func (c *unnoticed) passes() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = time.Now()
}
