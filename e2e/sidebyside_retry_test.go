package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// retrying is a service config with a retry policy for every method.
func retrying(policy, rest string) mirrored {
	return serviceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {` + policy + `}}]` + rest + `}`)
}

const (
	quick = `"maxAttempts": 4, "initialBackoff": "0.001s", "maxBackoff": "0.002s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", "NOT_FOUND"]`
	slow  = `"maxAttempts": 4, "initialBackoff": "1000s", "maxBackoff": "1000s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]`
)

// numbered serves RPCs whose attempts are numbered from 0, once each is there.
func numbered(answer func(n int, s *h2test.Stream)) func(*h2test.Stream) {
	n := 0
	return func(s *h2test.Stream) {
		if s.Ended && !s.Reset {
			answer(n, s)
			n++
		}
	}
}

// failing fails so many attempts, with pairs, and then answers.
func failing(attempts int, pairs ...string) func(int, *h2test.Stream) {
	return func(n int, s *h2test.Stream) {
		if n < attempts {
			s.SendTrailers(codes.Unavailable, fmt.Sprintf("script: not now, %d", n), append([]string{"t", "1"}, pairs...)...)
			return
		}
		s.SendHeaders("h", "1")
		s.SendMessage([]byte("\n\x03you"))
		s.SendTrailers(codes.OK, "", "t", "2")
	}
}

