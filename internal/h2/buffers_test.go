package h2_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// allocated is how many bytes f allocates, here and on the goroutines it wakes.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// Read buffers of any size serve again: a call, after which the connection is
// quiet, does not pay for one.
func TestReadBuffersServeAgain(t *testing.T) {
	for _, size := range []int{256 << 10, 1 << 20, 3 << 20} {
		eachTransport(t, func(t *testing.T, dial func(h2.Config) *h2.Conn) {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				c := dial(h2.Config{ReadBufferSize: size})
				msg := frame(make([]byte, 2000))
				const calls = 100
				got := allocated(func() {
					for range calls {
						s, err := c.Unary(context.Background(), req("/test/Echo"), msg)
						require.NoError(t, err)
						require.Nil(t, s.Err())
						s.Release()
					}
				})
				require.Less(t, got/calls, 3*size/4, "bytes a call")
			})
		})
	}
}

// sizedReads notes for how many bytes a read waits.
type sizedReads struct {
	net.Conn
	waiting atomic.Int64
}

func (r *sizedReads) Read(p []byte) (int, error) {
	r.waiting.Store(int64(len(p)))
	defer r.waiting.Store(0)
	return r.Conn.Read(p)
}

// A connection that has to wait for bytes with a buffer waits with a small one, whatever
// came before.
func TestIdleConnectionHoldsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc, server := h2test.Pipe(t)
		reads := &sizedReads{Conn: nc}
		ready := shake(t, reads, nil, h2.Config{ReadBufferSize: 1 << 20})
		server.Handshake()
		c := ready()
		for i, size := range []int{0, 300, 5000, 200000} {
			res := c.call(context.Background(), "/test/Call", "x")
			h, _ := server.ExpectUnary()
			server.ReplyUnary(h.StreamID, make([]byte, size))
			require.Nil(t, await(t, res, "the call").failure(), i)
			synctest.Wait()
			require.Positive(t, reads.waiting.Load())
			require.LessOrEqual(t, reads.waiting.Load(), int64(512), "after a message of %d bytes", size)
		}
	})
}

// swallow is the address of a server that gives one connection windows without end and
// reads what comes.
func swallow(t *testing.T, tlsCfg *tls.Config) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	if tlsCfg != nil {
		l = tls.NewListener(l, tlsCfg)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		fr := http2.NewFramer(nc, nil)
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		fr.WriteWindowUpdate(0, 1<<31-1-65535)
		io.Copy(io.Discard, nc)
	}()
	return l.Addr().String()
}

// A write buffer of any size serves again, too: what waits to be written while the
// connection is busy is not collected in a new buffer each time.
func TestWriteBuffersServeAgain(t *testing.T) {
	ca := h2test.NewCA(t)
	for _, tt := range []struct {
		name           string
		server, client *tls.Config
	}{{"plaintext", nil, nil}, {"TLS", ca.ServerConfig("localhost"), ca.ClientConfig("localhost")}} {
		for _, size := range []int{0, 1 << 20, 4 << 20} {
			t.Run(fmt.Sprint(tt.name, " ", size), func(t *testing.T) {
				c := dial(t, swallow(t, tt.server), tt.client, h2.Config{WriteBufferSize: size})
				const senders, messages, length = 64, 30, 60 << 10
				msg := h2test.PutMessage(false, make([]byte, length))
				got := allocated(func() {
					var wg sync.WaitGroup
					for range senders {
						wg.Go(func() {
							s, err := c.Open(context.Background(), req("/test/Upload"))
							if err != nil {
								t.Error(err)
								return
							}
							for range messages {
								if err := s.Send(msg, false); err != nil {
									t.Error(err)
								}
							}
							s.Cancel(nil)
						})
					}
					wg.Wait()
				})
				require.Less(t, got, 2*senders*messages*length, "bytes for %d sent", senders*messages*length)
			})
		}
	}
}
