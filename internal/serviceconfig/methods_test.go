package serviceconfig_test

//lint:file-ignore SA1019 grpc.MethodConfig is the type that users of the channel give and get.

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

func ptr[T any](v T) *T { return &v }

// withRetry is a grpc.MethodConfig with a valid retry policy, as changed by
// change, which may be nil.
func withRetry(change func(m *grpc.MethodConfig)) grpc.MethodConfig {
	m := serviceconfig.MethodConfig{RetryPolicy: &serviceconfig.RetryPolicy{
		MaxAttempts: 3, InitialBackoff: time.Millisecond, MaxBackoff: time.Second, BackoffMultiplier: 1.1,
		RetryableStatusCodes: serviceconfig.CodeSet(0).With(codes.Unavailable).With(codes.Aborted),
	}}.GRPC()
	if change != nil {
		change(&m)
	}
	return m
}

func TestGRPCConvertsTheWhole(t *testing.T) {
	m := serviceconfig.MethodConfig{
		WaitForReady: ptr(true), Timeout: ptr(time.Second), MaxReqSize: ptr(1), MaxRespSize: ptr(2),
		RetryPolicy: withPolicy(),
	}
	g := m.GRPC()
	assert.Equal(t, m.WaitForReady, g.WaitForReady)
	assert.Equal(t, m.Timeout, g.Timeout)
	assert.Equal(t, m.MaxReqSize, g.MaxReqSize)
	assert.Equal(t, m.MaxRespSize, g.MaxRespSize)
	require.NotNil(t, g.RetryPolicy)
	assert.Equal(t, 4, g.RetryPolicy.MaxAttempts)
	assert.Equal(t, time.Millisecond, g.RetryPolicy.InitialBackoff)
	assert.Equal(t, time.Minute, g.RetryPolicy.MaxBackoff)
	assert.Equal(t, 2.5, g.RetryPolicy.BackoffMultiplier)
	assert.Equal(t, map[codes.Code]bool{codes.OK: true, codes.Unauthenticated: true}, g.RetryPolicy.RetryableStatusCodes)

	*g.Timeout, g.RetryPolicy.MaxAttempts = 0, 0
	assert.Equal(t, time.Second, *m.Timeout, "the result shares nothing")
	assert.Equal(t, 4, m.RetryPolicy.MaxAttempts)
	assert.Equal(t, grpc.MethodConfig{}, serviceconfig.MethodConfig{}.GRPC())
}

func withPolicy() *serviceconfig.RetryPolicy {
	return &serviceconfig.RetryPolicy{
		MaxAttempts: 4, InitialBackoff: time.Millisecond, MaxBackoff: time.Minute, BackoffMultiplier: 2.5,
		RetryableStatusCodes: serviceconfig.CodeSet(0).With(codes.OK).With(codes.Unauthenticated),
	}
}

func TestFromMethods(t *testing.T) {
	methods := map[string]grpc.MethodConfig{
		"/s/m":   {WaitForReady: ptr(false), Timeout: ptr(1500 * time.Millisecond)},
		"/s/":    withRetry(nil),
		"/a/b/m": {MaxReqSize: ptr(0), MaxRespSize: ptr(math.MaxInt)},
		"/t/":    {Timeout: ptr(time.Duration(math.MinInt64))},
		"/t/max": {Timeout: ptr(time.Duration(math.MaxInt64))},
		"/<é>/m": {Timeout: ptr(-time.Nanosecond)},
		"/t/m":   {},
		"":       {Timeout: ptr(time.Duration(0))},
	}
	c, err := serviceconfig.FromMethods(ptr("round_robin"), methods)
	require.NoError(t, err)
	require.NotNil(t, c.LB)
	assert.Equal(t, "round_robin", c.LB.Name)
	for name, want := range methods {
		assert.Equal(t, want, c.Method(name).GRPC(), "method %q", name)
	}
	assert.Equal(t, methods["/s/"], c.Method("/s/other").GRPC())
	assert.Equal(t, methods[""], c.Method("/u/m").GRPC())

	t.Run("values are copied", func(t *testing.T) {
		*methods["/s/m"].Timeout = time.Hour
		assert.Equal(t, 1500*time.Millisecond, *c.Method("/s/m").Timeout)
		*methods["/s/m"].Timeout = 1500 * time.Millisecond
	})
	t.Run("its text is the same config", func(t *testing.T) {
		parsed := parse(t, c.JSON)
		require.NotNil(t, parsed.LB)
		assert.Equal(t, "round_robin", parsed.LB.Name)
		for name, want := range methods {
			assert.Equal(t, want, parsed.Method(name).GRPC(), "method %q", name)
		}
		assert.True(t, serviceconfig.Equal(c, parsed))
	})
	t.Run("grpc-go reads its text alike", func(t *testing.T) {
		theirs, err := askGRPC(t, c.JSON, 5)
		require.NoError(t, err)
		for name, want := range methods {
			assert.Equal(t, want, theirs(name), "method %q", name)
		}
	})
	t.Run("same values, same text", func(t *testing.T) {
		again, err := serviceconfig.FromMethods(ptr("round_robin"), methods)
		require.NoError(t, err)
		assert.True(t, serviceconfig.Equal(c, again))
		other, err := serviceconfig.FromMethods(nil, methods)
		require.NoError(t, err)
		assert.False(t, serviceconfig.Equal(c, other))
	})
}

func TestFromMethodsOfNothing(t *testing.T) {
	c, err := serviceconfig.FromMethods(nil, nil)
	require.NoError(t, err)
	assert.Nil(t, c.LB)
	assert.Equal(t, "{}", c.JSON)
	assert.Zero(t, c.Method("/s/m"))
}

