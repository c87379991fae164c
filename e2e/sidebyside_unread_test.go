package e2e_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestUnreadSideBySide: what a program still receives that had come before the end.
// The client has all that the server sends before the program receives anything, and
// in most rows the RPC has ended by then for another reason as well.
func TestUnreadSideBySide(t *testing.T) {
	// How the server goes on after its messages.
	answers := map[string]func(s *h2test.Stream){
		"OK":            func(s *h2test.Stream) { s.SendTrailers(codes.OK, "", "t", "1") },
		"a status":      func(s *h2test.Stream) { s.SendTrailers(codes.Aborted, "script: no", "t", "1") },
		"nothing":       func(*h2test.Stream) {},
		"RST_STREAM":    func(s *h2test.Stream) { s.RST(http2.ErrCodeInternal) },
		"no trailers":   func(s *h2test.Stream) { s.Conn().Data(s.ID, true, nil) },
		"a large one":   func(s *h2test.Stream) { s.SendMessage(make([]byte, 200)) },
		"a bad flag":    func(s *h2test.Stream) { s.Conn().Data(s.ID, false, []byte{7, 0, 0, 0, 0}) },
		"part of one":   func(s *h2test.Stream) { s.Conn().Data(s.ID, false, []byte{0, 0, 0, 0, 9, 1}) },
		"a part and OK": func(s *h2test.Stream) { s.Conn().Data(s.ID, false, []byte{0, 0}); s.SendTrailers(codes.OK, "") },
		"a bad header":  func(s *h2test.Stream) { s.Conn().Headers(s.ID, true, "grpc-status", "0", "X-Upper", "x") },
		"HEADERS":       func(s *h2test.Stream) { s.Conn().Headers(s.ID, false, "grpc-status", "0") },
		"a bad update":  func(s *h2test.Stream) { s.Conn().WindowUpdate(s.ID, 0) },
	}
	// What else ends the RPC before the program receives.
	ends := map[string]func(st *stage, ctx *endable, cs grpc.ClientStream){
		"deadline": func(_ *stage, ctx *endable, _ grpc.ClientStream) { ctx.end(context.DeadlineExceeded) },
		"cancel":   func(_ *stage, ctx *endable, _ grpc.ClientStream) { ctx.end(context.Canceled) },
		"Close":    func(st *stage, _ *endable, _ grpc.ClientStream) { _ = st.close() },
		"SendMsg": func(st *stage, _ *endable, cs grpc.ClientStream) {
			st.note("SendMsg after CloseSend: %s", shown(cs.SendMsg(wrapperspb.String("late"))))
		},
		"nothing": nil,
	}
	var scenarios []scenario
	for answer, goOn := range answers {
		for end, stop := range ends {
			for _, kind := range []string{"bidi", "client"} {
				if answer == "nothing" && end == "nothing" || answer == "part of one" && end == "nothing" {
					continue // it does not end
				}
				ours := map[string]string{}
				if answer == "a status" && end == "cancel" { // what the server said is in the text
					ours["OnFinish: status=true Canceled"] = "OnFinish: status=true Canceled script: no"
					ours[`End client=true status=true Canceled {t=["1"] } in order=true`] = `End client=true status=true Canceled script: no {t=["1"] } in order=true`
				}
				scenarios = append(scenarios, scenario{
					name:       answer + ", " + end + ", " + kind,
					uncompared: true,
					cut:        true,
					serve:      threeThen(kind, goOn),
					ours:       ours,
					act: func(st *stage) {
						n := newNoted()
						ctx := newEndable(st.context())
						defer ctx.end(context.Canceled)
						cs := st.open(ctx, kinds[kind], "/t/Unread", n.options(grpc.MaxCallRecvMsgSize(100))...)
						sends.do(st, cs)
						closesSend.do(st, cs)
						st.awaitEnded(1)
						st.passed()
						if stop != nil {
							stop(st, ctx, cs)
							n.await(st)
						}
						st.drain(cs)
						if answer != "a large one" && answer != "a bad flag" {
							receives.do(st, cs) // grpc-go goes on behind the prefix of such a message
						}
						n.show(st)
					},
				})
			}
		}
	}
	play(t, scenarios)
}

