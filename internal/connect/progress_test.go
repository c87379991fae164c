package connect

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/failure"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// watchProgress connects to addr and returns how far that is as soon as the addrs
// are as the test wants them. The attempt is ended then.
func watchProgress(t *testing.T, cfg *Config, addr string, enough func([]AddressProgress) bool) []AddressProgress {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	cfg.Progress = new(Progress)
	go func() {
		_, err := Connect(ctx, cfg, resolver.Address{Addr: addr}, "a.test:443")
		done <- err
	}()
	var seen []AddressProgress
	require.Eventually(t, func() bool { seen = cfg.Progress.Addresses(); return enough(seen) }, time.Minute, time.Millisecond, "%+v", &seen)
	cancel()
	require.Error(t, <-done)
	return seen
}

// Progress has the phase that an attempt is in, and the target behind a proxy.
func TestProgress(t *testing.T) {
	h2test.CheckLeaks(t)
	ca := h2test.NewCA(t)
	silent := serve(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	shakes := serve(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, tls.Server(nc, ca.ServerConfig("a.test"))) })
	secure := func(c *Config) { c.Creds, c.Secure = credentials.NewTLS(ca.ClientConfig("")), true }
	hang := func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	for _, tt := range []struct {
		addr         string
		alter        func(*Config)
		phase        failure.Phase
		shown, proxy string
		hint         string
	}{
		{"silent.test:1", nil, failure.Resolve, "silent.test:1", "", "name servers"},
		{"a.test:1", func(c *Config) { c.Dialer = hang }, failure.Dial, "a.test:1", "", "a firewall drops"},
		{silent, nil, failure.HTTP2, silent, "", "it may require TLS"},
		{silent, secure, failure.TLS, silent, "", "it may not speak TLS"},
		{shakes, secure, failure.HTTP2, shakes, "", "no SETTINGS since the TLS handshake"},
		{"a.test:1", func(c *Config) { c.Dialer, c.Proxy = hang, through("http", "p.test:1") }, failure.Dial, "a.test:1", "http://p.test:1", "the proxy does not answer"},
		{"a.test:1", func(c *Config) { c.Proxy = through("http", silent) }, failure.Proxy, "a.test:1", "http://" + silent, "be no proxy"},
	} {
		begun := time.Now()
		cfg := &Config{Creds: plaintext, Resolver: zone{"silent.test": {"silence"}}.resolver(t)}
		if tt.alter != nil {
			tt.alter(cfg)
		}
		all := watchProgress(t, cfg, tt.addr, func(s []AddressProgress) bool { return len(s) == 1 && s[0].Phase == tt.phase })
		s := all[0]
		assert.Equal(t, tt.shown, s.Addr)
		assert.Equal(t, tt.proxy, s.Proxy)
		assert.Contains(t, s.Hint, tt.hint)
		assert.Nil(t, s.Failed)
		assert.False(t, s.Start.Before(begun))
	}
}

// For a name with several addresses, it has the failure of each that failed, and the
// phase of the others.
func TestProgressOfANameWithSeveralAddresses(t *testing.T) {
	h2test.CheckLeaks(t)
	silent := serve(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	_, port, err := net.SplitHostPort(silent)
	require.NoError(t, err)
	cfg := &Config{Creds: plaintext, Resolver: zone{"two.test": {"127.0.0.2", "127.0.0.1"}}.resolver(t)}
	all := watchProgress(t, cfg, "two.test:"+port, func(s []AddressProgress) bool {
		return len(s) == 2 && s[0].Failed != nil && s[1].Phase == failure.HTTP2
	})
	refused, running := all[0], all[1]
	require.NotNil(t, refused.Failed)
	assert.ErrorIs(t, refused.Failed, syscall.ECONNREFUSED)
	assert.Equal(t, "127.0.0.2:"+port, refused.Failed.Addr)
	assert.Equal(t, failure.Dial, refused.Failed.Phase)
	assert.Equal(t, "a.test:443", refused.Failed.ServerName)
	assert.NotEmpty(t, refused.Failed.Hint)
	assert.Equal(t, silent, running.Addr)
	assert.Nil(t, running.Failed)
}

// The second of two addresses is tried although the first has answered, if it turns
// out to be of no use: TLS, or what is to be HTTP/2, fails there.
func TestProgressAfterAFailedHandshake(t *testing.T) {
	h2test.CheckLeaks(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	_, port, err := net.SplitHostPort(silent.Addr().String())
	require.NoError(t, err)
	mail, err := net.Listen("tcp", "127.0.0.2:"+port)
	require.NoError(t, err)
	defer mail.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		if nc, err := mail.Accept(); err == nil {
			_, _ = io.WriteString(nc, "220 mail.example ESMTP\r\n")
			_, _ = io.Copy(io.Discard, nc)
			_ = nc.Close()
		}
	}()
	cfg := &Config{Creds: plaintext, Resolver: zone{"two.test": {"127.0.0.2", "127.0.0.1"}}.resolver(t)}
	all := watchProgress(t, cfg, "two.test:"+port, func(s []AddressProgress) bool {
		return len(s) == 2 && s[0].Failed != nil && s[1].Phase == failure.HTTP2
	})
	require.NotNil(t, all[0].Failed)
	assert.Equal(t, failure.HTTP2, all[0].Failed.Phase)
	assert.Contains(t, all[0].Failed.Hint, "220 mail.example")
	assert.Equal(t, "127.0.0.1:"+port, all[1].Addr)
	<-served
}
