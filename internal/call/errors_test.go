package call

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestSpent(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		spent  Times
		onWire time.Duration
		at     Stage
		want   string
	}{
		{Times{Resolving: 3 * s}, 0, StageResolve, ""},
		{Times{Connecting: 3 * s}, 0, StageConnect, ""},
		{Times{Resolving: s, Connecting: 2 * s}, 0, StageConnect, " (resolving 1s, connecting 2s)"},
		{Times{Connecting: s, Picking: 2 * s}, 0, StagePick, " (connecting 1s, picking 2s)"},
		{Times{}, 3 * s, StageReply, ""},
		{Times{Connecting: s}, 2 * s, StageReply, " (connecting 1s, on the wire 2s)"},
		{Times{Queued: s, allowed: 3}, 2 * s, StageSend, " (waited 1s for a stream: the server allows 3 at a time, on the wire 2s)"},
		{Times{Queued: 3 * s, allowed: 1}, 0, StageQueue, ""},
		{Times{Connecting: s, Queued: 2 * s, allowed: 1}, 0, StageQueue, " (connecting 1s)"},
		{Times{BackingOff: s}, 2 * s, StageReply, " (backing off 1s, on the wire 2s)"},
		{Times{BackingOff: s}, 2 * s, StageBackoff, ""},
		{Times{Resolving: s}, 0, StageCredentials, " (resolving 1s)"},
		{Times{Preparing: s}, 0, StageEncode, ""},
		{Times{Preparing: s}, 2 * s, StageReply, " (preparing the request 1s, on the wire 2s)"},
	} {
		assert.Equal(t, tt.want, tt.spent.spent(tt.onWire, tt.at))
	}
}

// The text of an RPC that waited for a connection until its deadline is made at once: an
// outage ends many so, and each is asked for its code.
func TestTextOfADeadlineTakesOneObject(t *testing.T) {
	e := &Error{
		Stage: StageConnect, Elapsed: 100 * time.Millisecond, Times: Times{Connecting: 100 * time.Millisecond},
		code: codes.DeadlineExceeded, context: context.DeadlineExceeded, ended: context.DeadlineExceeded, reason: shortReason{},
	}
	assert.Equal(t, "context deadline exceeded after 100ms: waiting for a connection: in CONNECTING", e.message(MaxStatusText))
	assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { _ = e.message(MaxStatusText) }), 1.0)
}

type shortReason struct{}

func (shortReason) Err(time.Time, time.Duration) error { return nil }
func (shortReason) Text(error, time.Time, int) string  { return "in CONNECTING" }

func TestTimesLeft(t *testing.T) {
	assert.Equal(t, 4*time.Second, (&Times{Resolving: 1e9, Connecting: 2e9, Picking: 3e9, Preparing: 4e9, Queued: 5e9, BackingOff: 6e9}).left(25*time.Second))
	assert.Zero(t, (&Times{Resolving: 2e9}).left(time.Second))
}

