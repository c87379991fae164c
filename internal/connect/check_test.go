package connect

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

var errRefusedByCheck = errors.New("not this one")

// dialServers is a dialer to servers in memory that shake hands, and then wait for the
// client to leave in good order.
func dialServers(t *testing.T) func(context.Context, string) (net.Conn, error) {
	return func(context.Context, string) (net.Conn, error) {
		client, server := h2test.Pipe(t)
		server.Go(func(c *h2test.Conn) {
			c.Skip(h2test.SettingsAcks, h2test.WindowUpdates)
			c.Handshake()
			c.ExpectGoAway(http2.ErrCodeNo)
			c.ExpectClosed()
		})
		return client, nil
	}
}

// Of a name's addresses, one whose check fails or takes long does not keep the others
// from being tried.
func TestCheckWithinARace(t *testing.T) {
	for name, tt := range map[string]struct {
		first error
		takes time.Duration
		took  time.Duration
	}{
		"the first address is refused":                {errRefusedByCheck, 0, 0},
		"the first address takes its time":            {nil, time.Minute, stagger},
		"the first address is refused, after a while": {errRefusedByCheck, 100 * time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				var authorities []string
				cfg := &Config{Creds: plaintext, Dialer: dialServers(t)}
				cfg.Check = func(ctx context.Context, c Checked) error {
					authorities = append(authorities, c.Authority)
					assert.Equal(t, "a.test:443", c.Addr.Addr)
					if c.Shown != "192.0.2.1:443" {
						return nil
					}
					select {
					case <-time.After(tt.takes):
						return tt.first
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				start := time.Now()
				endpoints := []endpoint{{address: "192.0.2.1:443", shown: "192.0.2.1:443"}, {address: "192.0.2.2:443", shown: "192.0.2.2:443"}}
				out := race(ctx, endpoints, runner[*h2.Conn]{
					try: func(ctx context.Context, e endpoint) (*h2.Conn, *failure.Attempt) {
						return cfg.try(ctx, resolver.Address{Addr: "a.test:443"}, e, "a.test")
					},
					drop:    drop,
					waiting: func(int) {},
				})
				require.True(t, out.won)
				assert.Equal(t, tt.took, time.Since(start))
				assert.Equal(t, []string{"a.test", "a.test"}, authorities)
				drop(out.first)
			})
		})
	}
}
