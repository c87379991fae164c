package serviceconfig_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	grpcsc "google.golang.org/grpc/serviceconfig"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

func parse(t testing.TB, js string) *serviceconfig.Config {
	t.Helper()
	c, err := serviceconfig.Parse(js)
	require.NoError(t, err)
	require.NotNil(t, c)
	return c
}

func TestConfigFitsAParseResult(t *testing.T) {
	var r grpcsc.ParseResult
	r.Config = parse(t, `{}`)
	c, ok := r.Config.(*serviceconfig.Config)
	require.True(t, ok)
	assert.Equal(t, `{}`, c.JSON)
}

func TestMethodIsLookedUpInOrder(t *testing.T) {
	c := parse(t, `{"methodConfig":[
		{"name":[{}],"timeout":"1s"},
		{"name":[{"service":"s"},{"service":"a/b"}],"timeout":"2s"},
		{"name":[{"service":"s","method":"m"},{"service":"u","method":"m"}],"waitForReady":true}
	]}`)
	second, two, yes := time.Second, 2*time.Second, true
	tests := []struct {
		method string
		want   serviceconfig.MethodConfig
	}{
		{"/s/m", serviceconfig.MethodConfig{WaitForReady: &yes}}, // not merged with the service's timeout
		{"/u/m", serviceconfig.MethodConfig{WaitForReady: &yes}},
		{"/s/other", serviceconfig.MethodConfig{Timeout: &two}},
		{"/s/", serviceconfig.MethodConfig{Timeout: &two}},
		{"/a/b/m", serviceconfig.MethodConfig{Timeout: &two}},
		{"/a/m", serviceconfig.MethodConfig{Timeout: &second}},
		{"/u/other", serviceconfig.MethodConfig{Timeout: &second}},
		{"/s", serviceconfig.MethodConfig{Timeout: &second}},
		{"s", serviceconfig.MethodConfig{Timeout: &second}},
		{"", serviceconfig.MethodConfig{Timeout: &second}},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, c.Method(tt.method), "method %q", tt.method)
	}
	var none *serviceconfig.Config
	assert.Zero(t, none.Method("/s/m"))
	assert.Zero(t, parse(t, `{"methodConfig":[{"name":[{"service":"s"}],"timeout":"1s"}]}`).Method("/t/m"))
}

func TestParseReadsEveryField(t *testing.T) {
	c := parse(t, ` {
		"unknown": [1, {"x": null}],
		"methodConfig": [ {
			"name": [ {"service": "s", "unknown": 1} ] ,
			"waitForReady": false , "timeout" : "1.000000001s" ,
			"maxRequestMessageBytes": 1024, "maxResponseMessageBytes": "2048",
			"retryPolicy": {
				"maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "10s",
				"backoffMultiplier": 1.6, "retryableStatusCodes": [ "UNAVAILABLE", 4, "CANCELLED" ],
				"perAttemptRecvTimeout": "0.5s"
			}
		}, {
			"name": [ {"service": "h"} ],
			"hedgingPolicy": {"maxAttempts": 3, "hedgingDelay": "0.05s", "nonFatalStatusCodes": ["UNAVAILABLE", 2]}
		} ],
		"connectionScaling": {"maxConnectionsPerSubchannel": 4},
		"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1239},
		"healthCheckConfig": {"serviceName": "h"}
	} `)
	no, timeout, req, resp := false, time.Second+1, 1024, 2048
	assert.Equal(t, serviceconfig.MethodConfig{
		WaitForReady: &no, Timeout: &timeout, MaxReqSize: &req, MaxRespSize: &resp,
		RetryPolicy: &serviceconfig.RetryPolicy{
			MaxAttempts: 3, InitialBackoff: 100 * time.Millisecond, MaxBackoff: 10 * time.Second, BackoffMultiplier: 1.6,
			RetryableStatusCodes:  serviceconfig.CodeSet(0).With(codes.Unavailable).With(codes.DeadlineExceeded).With(codes.Canceled),
			PerAttemptRecvTimeout: 500 * time.Millisecond,
		},
	}, c.Method("/s/m"))
	assert.Equal(t, serviceconfig.MethodConfig{HedgingPolicy: &serviceconfig.HedgingPolicy{
		MaxAttempts: 3, HedgingDelay: 50 * time.Millisecond,
		NonFatalStatusCodes: serviceconfig.CodeSet(0).With(codes.Unavailable).With(codes.Unknown),
	}}, c.Method("/h/m"))
	assert.Equal(t, 4, c.MaxConnectionsPerSubchannel)
	assert.Equal(t, &serviceconfig.RetryThrottling{MaxTokens: 10, TokenRatio: 0.123}, c.RetryThrottling)
	assert.Equal(t, &serviceconfig.HealthCheck{ServiceName: "h"}, c.HealthCheck)
}

