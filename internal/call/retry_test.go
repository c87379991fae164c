package call

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

func TestRetryDecision(t *testing.T) {
	policy := &serviceconfig.RetryPolicy{
		MaxAttempts:          4,
		InitialBackoff:       100 * time.Millisecond,
		MaxBackoff:           time.Second,
		BackoffMultiplier:    2,
		RetryableStatusCodes: serviceconfig.CodeSet(0).With(codes.Unavailable),
	}
	failed := errors.New("failed")
	refused, left := outcome{unprocessed: true, refused: true}, outcome{unprocessed: true, orderly: true}
	busy := outcome{unprocessed: true, refused: true, busy: true}
	progress := func(o outcome) outcome { o.progress = true; return o }
	tests := []struct {
		name string
		in   retryInput
		want retryVerdict
	}{
		{"no policy", retryInput{code: codes.Unavailable}, retryVerdict{}},
		{"never on the wire", retryInput{outcome: outcome{unsent: true}}, retryVerdict{again: true, transparent: true}},
		{"never on the wire, for the third time", retryInput{outcome: outcome{unsent: true}, tries: tries{policy: 2, idle: 9}},
			retryVerdict{again: true, transparent: true, tries: tries{policy: 2, idle: 9}}},
		{"never on the wire, but the context has ended", retryInput{outcome: outcome{unsent: true, drop: true}}, retryVerdict{}},
		{"never on the wire, but committed", retryInput{outcome: outcome{unsent: true}, committed: true}, retryVerdict{}},
		{"refused", retryInput{outcome: refused}, retryVerdict{again: true, transparent: true, tries: tries{idle: 1, refusals: 1}}},
		{"refused twice", retryInput{outcome: refused, code: codes.Unavailable, tries: tries{idle: 1, refusals: 1}},
			retryVerdict{tries: tries{idle: 2, refusals: 2}}},
		{"refused twice, others served", retryInput{outcome: progress(refused), tries: tries{idle: 1, refusals: 1}, random: 0.5},
			retryVerdict{again: true, transparent: true, delay: 5 * time.Millisecond, tries: tries{refusals: 2}}},
		{"refused for long, others served", retryInput{outcome: progress(refused), tries: tries{refusals: 99}, random: 0.25},
			retryVerdict{again: true, transparent: true, delay: 75 * time.Millisecond, tries: tries{refusals: 100}}},
		{"refused again and again by one that is busy", retryInput{outcome: busy, tries: tries{idle: 19, refusals: 19}, random: 0.5},
			retryVerdict{again: true, transparent: true, delay: 100 * time.Millisecond, tries: tries{idle: 20, refusals: 20}}},
		{"refused too often by one that is busy", retryInput{outcome: busy, tries: tries{idle: 20, refusals: 20}},
			retryVerdict{tries: tries{idle: 21, refusals: 21}}},
		{"refused twice, with a policy", retryInput{outcome: refused, code: codes.Unavailable, policy: policy, tries: tries{idle: 1, refusals: 1}, random: 0.5},
			retryVerdict{again: true, counts: true, delay: 100 * time.Millisecond, tries: tries{policy: 1, sincePushback: 1, idle: 2, refusals: 2}}},
		{"refused after the policy was at work", retryInput{outcome: refused, code: codes.Unavailable, policy: policy, tries: tries{policy: 3}},
			retryVerdict{again: true, transparent: true, tries: tries{policy: 3, idle: 1, refusals: 1}}},
		{"above GOAWAY's id", retryInput{outcome: left}, retryVerdict{again: true, transparent: true, tries: tries{idle: 1}}},
		{"above GOAWAY's id, again and again", retryInput{outcome: left, tries: tries{idle: 9}}, retryVerdict{again: true, transparent: true, tries: tries{idle: 10}}},
		{"above GOAWAY's id, too often", retryInput{outcome: left, tries: tries{idle: 10}}, retryVerdict{tries: tries{idle: 11}}},
		{"above GOAWAY's id, others served", retryInput{outcome: progress(left), tries: tries{idle: 10}}, retryVerdict{again: true, transparent: true}},
		{"above GOAWAY's id, with an error", retryInput{outcome: outcome{unprocessed: true}, tries: tries{idle: 1}}, retryVerdict{tries: tries{idle: 2}}},
		{"failed after it was refused", retryInput{code: codes.Unavailable, policy: policy, tries: tries{idle: 1, refusals: 1}, random: 0.5},
			retryVerdict{again: true, counts: true, delay: 100 * time.Millisecond, tries: tries{policy: 1, sincePushback: 1, refusals: 1}}},
		{"a code of the policy", retryInput{code: codes.Unavailable, policy: policy, random: 0.5},
			retryVerdict{again: true, counts: true, delay: 100 * time.Millisecond, tries: tries{policy: 1, sincePushback: 1}}},
		{"least jitter", retryInput{code: codes.Unavailable, policy: policy, tries: tries{policy: 1, sincePushback: 1}},
			retryVerdict{again: true, counts: true, delay: 160 * time.Millisecond, tries: tries{policy: 2, sincePushback: 2}}},
		{"another code", retryInput{code: codes.Internal, policy: policy}, retryVerdict{}},
		{"response headers came", retryInput{outcome: outcome{headers: true}, code: codes.Unavailable, policy: policy}, retryVerdict{}},
		{"committed", retryInput{code: codes.Unavailable, policy: policy, committed: true}, retryVerdict{}},
		{"the picker dropped it", retryInput{outcome: outcome{drop: true}, code: codes.Unavailable, policy: policy}, retryVerdict{}},
		{"attempts used up", retryInput{code: codes.Unavailable, policy: policy, tries: tries{policy: 3}},
			retryVerdict{counts: true, exhausted: true, tries: tries{policy: 3}}},
		{"the channel's bound", retryInput{code: codes.Unavailable, policy: policy, maxAttempts: 2, tries: tries{policy: 1}},
			retryVerdict{counts: true, exhausted: true, tries: tries{policy: 1}}},
		{"pushback", retryInput{outcome: outcome{pushback: []string{"250"}}, code: codes.Unavailable, policy: policy, tries: tries{policy: 1, sincePushback: 1}},
			retryVerdict{again: true, counts: true, delay: 250 * time.Millisecond, tries: tries{policy: 2}}},
		{"pushback of 0", retryInput{outcome: outcome{pushback: []string{"0"}}, code: codes.Unavailable, policy: policy},
			retryVerdict{again: true, counts: true, tries: tries{policy: 1}}},
		{"pushback says stop", retryInput{outcome: outcome{pushback: []string{"-1"}}, code: codes.Unavailable, policy: policy}, retryVerdict{counts: true}},
		{"pushback is no number", retryInput{outcome: outcome{pushback: []string{"soon"}}, code: codes.Unavailable, policy: policy}, retryVerdict{counts: true}},
		{"pushback twice", retryInput{outcome: outcome{pushback: []string{"1", "1"}}, code: codes.Unavailable, policy: policy}, retryVerdict{counts: true}},
		{"pushback says stop, without a policy", retryInput{outcome: outcome{pushback: []string{"-1"}}, code: codes.Unavailable}, retryVerdict{counts: true}},
		{"pushback without a policy", retryInput{outcome: outcome{pushback: []string{"1"}}, code: codes.Unavailable}, retryVerdict{}},
		{"pushback with a code that is not retried", retryInput{outcome: outcome{pushback: []string{"1"}}, code: codes.Internal, policy: policy}, retryVerdict{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.outcome.err = failed
			if tt.in.maxAttempts == 0 {
				tt.in.maxAttempts = defaultMaxAttempts
			}
			assert.Equal(t, tt.want, retryDecision(tt.in))
		})
	}
}

