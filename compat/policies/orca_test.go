package policies

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"time"

	v3orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/orca"

	"github.com/grpcdial/grpcdial"
)

// listening is a policy with one subchannel that asks for out-of-band load reports
// and never ends that.
type listening struct {
	balancer.Balancer
	cc      balancer.ClientConn
	reports chan struct{}
}

type listeningBuilder struct{ reports chan struct{} }

func (listeningBuilder) Name() string { return "grpcdial_test_listening" }
func (b listeningBuilder) Build(cc balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	return &listening{cc: cc, reports: b.reports}
}

func (l *listening) UpdateClientConnState(s balancer.ClientConnState) error {
	var sub balancer.SubConn
	sub, err := l.cc.NewSubConn(s.ResolverState.Addresses, balancer.NewSubConnOptions{StateListener: func(s balancer.SubConnState) {
		if s.ConnectivityState == connectivity.Ready {
			orca.RegisterOOBListener(sub, l, orca.OOBListenerOptions{ReportInterval: time.Millisecond})
		}
		l.cc.UpdateState(balancer.State{ConnectivityState: s.ConnectivityState, Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable)})
	}})
	if err == nil {
		sub.Connect()
	}
	return err
}

func (l *listening) OnLoadReport(*v3orcapb.OrcaLoadReport) {
	select {
	case l.reports <- struct{}{}:
	default:
	}
}

func (l *listening) ExitIdle() {}
func (l *listening) Close()    {}

// TestOutOfBandReportsEndWithTheChannel: a listener that is still registered when the
// channel is closed leaves no goroutine that opens streams on it.
func TestOutOfBandReportsEndWithTheChannel(t *testing.T) {
	b := start(t, "a")
	b.setLoad(0.5)
	policy := listeningBuilder{make(chan struct{}, 1)}
	balancer.Register(policy)
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cc, err := grpcdial.DialContext(ctx, b.addr, grpcdial.WithInsecure(), grpcdial.WithBlock(),
			grpcdial.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"grpcdial_test_listening": {}}]}`))
		cancel()
		require.NoError(t, err)
		<-policy.reports
		require.NoError(t, cc.Close())
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	assert.Zero(t, bytes.Count(stacks, []byte("orca.(*producer).run(")))
}