func TestFromMethodsPolicyName(t *testing.T) {
	c, err := serviceconfig.FromMethods(ptr("no_such"), nil)
	require.NoError(t, err)
	assert.Nil(t, c.LB)
	assert.Equal(t, "no_such", c.UnknownPolicy)

	_, err = serviceconfig.FromMethods(ptr(pickyPolicy), nil)
	require.ErrorIs(t, err, errBadPolicyConfig)
	assert.EqualError(t, err, `service config: LB: {}: the policy does not like it`)
}

func TestFromMethodsCapsMaxAttempts(t *testing.T) {
	methods := map[string]grpc.MethodConfig{"": withRetry(func(m *grpc.MethodConfig) { m.RetryPolicy.MaxAttempts = 9 })}
	for limit, want := range map[int]int{0: 5, 7: 7, 10: 9} {
		c, err := serviceconfig.Parser{MaxCallAttempts: limit}.FromMethods(nil, methods)
		require.NoError(t, err)
		assert.Equal(t, want, c.Method("/s/m").RetryPolicy.MaxAttempts)
	}
}

func TestFromMethodsErrors(t *testing.T) {
	const key = `; want a key "/service/method", "/service/" or ""`
	tests := []struct {
		name    string
		key     string
		m       grpc.MethodConfig
		wantErr string
	}{
		{"no slash", "s", grpc.MethodConfig{}, `Methods["s"]: "s" is not allowed` + key},
		{"one slash", "/s", grpc.MethodConfig{}, `Methods["/s"]: "/s" is not allowed` + key},
		{"no leading slash", "s/m", grpc.MethodConfig{}, `Methods["s/m"]: "s/m" is not allowed` + key},
		{"slash alone", "/", grpc.MethodConfig{}, `Methods["/"]: "/" is not allowed` + key},
		{"no service", "//m", grpc.MethodConfig{}, `Methods["//m"]: "//m" is not allowed` + key},
		{"not UTF-8", "/s/\xff", grpc.MethodConfig{}, `Methods["/s/\xff"]: "/s/\xff" is not allowed` + key},
		{"negative request size", "/s/m", grpc.MethodConfig{MaxReqSize: ptr(-1)}, `Methods["/s/m"].MaxReqSize: -1 is not allowed; want a size in bytes, 0 or more`},
		{"negative response size", "/s/m", grpc.MethodConfig{MaxRespSize: ptr(-2)}, `Methods["/s/m"].MaxRespSize: -2 is not allowed; want a size in bytes, 0 or more`},
		{"attempts", "/s/m", withRetry(func(m *grpc.MethodConfig) { m.RetryPolicy.MaxAttempts = 1 }), `Methods["/s/m"].RetryPolicy.MaxAttempts: 1 is not allowed; want 2 or more`},
		{"initial back-off", "/s/m", withRetry(func(m *grpc.MethodConfig) { m.RetryPolicy.InitialBackoff = 0 }), `Methods["/s/m"].RetryPolicy.InitialBackoff: 0s is not allowed; want a duration above 0`},
		{"maximal back-off", "/s/m", withRetry(func(m *grpc.MethodConfig) { m.RetryPolicy.MaxBackoff = -1 }), `Methods["/s/m"].RetryPolicy.MaxBackoff: -1ns is not allowed; want a duration above 0`},
		{"multiplier zero", "/s/m", withRetry(func(m *grpc.MethodConfig) { m.RetryPolicy.BackoffMultiplier = 0 }), `Methods["/s/m"].RetryPolicy.BackoffMultiplier: 0 is not allowed; want a number above 0`},
		{"multiplier no number", "/s/m", withRetry(func(m *grpc.MethodConfig) { m.RetryPolicy.BackoffMultiplier = math.NaN() }), `Methods["/s/m"].RetryPolicy.BackoffMultiplier: NaN is not allowed; want a number above 0`},
		{"multiplier infinite", "/s/m", withRetry(func(m *grpc.MethodConfig) { m.RetryPolicy.BackoffMultiplier = math.Inf(1) }), `Methods["/s/m"].RetryPolicy.BackoffMultiplier: +Inf is not allowed; want a number above 0`},
		{"no codes", "/s/m", withRetry(func(m *grpc.MethodConfig) {
			m.RetryPolicy.RetryableStatusCodes = map[codes.Code]bool{codes.Aborted: false}
		}), `Methods["/s/m"].RetryPolicy.RetryableStatusCodes: an empty set is not allowed; want one status code or more`},
		{"unknown code", "/s/m", withRetry(func(m *grpc.MethodConfig) { m.RetryPolicy.RetryableStatusCodes[17] = true }), `Methods["/s/m"].RetryPolicy.RetryableStatusCodes: 17 is not allowed; want status codes from 0 to 16`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := serviceconfig.FromMethods(nil, map[string]grpc.MethodConfig{tt.key: tt.m, "/valid/": {}})
			assert.Nil(t, c)
			assert.EqualError(t, err, "service config: "+tt.wantErr)
			var e *serviceconfig.Error
			assert.ErrorAs(t, err, &e)
		})
	}
}

func TestCodeSet(t *testing.T) {
	var s serviceconfig.CodeSet
	assert.False(t, s.Has(codes.OK))
	s = s.With(codes.OK).With(codes.Unauthenticated).With(17).With(40)
	var all []codes.Code
	for c := range s.All() {
		all = append(all, c)
	}
	assert.Equal(t, []codes.Code{codes.OK, codes.Unauthenticated}, all)
	assert.True(t, s.Has(codes.OK))
	assert.False(t, s.Has(codes.Canceled))
	assert.False(t, s.Has(17))
	assert.False(t, s.Has(32), "a code that would wrap round to OK")
}
