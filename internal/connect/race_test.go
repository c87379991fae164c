package connect

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/failure"
)

// track is one endpoint of a race: when its dial ends, and how.
type track struct {
	after  time.Duration   // never, if negative
	err    error           // nil: connected
	deaf   bool            // is not called off
	phases []time.Duration // after which it ends phases, but for the last
}

// racers dials tracks by their number and notes when each was dialed.
type racers struct {
	tracks []track
	dialed []time.Duration // since start; -1: never
	start  time.Time
	conns  []*closeConn

	waiting []int // what race said of those that had not been tried yet
	running atomic.Int32
}

type closeConn struct{ closed bool }

func newRacers(tracks []track) (*racers, []endpoint) {
	r := &racers{tracks: tracks, start: time.Now(), conns: make([]*closeConn, len(tracks))}
	endpoints := make([]endpoint, len(tracks))
	for i := range tracks {
		r.dialed = append(r.dialed, -1)
		endpoints[i] = endpoint{address: fmt.Sprint(i), shown: fmt.Sprint(i)}
	}
	return r, endpoints
}

func (r *racers) runner() runner[*closeConn] {
	return runner[*closeConn]{
		try: func(ctx context.Context, e endpoint) (*closeConn, *failure.Attempt) {
			start := time.Now()
			c, err := r.dial(ctx, e)
			if err != nil {
				return nil, e.failed("", start, failure.Dial, err)
			}
			return c, nil
		},
		drop:    func(c *closeConn) { c.closed = true },
		waiting: func(n int) { r.waiting = append(r.waiting, n) },
	}
}

func (r *racers) dial(ctx context.Context, e endpoint) (*closeConn, error) {
	r.running.Add(1)
	defer r.running.Add(-1)
	var i int
	fmt.Sscan(e.address, &i)
	r.dialed[i] = time.Since(r.start)
	tr := r.tracks[i]
	for _, d := range tr.phases {
		defer time.AfterFunc(d, e.phaseDone).Stop()
	}
	var done <-chan time.Time
	if tr.after >= 0 {
		done = time.After(tr.after)
	}
	var calledOff <-chan struct{}
	if !tr.deaf {
		calledOff = ctx.Done()
	}
	select {
	case <-done:
	case <-calledOff:
		return nil, fmt.Errorf("dial %d: %w", i, ctx.Err())
	}
	if tr.err != nil {
		return nil, tr.err
	}
	r.conns[i] = &closeConn{}
	return r.conns[i], nil
}