func TestRetryDelay(t *testing.T) {
	p := &serviceconfig.RetryPolicy{InitialBackoff: 100 * time.Millisecond, MaxBackoff: time.Second, BackoffMultiplier: 3}
	for n, want := range []time.Duration{100, 300, 900, 1000, 1000} {
		want *= time.Millisecond
		assert.InDelta(t, 0.8*float64(want), float64(retryDelay(p, n, 0)), 1)
		assert.InDelta(t, 1.2*float64(want), float64(retryDelay(p, n, 1)), 1)
	}
	p = &serviceconfig.RetryPolicy{InitialBackoff: math.MaxInt64, MaxBackoff: math.MaxInt64, BackoffMultiplier: 1e9}
	assert.Equal(t, time.Duration(math.MaxInt64), retryDelay(p, 1000, 1), "no overflow")
}

func TestThrottle(t *testing.T) {
	var none *throttle
	none.success()
	assert.True(t, none.failure())

	th := newThrottle(serviceconfig.RetryThrottling{MaxTokens: 4, TokenRatio: 0.5})
	assert.True(t, th.failure())  // 3
	assert.False(t, th.failure()) // 2: half
	th.success()                  // 2.5
	th.success()                  // 3
	th.success()                  // 3.5
	assert.True(t, th.failure())  // 2.5
	for range 10 {
		th.failure()
	}
	assert.Zero(t, th.tokens)
	for range 100 {
		th.success()
	}
	assert.Equal(t, 4.0, th.tokens)
}
