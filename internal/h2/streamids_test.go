package h2_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// The last stream ids are used; then the connection reports that it drains, running
// streams go on, and the connection closes after them.
func TestStreamIDsRunOut(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			c, server := p.connect(t, h2.Config{}, h2test.MaxConcurrentStreams(100))
			alive(t, c, server)
			c.SetNextStreamID(math.MaxInt32 - 2)
			first := c.call(context.Background(), "/test/First", "x")
			h, _ := server.ExpectUnary()
			require.EqualValues(t, math.MaxInt32-2, h.StreamID)
			require.False(t, isDone(c))
			last := c.call(context.Background(), "/test/Last", "x")
			h, _ = server.ExpectUnary()
			require.EqualValues(t, math.MaxInt32, h.StreamID)

			require.Equal(t, h2.ErrStreamIDs, await(t, c.drained, "onDrain"))
			require.True(t, isDone(c))
			r := c.unary(context.Background(), req("/test/More"), "x")
			require.Error(t, r.refused)
			require.True(t, r.failure().Unsent)
			require.ErrorIs(t, r.failure(), h2.ErrStreamIDs)
			require.Equal(t, 2, c.Streams())

			server.ReplyUnary(math.MaxInt32-2, []byte("1"))
			require.Equal(t, "1", await(t, first, "the last but one").reply)
			server.ReplyUnary(math.MaxInt32, []byte("2"))
			require.Equal(t, "2", await(t, last, "the last").reply)
			require.Equal(t, h2.ErrStreamIDs, await(t, c.served, "the end of Serve"))
			server.ExpectClosed()
			require.Empty(t, c.drained)
		})
	}
}

// That report comes while data pours in, too.
func TestStreamIDsRunOutUnderLoad(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{})
			server.Go(func(server *h2test.Conn) {
				server.Loop(func(s *h2test.Stream) {
					if s.Ended {
						s.Reply(make([]byte, 20000))
					}
				})
			})
			c.SetNextStreamID(math.MaxInt32 - 2*199)
			results := make(chan error)
			for range 8 {
				go func() {
					for {
						r := c.unary(context.Background(), req("/test/Load"), "x")
						if r.refused != nil {
							results <- r.refused
							return
						}
						if r.err != nil || len(r.reply) != 20000 {
							results <- fmt.Errorf("a call failed: %v, %d bytes", r.err, len(r.reply))
							return
						}
					}
				}()
			}
			for range 8 {
				err := await(t, results, "the callers")
				require.ErrorIs(t, err, h2.ErrStreamIDs)
				require.Equal(t, codes.Unavailable, err.(*h2.Error).Status.Code())
			}
			require.Equal(t, h2.ErrStreamIDs, await(t, c.served, "the end of Serve"))
		})
	}
}
