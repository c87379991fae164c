package grpcdial

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestStateMachine(t *testing.T) {
	var m stateMachine
	set := func(to connectivity.State, cause error) bool {
		_, ok := m.set(to, cause, nil)
		return ok
	}
	assert.Equal(t, connectivity.Idle, m.state())
	assert.False(t, set(connectivity.Idle, nil), "no transition to the same state")

	why := errors.New("why")
	assert.True(t, set(connectivity.Connecting, nil))
	assert.True(t, set(connectivity.TransientFailure, why))
	last, _ := m.now()
	assert.Equal(t, uint64(2), last.Seq)
	assert.Equal(t, connectivity.Connecting, last.From)
	assert.Equal(t, connectivity.TransientFailure, last.To)
	assert.Equal(t, why, last.Cause)
	assert.WithinDuration(t, time.Now(), last.Time, time.Minute)

	assert.True(t, set(connectivity.Shutdown, nil))
	for _, s := range []connectivity.State{connectivity.Idle, connectivity.Connecting, connectivity.Ready, connectivity.TransientFailure, connectivity.Shutdown} {
		assert.False(t, set(s, nil), "%v after SHUTDOWN", s)
	}
	assert.Equal(t, connectivity.Shutdown, m.state())
}

// A goroutine that waits for a state finds it in channelz, which has it before it is in force.
func TestChannelzHasTheStateFirst(t *testing.T) {
	channelzdata.Keep()
	cc, err := NewClient("passthrough:///states.test:1", WithInsecure())
	require.NoError(t, err)
	defer cc.Close()
	recorded := func() connectivity.State {
		channels, _ := channelzdata.TopChannels(0, math.MaxInt, nil)
		i := slices.IndexFunc(channels, func(c channelzdata.ChannelRecord) bool { return strings.Contains(c.Name, "states.test") })
		require.GreaterOrEqual(t, i, 0)
		return channels[i].State
	}
	for _, to := range []connectivity.State{connectivity.Connecting, connectivity.TransientFailure, connectivity.Ready} {
		var before connectivity.State
		cc.setState(to, nil, func() { before = recorded() }) // called before anything can see the state
		assert.Equal(t, to, before)
	}
}

func TestStateMachineKeepsTheLatestTransitions(t *testing.T) {
	var m stateMachine
	const n = 3*keptTransitions + 17
	for i := range n {
		m.set([]connectivity.State{connectivity.Connecting, connectivity.Ready}[i%2], nil, nil)
	}
	assert.Len(t, m.log, keptTransitions)
	c, ok, _ := m.after(0)
	require.True(t, ok)
	assert.EqualValues(t, n-keptTransitions+1, c.Seq, "the oldest that is kept")
	for seq := c.Seq; seq < n; seq++ {
		c, ok, _ := m.after(seq)
		require.True(t, ok)
		require.Equal(t, seq+1, c.Seq)
	}
	_, ok, changed := m.after(n)
	assert.False(t, ok)
	m.poke()
	<-changed
}

// A change between any two looks at the state is a change.
func TestWaitForStateChangeNeverMisses(t *testing.T) {
	cc := plain(t, "x:1")
	const rounds = 2000
	turn := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range rounds {
			<-turn
			// There and back at once: a waiter that compares states sees nothing.
			cc.state.set(connectivity.Connecting, nil, nil)
			cc.state.set(connectivity.Idle, nil, nil)
		}
	})
	ctx := backendtest.Bounded(t)
	for range rounds {
		last, changed := cc.state.now()
		go func() { turn <- struct{}{} }()
		<-changed
		now, _ := cc.state.now()
		require.Greater(t, now.Seq, last.Seq)
	}
	wg.Wait()

	// And a waiter is woken by each of a series.
	for range rounds {
		woken := make(chan bool, 3)
		for range 3 {
			go func() { woken <- cc.WaitForStateChange(ctx, connectivity.Idle) }()
		}
		cc.state.set(connectivity.Connecting, nil, nil)
		for range 3 {
			require.True(t, <-woken)
		}
		cc.state.set(connectivity.Idle, nil, nil)
	}
}

func TestWaitForStateChange(t *testing.T) {
	cc := plain(t, "x:1")
	assert.True(t, cc.WaitForStateChange(backendtest.Bounded(t), connectivity.Ready), "it is in another state already")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	assert.False(t, cc.WaitForStateChange(ctx, connectivity.Idle), "the context ends the wait")

	synctest.Test(t, func(t *testing.T) {
		cc, err := NewClient("x:1", WithInsecure())
		require.NoError(t, err)
		defer cc.Close()
		result := make(chan bool, 1)
		go func() { result <- cc.WaitForStateChange(context.Background(), connectivity.Idle) }()
		synctest.Wait()
		cc.state.poke()
		synctest.Wait()
		assert.Empty(t, result, "nothing has changed")
		cc.state.set(connectivity.Connecting, nil, nil)
		cc.state.set(connectivity.Idle, nil, nil)
		assert.True(t, <-result, "left and entered again")
	})
}

