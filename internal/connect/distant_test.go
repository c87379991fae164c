package connect

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// distant dials peers that are a round trip of rtt away, and counts the connections
// that were begun. The first goes to the first of the peers, and so on.
type distant struct {
	rtt   time.Duration
	peers []func(net.Conn)
	begun atomic.Int32
	ends  sync.WaitGroup // of the peers and of what is under way: time passes for them only while the test waits
}

func (d *distant) dial(ctx context.Context, _ string) (net.Conn, error) {
	peer := d.peers[d.begun.Add(1)-1]
	select {
	case <-time.After(d.rtt):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	client, near := net.Pipe()
	far, server := net.Pipe()
	d.ends.Go(func() { carry(far, near, d.rtt/2) })
	d.ends.Go(func() { carry(near, far, d.rtt/2) })
	d.ends.Go(func() {
		defer server.Close()
		peer(server)
	})
	return client, nil
}

// carry writes what it reads from src to dst, after a delay that holds up nothing behind it.
func carry(dst, src net.Conn, delay time.Duration) {
	type chunk struct {
		due time.Time
		b   []byte
	}
	under := make(chan chunk, 100)
	go func() {
		defer close(under)
		for {
			b := make([]byte, 16<<10)
			n, err := src.Read(b)
			if err != nil {
				return
			}
			under <- chunk{time.Now().Add(delay), b[:n]}
		}
	}()
	defer dst.Close()
	for c := range under {
		time.Sleep(time.Until(c.due))
		_, _ = dst.Write(c.b) // if it fails, the other direction has ended too
	}
}

// race races n addresses, through the proxy if there is one, and says what came of it
// and how long it took.
func (d *distant) race(t *testing.T, cfg *Config, via *url.URL, n int) (outcome[*h2.Conn], time.Duration) {
	var endpoints []endpoint
	for i := range n {
		addr := fmt.Sprintf("192.0.2.%d:443", i+1)
		endpoints = append(endpoints, endpoint{network: "tcp", address: addr, shown: addr, proxy: via})
	}
	cfg.Dialer = d.dial
	start := time.Now()
	out := race(t.Context(), endpoints, runner[*h2.Conn]{
		try: func(ctx context.Context, e endpoint) (*h2.Conn, *failure.Attempt) {
			return cfg.try(ctx, resolver.Address{}, e, "a.test")
		},
		drop:    drop,
		waiting: func(int) {},
	})
	return out, time.Since(start)
}

// socks grants what a SOCKS 5 client asks for, then speaks.
func socks(then func(net.Conn)) func(net.Conn) {
	return func(nc net.Conn) {
		b := make([]byte, 10)
		for _, step := range []struct {
			asked  int
			answer string
		}{{3, "\x05\x00"}, {10, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"}} {
			if _, err := io.ReadFull(nc, b[:step.asked]); err != nil {
				return
			}
			if _, err := io.WriteString(nc, step.answer); err != nil {
				return
			}
		}
		then(nc)
	}
}

// A name's first address that is far away, but takes its time for nothing else, is the only
// one that is connected to.
func TestDistantAddress(t *testing.T) {
	ca := h2test.NewCA(t)
	good := speaks(ca.ServerConfig("a.test"))
	via := &url.URL{Scheme: "socks5", Host: "192.0.2.99:1080"}
	for _, tt := range []struct {
		name  string
		rtt   time.Duration
		via   *url.URL
		peer  func(net.Conn)
		trips time.Duration
	}{
		{"90 ms", 90 * time.Millisecond, nil, good, 3},
		{"150 ms", 150 * time.Millisecond, nil, good, 3},
		{"200 ms", 200 * time.Millisecond, nil, good, 3},
		{"through a proxy", 100 * time.Millisecond, via, socks(good), 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &distant{rtt: tt.rtt, peers: []func(net.Conn){tt.peer, tt.peer, tt.peer, tt.peer}}
				cfg := &Config{Creds: credentials.NewTLS(ca.ClientConfig("")), Secure: true}
				out, took := d.race(t, cfg, tt.via, len(d.peers))
				require.True(t, out.won, "%v", out.lost)
				assert.EqualValues(t, 1, d.begun.Load())
				assert.Equal(t, tt.trips*tt.rtt, took)
				finish(t, out.first)
				d.ends.Wait()
			})
		})
	}
}

// One that comes to a stop on the way is overtaken when it has said nothing for the
// stagger, wherever that is.
func TestDistantAddressThatStops(t *testing.T) {
	const rtt = 200 * time.Millisecond
	ca := h2test.NewCA(t)
	good := speaks(ca.ServerConfig("a.test"))
	for _, tt := range []struct {
		name  string
		stops func(net.Conn)
		after time.Duration // round trips
	}{
		{"no TLS", silent, 1},
		{"no SETTINGS", func(nc net.Conn) { silent(tls.Server(nc, ca.ServerConfig("a.test"))) }, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &distant{rtt: rtt, peers: []func(net.Conn){tt.stops, good, good}}
				cfg := &Config{Creds: credentials.NewTLS(ca.ClientConfig("")), Secure: true}
				out, took := d.race(t, cfg, nil, len(d.peers))
				require.True(t, out.won, "%v", out.lost)
				assert.EqualValues(t, 2, d.begun.Load())
				assert.Equal(t, tt.after*rtt+stagger+3*rtt, took)
				finish(t, out.first)
				d.ends.Wait()
			})
		})
	}
}
