package e2e_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// timeoutConfig has one time-out for all methods.
func timeoutConfig(seconds int) grpcdial.ServiceConfig {
	d := time.Duration(seconds) * time.Second
	return grpcdial.ServiceConfig{Methods: map[string]grpcdial.MethodConfig{"": {Timeout: &d}}}
}

// timeoutOf returns the seconds of the config in force; 0: none.
func timeoutOf(cc *grpcdial.ClientConn) int {
	d := cc.GetMethodConfig("/any/method").Timeout
	if d == nil {
		return 0
	}
	return int(*d / time.Second)
}

// TestServiceConfigChannel: when the configs of WithServiceConfig are read, what waits
// for them, and which one is in force. The channel of this test has a resolver that
// gives a config too, and a default one; time is synctest's.
func TestServiceConfigChannel(t *testing.T) {
	const resolversConfig, defaultConfig = `{"methodConfig": [{"name": [{}], "timeout": "91s"}]}`, `{"methodConfig": [{"name": [{}], "timeout": "92s"}]}`
	bad := grpcdial.ServiceConfig{Methods: map[string]grpcdial.MethodConfig{"no slash": {}}}
	// dialed is a dial that does not wait for READY.
	type dialed struct {
		cc    *grpcdial.ClientConn
		err   error
		after time.Duration
	}
	for _, tt := range []struct {
		name    string
		configs func() chan grpcdial.ServiceConfig
		run     func(t *testing.T, configs chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool)
	}{
		{"one that waits is read at once", func() chan grpcdial.ServiceConfig { return configsOf(timeoutConfig(1)) },
			func(t *testing.T, _ chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				d := <-dial(t.Context())
				require.NoError(t, d.err)
				defer d.cc.Close()
				assert.Zero(t, d.after)
				assert.True(t, built())
				synctest.Wait()
				assert.Equal(t, 1, timeoutOf(d.cc), "it wins over the resolver's and the default")
			}},
		{"the resolver is not built before the first", func() chan grpcdial.ServiceConfig { return make(chan grpcdial.ServiceConfig) },
			func(t *testing.T, configs chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				result := dial(t.Context())
				time.Sleep(time.Hour)
				synctest.Wait()
				assert.Empty(t, result)
				assert.False(t, built())
				configs <- timeoutConfig(1)
				d := <-result
				require.NoError(t, d.err)
				defer d.cc.Close()
				assert.Equal(t, time.Hour, d.after)
				assert.True(t, built())
			}},
		{"closed while the first is waited for", func() chan grpcdial.ServiceConfig { return make(chan grpcdial.ServiceConfig) },
			func(t *testing.T, configs chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				result := dial(t.Context())
				time.Sleep(time.Second)
				close(configs)
				d := <-result
				require.NoError(t, d.err)
				defer d.cc.Close()
				synctest.Wait()
				assert.True(t, built())
				assert.Equal(t, 91, timeoutOf(d.cc), "as if the option had not been given")
			}},
		{"closed before", func() chan grpcdial.ServiceConfig { c := make(chan grpcdial.ServiceConfig); close(c); return c },
			func(t *testing.T, _ chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				d := <-dial(t.Context())
				require.NoError(t, d.err)
				assert.Zero(t, d.after)
				synctest.Wait()
				assert.Equal(t, 91, timeoutOf(d.cc))
				require.NoError(t, d.cc.Close())
			}},
		{"closed after the first", func() chan grpcdial.ServiceConfig { c := configsOf(timeoutConfig(1)); close(c); return c },
			func(t *testing.T, _ chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				d := <-dial(t.Context())
				require.NoError(t, d.err)
				synctest.Wait()
				assert.Equal(t, 1, timeoutOf(d.cc), "it stays in force")
				require.NoError(t, d.cc.Close())
			}},
		{"the context bounds the wait", func() chan grpcdial.ServiceConfig { return make(chan grpcdial.ServiceConfig) },
			func(t *testing.T, _ chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				d := <-dial(ctx)
				assert.ErrorIs(t, d.err, context.DeadlineExceeded)
				assert.EqualError(t, d.err, `grpcdial: no connection for "scripted:///x" after 1m0s, in IDLE (context deadline exceeded): `+
					`x: resolve not finished after 1m0s: it has not begun: the first config of WithServiceConfig has not come`)
				assert.ErrorAs(t, d.err, new(*grpcdial.DialError))
				assert.Equal(t, time.Minute, d.after)
				assert.False(t, built())
			}},
		{"WithTimeout bounds the wait", func() chan grpcdial.ServiceConfig { return make(chan grpcdial.ServiceConfig) },
			func(t *testing.T, _ chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				d := <-dial(t.Context(), grpcdial.WithTimeout(time.Minute))
				assert.ErrorIs(t, d.err, context.DeadlineExceeded)
				assert.Equal(t, time.Minute, d.after)
				assert.False(t, built())
			}},
		{"a context that ends the wait", func() chan grpcdial.ServiceConfig { return make(chan grpcdial.ServiceConfig) },
			func(t *testing.T, _ chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				ctx, cancel := context.WithCancel(t.Context())
				result := dial(ctx)
				time.Sleep(time.Second)
				cancel()
				d := <-result
				assert.ErrorIs(t, d.err, context.Canceled)
				assert.False(t, built())
			}},
		{"an illegal first one", func() chan grpcdial.ServiceConfig { return configsOf(bad) },
			func(t *testing.T, _ chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				d := <-dial(t.Context())
				assert.ErrorContains(t, d.err, `WithServiceConfig: `)
				assert.ErrorContains(t, d.err, `"no slash"`)
				assert.False(t, built())
			}},
		{"later ones replace it, illegal ones do not", func() chan grpcdial.ServiceConfig { return configsOf(timeoutConfig(1)) },
			func(t *testing.T, configs chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				var refused []error
				d := <-dial(t.Context(), grpcdial.WithDialTrace(&grpcdial.DialTrace{ConfigRefused: func(e grpcdial.DialEvent) { refused = append(refused, e.Err) }}))
				require.NoError(t, d.err)
				defer d.cc.Close()
				for _, step := range []struct {
					config  grpcdial.ServiceConfig
					want    int
					refused int
				}{{timeoutConfig(2), 2, 0}, {bad, 2, 1}, {timeoutConfig(3), 3, 1}, {grpcdial.ServiceConfig{}, 0, 1}, {bad, 0, 2}} {
					configs <- step.config
					synctest.Wait()
					assert.Equal(t, step.want, timeoutOf(d.cc))
					assert.Len(t, refused, step.refused)
				}
				for _, err := range refused {
					assert.ErrorContains(t, err, `"no slash"`)
				}
			}},
		{"nothing is read after Close", func() chan grpcdial.ServiceConfig { return configsOf(timeoutConfig(1)) },
			func(t *testing.T, configs chan grpcdial.ServiceConfig, dial func(context.Context, ...grpcdial.DialOption) <-chan dialed, built func() bool) {
				d := <-dial(t.Context())
				require.NoError(t, d.err)
				require.NoError(t, d.cc.Close())
				configs <- timeoutConfig(2)
				synctest.Wait()
				assert.Len(t, configs, 1, "it is for another channel")
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				configs := tt.configs()
				wasBuilt := false
				r := backendtest.Scripted{OnBuild: func(cc resolver.ClientConn, o resolver.BuildOptions) error {
					wasBuilt = true
					looks := strings.HasPrefix(tt.name, "closed") && tt.name != "closed after the first"
					assert.Equal(t, looks, !o.DisableServiceConfig, "it need not look for a config that does not count")
					return cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}, ServiceConfig: cc.ParseServiceConfig(resolversConfig)})
				}}
				begun := time.Now()
				dial := func(ctx context.Context, opts ...grpcdial.DialOption) <-chan dialed {
					result := make(chan dialed, 1)
					go func() {
						opts := append(opts, grpcdial.WithInsecure(), grpcdial.WithContextDialer(backendtest.Hang), grpcdial.WithResolvers(r), grpcdial.WithDefaultServiceConfig(defaultConfig), grpcdial.WithServiceConfig(configs))
						cc, err := grpcdial.DialContext(ctx, "scripted:///x", opts...)
						result <- dialed{cc, err, time.Since(begun)}
					}()
					return result
				}
				tt.run(t, configs, dial, func() bool { return wasBuilt })
			})
		})
	}
}

