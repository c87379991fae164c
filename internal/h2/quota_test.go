package h2_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// Without SETTINGS_MAX_CONCURRENT_STREAMS there is no limit.
func TestStreamsUnlimited(t *testing.T) {
	c, server := peered(t, h2.Config{})
	var results []<-chan result
	for range 300 {
		results = append(results, c.call(context.Background(), "/test/Hang", "x"))
		server.ExpectUnary()
	}
	require.Equal(t, 300, c.Streams())
	for i := range results {
		server.ReplyUnary(uint32(2*i+1), nil)
	}
	for _, res := range results {
		require.Nil(t, await(t, res, "a call").failure())
	}
	require.Zero(t, c.Streams())
}

// MAX_CONCURRENT_STREAMS may be lowered below what runs. Waiters are served in order; one
// that gives up leaves the line.
func TestMaxConcurrentStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.MaxConcurrentStreams(3))
		results := map[string]<-chan result{}
		start := func(ctx context.Context, method string) {
			results[method] = c.call(ctx, method, "x")
			synctest.Wait()
		}
		reply := func(id uint32, method string) {
			server.ReplyUnary(id, nil)
			require.Nil(t, (<-results[method]).failure())
		}
		for i := range 3 {
			start(context.Background(), fmt.Sprintf("/run/%d", i))
			server.ExpectUnary()
		}
		server.Settings(h2test.MaxConcurrentStreams(1))
		server.ExpectSettingsAck()
		ctx, cancel := context.WithCancel(context.Background())
		short, cancelShort := context.WithTimeout(context.Background(), time.Second)
		defer cancelShort()
		start(ctx, "/wait/0")
		start(context.Background(), "/wait/1")
		start(short, "/wait/2")
		opened := make(chan *h2.Stream, 1)
		go func() {
			s, err := c.Open(context.Background(), req("/wait/3"))
			if err != nil {
				t.Error(err)
			}
			opened <- s
		}()
		synctest.Wait()
		start(context.Background(), "/wait/4")
		server.ExpectSilence(500 * time.Millisecond)

		reply(1, "/run/0")
		reply(3, "/run/1")
		server.ExpectSilence(100 * time.Millisecond)
		cancel()
		r := <-results["/wait/0"]
		require.Error(t, r.refused)
		require.Equal(t, codes.Canceled, r.failure().Status.Code())
		require.True(t, r.failure().Unsent)
		require.True(t, r.failure().Local)

		reply(5, "/run/2")
		h, _ := server.ExpectUnary()
		require.Equal(t, "/wait/1", h.Field(":path"))
		server.ExpectSilence(time.Second)
		r = <-results["/wait/2"]
		require.Equal(t, codes.DeadlineExceeded, r.failure().Status.Code())
		require.True(t, r.failure().Unsent)

		reply(h.StreamID, "/wait/1")
		h = server.ExpectHeaders()
		require.Equal(t, "/wait/3", h.Field(":path"))
		server.ExpectSilence(time.Second)
		(<-opened).Cancel(nil)
		server.ExpectRST(h.StreamID, http2.ErrCodeCancel)
		h, _ = server.ExpectUnary()
		require.Equal(t, "/wait/4", h.Field(":path"))
		reply(h.StreamID, "/wait/4")

		// None at all, and then some.
		server.Settings(h2test.MaxConcurrentStreams(0))
		server.ExpectSettingsAck()
		start(context.Background(), "/late/0")
		start(context.Background(), "/late/1")
		start(context.Background(), "/late/2")
		server.ExpectSilence(time.Hour)
		server.Settings(h2test.MaxConcurrentStreams(2))
		server.ExpectSettingsAck()
		// The two get their places at once; which is on the wire first is open.
		first, _ := server.ExpectUnary()
		second, _ := server.ExpectUnary()
		require.ElementsMatch(t, []string{"/late/0", "/late/1"}, []string{first.Field(":path"), second.Field(":path")})
		server.ExpectSilence(time.Hour)
		reply(second.StreamID, second.Field(":path"))
		h, _ = server.ExpectUnary()
		reply(h.StreamID, "/late/2")
		reply(first.StreamID, first.Field(":path"))
		alive(t, c, server)
	})
}

