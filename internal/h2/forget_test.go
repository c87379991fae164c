package h2_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// The messages of a stream may be forgotten while it runs: an attempt that lost to another may
// be in the middle of a message then, and its end on its way. What comes after goes its way.
func TestForgottenInTheMiddleOfAMessage(t *testing.T) {
	for name, forget := range map[string]func(*h2.Stream){"Drop": (*h2.Stream).Drop, "Discard": (*h2.Stream).Discard} {
		for kind, size := range map[string]int{"empty": 0, "small": 300, "large": 30_000} {
			for _, before := range []int{0, 3} {
				t.Run(name+" "+kind, func(t *testing.T) {
					c, server := peered(t, h2.Config{})
					s, err := c.Open(context.Background(), req("/test/Stream"))
					require.NoError(t, err)
					id := server.ExpectHeaders().StreamID
					server.ReplyHeaders(id)
					for range before {
						server.Data(id, false, h2test.PutMessage(false, []byte("whole")))
					}
					message := bytes.Repeat([]byte{7}, size)
					wire := h2test.PutMessage(false, message)
					cut := len(wire)/2 + 1
					sent := func(p []byte) {
						for ; len(p) > 0; p = p[min(len(p), 16384):] {
							server.Data(id, false, p[:min(len(p), 16384)])
						}
						server.Ping([8]byte{1})
						server.ExpectPingAck([8]byte{1})
					}
					sent(wire[:cut])
					forget(s)
					sent(wire[cut:])
					sent(h2test.PutMessage(false, []byte("next")))

					for _, want := range []string{string(message), "next"} {
						m, err := s.Recv()
						require.NoError(t, err)
						require.Equal(t, want, string(m.Data))
						m.Free()
					}
					sent(wire[:cut])
					forget(s)
					require.NoError(t, s.CloseSend())
					server.ExpectEndStream(id)
					server.ReplyTrailers(id, codes.Aborted, "enough")
					await(t, s.Finished(), "the end")
					forget(s)
					_, err = s.Recv()
					require.Equal(t, codes.Aborted, status.Code(err))
					alive(t, c, server)
				})
			}
		}
	}
}
