package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

func TestConnectOfNoUse(t *testing.T) {
	h2test.CheckLeaks(t)
	proxied := &url.URL{Scheme: "http", Host: "p"}
	tests := []struct {
		name   string
		url    *url.URL
		target string
		want   string
	}{
		{"scheme", parsed(t, "quic://user:secret@p"), "a.example:1", `proxy "quic://p" for "a.example:1": scheme "quic" is not supported`},
		{"no URL", nil, "a.example:1", "nil"},
		{"no port", proxied, "a.example", "missing port"},
		{"line break", proxied, "a\r\nX:1", "character"},
		{"line break and colons", proxied, "a\r\nX: y:1", "too many colons"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nc, err := Connect(t.Context(), noDial(t), tt.url, tt.target, Options{})
			assert.Nil(t, nc)
			e := failure(t, err)
			assert.Equal(t, StepURL, e.Step)
			assert.Equal(t, tt.target, e.Target)
			assert.True(t, e.Permanent())
			assert.Contains(t, e.Error(), tt.want)
			assert.NotContains(t, e.Error(), "secret")
			assert.NotContains(t, e.Error(), "\n")
		})
	}
}

func TestConnectDial(t *testing.T) {
	h2test.CheckLeaks(t)
	for s, want := range map[string]string{
		"http://u:secret@p": "p:80", "https://p": "p:443", "socks5://p": "p:1080", "socks5h://p:1": "p:1",
	} {
		refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		_, err := Connect(t.Context(), func(_ context.Context, network, addr string) (net.Conn, error) {
			assert.Equal(t, "tcp", network)
			assert.Equal(t, want, addr)
			return nil, refused
		}, parsed(t, s), "192.0.2.1:1", Options{})
		e := failure(t, err)
		assert.Equal(t, StepDial, e.Step)
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		assert.Contains(t, e.Error(), "the proxy was not reached: dial tcp")
		assert.Contains(t, e.Hint(), "the proxy, not the target")
		assert.False(t, e.Permanent())
	}
	_, err := Connect(t.Context(), func(context.Context, string, string) (net.Conn, error) { return nil, nil },
		parsed(t, "http://p"), "a.example:1", Options{})
	assert.ErrorContains(t, err, "neither a connection nor an error")
}

// pipeTo dials a connection in memory whose other end f serves. done is closed
// when f has returned.
func pipeTo(f func(net.Conn)) (dial DialFunc, done chan struct{}) {
	done = make(chan struct{})
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer close(done)
			defer server.Close()
			f(server)
		}()
		return client, nil
	}, done
}

// hear reads until the client has closed.
func hear(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) }

func TestConnectIsBounded(t *testing.T) {
	drip := func(nc net.Conn) {
		go hear(nc)
		text := "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1000)
		for i := range len(text) {
			time.Sleep(time.Second)
			if _, err := io.WriteString(nc, text[i:i+1]); err != nil {
				return
			}
		}
	}
	peers := []struct {
		name string
		url  string
		peer func(net.Conn)
		step Step
	}{
		{"http", "http://p", hear, StepHandshake},
		{"http that does not read", "http://p", func(nc net.Conn) { time.Sleep(time.Hour) }, StepHandshake},
		{"http that drips", "http://p", drip, StepHandshake},
		{"https", "https://p", hear, StepTLS},
		{"https that does not read", "https://p", func(nc net.Conn) { time.Sleep(time.Hour) }, StepTLS},
		{"socks5", "socks5://p", hear, StepHandshake},
		{"socks5 that does not read", "socks5://p", func(nc net.Conn) { time.Sleep(time.Hour) }, StepHandshake},
		{"socks5h after the method", "socks5h://u:w@p", func(nc net.Conn) {
			go hear(nc)
			_, _ = nc.Write([]byte{5, 2})
			time.Sleep(time.Hour)
		}, StepHandshake},
	}
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			t.Run("deadline", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					dial, done := pipeTo(p.peer)
					start := time.Now()
					nc, err := Connect(ctx, dial, parsed(t, p.url), "192.0.2.1:443", Options{})
					assert.Nil(t, nc)
					assert.Equal(t, 5*time.Second, time.Since(start))
					e := failure(t, err)
					assert.Equal(t, p.step, e.Step)
					assert.ErrorIs(t, e, context.DeadlineExceeded)
					assert.Contains(t, e.Error(), "context deadline exceeded")
					assert.Contains(t, e.Hint(), "in time")
					assert.False(t, e.Permanent())
					<-done
				})
			})
			t.Run("cancel", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(3*time.Second, cancel)
					dial, done := pipeTo(p.peer)
					start := time.Now()
					nc, err := Connect(ctx, dial, parsed(t, p.url), "192.0.2.1:443", Options{})
					assert.Nil(t, nc)
					assert.Equal(t, 3*time.Second, time.Since(start))
					e := failure(t, err)
					assert.Equal(t, p.step, e.Step)
					assert.ErrorIs(t, e, context.Canceled)
					assert.NotErrorIs(t, e, context.DeadlineExceeded)
					assert.Empty(t, e.Hint())
					<-done
				})
			})
		})
	}
}

