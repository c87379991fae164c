package h2_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// holding is a connection whose Write takes a part of what it is given and then waits
// for Close, from when the test says so.
type holding struct {
	net.Conn
	takes func(all int) int // nil: Write is the connection's

	once     sync.Once
	waits    chan struct{} // closed when a Write waits
	released chan struct{} // lets it return
	stubborn bool          // Close does not
}

func hold(nc net.Conn) *holding {
	return &holding{Conn: nc, waits: make(chan struct{}), released: make(chan struct{})}
}

func (h *holding) Write(p []byte) (int, error) {
	if h.takes == nil {
		return h.Conn.Write(p)
	}
	select {
	case <-h.waits:
		return 0, net.ErrClosed // an alert
	default:
	}
	n := 0
	if want := h.takes(len(p)); want > 0 {
		n, _ = h.Conn.Write(p[:want])
	}
	close(h.waits)
	<-h.released
	return n, net.ErrClosed
}

func (h *holding) Close() error {
	if !h.stubborn {
		h.once.Do(func() { close(h.released) })
	}
	return h.Conn.Close()
}

// When a connection is lost while a Write waits, what Write returns decides which requests
// were sent. One of which a byte is missing was not; one that may have been sent whole
// never counts as unsent.
func TestLossDuringWrite(t *testing.T) {
	none := func(int) int { return 0 }
	all := func(n int) int { return n }
	for _, tt := range []struct {
		name     string
		tls      bool
		takes    func(int) int
		stubborn bool
		unsent   bool
		took     time.Duration
	}{
		{name: "nothing was taken", takes: none, unsent: true},
		{name: "all but a byte was", takes: func(n int) int { return n - 1 }, unsent: true},
		{name: "all was", takes: all},
		{name: "TLS, nothing was taken", tls: true, takes: none, unsent: true},
		{name: "TLS, all was", tls: true, takes: all},
		{name: "TLS, a part was", tls: true, takes: func(int) int { return 1 }}, // which looks the same as all
		{name: "Write does not return", takes: none, stubborn: true, took: 100 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opts []h2test.Option
				if tt.tls {
					opts = append(opts, h2test.WithTLS())
				}
				nc, server := h2test.Pipe(t, opts...)
				h := hold(nc)
				var ready func() *client
				if tt.tls {
					ready = shake(t, h, h2test.DefaultCA().ClientConfig("localhost"), h2.Config{})
				} else {
					ready = shake(t, h, nil, h2.Config{})
				}
				server.Lenient()
				server.Handshake()
				c := ready()
				alive(t, c, server)
				synctest.Wait()
				h.takes, h.stubborn = tt.takes, tt.stubborn
				writing := c.call(context.Background(), "/test/Writing", "x")
				<-h.waits
				waiting := c.call(context.Background(), "/test/Waiting", "x")
				synctest.Wait()
				began := time.Now()
				server.Close()
				r := await(t, writing, "the request that is being written")
				require.Equal(t, codes.Unavailable, r.failure().Status.Code())
				require.Equal(t, tt.unsent, r.failure().Unsent)
				r = await(t, waiting, "the request behind it")
				require.Equal(t, codes.Unavailable, r.failure().Status.Code())
				require.True(t, r.failure().Unsent)
				require.Equal(t, tt.took, time.Since(began))
				h.once.Do(func() { close(h.released) })
				await(t, c.served, "the end of Serve")
			})
		})
	}
}
