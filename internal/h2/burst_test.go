package h2_test

import (
	"context"
	"encoding/binary"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// numbered is a small message that says which one it is.
func numbered(n int) []byte {
	return h2test.PutMessage(false, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// What a stream sends in a burst arrives, in order, whatever the sender does then: nothing,
// half-close, or cancel.
func TestBurstArrives(t *testing.T) {
	const messages = 3000
	for _, p := range peers {
		for _, then := range []string{"nothing", "CloseSend", "Cancel"} {
			t.Run(p.name+" "+then, func(t *testing.T) {
				h2test.CheckLeaks(t)
				c, server := p.connect(t, h2.Config{}, h2test.InitialWindowSize(1<<20))
				s, err := c.Open(context.Background(), req("/test/Stream"))
				require.NoError(t, err)
				id := server.ExpectHeaders().StreamID
				sent := make(chan error, 1)
				go func() {
					for n := range messages {
						if err := s.Send(numbered(n), false); err != nil {
							sent <- err
							return
						}
					}
					switch then {
					case "CloseSend":
						sent <- s.CloseSend()
						return
					case "Cancel":
						s.Cancel(status.New(codes.Canceled, "enough"))
					}
					sent <- nil
				}()
				server.WindowUpdate(0, 1<<20)
				for n := range messages {
					m := server.ExpectMessage(id)
					require.EqualValues(t, n, binary.BigEndian.Uint32(m.Payload))
				}
				require.NoError(t, await(t, sent, "the sender"))
				switch then {
				case "nothing":
					server.TrailersOnly(id, codes.OK, "")
					_, err = s.Recv()
					require.Equal(t, io.EOF, err)
				case "CloseSend":
					server.ExpectEndStream(id)
					server.TrailersOnly(id, codes.OK, "")
					_, err = s.Recv()
					require.Equal(t, io.EOF, err)
				case "Cancel":
					server.ExpectRST(id, http2.ErrCodeCancel)
				}
			})
		}
	}
}

// A connection that ends in the middle of a burst leaves nothing behind.
func TestConnectionEndsInABurst(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			for range 5 {
				c, server := p.connect(t, h2.Config{}, h2test.InitialWindowSize(1<<20))
				s, err := c.Open(context.Background(), req("/test/Stream"))
				require.NoError(t, err)
				sent := make(chan error, 1)
				go func() {
					var err error
					for n := 0; err == nil; n++ {
						err = s.Send(numbered(n), false)
					}
					sent <- err
				}()
				server.ExpectHeaders()
				server.ExpectData(1)
				c.Close(nil, nil)
				require.Equal(t, io.EOF, await(t, sent, "the sender"))
				await(t, c.served, "the end of Serve")
				server.Close()
			}
		})
	}
}
