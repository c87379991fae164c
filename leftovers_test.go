package grpcdial

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// TestFailingInputsLeaveNothing: whatever a program gets wrong, or cannot have, by
// Dial, by a Dial that waits, or by NewClient and an RPC, it is told in one line, and
// no goroutine and no socket is left. TestFailuresGolden does the same for what goes
// wrong on the way to a server.
func TestFailingInputsLeaveNothing(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	ca := h2test.NewCA(t)
	b := startBackend(t, "one")
	names := dnstest.Listen(t, dnstest.Zone{"backend.test": {Addrs: []string{"127.0.0.1"}}})
	demanding := proxytest.ListenHTTP(t, nil, "Basic other", ca.ServerConfig("127.0.0.1"))
	named := credentials.NewTLS(ca.ClientConfig("a.example"))
	strict := testPerRPC{secure: true}
	building := scripted{build: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
		_ = cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: b.addr}}})
		return errors.New("no more")
	}}
	const dial, wait, newClient, call = "dial", "wait", "NewClient", "call"
	all, atDial, later := []string{dial, wait, newClient}, []string{dial, wait}, []string{wait, call}
	for _, tt := range []struct {
		name   string
		how    []string // in which ways it fails; in others it is not tried
		ctx    context.Context
		target string // "": the backend's
		opts   []DialOption
		first  *ServiceConfig // waits in the channel of WithServiceConfig; nil: it is not given by this
		says   string
	}{
		// Options.
		{name: "nil option", how: all, opts: []DialOption{nil}, says: "is nil"},
		{name: "nil resolver", how: all, opts: []DialOption{WithInsecure(), WithResolvers(nil)}, says: "WithResolvers"},
		{name: "two illegal options", how: all, opts: []DialOption{WithInsecure(), WithCodec(nil), WithUserAgent("\n")}, says: "WithCodec"},
		{name: "WithBlock", how: []string{newClient}, opts: []DialOption{WithInsecure(), WithBlock()}, says: "AwaitReady"},
		{name: "default service config", how: all, opts: []DialOption{WithInsecure(), WithDefaultServiceConfig("{\n")}, says: "WithDefaultServiceConfig"},

		// Credentials.
		{name: "none", how: all, says: "WithInsecure"},
		{name: "credentials twice", how: all, opts: []DialOption{WithInsecure(), WithTransportCredentials(named)}, says: "both given"},
		{name: "credentials and bundle", how: all, opts: []DialOption{WithTransportCredentials(named), WithCredentialsBundle(testBundle{transport: named})}, says: "both given"},
		{name: "insecure and bundle", how: all, opts: []DialOption{WithInsecure(), WithCredentialsBundle(testBundle{transport: named})}, says: "both given"},
		{name: "half a bundle", how: all, opts: []DialOption{WithCredentialsBundle(testBundle{})}, says: "no transport credentials"},
		{name: "strict credentials", how: all, opts: []DialOption{WithInsecure(), WithPerRPCCredentials(strict)}, says: "require transport security"},
		{name: "strict credentials of a bundle", how: all, opts: []DialOption{WithCredentialsBundle(testBundle{transport: insecure.NewCredentials(), perRPC: strict})}, says: "of the bundle"},
		{name: "strict credentials, late", how: later, opts: []DialOption{WithTransportCredentials(local.NewCredentials()), WithPerRPCCredentials(strict)}, says: "require transport security"},
		{name: "local credentials to another host", how: later, opts: []DialOption{WithTransportCredentials(local.NewCredentials()), WithContextDialer(farAway)}, says: "non-local"},
		{name: "two names", how: all, opts: []DialOption{WithTransportCredentials(named), WithAuthority("b.example")}, says: "contradicts"},

		// Targets.
		{name: "empty target", how: all, target: "<empty>", opts: []DialOption{WithInsecure()}, says: "empty"},
		{name: "web URL", how: all, target: "https://h", opts: []DialOption{WithInsecure()}, says: "drop"},
		{name: "no port after the colon", how: all, target: "h:", opts: []DialOption{WithInsecure()}, says: "ends where its port"},
		{name: "line break", how: all, target: "h:1\n", opts: []DialOption{WithInsecure()}, says: "line break"},
		{name: "xds", how: all, target: "xds:///h", opts: []DialOption{WithInsecure()}, says: "xDS"},
		{name: "no host", how: atDial, target: "dns:///", opts: []DialOption{WithInsecure()}, says: "no host"},
		{name: "no host", how: []string{call}, target: "dns:///", opts: []DialOption{WithInsecure()}, says: "dns:///: resolve failed"},
		{name: "a unix socket's host", how: append(atDial, call), target: "unix://h/p", opts: []DialOption{WithInsecure()}, says: "authority"},
		{name: "another scheme", how: later, target: "tcp://h:1", opts: []DialOption{WithInsecure()}, says: `drop "tcp://"`},
		{name: "white space", how: later, target: "127.0.0.1:1 ", opts: []DialOption{WithInsecure()}, says: "white space"},
		{name: "no such name", how: later, target: "dns://" + names.Addr() + "/absent.test", opts: []DialOption{WithInsecure()}, says: "no such host"},

		// The resolver and the configs.
		{name: "a builder that fails", how: append(atDial, call), target: "failing:///x", opts: []DialOption{WithInsecure(), WithResolvers(failingBuilder{errors.New("no luck")})}, says: "no luck"},
		{name: "a builder that fails after its update", how: atDial, target: "scripted:///x", opts: []DialOption{WithInsecure(), WithResolvers(building)}, says: "no more"},
		{name: "a builder that returns nothing", how: append(atDial, call), target: "nothing:///x", opts: []DialOption{WithInsecure(), WithResolvers(nothingBuilder{})}, says: "no resolver"},
		{name: "no first config", how: atDial, opts: []DialOption{WithInsecure(), WithServiceConfig(make(chan ServiceConfig)), WithTimeout(20 * time.Millisecond)}, says: "deadline"},
		{name: "an illegal first config", how: all, opts: []DialOption{WithInsecure()}, first: &ServiceConfig{Methods: map[string]MethodConfig{"no slash": {}}}, says: "WithServiceConfig: "},

		// The context.
		{name: "ended context", how: atDial, ctx: ended, opts: []DialOption{WithInsecure()}, says: "canceled"},
		{name: "ended context and no first config", how: atDial, ctx: ended, opts: []DialOption{WithInsecure(), WithServiceConfig(make(chan ServiceConfig))}, says: "canceled"},

		// Proxies.
		{name: "no proxy's scheme", how: append(atDial, call), target: "h:1", opts: []DialOption{WithInsecure(), via("ftp", "p")}, says: "ftp"},
		{name: "no idea of a proxy", how: append(atDial, call), target: "h:1", opts: []DialOption{WithInsecure(), WithProxy(func(string) (*url.URL, error) { return nil, errors.New("no idea") })}, says: "no idea"},
		{name: "a proxy's certificate", how: later, target: "passthrough:///h:1", opts: []DialOption{WithInsecure(), via("https", demanding.Addr)}, says: "WithProxyTLSConfig"},
		{name: "407", how: later, target: "passthrough:///h:1", opts: []DialOption{WithInsecure(), via("https", demanding.Addr), WithProxyTLSConfig(ca.ClientConfig(""))}, says: "407"},

		// Dialers.
		{name: "a dialer that fails", how: later, target: "h:1", opts: []DialOption{WithInsecure(), WithContextDialer(refuse)}, says: "refused"},
		{name: "a dialer that returns nothing", how: later, target: "h:1", opts: []DialOption{WithInsecure(), WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, nil })}, says: "neither"},
		{name: "a dialer of old that fails", how: later, target: "h:1", opts: []DialOption{WithInsecure(), WithDialer(func(string, time.Duration) (net.Conn, error) { return nil, errRefused })}, says: "refused"},
	} {
		for _, how := range tt.how {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				target, ctx, opts := tt.target, bounded(t), append([]DialOption{WithNoProxy()}, tt.opts...)
				if target == "" {
					target = b.addr
				}
				if target == "<empty>" {
					target = ""
				}
				if tt.first != nil {
					opts = append(opts, WithServiceConfig(configsOf(*tt.first)))
				}
				if tt.ctx != nil {
					ctx = tt.ctx
				}
				files := checkFiles(t)
				var err error
				var cc *ClientConn
				switch how {
				case dial:
					cc, err = DialContext(ctx, target, opts...)
				case wait:
					cc, err = DialContext(ctx, target, append(opts, WithBlock(), WithGiveUp(func(Attempt) bool { return true }))...)
				case newClient:
					cc, err = NewClient(target, opts...)
				case call:
					made, refused := NewClient(target, opts...)
					require.NoError(t, refused)
					_, err = askName(ctx, made)
					require.NoError(t, made.Close())
				}
				require.Error(t, err)
				assert.Nil(t, cc)
				assert.ErrorContains(t, err, tt.says)
				assert.NotContains(t, err.Error(), "\n")
				assert.Less(t, len(err.Error()), 600, "readable")
				assert.True(t, strings.HasPrefix(err.Error(), "grpcdial: ") || how == call, "%v", err)
				files()
				assertNothingRuns(t)
			})
		}
	}
}

// farAway is a connection to another host, as far as it says itself.
func farAway(ctx context.Context, _ string) (net.Conn, error) {
	nc, err := mute(ctx, "")
	return remote{nc}, err
}

type remote struct{ net.Conn }

func (remote) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

type nothingBuilder struct{}

func (nothingBuilder) Scheme() string { return "nothing" }
func (nothingBuilder) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, nil
}

// configsOf is a channel with these configs, and nobody who closes it.
func configsOf(configs ...ServiceConfig) chan ServiceConfig {
	c := make(chan ServiceConfig, len(configs))
	for _, sc := range configs {
		c <- sc
	}
	return c
}
