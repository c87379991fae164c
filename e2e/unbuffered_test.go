package e2e_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// A dialer may return a connection that buffers next to nothing, on which each write
// waits for the other side to read. Handshakes and large messages get through.
func TestUnbufferedConnections(t *testing.T) {
	for _, tt := range securities(t) {
		pipe, tiny := h2test.ListenUnbuffered(), bufconn.Listen(1)
		for name, l := range map[string]struct {
			net.Listener
			dial func(context.Context, string) (net.Conn, error)
		}{
			"net.Pipe":          {pipe, pipe.DialContext},
			"bufconn of 1 byte": {tiny, func(ctx context.Context, _ string) (net.Conn, error) { return tiny.DialContext(ctx) }},
		} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				h2test.CheckLeaks(t)
				backendtest.RunOn(t, grpc.NewServer(append(tt.server, grpc.UnknownServiceHandler(new(backendtest.Echo).Handle))...), l.Listener)
				cc, err := grpcdial.Dial("passthrough:///localhost", tt.client, grpcdial.WithContextDialer(l.dial),
					grpcdial.WithBlock(), grpcdial.WithTimeout(20*time.Second))
				require.NoError(t, err)
				t.Cleanup(func() { cc.Close() })
				for _, n := range []int{0, 10, 100 << 10} {
					sent, got := wrapperspb.Bytes(bytes.Repeat([]byte("x"), n)), new(wrapperspb.BytesValue)
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					require.NoError(t, cc.Invoke(ctx, "/test.Bytes/Echo", sent, got))
					cancel()
					require.Len(t, got.Value, n)
				}
			})
		}
	}
}

// A server whose SETTINGS come, and which reads nothing, does not make a channel READY.
func TestServerThatReadsNothing(t *testing.T) {
	h2test.CheckLeaks(t)
	lis := h2test.ListenUnbuffered()
	var conns []net.Conn
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
			_ = http2.NewFramer(c, nil).WriteSettings()
		}
	})
	cc := newClient(t, "passthrough:///x", grpcdial.WithInsecure(), grpcdial.WithContextDialer(lis.DialContext),
		grpcdial.WithConnectParams(grpcdial.ConnectParams{MinConnectTimeout: 50 * time.Millisecond}))
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := cc.AwaitReady(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "the server sends and does not read")
	require.NoError(t, cc.Close())
	require.NoError(t, lis.Close())
	accepting.Wait()
	for _, c := range conns {
		c.Close()
	}
}