// TestServiceConfigChannelOfNewClient: NewClient waits for no config. One that comes later
// counts all the same, and Close ends the wait for it.
func TestServiceConfigChannelOfNewClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		configs := make(chan grpcdial.ServiceConfig)
		cc, err := grpcdial.NewClient("x:1", grpcdial.WithInsecure(), grpcdial.WithContextDialer(backendtest.Hang), grpcdial.WithServiceConfig(configs))
		require.NoError(t, err)
		assert.Zero(t, timeoutOf(cc))
		configs <- timeoutConfig(1)
		synctest.Wait()
		assert.Equal(t, 1, timeoutOf(cc))
		begun := time.Now()
		require.NoError(t, cc.Close())
		assert.Zero(t, time.Since(begun))
		select {
		case configs <- timeoutConfig(2):
			t.Error("a closed channel reads configs")
		default:
		}

		cc, err = grpcdial.NewClient("x:1", grpcdial.WithInsecure(), grpcdial.WithServiceConfig(configsOf(timeoutConfig(3))))
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, 3, timeoutOf(cc))
		require.NoError(t, cc.Close())

		// A channel of configs that is closed without one has no effect, whenever that is.
		for _, connects := range []bool{false, true} {
			configs := make(chan grpcdial.ServiceConfig)
			r := manual.NewBuilderWithScheme("hand")
			r.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) {
				_ = cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}, ServiceConfig: cc.ParseServiceConfig(`{"methodConfig": [{"name": [{}], "timeout": "4s"}]}`)})
			}
			cc, err := grpcdial.NewClient("hand:///x", grpcdial.WithInsecure(), grpcdial.WithResolvers(r), grpcdial.WithContextDialer(backendtest.Hang), grpcdial.WithServiceConfig(configs))
			require.NoError(t, err)
			if connects {
				cc.Connect()
				synctest.Wait()
				assert.Zero(t, timeoutOf(cc))
			}
			close(configs)
			synctest.Wait()
			cc.Connect()
			synctest.Wait()
			assert.Equal(t, 4, timeoutOf(cc), "the resolver's")
			require.NoError(t, cc.Close())
		}

		_, err = grpcdial.NewClient("x:1", grpcdial.WithInsecure(), grpcdial.WithServiceConfig(configsOf(grpcdial.ServiceConfig{Methods: map[string]grpcdial.MethodConfig{"no slash": {}}})))
		assert.ErrorContains(t, err, `WithServiceConfig: `)
	})
}