// One slot, many callers, some of which give up: no slot is lost, and the server never
// sees two at once (it holds the client to that).
func TestSlotsUnderCancellation(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			c, server := p.connect(t, h2.Config{}, h2test.MaxConcurrentStreams(2))
			server.Go(func(server *h2test.Conn) { server.Loop(h2test.Echo) })
			var wg sync.WaitGroup
			for g := range 16 {
				wg.Go(func() {
					for i := range 60 {
						ctx, cancel := context.WithCancel(context.Background())
						switch (g + i) % 3 {
						case 0:
							go cancel()
						case 1:
							ctx, cancel = context.WithTimeout(ctx, time.Duration(i)*10*time.Microsecond)
						}
						r := c.unary(ctx, req("/test/Echo"), "x")
						if e := r.failure(); e != nil && e.Status.Code() != codes.Canceled && e.Status.Code() != codes.DeadlineExceeded {
							t.Errorf("call %d/%d: %v", g, i, e)
						}
						cancel()
					}
				})
			}
			wg.Wait()
			require.Zero(t, c.Streams())
			for range 5 {
				r := c.unary(context.Background(), req("/test/Echo"), "y")
				require.Nil(t, r.failure())
				require.Equal(t, "y", r.reply)
			}
		})
	}
}

// RPCs that are cancelled one after the other, as those of a cancelled parent are: the
// slot of one that ran is lent to one that waits, whose context ends before it takes the
// slot. A server must not see that begin and be reset at once; some count it as abuse.
func TestCancelStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.MaxConcurrentStreams(1))
		parent, cancel := context.WithCancel(context.Background())
		running := c.call(parent, "/test/Run", "x")
		server.ExpectUnary()
		ended := &endedMeanwhile{Context: context.Background()}
		var waiting []<-chan result
		for range 100 {
			waiting = append(waiting, c.call(ended, "/test/Wait", "x"))
		}
		synctest.Wait()
		ended.err.Store(true)
		cancel()
		require.Equal(t, codes.Canceled, (<-running).failure().Status.Code())
		for _, r := range waiting {
			e := (<-r).failure()
			require.Equal(t, codes.Canceled, e.Status.Code())
			require.True(t, e.Unsent)
			require.Equal(t, h2.StageSlot, e.Stage)
		}
		server.ExpectRST(1, http2.ErrCodeCancel)
		server.ExpectSilence(time.Second)
		next := c.call(context.Background(), "/test/Next", "x")
		h, _ := server.ExpectUnary()
		require.Equal(t, "/test/Next", h.Field(":path"))
		server.ReplyUnary(h.StreamID, nil)
		require.Nil(t, (<-next).failure())
	})
}

// endedMeanwhile is a context that has ended although its Done channel never closes.
type endedMeanwhile struct {
	context.Context
	err atomic.Bool
}

func (*endedMeanwhile) Done() <-chan struct{} { return make(chan struct{}) }

func (c *endedMeanwhile) Err() error {
	if c.err.Load() {
		return context.Canceled
	}
	return nil
}

// Senders that wait for the connection's window and give up leave it to the others.
func TestWindowUnderCancellation(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			c, server := p.connect(t, h2.Config{}, h2test.InitialWindowSize(20000))
			server.Go(func(server *h2test.Conn) {
				server.Loop(func(s *h2test.Stream) {
					s.Take()
					if s.Ended {
						s.SendTrailers(codes.OK, "")
					}
				})
			})
			var wg sync.WaitGroup
			big := string(make([]byte, 100000))
			for g := range 8 {
				wg.Go(func() {
					for i := range 12 {
						ctx, cancel := context.WithCancel(context.Background())
						if (g+i)%2 == 0 {
							time.AfterFunc(time.Duration(i*200)*time.Microsecond, cancel)
						}
						r := c.unary(ctx, req("/test/Big"), big)
						if e := r.failure(); e != nil && e.Status.Code() != codes.Canceled {
							t.Errorf("call %d/%d: %v", g, i, e)
						}
						cancel()
					}
				})
			}
			wg.Wait()
			require.Zero(t, c.Streams())
			s, err := c.Open(context.Background(), req("/test/Big"))
			require.NoError(t, err)
			require.NoError(t, s.Send(h2test.PutMessage(false, make([]byte, 1<<20)), true), "nothing of the connection's window is lost")
			_, err = s.Recv()
			require.Equal(t, io.EOF, err)
		})
	}
}

