package e2e_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// everything is a service config with each field.
func everything() grpcdial.ServiceConfig {
	return grpcdial.ServiceConfig{
		LoadBalancing: []grpcdial.LoadBalancingPolicy{{Name: "no_such"}, {Name: "pick_first", Config: json.RawMessage(`{"shuffleAddressList":true}`)}},
		MethodSettings: []grpcdial.MethodSettings{
			{Names: []grpcdial.MethodName{{}}, Timeout: new(3 * time.Second)},
			{
				Names:        []grpcdial.MethodName{{Service: "s"}, {Service: "t", Method: "m"}},
				WaitForReady: new(true), MaxRequestBytes: new(1000), MaxResponseBytes: new(0),
				Retry: &grpcdial.RetryPolicy{
					MaxAttempts: 3, InitialBackoff: time.Second / 8, MaxBackoff: 2 * time.Second, BackoffMultiplier: 1.5,
					RetryableStatusCodes: []codes.Code{codes.Canceled, codes.Unavailable}, PerAttemptRecvTimeout: time.Second,
				},
			},
			{
				Names:   []grpcdial.MethodName{{Service: "u"}},
				Hedging: &grpcdial.HedgingPolicy{MaxAttempts: 2, HedgingDelay: time.Millisecond, NonFatalStatusCodes: []codes.Code{codes.Unavailable}},
			},
		},
		RetryThrottling:             &grpcdial.RetryThrottling{MaxTokens: 10, TokenRatio: 0.1},
		HealthCheckService:          new(""),
		MaxConnectionsPerSubchannel: 4,
	}
}

// TestServiceConfigRoundTrip: its JSON is what it was made from, and grpc-go takes it.
func TestServiceConfigRoundTrip(t *testing.T) {
	want := everything()
	text, err := want.JSON()
	require.NoError(t, err)
	got, err := grpcdial.ParseServiceConfig(text)
	require.NoError(t, err)
	want.LoadBalancing[0].Config = json.RawMessage("{}")
	assert.Equal(t, want, got)

	conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(text))
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	// Methods, as the fields that were there first, say the same.
	old, err := grpcdial.ServiceConfig{LB: new("round_robin"), Methods: map[string]grpcdial.MethodConfig{"/s/m": {WaitForReady: new(true)}}}.JSON()
	require.NoError(t, err)
	assert.JSONEq(t, `{"loadBalancingPolicy":"round_robin","methodConfig":[{"name":[{"service":"s","method":"m"}],"waitForReady":true}]}`, old)
}

// TestServiceConfigKeepsAttempts: how many attempts a policy allows is kept; how many are
// made is the channel's to say.
func TestServiceConfigKeepsAttempts(t *testing.T) {
	want := everything()
	want.LoadBalancing = nil
	want.MethodSettings[1].Retry.MaxAttempts, want.MethodSettings[2].Hedging.MaxAttempts = 9, 7
	text, err := want.JSON()
	require.NoError(t, err)
	got, err := grpcdial.ParseServiceConfig(text)
	require.NoError(t, err)
	assert.Equal(t, want, got)

	for most, attempts := range map[int]int{0: 5, 8: 8, 20: 9} {
		opts := []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithDefaultConfig(got)}
		if most > 0 {
			opts = append(opts, grpcdial.WithMaxCallAttempts(most))
		}
		cc := newClient(t, "passthrough:///nowhere", opts...)
		cc.Connect()
		require.Eventually(t, func() bool { return cc.GetMethodConfig("/s/y").RetryPolicy != nil }, time.Minute, time.Millisecond)
		assert.Equal(t, attempts, cc.GetMethodConfig("/s/y").RetryPolicy.MaxAttempts)
	}
}

