package policies

import (
	"testing"

	"github.com/stretchr/testify/assert"
	_ "google.golang.org/grpc/balancer/weightedroundrobin"
)

// TestWeightedRoundRobin: reports of load shift load, be they sent with RPCs or out
// of band, and shift it back.
func TestWeightedRoundRobin(t *testing.T) {
	for name, policy := range map[string]string{
		"with each RPC": `{"weighted_round_robin": {"blackoutPeriod": "0s", "weightUpdatePeriod": "0.1s"}}`,
		"out of band":   `{"weighted_round_robin": {"blackoutPeriod": "0s", "weightUpdatePeriod": "0.1s", "enableOobLoadReport": true, "oobReportingPeriod": "0.1s"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			backends := startAll(t, "a", "b")
			a, b := backends[0], backends[1]
			a.setLoad(0.9)
			b.setLoad(0.1)
			cc := dial(t, policy, backends)
			awaitAll(t, cc, backends)
			// The weight is the rate over the utilization: 9 to 1.
			eventually(t, func() bool {
				got := shares(cc, 100)
				return got["b"] >= 85 && got["a"] >= 5
			}, "load goes to the one that has little")
			a.setLoad(0.1)
			b.setLoad(0.9)
			eventually(t, func() bool {
				got := shares(cc, 100)
				return got["a"] >= 85 && got["b"] >= 5
			}, "it follows the reports")
			a.setLoad(0.5)
			b.setLoad(0.5)
			eventually(t, func() bool {
				got := shares(cc, 100)
				return got["a"] >= 45 && got["b"] >= 45
			}, "it is shared evenly again")
		})
	}
}

// TestWeightedRoundRobinWithoutReports: it is round robin.
func TestWeightedRoundRobinWithoutReports(t *testing.T) {
	backends := startAll(t, "a", "b", "c")
	cc := dial(t, `{"weighted_round_robin": {}}`, backends)
	awaitAll(t, cc, backends)
	eventually(t, func() bool { return len(shares(cc, 3)) == 3 }, "all are connected")
	assert.Equal(t, map[string]int{"a": 10, "b": 10, "c": 10}, shares(cc, 30))
}