// How long an RPC waited for a slot is not reported of another, though the same object
// may serve it.
func TestQueuedIsTheRPCsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.MaxConcurrentStreams(1), http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 1000})
		begin := func(r *h2.Request) <-chan *h2.Stream {
			got := make(chan *h2.Stream, 1)
			go func() {
				s, _ := c.Unary(context.Background(), r, nil)
				got <- s
			}()
			synctest.Wait()
			return got
		}
		first := begin(req("/test/First"))
		server.ExpectHeaders()
		large := req("/test/Large")
		large.Extra = []string{"k", strings.Repeat("v", 1000)}
		waits := begin(large)
		time.Sleep(time.Minute)
		server.ReplyUnary(1, nil)
		requireQueued(t, <-first, 0, 0)
		require.Nil(t, <-waits, "its headers are larger than the server takes")
		last := begin(req("/test/Last"))
		server.ExpectHeaders()
		queued := begin(req("/test/Queued"))
		time.Sleep(time.Minute)
		server.ReplyUnary(3, nil)
		requireQueued(t, <-last, 0, 0)
		server.ExpectHeaders()
		server.ReplyUnary(5, nil)
		requireQueued(t, <-queued, time.Minute, 1)
	})
}

func requireQueued(t *testing.T, s *h2.Stream, want time.Duration, allowed uint32) {
	t.Helper()
	waited, n := s.Queued()
	require.Equal(t, want, waited)
	require.Equal(t, allowed, n)
}

// An RPC that ends without a stream says what it waited for.
func TestStageWithoutAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.MaxConcurrentStreams(1))
		late, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		running := c.call(context.Background(), "/test/Run", "x")
		server.ExpectUnary()
		e := c.unary(late, req("/test/Waits"), "x").failure()
		require.Equal(t, h2.StageSlot, e.Stage)
		require.Equal(t, time.Minute, e.Queued)
		require.EqualValues(t, 1, e.Allowed)
		server.ReplyUnary(1, nil)
		require.Nil(t, (<-running).failure())
		for _, ended := range []context.Context{late, unnoticed{late}} {
			e = c.unary(ended, req("/test/Late"), "x").failure()
			require.Equal(t, codes.DeadlineExceeded, e.Status.Code())
			require.True(t, e.Unsent)
			require.Equal(t, h2.StageUnopened, e.Stage, "it did not wait for anything here")
			require.Zero(t, e.Queued)
		}
	})
}

// A deadline that passes while an RPC waits for a slot, which the RPC gets before its context
// has ended: the error says how long it waited. Many RPCs come to this on a server that allows
// few streams.
func TestDeadlineWithTheSlot(t *testing.T) {
	for name, q := range map[string]*h2.SlotQueue{"of the connection": nil, "of any connection": h2.NewSlotQueue(func() {})} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, server := peered(t, h2.Config{}, h2test.MaxConcurrentStreams(1))
				if q != nil {
					q.Join(c.Conn)
				}
				running := c.call(context.Background(), "/test/Run", "x")
				server.ExpectUnary()
				late, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				waiting := c.call(unended{late}, "/test/Waits", "x")
				time.Sleep(time.Minute)
				server.ReplyUnary(1, nil)
				require.Nil(t, (<-running).failure())
				e := (<-waiting).failure()
				require.Equal(t, codes.DeadlineExceeded, e.Status.Code())
				require.True(t, e.Unsent)
				require.Equal(t, h2.StageSlot, e.Stage)
				require.Equal(t, time.Minute, e.Queued)
				require.EqualValues(t, 1, e.Allowed)
			})
		})
	}
}

// unended is a context whose deadline passes without ending it, as happens for a moment on
// a busy machine.
type unended struct{ context.Context }

func (unended) Done() <-chan struct{} { return nil }
func (unended) Err() error            { return nil }

// unnoticed is a context whose deadline has passed, which it has not noticed.
type unnoticed struct{ context.Context }

func (unnoticed) Err() error { return nil }