func TestRace(t *testing.T) {
	const never = -1
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	boom := errors.New("boom")
	tests := []struct {
		name    string
		timeout time.Duration
		tracks  []track
		winner  int // -1: none
		lost    []string
		untried int
		dialed  []time.Duration
		took    time.Duration
	}{
		{"one wins", 0, []track{{after: ms(10)}},
			0, nil, 0, []time.Duration{0}, ms(10)},
		{"one loses", 0, []track{{after: ms(10), err: boom}},
			-1, []string{"0 10ms"}, 0, []time.Duration{0}, ms(10)},
		{"the first is quick enough", 0, []track{{after: ms(249)}, {after: 0}},
			0, nil, 0, []time.Duration{0, never}, ms(249)},
		{"the second overtakes", 0, []track{{after: never}, {after: ms(10)}, {after: 0}},
			1, nil, 0, []time.Duration{0, ms(250), never}, ms(260)},
		{"the first recovers", 0, []track{{after: ms(300)}, {after: never}, {after: 0}},
			0, nil, 0, []time.Duration{0, ms(250), never}, ms(300)},
		{"one connects too late", 0, []track{{after: ms(300), deaf: true}, {after: ms(10)}},
			1, nil, 0, []time.Duration{0, ms(250)}, ms(300)},
		{"a failure starts the next at once", 0, []track{{after: ms(5), err: boom}, {after: ms(5), err: boom}, {after: ms(5)}},
			2, []string{"0 5ms", "1 5ms"}, 0, []time.Duration{0, ms(5), ms(10)}, ms(15)},
		{"a failure starts the stagger anew", 0, []track{{after: ms(200), err: boom}, {after: never}, {after: ms(1)}},
			2, []string{"0 200ms"}, 0, []time.Duration{0, ms(200), ms(450)}, ms(451)},
		{"each phase has its time", 0, []track{{after: ms(600), phases: []time.Duration{ms(200), ms(400)}}, {after: 0}},
			0, nil, 0, []time.Duration{0, never}, ms(600)},
		{"a phase that does not end", 0, []track{{after: never, phases: []time.Duration{ms(200), ms(201)}}, {after: ms(10)}},
			1, nil, 0, []time.Duration{0, ms(451)}, ms(461)},
		{"phases of one that was overtaken", 0, []track{{after: never, phases: []time.Duration{ms(300), ms(400)}}, {after: never}, {after: ms(10)}},
			2, nil, 0, []time.Duration{0, ms(250), ms(500)}, ms(510)},
		{"phases of a short time", ms(600), []track{{after: never, phases: []time.Duration{ms(100)}}, {after: never}, {after: never}, {after: never}},
			-1, []string{"0 600ms", "1 375ms", "2 250ms", "3 125ms"}, 0, []time.Duration{0, ms(225), ms(350), ms(475)}, ms(600)},
		{"all fail", 0, []track{{after: ms(300), err: boom}, {after: ms(10), err: boom}, {after: ms(10), err: boom}},
			-1, []string{"1 10ms", "2 10ms", "0 300ms"}, 0, []time.Duration{0, ms(250), ms(260)}, ms(300)},
		{"time is up", 20 * time.Second, []track{{after: never}, {after: ms(100), err: boom}, {after: never}},
			-1, []string{"1 100ms", "0 20s", "2 19.65s"}, 0, []time.Duration{0, ms(250), ms(350)}, 20 * time.Second},
		{"each has its part of a short time", ms(600), []track{{after: never}, {after: never}, {after: never}, {after: never}},
			-1, []string{"0 600ms", "1 450ms", "2 300ms", "3 150ms"}, 0, []time.Duration{0, ms(150), ms(300), ms(450)}, ms(600)},
		{"what a failure leaves is shared", ms(300), []track{{after: ms(60), err: boom}, {after: never}, {after: never}},
			-1, []string{"0 60ms", "1 240ms", "2 120ms"}, 0, []time.Duration{0, ms(60), ms(180)}, ms(300)},
		{"there is no time for all", ms(25), []track{{after: never}, {after: never}, {after: never}, {after: never}, {after: 0}},
			-1, []string{"0 25ms", "1 15ms", "2 5ms"}, 2, []time.Duration{0, ms(10), ms(20), never, never}, ms(25)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tt.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				r, endpoints := newRacers(tt.tracks)
				out := race(ctx, endpoints, r.runner())

				assert.Equal(t, tt.took, time.Since(r.start))
				assert.Equal(t, tt.dialed, r.dialed)
				require.Equal(t, tt.winner >= 0, out.won)
				if out.won {
					require.Same(t, r.conns[tt.winner], out.first)
					assert.False(t, out.first.closed)
				}
				var lost []string // and how long each had taken when it failed
				for _, a := range out.lost {
					lost = append(lost, fmt.Sprintf("%s %v", a.Addr, a.Elapsed))
					if tt.timeout == 0 {
						assert.Equal(t, boom, a.Err, "a dial that was called off is no failure")
					}
				}
				if tt.timeout > 0 { // those that time ended come in any order
					assert.ElementsMatch(t, tt.lost, lost)
					assert.ErrorIs(t, out.lost[len(out.lost)-1].Err, context.DeadlineExceeded)
				} else {
					assert.Equal(t, tt.lost, lost)
				}
				assert.Equal(t, tt.untried, out.untried)
				for i, n := range r.waiting {
					assert.Equal(t, len(endpoints)-1-i, n)
				}
				assert.Zero(t, r.running.Load(), "race returned before all dials had")
				for i, c := range r.conns {
					if c != nil && i != tt.winner {
						assert.True(t, c.closed, "%d connected too late and is open", i)
					}
				}
			})
		})
	}
}
