package e2e_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

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
// Dial, by a Dial that waits, or by NewClient and an RPC, the error is one line, and no
// goroutine and no socket is left. TestFailuresGolden does the same for failures on the
// way to a server.
func TestFailingInputsLeaveNothing(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	ca := h2test.NewCA(t)
	b := backendtest.Start(t, "one")
	names := dnstest.Listen(t, dnstest.Zone{"backend.test": {Addrs: []string{"127.0.0.1"}}})
	demanding := proxytest.ListenHTTP(t, nil, "Basic other", ca.ServerConfig("127.0.0.1"))
	named := credentials.NewTLS(ca.ClientConfig("a.example"))
	strict := token{secure: true}
	building := backendtest.Scripted{OnBuild: func(cc resolver.ClientConn, _ resolver.BuildOptions) error {
		_ = cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: b.Addr}}})
		return errors.New("no more")
	}}
	const dial, wait, newClient, call = "dial", "wait", "NewClient", "call"
	all, atDial, later := []string{dial, wait, newClient}, []string{dial, wait}, []string{wait, call}
	for _, tt := range []struct {
		name   string
		how    []string // in which ways it fails; in others it is not tried
		ctx    context.Context
		target string // "": the backend's
		opts   []grpcdial.DialOption
		first  *grpcdial.ServiceConfig // waits in the channel of WithServiceConfig; nil: it is not given by this
		says   string
	}{
		// Options.
		{name: "nil option", how: all, opts: []grpcdial.DialOption{nil}, says: "is nil"},
		{name: "nil resolver", how: all, opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithResolvers(nil)}, says: "WithResolvers"},
		{name: "two illegal options", how: all, opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithCodec(nil), grpcdial.WithUserAgent("\n")}, says: "WithCodec"},
		{name: "WithBlock", how: []string{newClient}, opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithBlock()}, says: "AwaitReady"},
		{name: "default service config", how: all, opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig("{\n")}, says: "WithDefaultServiceConfig"},

		// Credentials.
		{name: "none", how: all, says: "WithInsecure"},
		{name: "credentials twice", how: all, opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithTransportCredentials(named)}, says: "both given"},
		{name: "credentials and bundle", how: all, opts: []grpcdial.DialOption{grpcdial.WithTransportCredentials(named), grpcdial.WithCredentialsBundle(bundle{transport: named})}, says: "both given"},
		{name: "insecure and bundle", how: all, opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithCredentialsBundle(bundle{transport: named})}, says: "both given"},
		{name: "half a bundle", how: all, opts: []grpcdial.DialOption{grpcdial.WithCredentialsBundle(bundle{})}, says: "no transport credentials"},
		{name: "strict credentials", how: all, opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithPerRPCCredentials(strict)}, says: "require transport security"},
		{name: "strict credentials of a bundle", how: all, opts: []grpcdial.DialOption{grpcdial.WithCredentialsBundle(bundle{transport: insecure.NewCredentials(), perRPC: strict})}, says: "of the bundle"},
		{name: "strict credentials, late", how: later, opts: []grpcdial.DialOption{grpcdial.WithTransportCredentials(local.NewCredentials()), grpcdial.WithPerRPCCredentials(strict)}, says: "require transport security"},
		{name: "local credentials to another host", how: later, opts: []grpcdial.DialOption{grpcdial.WithTransportCredentials(local.NewCredentials()), grpcdial.WithContextDialer(farAway)}, says: "non-local"},
		{name: "two names", how: all, opts: []grpcdial.DialOption{grpcdial.WithTransportCredentials(named), grpcdial.WithAuthority("b.example")}, says: "contradicts"},

		// Targets.
		{name: "empty target", how: all, target: "<empty>", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "empty"},
		{name: "web URL", how: all, target: "https://h", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "drop"},
		{name: "no port after the colon", how: all, target: "h:", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "ends where its port"},
		{name: "line break", how: all, target: "h:1\n", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "line break"},
		{name: "xds", how: all, target: "xds:///h", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "xDS"},
		{name: "no host", how: atDial, target: "dns:///", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "no host"},
		{name: "no host", how: []string{call}, target: "dns:///", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "dns:///: resolve failed"},
		{name: "a unix socket's host", how: all, target: "unix://h/p", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "authority"},
		{name: "another scheme", how: later, target: "tcp://h:1", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: `drop "tcp://"`},
		{name: "white space", how: later, target: "127.0.0.1:1 ", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "white space"},
		{name: "no such name", how: later, target: "dns://" + names.Addr() + "/absent.test", opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "no such host"},

		// The resolver and the configs.
		{name: "a builder that fails", how: append(atDial, call), target: "failing:///x", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithResolvers(failingBuilder{errors.New("no luck")})}, says: "no luck"},
		{name: "a builder that fails after its update", how: atDial, target: "scripted:///x", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithResolvers(building)}, says: "no more"},
		{name: "a builder that returns nothing", how: append(atDial, call), target: "nothing:///x", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithResolvers(nothingBuilder{})}, says: "no resolver"},
		{name: "no first config", how: atDial, opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithServiceConfig(make(chan grpcdial.ServiceConfig)), grpcdial.WithTimeout(20 * time.Millisecond)}, says: "deadline"},
		{name: "an illegal first config", how: all, opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, first: &grpcdial.ServiceConfig{Methods: map[string]grpcdial.MethodConfig{"no slash": {}}}, says: "WithServiceConfig: "},

		// The context.
		{name: "ended context", how: atDial, ctx: ended, opts: []grpcdial.DialOption{grpcdial.WithInsecure()}, says: "canceled"},
		{name: "ended context and no first config", how: atDial, ctx: ended, opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithServiceConfig(make(chan grpcdial.ServiceConfig))}, says: "canceled"},

		// Proxies.
		{name: "no proxy's scheme", how: append(atDial, call), target: "h:1", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), via("ftp", "p")}, says: "ftp"},
		{name: "no idea of a proxy", how: append(atDial, call), target: "h:1", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithProxy(func(string) (*url.URL, error) { return nil, errors.New("no idea") })}, says: "no idea"},
		{name: "a proxy's certificate", how: later, target: "passthrough:///h:1", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), via("https", demanding.Addr)}, says: "WithProxyTLSConfig"},
		{name: "407", how: later, target: "passthrough:///h:1", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), via("https", demanding.Addr), grpcdial.WithProxyTLSConfig(ca.ClientConfig(""))}, says: "407"},

		// Dialers.
		{name: "a dialer that fails", how: later, target: "h:1", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithContextDialer(backendtest.Refuse)}, says: "refused"},
		{name: "a dialer that returns nothing", how: later, target: "h:1", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, nil })}, says: "neither"},
		{name: "a dialer of old that fails", how: later, target: "h:1", opts: []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithDialer(func(string, time.Duration) (net.Conn, error) { return nil, backendtest.ErrRefused })}, says: "refused"},
	} {
		for _, how := range tt.how {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				target, ctx, opts := tt.target, backendtest.Bounded(t), append([]grpcdial.DialOption{grpcdial.WithNoProxy()}, tt.opts...)
				if target == "" {
					target = b.Addr
				}
				if target == "<empty>" {
					target = ""
				}
				if tt.first != nil {
					opts = append(opts, grpcdial.WithServiceConfig(configsOf(*tt.first)))
				}
				if tt.ctx != nil {
					ctx = tt.ctx
				}
				files := backendtest.CheckFiles(t)
				var err error
				var cc *grpcdial.ClientConn
				switch how {
				case dial:
					cc, err = grpcdial.DialContext(ctx, target, opts...)
				case wait:
					cc, err = grpcdial.DialContext(ctx, target, append(opts, grpcdial.WithBlock(), grpcdial.WithGiveUp(func(grpcdial.Attempt) bool { return true }))...)
				case newClient:
					cc, err = grpcdial.NewClient(target, opts...)
				case call:
					made, refused := grpcdial.NewClient(target, opts...)
					require.NoError(t, refused)
					_, err = backendtest.AskName(ctx, made)
					require.NoError(t, made.Close())
				}
				require.Error(t, err)
				assert.Nil(t, cc)
				assert.ErrorContains(t, err, tt.says)
				assert.NotContains(t, err.Error(), "\n")
				assert.Less(t, len(err.Error()), 600, "readable")
				assert.True(t, strings.HasPrefix(err.Error(), "grpcdial: ") || how == call, "%v", err)
				files()
				backendtest.AssertNothingRuns(t)
			})
		}
	}
}

// farAway is a connection to another host, as far as it says itself.
func farAway(ctx context.Context, _ string) (net.Conn, error) {
	nc, err := backendtest.Mute(ctx, "")
	return remote{nc}, err
}

type remote struct{ net.Conn }

func (remote) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

type nothingBuilder struct{}

func (nothingBuilder) Scheme() string { return "nothing" }
func (nothingBuilder) Build(resolver.Target, resolver.ClientConn, resolver.BuildOptions) (resolver.Resolver, error) {
	return nil, nil
}

// configsOf is a channel that holds these configs and is never closed.
func configsOf(configs ...grpcdial.ServiceConfig) chan grpcdial.ServiceConfig {
	c := make(chan grpcdial.ServiceConfig, len(configs))
	for _, sc := range configs {
		c <- sc
	}
	return c
}
