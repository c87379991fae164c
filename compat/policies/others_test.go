package policies

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v3orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	_ "google.golang.org/grpc/balancer/leastrequest"
	_ "google.golang.org/grpc/balancer/randomsubsetting"
	_ "google.golang.org/grpc/balancer/ringhash"
	_ "google.golang.org/grpc/xds" // registers outlier detection
)

// TestLeastRequest: RPCs keep away from a backend that is busy.
func TestLeastRequest(t *testing.T) {
	backends := startAll(t, "slow", "quick")
	cc := dial(t, `{"least_request_experimental": {"choiceCount": 10}}`, backends)
	awaitAll(t, cc, backends)
	release := backends[0].hold()
	var callers sync.WaitGroup
	defer callers.Wait()
	defer release()
	for backends[0].waits() == 0 { // one caller after the other, until one has come to the slow backend
		answered := make(chan struct{})
		callers.Go(func() {
			_, _ = ask(context.Background(), cc)
			close(answered)
		})
		for waits := false; !waits; {
			select {
			case <-answered:
				waits = true
			case <-time.After(time.Millisecond):
				waits = backends[0].waits() > 0
			}
		}
	}
	// Of ten choices at random all may be the slow one, now and then.
	quick := 0
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if name, _ := ask(ctx, cc); name == "quick" {
			quick++
		}
		cancel()
	}
	assert.GreaterOrEqual(t, quick, 18, "RPCs go where none are waiting")
}

// TestRingHash: RPCs with the same key go to the same backend, whatever becomes of
// the others.
func TestRingHash(t *testing.T) {
	backends := startAll(t, "a", "b", "c")
	cc := dial(t, `{"ring_hash_experimental": {"requestHashHeader": "key"}}`, backends)
	home := make(map[string]string)
	homes := make(map[string]bool)
	for i := range 50 {
		key := fmt.Sprint("key-", i)
		name, err := ask(withKey(key), cc)
		require.NoError(t, err)
		home[key], homes[name] = name, true
	}
	assert.Len(t, homes, 3, "keys are spread")
	for key, want := range home {
		name, err := ask(withKey(key), cc)
		require.NoError(t, err)
		assert.Equal(t, want, name, key)
	}
	backends[0].stop()
	for key, want := range home {
		// RPCs on the connection that is lost may fail.
		name, err := ask(withKey(key), cc)
		if want == "a" {
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, want, name, "%s stays where it was", key)
	}
}

// TestOutlierDetection: a backend that fails is left alone for a while.
func TestOutlierDetection(t *testing.T) {
	backends := startAll(t, "well", "sick", "fine")
	cc := dial(t, `{"outlier_detection_experimental": {
		"interval": "0.05s", "baseEjectionTime": "0.3s", "maxEjectionTime": "0.3s", "maxEjectionPercent": 50,
		"failurePercentageEjection": {"threshold": 50, "enforcementPercentage": 100, "minimumHosts": 3, "requestVolume": 5},
		"childPolicy": [{"round_robin": {}}]}}`, backends)
	awaitAll(t, cc, backends)
	backends[1].setFails(true)
	eventually(t, func() bool {
		got := shares(cc, 30)
		return got["well"] == 15 && got["fine"] == 15
	}, "no RPC goes to the one that fails")
	backends[1].setFails(false)
	eventually(t, func() bool { return shares(cc, 30)["sick"] == 10 }, "it is given another chance")
}

// customPolicy sends all RPCs to the backend whose last report had the least load, and
// checks what Done receives.
type customPolicy struct{ reports atomic.Int64 }

func (p *customPolicy) Build(info base.PickerBuildInfo) balancer.Picker {
	if len(info.ReadySCs) == 0 {
		return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
	}
	picker := &customPicker{policy: p, loads: make(map[balancer.SubConn]float64)}
	for sc := range info.ReadySCs {
		picker.loads[sc] = -1
	}
	return picker
}

type customPicker struct {
	policy *customPolicy
	mu     sync.Mutex
	loads  map[balancer.SubConn]float64 // guarded by mu; below 0: not known
}

func (p *customPicker) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var least balancer.SubConn
	for sc, load := range p.loads {
		if least == nil || load < p.loads[least] {
			least = sc
		}
	}
	return balancer.PickResult{SubConn: least, Done: func(info balancer.DoneInfo) {
		report, ok := info.ServerLoad.(*v3orcapb.OrcaLoadReport)
		if !ok {
			return
		}
		p.policy.reports.Add(1)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.loads[least] = report.ApplicationUtilization
	}}, nil
}

// TestCustomPolicy: a program's own policy gets each RPC's report as the type that
// it is.
func TestCustomPolicy(t *testing.T) {
	p := new(customPolicy)
	balancer.Register(base.NewBalancerBuilder("custom", p, base.Config{}))
	backends := startAll(t, "busy", "idle")
	backends[0].setLoad(0.8)
	backends[1].setLoad(0.2)
	cc := dial(t, `{"custom": {}}`, backends)
	eventually(t, func() bool { return shares(cc, 10)["idle"] == 10 }, "RPCs go to the idle one")
	backends[1].setLoad(0.9)
	eventually(t, func() bool { return shares(cc, 10)["busy"] == 10 }, "they go to the other")
	assert.Positive(t, p.reports.Load())
}

// TestRandomSubsetting: RPCs go to the backends of the subset alone.
func TestRandomSubsetting(t *testing.T) {
	backends := startAll(t, "a", "b", "c")
	cc := dial(t, `{"random_subsetting_experimental": {"subsetSize": 2, "childPolicy": [{"round_robin": {}}]}}`, backends)
	eventually(t, func() bool { return len(shares(cc, 4)) == 2 }, "both backends of the subset are reached")
	assert.Len(t, shares(cc, 30), 2)
}