func TestNullIsAbsent(t *testing.T) {
	c := parse(t, `{"loadBalancingPolicy":null,"loadBalancingConfig":null,"methodConfig":[{"name":[{"service":"s","method":null}],
		"waitForReady":null,"timeout":null,"maxRequestMessageBytes":null,"maxResponseMessageBytes":null,"retryPolicy":null}],
		"retryThrottling":null,"healthCheckConfig":null}`)
	assert.Zero(t, c.Method("/s/m"))
	assert.Nil(t, c.LB)
	assert.Nil(t, c.RetryThrottling)
	assert.Nil(t, c.HealthCheck)

	c = parse(t, `null`)
	assert.Zero(t, c.Method("/s/m"))
	assert.Equal(t, &serviceconfig.HealthCheck{}, parse(t, `{"healthCheckConfig":{}}`).HealthCheck)
}

func TestWholeNumbersInEveryForm(t *testing.T) {
	for text, want := range map[string]int64{
		`0`: 0, `-0`: 0, `0.00e5`: 0, `0e999999`: 0, `"7"`: 7, `"\u0037"`: 7, `5.0`: 5, `1e3`: 1000, `1.25E+2`: 125, `1200e-2`: 12, `"100.0e-1"`: 10,
		`9007199254740993.0`: 9007199254740993, `9223372036854775807`: math.MaxInt64, `9.223372036854775807e18`: math.MaxInt64,
	} {
		c := parse(t, `{"methodConfig":[{"name":[{}],"maxRequestMessageBytes":`+text+`}]}`)
		assert.Equal(t, int(min(want, math.MaxInt)), *c.Method("/s/m").MaxReqSize, text)
	}
	for _, text := range []string{
		`1e-1`, `1.00000000000000000000001`, `1e-400`, `1e19`, `9.223372036854775808e18`, `1e999999999`, `1e99999999999999999999`,
		`1e-9223372036854775808`, `1.5e9223372036854775807`, `" 1"`, `"1 "`, `"+1"`, `"0x1"`, `"1_0"`, `"01"`, `"Infinity"`,
	} {
		_, err := serviceconfig.Parse(`{"methodConfig":[{"name":[{}],"maxRequestMessageBytes":` + text + `}]}`)
		assert.ErrorContains(t, err, "methodConfig[0].maxRequestMessageBytes: "+text+" is not allowed")
	}
}

func TestTokenRatioHasThreeDecimalPlaces(t *testing.T) {
	for text, want := range map[string]float64{"0.5466": 0.546, "1.001": 1.001, "0.001": 0.001, "2": 2, "0.29": 0.29, "1e20": 1e20} {
		c := parse(t, `{"retryThrottling":{"maxTokens":1000,"tokenRatio":`+text+`}}`)
		assert.Equal(t, want, c.RetryThrottling.TokenRatio, text)
	}
}

