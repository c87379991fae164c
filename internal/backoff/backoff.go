// Package backoff has gRPC's delays between attempts: the exponential back-off of
// connections, resolvers and health checks, and what an attempt to connect may take
// (gRPC's connection-backoff document).
package backoff

import (
	"math"
	"time"

	"google.golang.org/grpc/backoff"
)

// Delay returns how long after the start of an attempt the next one may start.
// failures is the number of attempts in a row that failed before this one; random is
// from [0, 1).
//
// The first delay is BaseDelay. Each one after it is Multiplier times the one
// before, but not more than MaxDelay, and is then moved by up to Jitter of itself
// in either direction.
func Delay(cfg backoff.Config, failures int, random float64) time.Duration {
	if failures <= 0 {
		return max(cfg.BaseDelay, 0)
	}
	delay, limit := float64(cfg.BaseDelay), float64(cfg.MaxDelay)
	for ; failures > 0 && delay < limit; failures-- {
		grown := delay * cfg.Multiplier
		if grown <= delay {
			break // a multiplier of one or less, or no delay to multiply
		}
		delay = grown
	}
	delay = min(delay, limit)
	delay *= 1 + cfg.Jitter*(2*random-1)
	if delay >= math.MaxInt64 {
		return math.MaxInt64 // which no float64 is: the conversion would give a negative delay
	}
	return time.Duration(max(delay, 0))
}

// ConnectLimit returns how long one attempt may take, all addresses of the group
// together: least, which is MIN_CONNECT_TIMEOUT, or the back-off's delay when that is
// longer.
func ConnectLimit(least, delay time.Duration) time.Duration { return max(least, delay) }

// minAddressLimit is what an address gets of an attempt's time, if there is as much left:
// with less, one that is far away would not be reached.
const minAddressLimit = 2 * time.Second

// AddressLimit returns how long the first of several addresses may take, which are tried
// one after the other and have left for all: its share, but not less than two seconds.
func AddressLimit(left time.Duration, addresses int) time.Duration {
	return min(max(left/time.Duration(addresses), minAddressLimit), left)
}
