package dns

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"
	grpcsc "google.golang.org/grpc/serviceconfig"
)

// call is one call that a resolver made: an update, or an error.
type call struct {
	state resolver.State
	err   error
	at    time.Time
}

// addrs are the addresses of an update.
func (c call) addrs() []string {
	var all []string
	for _, a := range c.state.Addresses {
		all = append(all, a.Addr)
	}
	return all
}

// config is the JSON of an update's service config, empty if it has none.
func (c call) config() string {
	if c.state.ServiceConfig == nil || c.state.ServiceConfig.Err != nil {
		return ""
	}
	return c.state.ServiceConfig.Config.(parsed).js
}

func (c call) pending() bool { return ServiceConfigPending(c.state) }

// parsed is the service config that a channel makes of JSON.
type parsed struct {
	grpcsc.Config
	js string
}

// channel records what a resolver says.
type channel struct {
	resolver.ClientConn
	calls   chan call
	verdict func(resolver.State) error // nil: everything is accepted
}

func newChannel() *channel { return &channel{calls: make(chan call, 100)} }

func (c *channel) UpdateState(s resolver.State) error {
	c.calls <- call{state: s, at: time.Now()}
	if c.verdict == nil {
		return nil
	}
	return c.verdict(s)
}

func (c *channel) ReportError(err error) { c.calls <- call{err: err, at: time.Now()} }

// ParseServiceConfig refuses nothing but what is empty, as grpc-go's does.
func (c *channel) ParseServiceConfig(js string) *grpcsc.ParseResult {
	if js == "" {
		return &grpcsc.ParseResult{Err: errors.New("no service config")}
	}
	return &grpcsc.ParseResult{Config: parsed{js: js}}
}

// next is the next call. The bound is for tests that hang, and out of the way
// of every interval in a synctest bubble.
func (c *channel) next(t *testing.T) call {
	t.Helper()
	select {
	case call := <-c.calls:
		return call
	case <-time.After(time.Hour):
		require.FailNow(t, "the resolver says nothing")
		return call{}
	}
}

// nextUpdate is the next call, which must be no error.
func (c *channel) nextUpdate(t *testing.T) call {
	t.Helper()
	call := c.next(t)
	require.NoError(t, call.err)
	return call
}

// settled is the last update of a resolution: the first one that is not pending.
func (c *channel) settled(t *testing.T) call {
	t.Helper()
	for {
		if call := c.nextUpdate(t); !call.pending() {
			return call
		}
	}
}

// quiet fails if there was a call that the test has not taken.
func (c *channel) quiet(t *testing.T) {
	t.Helper()
	select {
	case call := <-c.calls:
		require.Failf(t, "the resolver speaks", "%v %v", call.state, call.err)
	default:
	}
}

func target(authority, endpoint string) resolver.Target {
	return resolver.Target{URL: url.URL{Scheme: "dns", Host: authority, Path: "/" + endpoint}}
}

// build makes a resolver that is closed with the test.
func build(t *testing.T, b resolver.Builder, c *channel, authority, endpoint string) resolver.Resolver {
	t.Helper()
	r, err := b.Build(target(authority, endpoint), c, resolver.BuildOptions{})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}