func TestMaxAttemptsIsCapped(t *testing.T) {
	const js = `{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":9,"initialBackoff":"1s","maxBackoff":"1s","backoffMultiplier":1,"retryableStatusCodes":[14]}}]}`
	for limit, want := range map[int]int{-1: 5, 0: 5, 1: 5, 2: 2, 7: 7, 9: 9, 20: 9} {
		c, err := serviceconfig.Parser{MaxCallAttempts: limit}.Parse(js)
		require.NoError(t, err)
		assert.Equal(t, want, c.Method("/s/m").RetryPolicy.MaxAttempts, "limit %d", limit)
	}
}

func TestDurationsBeyondRangeAreCut(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"315576000000s": math.MaxInt64, "-315576000000.999999999s": math.MinInt64,
		"9223372036.854775807s": math.MaxInt64, "9223372036.854775806s": math.MaxInt64 - 1,
		"-9223372036.854775808s": math.MinInt64, "-9223372036.854775807s": math.MinInt64 + 1,
		"+1s": time.Second, "-.5s": -500 * time.Millisecond, "5.s": 5 * time.Second, "000000000000000000000001s": time.Second,
	} {
		c := parse(t, `{"methodConfig":[{"name":[{}],"timeout":"`+text+`"}]}`)
		assert.Equal(t, want, *c.Method("/s/m").Timeout, text)
	}
}