// ctx has no hold on a connection that was returned.
func TestConnectLetsGo(t *testing.T) {
	h2test.CheckLeaks(t)
	addr := serve(t, greet)
	for scheme, host := range map[string]string{
		"http":    proxytest.ListenHTTP(t, map[string]string{"a.example:443": addr}, "", nil).Addr,
		"socks5h": proxytest.ListenSOCKS(t, map[string]string{"a.example:443": addr}, "").Addr,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		nc, err := Connect(ctx, dialer, &url.URL{Scheme: scheme, Host: host}, "a.example:443", Options{})
		require.NoError(t, err)
		cancel()
		exchange(t, nc)
		require.NoError(t, nc.Close())
	}
}

// The end of ctx may fall together with the proxy's answer. Either the
// connection is the caller's, open, or it is closed.
func TestConnectEndsTogether(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			dial, done := pipeTo(func(nc net.Conn) {
				_, _ = nc.Read(make([]byte, 4096))
				_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r")
				go cancel()
				_, _ = io.WriteString(nc, "\n")
				_, _ = io.WriteString(nc, "x")
				hear(nc)
			})
			nc, err := Connect(ctx, dial, parsed(t, "http://p"), "a.example:1", Options{})
			if err != nil {
				assert.ErrorIs(t, err, context.Canceled)
			} else {
				b := make([]byte, 1)
				_, err = io.ReadFull(nc, b)
				assert.NoError(t, err)
				assert.Equal(t, "x", string(b))
				assert.NoError(t, nc.Close())
			}
			<-done
		})
	}
}

// A refusal's body has a time of its own, and what came of it is kept.
func TestRefusalWithoutEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		ctx  time.Duration
		head string
		want time.Duration
	}{
		"no length": {time.Minute, "HTTP/1.1 403 Forbidden\r\n\r\n", bodyWait},
		"length":    {time.Minute, "HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\n", bodyWait},
		"ctx first": {bodyWait / 2, "HTTP/1.1 403 Forbidden\r\n\r\n", bodyWait / 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.ctx)
				defer cancel()
				dial, done := pipeTo(func(nc net.Conn) {
					_, _ = nc.Read(make([]byte, 4096))
					_, _ = io.WriteString(nc, tt.head+"port 1 is")
					hear(nc)
				})
				start := time.Now()
				_, err := Connect(ctx, dial, parsed(t, "http://p"), "a.example:1", Options{})
				assert.Equal(t, tt.want, time.Since(start))
				e := failure(t, err)
				assert.Equal(t, 403, e.StatusCode)
				assert.Equal(t, "port 1 is", e.Body)
				assert.Contains(t, e.Hint(), "NO_PROXY")
				<-done
			})
		})
	}
}

// The step whose time it was is the one that is named.
func TestConnectEndsInUserCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := errors.New("gave up")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := Connect(ctx, func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, wait
		}, parsed(t, "http://p"), "a.example:1", Options{})
		assert.Equal(t, StepDial, failure(t, err).Step)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorIs(t, err, wait)

		_, err = Connect(ctx, noDial(t), parsed(t, "socks5://p"), "a.example:1", Options{LookUp: func(ctx context.Context, _ string) ([]netip.Addr, error) {
			return nil, wait
		}})
		assert.Equal(t, StepResolve, failure(t, err).Step)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// Close does not wait for a proxy that has stopped reading.
func TestCloseOverTLSDoesNotWait(t *testing.T) {
	ca := h2test.NewCA(t)
	synctest.Test(t, func(t *testing.T) {
		dial, done := pipeTo(func(nc net.Conn) {
			tc := serverTLS(nc, ca)
			_, _ = tc.Read(make([]byte, 4096))
			_, _ = io.WriteString(tc, "HTTP/1.1 200 OK\r\n\r\n")
			time.Sleep(time.Hour)
		})
		nc, err := Connect(t.Context(), dial, parsed(t, "https://p.example"), "a.example:1", Options{TLS: ca.ClientConfig("")})
		require.NoError(t, err)
		start := time.Now()
		require.NoError(t, nc.Close())
		assert.Zero(t, time.Since(start))
		<-done
	})
}
