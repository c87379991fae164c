package backoff

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/backoff"
)

func TestBackoffDelay(t *testing.T) {
	even := backoff.Config{BaseDelay: time.Second, Multiplier: 2, MaxDelay: 10 * time.Second}
	jittery := even
	jittery.Jitter = 0.5
	for _, tt := range []struct {
		name     string
		cfg      backoff.Config
		failures int
		random   float64
		want     time.Duration
	}{
		{"the first is the base", even, 0, 0.9, time.Second},
		{"then it grows", even, 1, 0, 2 * time.Second},
		{"and grows", even, 3, 0, 8 * time.Second},
		{"up to the maximum", even, 4, 0, 10 * time.Second},
		{"and no further", even, 1 << 30, 0, 10 * time.Second},
		{"the first has no jitter", jittery, 0, 0.9, time.Second},
		{"least", jittery, 1, 0, time.Second},
		{"middle", jittery, 1, 0.5, 2 * time.Second},
		{"most", jittery, 1, 0.999999999, 3 * time.Second},
		{"jitter goes beyond the maximum", jittery, 10, 0.999999999, 15 * time.Second},
		{"a multiplier of one", backoff.Config{BaseDelay: time.Second, Multiplier: 1, MaxDelay: time.Hour}, 1 << 30, 0, time.Second},
		{"no delay", backoff.Config{Multiplier: 2, MaxDelay: time.Hour}, 5, 0.5, 0},
		{"nothing set", backoff.Config{}, 5, 0.5, 0},
		{"a base above the maximum", backoff.Config{BaseDelay: time.Hour, Multiplier: 2, MaxDelay: time.Second}, 1, 0.5, time.Second},
		{"a negative base", backoff.Config{BaseDelay: -1}, 0, 0.5, 0},
		{"the longest there is, with jitter", backoff.Config{BaseDelay: math.MaxInt64, Multiplier: 1.6, MaxDelay: math.MaxInt64, Jitter: 0.2}, 1, 0.9, math.MaxInt64},
		{"jitter above one", backoff.Config{BaseDelay: time.Second, Multiplier: 1, MaxDelay: time.Second, Jitter: 3}, 1, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.InDelta(t, tt.want, Delay(tt.cfg, tt.failures, tt.random), float64(10*time.Millisecond))
		})
	}
}

func TestConnectLimit(t *testing.T) {
	const least = 20 * time.Second
	assert.Equal(t, 20*time.Second, ConnectLimit(least, time.Second))
	assert.Equal(t, 90*time.Second, ConnectLimit(least, 90*time.Second))
}

func TestAddressLimit(t *testing.T) {
	for _, tt := range []struct {
		left      time.Duration
		addresses int
		want      time.Duration
	}{
		{20 * time.Second, 1, 20 * time.Second},
		{20 * time.Second, 4, 5 * time.Second},
		{20 * time.Second, 1000, 2 * time.Second},
		{3 * time.Second, 2, 2 * time.Second},
		{time.Second, 2, time.Second},
		{-time.Second, 2, -time.Second},
	} {
		assert.Equal(t, tt.want, AddressLimit(tt.left, tt.addresses), "%+v", tt)
	}
}