// An entry is {field, text, the whole message after "service config: "}.
func TestErrorsNameFieldValueAndWhatIsAllowed(t *testing.T) {
	const (
		size     = `want a size in bytes, 0 or more`
		duration = `want a duration in seconds with up to 9 decimal places, such as "1.5s", within 315576000000s`
		code     = `want a status code's name in capitals, such as "UNAVAILABLE", or its number, 0 to 16`
		positive = `want a duration above 0, such as "0.1s"`
	)
	method := func(fields string) string { return `{"methodConfig":[{},{},{"name":[{}],` + fields + `}]}` }
	retry := func(name, value string) string {
		fields := ""
		for _, f := range [][2]string{
			{"maxAttempts", "2"}, {"initialBackoff", `"1s"`}, {"maxBackoff", `"1s"`},
			{"backoffMultiplier", "1"}, {"retryableStatusCodes", "[14]"},
		} {
			if f[0] == name {
				f[1] = value
			}
			fields += `,"` + f[0] + `":` + f[1]
		}
		return method(`"retryPolicy":{` + fields[1:] + `}`)
	}
	tests := []struct{ name, js, want string }{
		{"no text", ``, `empty text; want a JSON object; "{}" is the empty config`},
		{"cut off", `{"a":`, `"{\"a\":": not JSON at byte 5: unexpected end of JSON input`},
		{"not an object", `[1]`, `[1] is not allowed; want an object`},
		{"methodConfig type", `{"methodConfig":{}}`, `methodConfig: {} is not allowed; want an array`},
		{"entry type", `{"methodConfig":[7]}`, `methodConfig[0]: 7 is not allowed; want an object`},
		{"null entry", `{"methodConfig":[null]}`, `methodConfig[0]: null is not allowed; want an object`},
		{"name type", `{"methodConfig":[{"name":{}}]}`, `methodConfig[0].name: {} is not allowed; want an array`},
		{"null name", `{"methodConfig":[{"name":[null]}]}`, `methodConfig[0].name[0]: null is not allowed; want an object`},
		{"service type", `{"methodConfig":[{"name":[{"service":1}]}]}`, `methodConfig[0].name[0].service: 1 is not allowed; want a string`},
		{"method alone", `{"methodConfig":[{"name":[{"service":"s"},{"method":"m"}]}]}`, `methodConfig[0].name[1]: {"method":"m"} is not allowed; want a service with the method, or neither for all methods`},
		{"same name in two entries", `{"methodConfig":[{"name":[{"service":"s"}]},{"name":[{ "service":"s", "method":"" }]}]}`, `methodConfig[1].name[0]: {"service":"s","method":""} is not allowed; want each name once; methodConfig[0].name[0] is the same`},
		{"two defaults", `{"methodConfig":[{"name":[{},{}]}]}`, `methodConfig[0].name[1]: {} is not allowed; want each name once; methodConfig[0].name[0] is the same`},
		{"waitForReady", method(`"waitForReady":"true"`), `methodConfig[2].waitForReady: "true" is not allowed; want true or false`},
		{"timeout as number", method(`"timeout":5`), `methodConfig[2].timeout: 5 is not allowed; ` + duration},
		{"timeout in minutes", method(`"timeout":"5m"`), `methodConfig[2].timeout: "5m" is not allowed; ` + duration},
		{"timeout out of range", method(`"timeout":"315576000001s"`), `methodConfig[2].timeout: "315576000001s" is not allowed; ` + duration},
		{"negative size", method(`"maxRequestMessageBytes":-1`), `methodConfig[2].maxRequestMessageBytes: -1 is not allowed; ` + size},
		{"size with fraction", method(`"maxResponseMessageBytes":1.5`), `methodConfig[2].maxResponseMessageBytes: 1.5 is not allowed; ` + size},
		{"size as word", method(`"maxResponseMessageBytes":"4MB"`), `methodConfig[2].maxResponseMessageBytes: "4MB" is not allowed; ` + size},
		{"size as empty string", method(`"maxResponseMessageBytes":""`), `methodConfig[2].maxResponseMessageBytes: "" is not allowed; ` + size},
		{"size beyond int64", method(`"maxResponseMessageBytes":9223372036854775808`), `methodConfig[2].maxResponseMessageBytes: 9223372036854775808 is not allowed; ` + size},
		{"retryPolicy type", method(`"retryPolicy":[]`), `methodConfig[2].retryPolicy: [] is not allowed; want an object`},
		{"maxAttempts missing", method(`"retryPolicy":{}`), `methodConfig[2].retryPolicy.maxAttempts: missing; want 2 or more`},
		{"maxAttempts 1", retry("maxAttempts", "1"), `methodConfig[2].retryPolicy.maxAttempts: 1 is not allowed; want 2 or more`},
		{"maxAttempts type", retry("maxAttempts", "{}"), `methodConfig[2].retryPolicy.maxAttempts: {} is not allowed; want 2 or more`},
		{"initialBackoff null", retry("initialBackoff", "null"), `methodConfig[2].retryPolicy.initialBackoff: missing; ` + positive},
		{"initialBackoff zero", retry("initialBackoff", `"0s"`), `methodConfig[2].retryPolicy.initialBackoff: "0s" is not allowed; ` + positive},
		{"maxBackoff negative", retry("maxBackoff", `"-1s"`), `methodConfig[2].retryPolicy.maxBackoff: "-1s" is not allowed; ` + positive},
		{"maxBackoff type", retry("maxBackoff", `1`), `methodConfig[2].retryPolicy.maxBackoff: 1 is not allowed; ` + duration},
		{"backoffMultiplier zero", retry("backoffMultiplier", "0"), `methodConfig[2].retryPolicy.backoffMultiplier: 0 is not allowed; want a number above 0`},
		{"backoffMultiplier too large", retry("backoffMultiplier", "1e999"), `methodConfig[2].retryPolicy.backoffMultiplier: 1e999 is not allowed; want a number above 0`},
		{"backoffMultiplier no number", retry("backoffMultiplier", `"NaN"`), `methodConfig[2].retryPolicy.backoffMultiplier: "NaN" is not allowed; want a number above 0`},
		{"no codes", retry("retryableStatusCodes", "[]"), `methodConfig[2].retryPolicy.retryableStatusCodes: [] is not allowed; want one status code or more, such as ["UNAVAILABLE"]`},
		{"codes type", retry("retryableStatusCodes", "14"), `methodConfig[2].retryPolicy.retryableStatusCodes: 14 is not allowed; want an array`},
		{"code in small letters", retry("retryableStatusCodes", `[14,"unavailable"]`), `methodConfig[2].retryPolicy.retryableStatusCodes[1]: "unavailable" is not allowed; ` + code},
		{"code 17", retry("retryableStatusCodes", `[17]`), `methodConfig[2].retryPolicy.retryableStatusCodes[0]: 17 is not allowed; ` + code},
		{"code null", retry("retryableStatusCodes", `[null]`), `methodConfig[2].retryPolicy.retryableStatusCodes[0]: null is not allowed; ` + code},
		{"maxTokens missing", `{"retryThrottling":{"tokenRatio":1}}`, `retryThrottling.maxTokens: missing; want a number above 0 and at most 1000`},
		{"maxTokens too large", `{"retryThrottling":{"maxTokens":1000.5,"tokenRatio":1}}`, `retryThrottling.maxTokens: 1000.5 is not allowed; want a number above 0 and at most 1000`},
		{"tokenRatio too small", `{"retryThrottling":{"maxTokens":1,"tokenRatio":0.0009}}`, `retryThrottling.tokenRatio: 0.0009 is not allowed; want 0.001 or more (further decimal places are ignored)`},
		{"tokenRatio negative", `{"retryThrottling":{"maxTokens":1,"tokenRatio":-1}}`, `retryThrottling.tokenRatio: -1 is not allowed; want 0.001 or more (further decimal places are ignored)`},
		{"health check type", `{"healthCheckConfig":"s"}`, `healthCheckConfig: "s" is not allowed; want an object`},
		{"health check name type", `{"healthCheckConfig":{"serviceName":1}}`, `healthCheckConfig.serviceName: 1 is not allowed; want a string`},
		{"legacy policy type", `{"loadBalancingPolicy":1}`, `loadBalancingPolicy: 1 is not allowed; want a string`},
		{"policy list type", `{"loadBalancingConfig":"round_robin"}`, `loadBalancingConfig: "round_robin" is not allowed; want an array`},
		{"policy entry type", `{"loadBalancingConfig":[{"round_robin":{}},1]}`, `loadBalancingConfig[1]: 1 is not allowed; want an object with one key, a policy's name, such as {"round_robin":{}}`},
		{"two policies in an entry", `{"loadBalancingConfig":[{"a":{},"b":{}}]}`, `loadBalancingConfig[0]: {"a":{},"b":{}} is not allowed; want an object with one key, a policy's name, such as {"round_robin":{}}`},
		{"no registered policy", `{"loadBalancingConfig":[{"a":{}},{"b":{}}]}`, `loadBalancingConfig: [{"a":{}},{"b":{}}] is not allowed; want a policy that is registered: pick_first, round_robin, or one whose package is imported`},
		{"long value", method(`"timeout":"` + strings.Repeat("é", 100) + `"`), `methodConfig[2].timeout: "` + strings.Repeat("é", 58) + `... is not allowed; ` + duration},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := serviceconfig.Parse(tt.js)
			require.Error(t, err)
			assert.Nil(t, c)
			assert.EqualError(t, err, "service config: "+tt.want)
			var e *serviceconfig.Error
			require.ErrorAs(t, err, &e)
			if e.Field != "" {
				assert.True(t, strings.HasPrefix(tt.want, e.Field+":"), e.Field)
			}
		})
	}
}

func TestEqual(t *testing.T) {
	a, again, other := parse(t, `{}`), parse(t, `{}`), parse(t, `{ }`)
	assert.True(t, serviceconfig.Equal(a, a))
	assert.True(t, serviceconfig.Equal(a, again))
	assert.False(t, serviceconfig.Equal(a, other))
	assert.False(t, serviceconfig.Equal(a, nil))
	assert.False(t, serviceconfig.Equal(nil, a))
	assert.True(t, serviceconfig.Equal(nil, nil))
}

func TestSyntaxErrorIsKept(t *testing.T) {
	_, err := serviceconfig.Parse(`{"a" 1}`)
	var e *serviceconfig.Error
	require.True(t, errors.As(err, &e))
	assert.Contains(t, err.Error(), "not JSON at byte 6")
	assert.Error(t, errors.Unwrap(err))
}
