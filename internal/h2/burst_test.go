package h2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"
	"testing/synctest"

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

// Messages of a stream that wait together share a DATA frame, which is no longer than the
// server accepts, has no other stream's bytes, and ends the stream if the last of them does.
func TestWaitingMessagesShareAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := peered(t, h2.Config{}, h2test.InitialWindowSize(1<<20))
		var streams [2]*h2.Stream
		for i := range streams {
			s, err := c.Open(context.Background(), req("/test/Stream"))
			require.NoError(t, err)
			server.ExpectHeaders()
			streams[i] = s
		}
		a, b := streams[0], streams[1]
		large := h2test.PutMessage(false, make([]byte, 16<<10-20)) // leaves room for one small one
		send := func(s *h2.Stream, last bool, messages ...[]byte) {
			for i, m := range messages {
				require.NoError(t, s.Send(m, last && i == len(messages)-1))
			}
		}
		server.SetPipeBuffer(1, 1<<20)
		send(a, false, numbered(1))
		synctest.Wait() // its write waits for the server to read
		send(a, false, numbered(2), numbered(3))
		send(b, false, numbered(4), numbered(5), large, numbered(6), numbered(7))
		send(a, true, numbered(8), numbered(9))
		send(b, true, numbered(10))
		for _, want := range []struct {
			id   uint32
			end  bool
			data [][]byte
		}{
			{1, false, [][]byte{numbered(1)}},
			{1, false, [][]byte{numbered(2), numbered(3)}},
			{3, false, [][]byte{numbered(4), numbered(5)}},
			{3, false, [][]byte{large, numbered(6)}},
			{3, false, [][]byte{numbered(7)}},
			{1, true, [][]byte{numbered(8), numbered(9)}},
			{3, true, [][]byte{numbered(10)}},
		} {
			f := server.ExpectData(want.id)
			require.Equal(t, bytes.Join(want.data, nil), f.Data)
			require.Equal(t, want.end, f.EndStream())
		}
	})
}