// FuzzServiceConfig: what was read is written so that it is read as the same, and an error
// names a field or says that the text is no JSON object.
func FuzzServiceConfig(f *testing.F) {
	all, err := everything().JSON()
	require.NoError(f, err)
	for _, text := range []string{all, `{}`, `null`, `{"loadBalancingPolicy":"ROUND_ROBIN"}`, `{"methodConfig":[{"name":[{}],"timeout":"0s"}]}`,
		`{"methodConfig":[{"retryPolicy":{"maxAttempts":1}}]}`, `{"healthCheckConfig":{}}`, `{"retryThrottling":{"maxTokens":1.5,"tokenRatio":0.0015}}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := grpcdial.ParseServiceConfig(text)
		if err != nil {
			require.Regexp(t, `^service config: .+`, err.Error())
			return
		}
		written, err := c.JSON()
		if err != nil { // no policy of loadBalancingConfig is registered, or their configs are not theirs
			require.Contains(t, err.Error(), "loadBalancing")
			return
		}
		again, err := grpcdial.ParseServiceConfig(written)
		require.NoError(t, err, written)
		twice, err := again.JSON()
		require.NoError(t, err, written)
		require.Equal(t, written, twice)
		require.Equal(t, c.MethodSettings, again.MethodSettings)
	})
}

// TestServiceConfigRepeatedFields: of a field that stands twice the last value counts, as it
// does for the channel.
func TestServiceConfigRepeatedFields(t *testing.T) {
	got, err := grpcdial.ParseServiceConfig(`{"loadBalancingPolicy":5,"loadBalancingConfig":[{"no_such":{}},{"pick_first":{}}],
		"loadBalancingPolicy":"x","loadBalancingConfig":[{"round_robin":{}}]}`)
	require.NoError(t, err)
	assert.Equal(t, grpcdial.ServiceConfig{
		LB: new("x"), LoadBalancing: []grpcdial.LoadBalancingPolicy{{Name: "round_robin", Config: json.RawMessage("{}")}},
	}, got)
}

func TestServiceConfigErrors(t *testing.T) {
	for want, change := range map[string]func(*grpcdial.ServiceConfig){
		"methodConfig[1].retryPolicy.maxAttempts: 1":        func(c *grpcdial.ServiceConfig) { c.MethodSettings[1].Retry.MaxAttempts = 1 },
		"methodConfig[1].retryPolicy.initialBackoff":        func(c *grpcdial.ServiceConfig) { c.MethodSettings[1].Retry.InitialBackoff = 0 },
		"methodConfig[2].hedgingPolicy.hedgingDelay":        func(c *grpcdial.ServiceConfig) { c.MethodSettings[2].Hedging.HedgingDelay = -1 },
		"methodConfig[2].hedgingPolicy":                     func(c *grpcdial.ServiceConfig) { c.MethodSettings[2].Retry = c.MethodSettings[1].Retry },
		"methodConfig[2].name[0]":                           func(c *grpcdial.ServiceConfig) { c.MethodSettings[2].Names[0].Service = "s" },
		"methodConfig[1].maxRequestMessageBytes: -1":        func(c *grpcdial.ServiceConfig) { c.MethodSettings[1].MaxRequestBytes = new(-1) },
		"retryThrottling.maxTokens":                         func(c *grpcdial.ServiceConfig) { c.RetryThrottling.MaxTokens = 1001 },
		"retryThrottling.tokenRatio: NaN":                   func(c *grpcdial.ServiceConfig) { c.RetryThrottling.TokenRatio = math.NaN() },
		"methodConfig[1].retryPolicy.backoffMultiplier":     func(c *grpcdial.ServiceConfig) { c.MethodSettings[1].Retry.BackoffMultiplier = math.Inf(1) },
		"connectionScaling.maxConnectionsPerSubchannel: -1": func(c *grpcdial.ServiceConfig) { c.MaxConnectionsPerSubchannel = -1 },
		"loadBalancingConfig[0].x": func(c *grpcdial.ServiceConfig) {
			c.LoadBalancing[0] = grpcdial.LoadBalancingPolicy{Name: "x", Config: json.RawMessage("{")}
		},
		"loadBalancingConfig: ":                                            func(c *grpcdial.ServiceConfig) { c.LoadBalancing = c.LoadBalancing[:1] },
		"methodConfig[1].retryPolicy.retryableStatusCodes[1]: 17":          func(c *grpcdial.ServiceConfig) { c.MethodSettings[1].Retry.RetryableStatusCodes[1] = 17 },
		"methodConfig[2].hedgingPolicy.nonFatalStatusCodes[0]: 4294967295": func(c *grpcdial.ServiceConfig) { c.MethodSettings[2].Hedging.NonFatalStatusCodes[0] = 1<<32 - 1 },
		`methodConfig[1].name[1].method: "\xff"`:                           func(c *grpcdial.ServiceConfig) { c.MethodSettings[1].Names[1].Method = "\xff" },
		`methodConfig[2].name[0].service: "a\xff"`:                         func(c *grpcdial.ServiceConfig) { c.MethodSettings[2].Names[0].Service = "a\xff" },
		`healthCheckConfig.serviceName: "\xff"`:                            func(c *grpcdial.ServiceConfig) { c.HealthCheckService = new("\xff") },
		`loadBalancingPolicy: "\xff"`:                                      func(c *grpcdial.ServiceConfig) { c.LB = new("\xff") },
		`loadBalancingConfig[0]: "\xff"`:                                   func(c *grpcdial.ServiceConfig) { c.LoadBalancing[0].Name = "\xff" },
		`Methods["m"]`:                                                     func(c *grpcdial.ServiceConfig) { c.Methods = map[string]grpcdial.MethodConfig{"m": {}} },
	} {
		c := everything()
		change(&c)
		_, err := c.JSON()
		assert.ErrorContains(t, err, want)
		_, err = grpcdial.NewClient("passthrough:///nowhere", grpcdial.WithInsecure(), grpcdial.WithDefaultConfig(c))
		assert.ErrorContains(t, err, want)
	}
	_, err := grpcdial.ParseServiceConfig("{")
	assert.Error(t, err)
}

// TestWithDefaultConfig: it is in force as its JSON would be, and replaces that.
func TestWithDefaultConfig(t *testing.T) {
	cc := newClient(t, "passthrough:///nowhere", grpcdial.WithInsecure(),
		grpcdial.WithDefaultServiceConfig(`{"methodConfig":[{"name":[{}],"timeout":"1s"}]}`), grpcdial.WithDefaultConfig(everything()))
	cc.Connect()
	ctx := backendtest.Bounded(t)
	for cc.GetMethodConfig("/x/y").Timeout == nil {
		require.NoError(t, ctx.Err())
	}
	assert.Equal(t, 3*time.Second, *cc.GetMethodConfig("/x/y").Timeout)
	assert.Equal(t, 3, cc.GetMethodConfig("/s/y").RetryPolicy.MaxAttempts)
}
