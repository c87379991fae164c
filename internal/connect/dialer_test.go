package connect

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// closing is a connection that reports its Close.
type closing struct {
	net.Conn
	closed chan struct{}
}

func newClosing(nc net.Conn) *closing { return &closing{nc, make(chan struct{})} }

func (c *closing) Close() error {
	err := c.Conn.Close()
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return err
}

func (c *closing) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// dials is a Config whose dialer hands out nc.
func dials(nc net.Conn) *Config {
	return &Config{Creds: plaintext, Dialer: func(context.Context, string) (net.Conn, error) { return nc, nil }}
}

// left is the goroutines of this bubble that run code of Connect's or of
// internal/h2, when all have come to rest. One that has left its bubble is
// about to be gone.
func left() []string {
	synctest.Wait()
	buf := make([]byte, 1<<20)
	var ours []string
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
		header, _, _ := strings.Cut(g, "\n")
		if !strings.Contains(header, "synctest bubble") {
			continue
		}
		if strings.Contains(g, "internal/connect.bounded") || strings.Contains(g, "internal/connect.race") || strings.Contains(g, "internal/h2.") {
			ours = append(ours, g)
		}
	}
	return ours
}

func TestDialerGetsTheAddressAsItIs(t *testing.T) {
	boom := errors.New("boom")
	for want, addr := range map[string]resolver.Address{
		"absent.test:80": {Addr: "absent.test:80"},
		"no port":        {Addr: "no port"},
		"unix:///run/s":  UnixSocket(resolver.Address{Addr: "/run/s"}),
	} {
		var got string
		cfg := &Config{Creds: plaintext, Dialer: func(_ context.Context, addr string) (net.Conn, error) {
			got = addr
			return nil, boom
		}}
		_, err := Connect(t.Context(), cfg, addr, "a.test")
		a := attempt(t, err)
		assert.Equal(t, want, got)
		assert.Equal(t, want, a.Addr)
		assert.Equal(t, failure.Dial, a.Phase)
		assert.Equal(t, boom, a.Err, "as the dialer returned it")
	}
}

func TestDialerSeesTheContext(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "value")
	cfg := &Config{Creds: plaintext, Dialer: func(ctx context.Context, _ string) (net.Conn, error) {
		assert.Equal(t, "value", ctx.Value(key{}))
		return nil, nil
	}}
	_, err := Connect(ctx, cfg, resolver.Address{Addr: "a"}, "a")
	assert.ErrorContains(t, attempt(t, err), "neither a connection nor an error")
}

func TestConnectOverPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := h2test.Pipe(t)
		server.Go(func(c *h2test.Conn) { c.Handshake() })
		c, err := Connect(t.Context(), dials(client), resolver.Address{Addr: "a"}, "a")
		require.NoError(t, err)
		server.Wait()
		finish(t, c)
		assert.Empty(t, left())
	})
}

func TestDialerThatHeedsTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		cfg := &Config{Creds: plaintext, Dialer: func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
		}}
		_, err := Connect(ctx, cfg, resolver.Address{Addr: "a"}, "a")
		a := attempt(t, err)
		assert.Equal(t, failure.Dial, a.Phase)
		assert.Equal(t, time.Second, a.Elapsed)
		assert.ErrorIs(t, a, context.DeadlineExceeded)
		assert.ErrorAs(t, a, new(*net.OpError))
		assert.Contains(t, a.Hint, "nothing answered")
		assert.Empty(t, left())
	})
}

func TestDialerThatIgnoresTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		nc, _ := net.Pipe()
		late := newClosing(nc)
		cfg := &Config{Creds: plaintext, Dialer: func(context.Context, string) (net.Conn, error) {
			time.Sleep(time.Minute)
			return late, nil
		}}
		start := time.Now()
		_, err := Connect(ctx, cfg, resolver.Address{Addr: "a"}, "a")
		assert.ErrorIs(t, attempt(t, err), context.DeadlineExceeded)
		assert.LessOrEqual(t, time.Since(start), time.Second+patience)
		assert.Len(t, left(), 1, "the dialer's own goroutine")

		<-late.closed
		assert.Equal(t, time.Minute, time.Since(start))
		assert.Empty(t, left())
	})
}

