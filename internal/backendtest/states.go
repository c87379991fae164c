package backendtest

import (
	"context"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
)

// stateful is the part of a channel's methods that AwaitState needs.
type stateful interface {
	GetState() connectivity.State
	WaitForStateChange(context.Context, connectivity.State) bool
}

// AwaitState waits until the channel is in state.
func AwaitState(t *testing.T, cc stateful, state connectivity.State) {
	t.Helper()
	ctx := Bounded(t)
	for {
		now := cc.GetState()
		if now == state {
			return
		}
		if !cc.WaitForStateChange(ctx, now) {
			require.FailNow(t, "state not reached", "still %v, want %v", now, state)
		}
	}
}

// Transitions watches a channel until the test ends. The function that it returns waits
// for the next transition to a state; to returns the state that a transition C leads to.
func Transitions[C any](t *testing.T, watch func(context.Context) iter.Seq[C], to func(C) connectivity.State) func(connectivity.State) C {
	t.Helper()
	changes := make(chan C, 1000) // more than a channel keeps for a watcher
	var watching sync.WaitGroup
	watching.Go(func() {
		for c := range watch(t.Context()) {
			changes <- c
		}
	})
	t.Cleanup(watching.Wait)
	latest := to(<-changes) // the state when it began
	return func(want connectivity.State) C {
		t.Helper()
		timeout := time.After(Patience)
		for {
			select {
			case c := <-changes:
				if latest = to(c); latest == want {
					return c
				}
			case <-timeout:
				require.FailNow(t, "no transition", "to %v, the latest was to %v", want, latest)
			}
		}
	}
}

// ExpectStates fails the test unless the next states of a subchannel are those of want.
// It returns the last.
func ExpectStates(t *testing.T, states <-chan balancer.SubConnState, want ...connectivity.State) balancer.SubConnState {
	t.Helper()
	var last balancer.SubConnState
	for _, w := range want {
		select {
		case last = <-states:
			require.Equal(t, w, last.ConnectivityState)
		case <-time.After(Patience):
			require.FailNow(t, "no state", "want %v", w)
		}
	}
	return last
}