// A deadline that passes says how far the RPC was, and how long it took to get
// there.
func TestDeadlineSaysHowFarTheRequestWas(t *testing.T) {
	ended := func(t *testing.T, err error, at Stage, text string) *Error {
		t.Helper()
		require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, at, e.Stage)
		assert.Regexp(t, text, status.Convert(err).Message())
		return e
	}
	const peer = `127\.0\.0\.1:\d+`
	silent := func(*h2test.Stream) {}

	t.Run("a unary request that the server does not take", func(t *testing.T) {
		srv := h2test.Listen(t)
		srv.Script(func(c *h2test.Conn) {
			c.Handshake(h2test.InitialWindowSize(10))
			c.StopReading()
		})
		ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
		err := ch.Invoke(timeout(t, aWhile), unaryMethod, request(strings.Repeat("x", 1000)), new(testpb.SimpleResponse))
		ended(t, err, StageSend, `^context deadline exceeded after \S+: sending, waiting for `+peer+` to take more$`)
	})
	t.Run("a stream that the server does not take", func(t *testing.T) {
		srv := h2test.Listen(t)
		srv.Script(func(c *h2test.Conn) {
			c.Handshake(h2test.InitialWindowSize(10))
			c.StopReading()
		})
		ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
		cs, err := ch.NewStream(timeout(t, aWhile), bidiDesc, bidiMethod)
		require.NoError(t, err)
		require.Error(t, cs.SendMsg(chunk(1000)))
		ended(t, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)), StageSend, `sending, waiting for `+peer+` to take more$`)
	})
	t.Run("a stream that nobody receives from", func(t *testing.T) {
		srv := h2test.Listen(t)
		srv.Serve(silent)
		ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
		var f finished
		_, err := ch.NewStream(timeout(t, aWhile), bidiDesc, bidiMethod, f.option())
		require.NoError(t, err)
		f.require(t, codes.DeadlineExceeded)
		ended(t, f.errs[0], StageReply, `sent, waiting for `+peer+` to answer$`)
	})
	t.Run("an answer that nobody receives", func(t *testing.T) {
		for _, answer := range []struct {
			code codes.Code
			text string
		}{{codes.OK, `$`}, {codes.Aborted, `: latest failure: script$`}} {
			ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) { s.SendHeaders(); s.SendTrailers(answer.code, "script") })
			var f finished
			ctx := newEndable(t)
			cs, err := ch.NewStream(ctx, bidiDesc, bidiMethod, f.option())
			require.NoError(t, err)
			require.NoError(t, cs.CloseSend())
			a := cs.(*clientStream).current()
			<-a.s.Finished()
			ctx.end(context.DeadlineExceeded)
			f.require(t, codes.DeadlineExceeded)
			ended(t, f.errs[0], StageUnread, `^context deadline exceeded after \S+: the stream to `+peer+` has ended, but was not received to its end`+answer.text)
		}
	})
	t.Run("after a wait for a stream", func(t *testing.T) {
		srv := h2test.Listen(t)
		ctx := newEndable(t)
		srv.Script(func(c *h2test.Conn) {
			c.Handshake(h2test.MaxConcurrentStreams(1))
			c.ExpectHeaders()
			c.ExpectRST(1, http2.ErrCodeCancel)
			c.ExpectUnary()
			c.Ping([8]byte{1}) // its answer leaves when the write of the request has returned
			c.ExpectPingAck([8]byte{1})
			ctx.end(context.DeadlineExceeded)
			c.StopReading()
		})
		ch := ready(t, Config{}, insecureBackend(t, srv.Addr()))
		first, free := context.WithCancel(soon(t))
		_, err := ch.NewStream(first, bidiDesc, bidiMethod)
		require.NoError(t, err)
		go func() {
			for n := 0; n < 2; n, _ = ch.Active() {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(aWhile / 4) // it waits for the stream
			free()
		}()
		err = ch.Invoke(ctx, unaryMethod, request("x"), new(testpb.SimpleResponse))
		e := ended(t, err, StageReply, `sent, waiting for `+peer+` to answer \(waited \S+ for a stream: the server allows 1 at a time, on the wire \S+\)$`)
		assert.Positive(t, e.Queued)
		assert.Less(t, e.Queued, e.Elapsed)
	})
	t.Run("in a second attempt", func(t *testing.T) {
		ch := scripted(t, Config{}, func(n int, s *h2test.Stream) {
			if n == 0 {
				s.SendTrailers(codes.Unavailable, "not now")
			}
		})
		ch.SetConfig(retryConfig(t, quickPolicy, ""))
		err := ch.Invoke(timeout(t, 3*aWhile), unaryMethod, request("x"), new(testpb.SimpleResponse))
		e := ended(t, err, StageReply, `after \S+, in attempt 2: sent, waiting for `+peer+` to answer \(backing off \S+, on the wire \S+\)$`)
		assert.Positive(t, e.BackingOff)
	})
	t.Run("when the server notices first", func(t *testing.T) {
		ch := scripted(t, Config{}, func(_ int, s *h2test.Stream) {
			time.Sleep(aWhile/2 + time.Millisecond)
			s.SendTrailers(codes.DeadlineExceeded, "too late")
		})
		for range 5 { // one of the two is first
			ctx, cancel := context.WithTimeout(context.Background(), aWhile/2)
			err := ch.Invoke(lateContext{ctx}, unaryMethod, request("x"), new(testpb.SimpleResponse))
			cancel()
			ended(t, err, StageReply, `sent, waiting for `+peer+` to answer; the server said: too late$`)
		}
	})
}

// endable is a context that the test ends.
type endable struct {
	context.Context
	done chan struct{}
	err  atomic.Value
}

func newEndable(t testing.TB) *endable {
	return &endable{Context: soon(t), done: make(chan struct{})}
}

func (c *endable) end(err error) {
	c.err.Store(err)
	close(c.done)
}

func (c *endable) Done() <-chan struct{} { return c.done }

func (c *endable) Err() error {
	err, _ := c.err.Load().(error)
	return err
}

// lateContext is a context whose Done channel never closes.
type lateContext struct{ context.Context }

func (lateContext) Done() <-chan struct{} { return nil }
func (lateContext) Err() error            { return nil }
