package h2_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// slowly connects to a server by way of small socket buffers, so that hardly a write of
// a large message is taken whole.
func slowly(t *testing.T, opts ...h2test.Option) (*client, *h2test.Conn) {
	t.Helper()
	srv := h2test.Listen(t, append(opts, h2test.SocketBuffers(8192, 0))...)
	network := "tcp"
	if srv.Target() != srv.Addr() {
		network = "unix"
	}
	nc, err := net.Dial(network, srv.Addr())
	require.NoError(t, err)
	require.NoError(t, nc.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(8192))
	ready := shake(t, nc, nil, h2.Config{})
	server := srv.Accept()
	server.Handshake(h2test.InitialWindowSize(1 << 30))
	server.WindowUpdate(0, 1<<30)
	c := ready()
	alive(t, c, server) // so that the windows are open
	return c, server
}

// The bytes of a message are the caller's again once Send has returned, whatever the
// socket took of them by then.
func TestMessageIsTheCallersAfterSend(t *testing.T) {
	for _, kind := range []struct {
		name string
		opts []h2test.Option
	}{{"tcp", nil}, {"unix", []h2test.Option{h2test.Unix()}}} {
		t.Run(kind.name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			c, server := slowly(t, kind.opts...)
			s, err := c.Open(context.Background(), req("/test/Stream"))
			require.NoError(t, err)
			rnd := rand.New(rand.NewPCG(1, 2))
			sizes := []int{16 << 10, 64 << 10, 300 << 10, 1 << 20}
			for range 30 {
				sizes = append(sizes, rnd.IntN(1<<rnd.IntN(20)))
			}
			sent := make(chan error, 1)
			go func() {
				msg := make([]byte, 0, 2<<20)
				for i, n := range sizes {
					msg = append(msg[:0], h2test.PutMessage(false, bytes.Repeat([]byte{byte(i)}, n))...)
					head := len(msg) // or the message lies in two places
					if i%2 == 0 {
						head = rnd.IntN(min(len(msg), 40<<10))
					}
					if err := s.SendBulk(msg[:head], msg[head:], i == len(sizes)-1); err != nil {
						sent <- err
						return
					}
					clear(msg)
				}
				sent <- nil
			}()
			id := server.ExpectHeaders().StreamID
			for i, n := range sizes {
				m := server.ExpectMessage(id)
				require.True(t, bytes.Equal(bytes.Repeat([]byte{byte(i)}, n), m.Payload), "message %d of %d bytes", i, n)
			}
			require.NoError(t, await(t, sent, "the sender"))
			server.TrailersOnly(id, codes.OK, "")
		})
	}
}

// Unary calls of all sizes that share a connection, on which the socket is full most of the time.
func TestLargeCallsShareAFullSocket(t *testing.T) {
	h2test.CheckLeaks(t)
	c, server := slowly(t)
	server.Go(func(server *h2test.Conn) { server.Loop(h2test.Echo) })
	done := make(chan error, 8)
	for g := range cap(done) {
		go func() {
			rnd := rand.New(rand.NewPCG(3, uint64(g)))
			var failure error
			for i := range 20 {
				payload := string(bytes.Repeat([]byte{byte(g), byte(i)}, rnd.IntN(1<<rnd.IntN(18))))
				r := c.unary(context.Background(), req("/test/Echo"), payload)
				if e := r.failure(); e != nil {
					failure = e
				} else if r.reply != payload {
					t.Errorf("call %d/%d: %d bytes came back of %d", g, i, len(r.reply), len(payload))
				}
			}
			done <- failure
		}()
	}
	for range cap(done) {
		require.NoError(t, await(t, done, "the callers"))
	}
}