func TestWatchYieldsEveryTransition(t *testing.T) {
	cc := plain(t, "x:1")
	cc.state.set(connectivity.Connecting, nil, nil)
	const n = 1000
	started := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		<-started
		for i := range n {
			cc.state.set([]connectivity.State{connectivity.Ready, connectivity.Idle}[i%2], nil, nil)
		}
		_ = cc.Close()
	})
	var seen []StateChange
	for c := range cc.Watch(backendtest.Bounded(t)) {
		if len(seen) == 0 {
			close(started)
		}
		seen = append(seen, c)
	}
	wg.Wait()
	require.Len(t, seen, n+2)
	assert.Equal(t, connectivity.Connecting, seen[0].From)
	assert.Equal(t, connectivity.Connecting, seen[0].To)
	for i := 1; i < len(seen); i++ {
		require.Equal(t, seen[i-1].Seq+1, seen[i].Seq)
		require.Equal(t, seen[i-1].To, seen[i].From)
		require.False(t, seen[i].Time.Before(seen[i-1].Time))
	}
	assert.Equal(t, connectivity.Shutdown, seen[n+1].To)
	assert.ErrorIs(t, seen[n+1].Cause, grpc.ErrClientConnClosing)
}

func TestWatchEnds(t *testing.T) {
	cc := plain(t, "x:1")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var seen int
	for c := range cc.Watch(ctx) {
		assert.Zero(t, c.Seq)
		assert.Equal(t, connectivity.Idle, c.To)
		seen++
		cancel() // with its context
	}
	for range cc.Watch(context.Background()) {
		seen++
		break // with its loop
	}
	require.NoError(t, cc.Close())
	for c := range cc.Watch(context.Background()) {
		assert.Equal(t, connectivity.Shutdown, c.To)
		seen++ // and on a channel that is closed
	}
	assert.Equal(t, 3, seen)
}

// A watcher that needs its time for each transition sees every one of many
// disconnects, in order, with its cause.
func TestSlowWatcherSeesEveryDisconnect(t *testing.T) {
	const disconnects = 200
	b := backendtest.Start(t, "one")
	cc := plain(t, b.Addr)
	began, ended := make(chan struct{}), make(chan []StateChange, 1)
	go func() {
		var seen []StateChange
		for c := range cc.Watch(t.Context()) {
			if seen = append(seen, c); len(seen) == 1 {
				close(began)
			}
			time.Sleep(5 * time.Millisecond) // its work
		}
		ended <- seen
	}()
	<-began
	for range disconnects {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		awaitState(t, cc, connectivity.Ready) // set after the picker that the RPC has found
		b.Cut()
		require.True(t, cc.WaitForStateChange(backendtest.Bounded(t), connectivity.Ready))
	}
	require.NoError(t, cc.Close())
	seen := <-ended
	losses := 0
	for i, c := range seen[1:] {
		require.Equal(t, seen[i].Seq+1, c.Seq, "none is left out")
		require.Equal(t, seen[i].To, c.From)
		if c.From == connectivity.Ready {
			assert.Error(t, c.Cause)
			losses++
		}
	}
	assert.Equal(t, disconnects, losses)
	assert.Equal(t, connectivity.Shutdown, seen[len(seen)-1].To)
}

