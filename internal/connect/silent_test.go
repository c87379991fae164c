package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
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

// silent takes a connection and says nothing until the client ends it.
func silent(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) }

// serveEach serves 127.0.0.1, 127.0.0.2 and so on, all at one port, which it returns.
func serveEach(t *testing.T, peers ...func(net.Conn)) string {
	t.Helper()
	port := "0"
	for i, peer := range peers {
		ln, err := net.Listen("tcp", net.JoinHostPort(net.IPv4(127, 0, 0, byte(i+1)).String(), port))
		require.NoError(t, err)
		_, port, err = net.SplitHostPort(ln.Addr().String())
		require.NoError(t, err)
		serveOn(t, ln, peer)
	}
	return port
}

// An address that takes the connection and then says nothing does not keep a good
// one from being tried, whatever it is that does not come.
func TestSilentAddress(t *testing.T) {
	ca := h2test.NewCA(t)
	good := speaks(ca.ServerConfig("a.test"))
	for name, mute := range map[string]func(net.Conn){
		"no TLS":      silent,
		"no SETTINGS": func(nc net.Conn) { silent(tls.Server(nc, ca.ServerConfig("a.test"))) },
	} {
		t.Run(name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			port := serveEach(t, mute, good)
			cfg := &Config{Creds: credentials.NewTLS(ca.ClientConfig("")), Secure: true,
				Resolver: zone{"two.test": {"127.0.0.1", "127.0.0.2"}}.resolver(t)}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c, err := Connect(ctx, cfg, resolver.Address{Addr: "two.test:" + port}, "a.test")
			require.NoError(t, err)
			assert.Equal(t, "127.0.0.2:"+port, c.Peer().Addr.String())
			finish(t, c)
		})
	}
}

// A server that is slow to say its SETTINGS is connected to nevertheless, if none of
// the others says them.
func TestSlowAddress(t *testing.T) {
	h2test.CheckLeaks(t)
	second := make(chan struct{})
	port := serveEach(t,
		func(nc net.Conn) { <-second; says(settings)(nc) },
		func(nc net.Conn) { close(second); silent(nc) })
	cfg := &Config{Creds: plaintext, Resolver: zone{"two.test": {"127.0.0.1", "127.0.0.2"}}.resolver(t)}
	c, err := Connect(t.Context(), cfg, resolver.Address{Addr: "two.test:" + port}, "a.test")
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1:"+port, c.Peer().Addr.String())
	finish(t, c)
}

// Of two that answer in the same moment one is taken, and the other's connection ends.
func TestBothAnswer(t *testing.T) {
	h2test.CheckLeaks(t)
	var both sync.WaitGroup
	both.Add(2)
	answer := func(nc net.Conn) { both.Done(); both.Wait(); says(settings)(nc) }
	port := serveEach(t, answer, answer) // which ends when the connections have
	cfg := &Config{Creds: plaintext, Resolver: zone{"two.test": {"127.0.0.1", "127.0.0.2"}}.resolver(t)}
	c, err := Connect(t.Context(), cfg, resolver.Address{Addr: "two.test:" + port}, "a.test")
	require.NoError(t, err)
	finish(t, c)
}

// longEnough calls f with a context that ends after limit; if f reports that this was too
// soon for what it is about, with one that takes longer: the machine may be busy.
func longEnough(t *testing.T, limit time.Duration, f func(context.Context) bool) {
	for enough := false; !enough && limit < time.Minute; limit *= 4 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		enough = f(ctx)
		cancel()
	}
}

// If no address does, the error has all of them, each with the time that it took.
func TestSilentAddresses(t *testing.T) {
	h2test.CheckLeaks(t)
	port := serveEach(t, silent, silent, silent)
	cfg := &Config{Creds: plaintext, Resolver: zone{"all.test": {"127.0.0.9", "127.0.0.1", "127.0.0.2", "127.0.0.3"}}.resolver(t)}
	var l failure.List
	longEnough(t, time.Second, func(ctx context.Context) bool {
		_, err := Connect(ctx, cfg, resolver.Address{Addr: "all.test:" + port}, "a.test")
		l, _ = err.(failure.List)
		return !errors.As(err, new(*untriedError))
	})
	require.Len(t, l, 4)
	assert.ErrorIs(t, l[0], syscall.ECONNREFUSED)
	assert.False(t, l[0].Start.Add(l[0].Elapsed).After(l[1].Start), "the second was begun when the first had failed: %v", l)
	for i, a := range l[1:] {
		assert.Equal(t, net.JoinHostPort(net.IPv4(127, 0, 0, byte(i+1)).String(), port), a.Addr)
		assert.Equal(t, failure.HTTP2, a.Phase)
		assert.ErrorIs(t, a, context.DeadlineExceeded)
		assert.False(t, a.Permanent)
	}
}

// Addresses for which there is no time are counted.
func TestAddressesWithoutTime(t *testing.T) {
	h2test.CheckLeaks(t)
	port := serveEach(t, silent, silent, silent, silent, silent)
	cfg := &Config{Creds: plaintext, Resolver: zone{"five.test": {"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"}}.resolver(t)}
	ctx, cancel := context.WithTimeout(t.Context(), 35*time.Millisecond) // for four at most, 10 ms apart
	defer cancel()
	_, err := Connect(ctx, cfg, resolver.Address{Addr: "five.test:" + port}, "a.test")
	l, ok := err.(failure.List)
	require.True(t, ok, "%v", err)
	var untried *untriedError
	require.ErrorAs(t, l, &untried)
	assert.Equal(t, 5, len(l)-1+untried.n)
	assert.Contains(t, l.Error(), "five.test:"+port+": dial failed")
	assert.Contains(t, l.Error(), "of its 5 addresses")
	for _, a := range l {
		assert.False(t, a.Permanent)
	}
}

// What has not been tried yet is part of the progress.
func TestProgressCountsWhatIsUntried(t *testing.T) {
	p, start := new(Progress), time.Now()
	p.waiting("a.test:1", start, 2, 3)
	p.begun(&Step{Phase: failure.Dial, Addr: "127.0.0.1:1"})
	assert.Equal(t, AddressProgress{Phase: failure.Dial, Addr: "a.test:1", Start: start, Hint: "2 of its 3 addresses have not been tried yet"}, p.Addresses()[0])
	p.waiting("a.test:1", start, 1, 3)
	require.Len(t, p.Addresses(), 2)
	p.waiting("a.test:1", start, 0, 3)
	require.Len(t, p.Addresses(), 1)
	assert.Equal(t, "127.0.0.1:1", p.Addresses()[0].Addr)
}