// TestUnreadOfALostConnection: a connection that is lost takes nothing with it that
// has come.
func TestUnreadOfALostConnection(t *testing.T) {
	var scenarios []scenario
	for _, kind := range []string{"bidi", "client"} {
		scenarios = append(scenarios, scenario{
			name:       kind,
			uncompared: true,
			cut:        true,
			serve:      threeThen(kind, func(s *h2test.Stream) { s.Conn().Close() }),
			act: func(st *stage) {
				st.talk(st.context(), kinds[kind], "/t/Unread", []string{"hello"})
			},
		})
	}
	play(t, scenarios)
}

// TestUnreadUnderLoad: an OK that has come stays one, however the end of the
// context crosses it.
func TestUnreadUnderLoad(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Serve(threeThen("bidi", func(s *h2test.Stream) { s.SendTrailers(codes.OK, "", "t", "1") }))
	cc, err := grpcdial.NewClient(srv.Target(), grpcdial.WithInsecure())
	require.NoError(t, err)
	defer cc.Close()
	const streams = 200
	var wg sync.WaitGroup
	for n := range streams {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(backendtest.Bounded(t))
			defer cancel()
			cs, err := cc.NewStream(ctx, kinds["bidi"], "/t/Unread")
			if !assert.NoError(t, err) || !assert.NoError(t, cs.SendMsg(wrapperspb.String("hello"))) || !assert.NoError(t, cs.CloseSend()) {
				return
			}
			crossed := make(chan struct{})
			go func() {
				defer close(crossed)
				if n%2 == 0 {
					_, _ = cs.Header() // about when the rest comes
				}
				cancel()
			}()
			if n%4 < 2 {
				<-crossed
			}
			got := 0
			for err == nil {
				if err = cs.RecvMsg(new(wrapperspb.StringValue)); err == nil {
					got++
				}
			}
			<-crossed
			switch trailer := shownMD(cs.Trailer()); shown(err) {
			case "EOF":
				assert.Equal(t, 3, got)
				assert.Equal(t, `{t=["1"] }`, trailer)
			case "status=true Canceled":
				assert.Equal(t, "{}", trailer, "one of the two wins")
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// threeThen sends three messages for bidi, else one, and goes on with goOn; other
// methods get the standard answers.
func threeThen(kind string, goOn func(*h2test.Stream)) func(*h2test.Stream) {
	return func(s *h2test.Stream) {
		switch {
		case s.Method() != "/t/Unread":
			standard(s)
		case s.Ended && s.Frame.Type == http2.FrameData:
			texts := []string{"one", "two", "three"}
			if kind != "bidi" {
				texts = texts[:1]
			}
			s.SendHeaders("h", "1")
			for _, text := range texts {
				b, _ := proto.Marshal(wrapperspb.String(text))
				s.SendMessage(b)
			}
			goOn(s)
		}
	}
}

// passed returns when the client has taken all that the server sent before: a later RPC
// on the connection has its answer.
func (st *stage) passed() {
	st.t.Helper()
	require.NoError(st.t, st.cc.Invoke(st.context(), "/t/Echo", wrapperspb.String("passed"), new(wrapperspb.StringValue)))
	st.mu.Lock()
	defer st.mu.Unlock()
	require.Same(st.t, st.begun[0].Conn(), st.begun[len(st.begun)-1].Conn())
}

// await returns when OnFinish was called.
func (n *noted) await(st *stage) {
	st.t.Helper()
	select {
	case err := <-n.finished:
		n.finished <- err
	case <-time.After(time.Minute):
		st.t.Error("OnFinish was not called")
	}
}

// endable is a context that the test ends, as if its time were over or it were
// cancelled.
type endable struct {
	context.Context
	done chan struct{}
	once sync.Once

	mu  sync.Mutex
	err error // guarded by mu
}

func newEndable(ctx context.Context) *endable {
	return &endable{Context: ctx, done: make(chan struct{})}
}

func (c *endable) end(err error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
		close(c.done)
	})
}

func (c *endable) Done() <-chan struct{} { return c.done }

func (c *endable) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