// Any number may watch: all see the same, whatever they take for it, and one that
// leaves its loop, or whose context ends, leaves nothing behind.
func TestManyWatchers(t *testing.T) {
	b := backendtest.Start(t, "one")
	cc := plain(t, b.Addr)
	const watchers, disconnects = 8, 20
	began := make(chan struct{}, watchers+2)
	all := make([][]StateChange, watchers)
	var watching sync.WaitGroup
	for i := range watchers {
		watching.Go(func() {
			for c := range cc.Watch(t.Context()) {
				if all[i] = append(all[i], c); len(all[i]) == 1 {
					began <- struct{}{}
				}
				time.Sleep(time.Duration(i) * time.Millisecond)
			}
		})
	}
	watching.Go(func() {
		n := 0
		for range cc.Watch(t.Context()) {
			if n++; n == 1 {
				began <- struct{}{}
			}
			if n == 10 {
				break
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	watching.Go(func() {
		for range cc.Watch(ctx) {
			began <- struct{}{}
			cancel()
		}
	})
	for range watchers + 2 {
		<-began
	}
	for range disconnects {
		_, err := backendtest.AskName(backendtest.Bounded(t), cc, grpc.WaitForReady(true))
		require.NoError(t, err)
		awaitState(t, cc, connectivity.Ready)
		b.Cut()
		require.True(t, cc.WaitForStateChange(backendtest.Bounded(t), connectivity.Ready))
	}
	require.NoError(t, cc.Close())
	watching.Wait()
	for i := range all {
		assert.Equal(t, all[0], all[i])
	}
	last := all[0][len(all[0])-1]
	assert.Equal(t, connectivity.Shutdown, last.To)
	assert.EqualValues(t, len(all[0])-1, last.Seq)
	assert.GreaterOrEqual(t, len(all[0]), 3*disconnects)
}

// One that falls further behind than the channel remembers sees by the numbers
// how many it has missed.
func TestWatcherThatFallsBehind(t *testing.T) {
	cc := plain(t, "x:1")
	const n = 3 * keptTransitions
	var seen []StateChange
	for c := range cc.Watch(backendtest.Bounded(t)) {
		if seen = append(seen, c); len(seen) == 1 {
			for i := range n {
				cc.state.set([]connectivity.State{connectivity.Connecting, connectivity.Idle}[i%2], nil, nil)
			}
			require.NoError(t, cc.Close())
		}
	}
	require.Len(t, seen, 1+keptTransitions)
	assert.EqualValues(t, 0, seen[0].Seq)
	assert.EqualValues(t, n+1-keptTransitions+1, seen[1].Seq, "the oldest that is remembered")
	for i := 2; i < len(seen); i++ {
		require.Equal(t, seen[i-1].Seq+1, seen[i].Seq)
	}
	assert.Equal(t, connectivity.Shutdown, seen[keptTransitions].To)
}

// watched returns a function that waits for the next transition to a state.
func watched(t *testing.T, cc *ClientConn) func(to connectivity.State) StateChange {
	t.Helper()
	return backendtest.Transitions(t, cc.Watch, func(c StateChange) connectivity.State { return c.To })
}

// A policy may fail without an attempt: its transition has a cause nevertheless.
func TestTransitionOfAPolicyThatFails(t *testing.T) {
	p := &backendtest.SpyPolicy{As: t.Name(), OnUpdate: func(s *backendtest.Spy, _ balancer.ClientConnState) error {
		s.CC.UpdateState(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(errors.New("no"))})
		return nil
	}}
	balancer.Register(p)
	r, target, option := handResolver(t)
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "x:1"}}})
	cc := plain(t, target, option, WithDefaultServiceConfig(p.Config()))
	next := watched(t, cc)
	cc.Connect()
	assert.ErrorContains(t, next(connectivity.TransientFailure).Cause, "the load-balancing policy reported TRANSIENT_FAILURE")
}

// Every transition says why it was made.
func TestTransitionsHaveCauses(t *testing.T) {
	srv := h2test.Listen(t)
	cc := plain(t, srv.Addr())
	next := watched(t, cc)
	connect := func() *h2test.Conn {
		t.Helper()
		cc.Connect()
		c := srv.Accept()
		c.Handshake()
		assert.NoError(t, next(connectivity.Ready).Cause)
		return c
	}

	connect().GoAway(0, http2.ErrCodeNo, "bye")
	var goAway *GoAwayError
	require.ErrorAs(t, next(connectivity.Idle).Cause, &goAway)
	assert.Equal(t, "bye", goAway.Debug)

	connect().CloseHard()
	assert.ErrorIs(t, next(connectivity.Idle).Cause, syscall.ECONNRESET)

	srv.CloseListener()
	cc.ResetConnectBackoff() // two connections of no use would count as failed attempts
	cc.Connect()
	var e *DialError
	require.ErrorAs(t, next(connectivity.TransientFailure).Cause, &e)
	assert.Equal(t, connectivity.TransientFailure, e.State)
	require.Len(t, e.Attempts, 1)
	assert.Equal(t, PhaseDial, e.Attempts[0].Phase)

	require.NoError(t, cc.Close())
	assert.ErrorIs(t, next(connectivity.Shutdown).Cause, grpc.ErrClientConnClosing)
}

// So does one that no loss led to.
func TestCauseOfAConnectionThatIsGivenUp(t *testing.T) {
	one, two := backendtest.Start(t, "one"), backendtest.Start(t, "two")
	for _, policy := range []string{"pick_first", "round_robin"} {
		r, target, option := handResolver(t)
		r.InitialState(backendtest.Addresses(one))
		cc := plain(t, target, option, WithDefaultServiceConfig(backendtest.PolicyConfig(policy)))
		cc.Connect()
		awaitReady(t, cc)
		next := watched(t, cc)
		r.UpdateState(backendtest.Addresses(two))
		assert.ErrorContains(t, next(connectivity.Connecting).Cause, "gave the connection up")
		next(connectivity.Ready)
	}
}
