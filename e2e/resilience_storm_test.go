package e2e_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestCancelStorm cancels RPCs together, of which a server runs all or some. It sees
// one RST_STREAM for each RPC that it runs and little of the others, and the
// connection serves on.
func TestCancelStorm(t *testing.T) {
	n := 10_000
	if backendtest.UnderRace {
		n = 1_000
	}
	for _, limit := range []int{0, 100} {
		t.Run(fmt.Sprintf("limit=%d", limit), func(t *testing.T) {
			running := n
			var settings []http2.Setting
			if limit > 0 {
				running = limit
				settings = append(settings, h2test.MaxConcurrentStreams(uint32(limit)))
			}
			var begun, reset atomic.Int64
			srv := h2test.Listen(t)
			srv.Serve(func(s *h2test.Stream) {
				switch {
				case s.Method() == "/test.Backend/Name":
					if s.Ended {
						s.Reply(nil)
					}
				case s.Reset:
					assert.Equal(t, http2.ErrCodeCancel, s.Frame.Code)
					reset.Add(1)
				case s.Frame == s.Headers:
					begun.Add(1)
				}
			}, settings...)
			cc := plain(t, srv.Target())
			awaitReady(t, cc)

			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var finished atomic.Int64
			finish := grpc.OnFinish(func(error) { finished.Add(1) })
			var callers sync.WaitGroup
			for i := range n {
				callers.Go(func() {
					ctx, cancel := context.WithTimeout(ctx, backendtest.Patience)
					defer cancel()
					var err error
					if i%2 == 0 {
						err = cc.Invoke(ctx, "/test/Unary", wrapperspb.String("x"), new(wrapperspb.StringValue), finish)
					} else if s, openErr := cc.NewStream(ctx, bidi, "/test/Stream", finish); openErr != nil {
						err = openErr
					} else {
						err = s.RecvMsg(new(wrapperspb.StringValue))
					}
					assert.Equal(t, codes.Canceled, status.Code(err), "%v", err)
				})
			}
			backendtest.Eventually(t, func() bool {
				return rpcsRunning(t, cc) == n && begun.Load() == int64(running)
			}, "the RPCs run, or wait for those that do")
			cancel()
			callers.Wait()
			backendtest.Eventually(t, func() bool { return reset.Load() == begun.Load() }, "each one that began is reset")
			backendtest.Eventually(t, func() bool { return finished.Load() >= int64(n) }, "each has ended")
			assert.LessOrEqual(t, begun.Load(), int64(running+(n-running)/2), "most of those that waited do not begin")

			_, err := backendtest.AskName(backendtest.Bounded(t), cc)
			require.NoError(t, err)
			assert.Equal(t, 1, srv.Connections())
			assert.EqualValues(t, n, finished.Load(), "once")
		})
	}
}