// TestRetriesSideBySide: RPCs that are tried again (gRFC A6).
func TestRetriesSideBySide(t *testing.T) {
	refusing := func(times int, after func(int, *h2test.Stream)) func(int, *h2test.Stream) {
		return func(n int, s *h2test.Stream) {
			if n < times {
				s.RST(http2.ErrCodeRefusedStream)
			} else {
				after(n-times, s)
			}
		}
	}
	disabled := mirrored{grpc.WithDisableRetry(), grpcdial.WithDisableRetry()}
	atMost := func(n int) mirrored { return mirrored{grpc.WithMaxCallAttempts(n), grpcdial.WithMaxCallAttempts(n)} }
	tests := []struct {
		name   string
		dial   []mirrored
		answer func(int, *h2test.Stream)
		opts   []grpc.CallOption
		within time.Duration // 0: long enough
	}{
		{name: "third time lucky", dial: []mirrored{retrying(quick, "")}, answer: failing(2)},
		{name: "attempts used up", dial: []mirrored{retrying(quick, "")}, answer: failing(9)},
		{name: "no policy", answer: failing(1)},
		{name: "disabled", dial: []mirrored{retrying(quick, ""), disabled}, answer: failing(1)},
		{name: "at most 2", dial: []mirrored{retrying(quick, ""), atMost(2)}, answer: failing(9)},
		{name: "at most 1", dial: []mirrored{retrying(quick, ""), atMost(1)}, answer: failing(9)},
		{name: "at most 0", dial: []mirrored{retrying(quick, ""), atMost(0)}, answer: failing(9)},
		{name: "more than 5", dial: []mirrored{retrying(`"maxAttempts": 7,`+quick[len(`"maxAttempts": 4,`):], "")}, answer: failing(9)},
		{name: "more than 5, allowed", dial: []mirrored{retrying(`"maxAttempts": 7,`+quick[len(`"maxAttempts": 4,`):], ""), atMost(6)}, answer: failing(9)},
		{name: "another code", dial: []mirrored{retrying(quick, "")}, answer: func(_ int, s *h2test.Stream) { s.SendTrailers(codes.Aborted, "script: no") }},
		{name: "headers commit", dial: []mirrored{retrying(quick, "")}, answer: func(_ int, s *h2test.Stream) {
			s.SendHeaders("h", "1")
			s.SendTrailers(codes.Unavailable, "script: no")
		}},
		{name: "pushback", dial: []mirrored{retrying(slow, "")}, answer: failing(2, "grpc-retry-pushback-ms", "1")},
		{name: "pushback of zero", dial: []mirrored{retrying(slow, "")}, answer: failing(2, "grpc-retry-pushback-ms", "0")},
		{name: "pushback says stop", dial: []mirrored{retrying(quick, "")}, answer: failing(2, "grpc-retry-pushback-ms", "-1")},
		{name: "pushback is no number", dial: []mirrored{retrying(quick, "")}, answer: failing(2, "grpc-retry-pushback-ms", "soon")},
		{name: "pushback is empty", dial: []mirrored{retrying(quick, "")}, answer: failing(2, "grpc-retry-pushback-ms", "")},
		{name: "pushback has a fraction", dial: []mirrored{retrying(quick, "")}, answer: failing(2, "grpc-retry-pushback-ms", "1.5")},
		{name: "pushback twice", dial: []mirrored{retrying(quick, "")}, answer: failing(2, "grpc-retry-pushback-ms", "1", "grpc-retry-pushback-ms", "1")},
		{name: "pushback beyond int64", dial: []mirrored{retrying(quick, "")}, answer: failing(2, "grpc-retry-pushback-ms", "99999999999999999999")},
		{name: "pushback without a policy", answer: failing(2, "grpc-retry-pushback-ms", "1")},
		{name: "refused once", answer: refusing(1, failing(0))},
		{name: "refused once, disabled", dial: []mirrored{disabled}, answer: refusing(1, failing(0))},
		{name: "refused twice", answer: refusing(2, failing(0))},
		{name: "refused twice, with a policy", dial: []mirrored{retrying(quick, "")}, answer: refusing(2, failing(0))},
		{name: "refused, then failed", dial: []mirrored{retrying(quick, "")}, answer: refusing(1, failing(9))},
		{name: "throttled", dial: []mirrored{retrying(quick, `, "retryThrottling": {"maxTokens": 2, "tokenRatio": 0.1}`)}, answer: failing(9)},
		{name: "throttled by what says stop", dial: []mirrored{retrying(quick, `, "retryThrottling": {"maxTokens": 3, "tokenRatio": 0.1}`)},
			answer: func(n int, s *h2test.Stream) {
				if n == 0 {
					failing(1, "grpc-retry-pushback-ms", "-1")(n, s)
				} else {
					failing(9)(n, s)
				}
			}},
		{name: "request is too large to be kept", dial: []mirrored{retrying(quick, "")}, answer: failing(9), opts: []grpc.CallOption{grpc.MaxRetryRPCBufferSize(11)}},
		{name: "request just fits", dial: []mirrored{retrying(quick, "")}, answer: failing(9), opts: []grpc.CallOption{grpc.MaxRetryRPCBufferSize(12)}},
		{name: "deadline in the back-off", dial: []mirrored{retrying(slow, "")}, answer: failing(9), within: 300 * time.Millisecond},
	}
	var scenarios []scenario
	for _, tt := range tests {
		within := func(st *stage) context.Context {
			if tt.within == 0 {
				return st.context()
			}
			ctx, cancel := context.WithTimeout(st.context(), tt.within)
			st.t.Cleanup(cancel)
			return ctx
		}
		for kind, desc := range kinds {
			scenarios = append(scenarios, scenario{name: tt.name + ", " + kind, dial: tt.dial, script: func() func(*h2test.Stream) { return numbered(tt.answer) }, act: func(st *stage) {
				st.talk(within(st), desc, "/t/M", []string{"hello"}, tt.opts...)
				if tt.within == 0 {
					st.talk(within(st), desc, "/t/M", []string{"hello"}, tt.opts...)
				}
			}})
		}
		scenarios = append(scenarios, scenario{name: tt.name + ", Invoke", dial: tt.dial, script: func() func(*h2test.Stream) { return numbered(tt.answer) }, act: func(st *stage) {
			st.invoke(within(st), "/t/M", "hello", tt.opts...)
			if tt.within == 0 {
				st.invoke(within(st), "/t/M", "hello", tt.opts...)
			}
		}})
	}
	play(t, scenarios)
}