// TestLossesCloseTheConnection fails in each phase after dialing.
func TestLossesCloseTheConnection(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name  string
		creds handshaker
		peer  func(*h2test.Conn)
		phase failure.Phase
		err   error
		took  time.Duration
	}{
		{"handshake fails", func(context.Context, string, net.Conn) (net.Conn, error) { return nil, boom },
			nil, failure.TLS, boom, 0},
		{"handshake returns nothing", func(context.Context, string, net.Conn) (net.Conn, error) { return nil, nil },
			nil, failure.TLS, nil, 0},
		{"handshake heeds the context", func(ctx context.Context, _ string, _ net.Conn) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, nil, failure.TLS, context.DeadlineExceeded, time.Second},
		{"handshake reads", func(_ context.Context, _ string, nc net.Conn) (net.Conn, error) {
			_, err := nc.Read(make([]byte, 1))
			return nil, err
		}, nil, failure.TLS, context.DeadlineExceeded, time.Second},
		{"handshake succeeds a moment too late", func(ctx context.Context, _ string, nc net.Conn) (net.Conn, error) {
			<-ctx.Done()
			return nc, nil
		}, nil, failure.TLS, context.DeadlineExceeded, time.Second},
		{"server is silent", nil, nil, failure.HTTP2, context.DeadlineExceeded, time.Second},
		{"server is late", nil, func(c *h2test.Conn) {
			c.ExpectPreface()
			time.Sleep(3 * time.Second)
		}, failure.HTTP2, context.DeadlineExceeded, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := h2test.Pipe(t)
				if tt.peer != nil {
					server.Go(tt.peer)
				}
				nc := newClosing(client)
				cfg := dials(nc)
				if tt.creds != nil {
					cfg.Creds = tt.creds
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := Connect(ctx, cfg, resolver.Address{Addr: "a"}, "a")
				a := attempt(t, err)
				assert.Equal(t, tt.phase, a.Phase)
				assert.Equal(t, tt.took, a.Elapsed)
				if tt.err != nil {
					assert.ErrorIs(t, a, tt.err)
				}
				assert.True(t, nc.isClosed())
				assert.Empty(t, left())
				server.Wait()
			})
		})
	}
}

func TestHandshakeThatIgnoresEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := h2test.Pipe(t)
		nc := newClosing(client)
		cfg := dials(nc)
		cfg.Creds = handshaker(func(_ context.Context, _ string, nc net.Conn) (net.Conn, error) {
			time.Sleep(time.Minute)
			return nc, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := Connect(ctx, cfg, resolver.Address{Addr: "a"}, "a")
		a := attempt(t, err)
		assert.Equal(t, failure.TLS, a.Phase)
		assert.ErrorIs(t, a, context.DeadlineExceeded)
		assert.Equal(t, time.Second+patience, time.Since(start))
		assert.True(t, nc.isClosed())
		assert.Len(t, left(), 1)
		time.Sleep(time.Minute)
		assert.Empty(t, left())
	})
}

func TestUserCodeThatEndsItsGoroutine(t *testing.T) {
	h2test.CheckLeaks(t)
	cfg := &Config{Creds: plaintext, Dialer: func(context.Context, string) (net.Conn, error) { runtime.Goexit(); return nil, nil }}
	_, err := Connect(t.Context(), cfg, resolver.Address{Addr: "a"}, "a")
	assert.ErrorIs(t, attempt(t, err), errNoReturn)

	nc, _ := net.Pipe()
	closes := newClosing(nc)
	cfg = dials(closes)
	cfg.Creds = handshaker(func(context.Context, string, net.Conn) (net.Conn, error) { runtime.Goexit(); return nil, nil })
	_, err = Connect(t.Context(), cfg, resolver.Address{Addr: "a"}, "a")
	assert.ErrorIs(t, attempt(t, err), errNoReturn)
	assert.True(t, closes.isClosed())
}

// TestCredentialsGetTheNameTheyCheck watches what ClientHandshake is called with.
func TestCredentialsGetTheNameTheyCheck(t *testing.T) {
	for authority, want := range map[string]string{
		"a.test:443":           "a.test:443",
		"[fe80::1%25eth0]:443": "[fe80::1]:443",
	} {
		client, _ := net.Pipe()
		cfg := dials(client)
		var got string
		cfg.Creds = handshaker(func(_ context.Context, name string, nc net.Conn) (net.Conn, error) {
			got = name
			return nil, errors.New("enough")
		})
		_, err := Connect(t.Context(), cfg, resolver.Address{Addr: "a"}, authority)
		assert.Equal(t, want, attempt(t, err).ServerName)
		assert.Equal(t, want, got)
	}
}

// handshaker is credentials that are a function.
type handshaker func(ctx context.Context, authority string, nc net.Conn) (net.Conn, error)

func (h handshaker) ClientHandshake(ctx context.Context, authority string, nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	nc, err := h(ctx, authority, nc)
	return nc, nil, err
}
func (handshaker) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("no server")
}
func (handshaker) Info() credentials.ProtocolInfo            { return credentials.ProtocolInfo{} }
func (h handshaker) Clone() credentials.TransportCredentials { return h }
func (handshaker) OverrideServerName(string) error           { return nil }
