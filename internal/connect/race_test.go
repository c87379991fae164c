package connect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// track is one endpoint of a race: when its dial ends, and how.
type track struct {
	after time.Duration // never, if negative
	err   error         // nil: connected
	deaf  bool          // is not called off
}

// racers dials tracks by their number and notes when each was dialed.
type racers struct {
	tracks []track
	dialed []time.Duration // since start; -1: never
	start  time.Time
	conns  []*closeConn

	running atomic.Int32
}

type closeConn struct {
	net.Conn
	closed bool
}

func (c *closeConn) Close() error { c.closed = true; return nil }

func newRacers(tracks []track) (*racers, []endpoint) {
	r := &racers{tracks: tracks, start: time.Now(), conns: make([]*closeConn, len(tracks))}
	endpoints := make([]endpoint, len(tracks))
	for i := range tracks {
		r.dialed = append(r.dialed, -1)
		endpoints[i] = endpoint{address: fmt.Sprint(i), shown: fmt.Sprint(i)}
	}
	return r, endpoints
}

func (r *racers) dial(ctx context.Context, e endpoint) (net.Conn, error) {
	r.running.Add(1)
	defer r.running.Add(-1)
	var i int
	fmt.Sscan(e.address, &i)
	r.dialed[i] = time.Since(r.start)
	tr := r.tracks[i]
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
		rest    []string
		dialed  []time.Duration
		took    time.Duration
	}{
		{"one wins", 0, []track{{after: ms(10)}},
			0, nil, nil, []time.Duration{0}, ms(10)},
		{"one loses", 0, []track{{after: ms(10), err: boom}},
			-1, []string{"0"}, nil, []time.Duration{0}, ms(10)},
		{"the first is quick enough", 0, []track{{after: ms(249)}, {after: 0}},
			0, nil, []string{"1"}, []time.Duration{0, never}, ms(249)},
		{"the second overtakes", 0, []track{{after: never}, {after: ms(10)}, {after: 0}},
			1, nil, []string{"0", "2"}, []time.Duration{0, ms(250), never}, ms(260)},
		{"the first recovers", 0, []track{{after: ms(300)}, {after: never}, {after: 0}},
			0, nil, []string{"1", "2"}, []time.Duration{0, ms(250), never}, ms(300)},
		{"one connects too late", 0, []track{{after: ms(300), deaf: true}, {after: ms(10)}},
			1, nil, []string{"0"}, []time.Duration{0, ms(250)}, ms(300)},
		{"a failure starts the next at once", 0, []track{{after: ms(5), err: boom}, {after: ms(5), err: boom}, {after: ms(5)}},
			2, []string{"0", "1"}, nil, []time.Duration{0, ms(5), ms(10)}, ms(15)},
		{"a failure starts the stagger anew", 0, []track{{after: ms(200), err: boom}, {after: never}, {after: ms(1)}},
			2, []string{"0"}, []string{"1"}, []time.Duration{0, ms(200), ms(450)}, ms(451)},
		{"all fail", 0, []track{{after: ms(300), err: boom}, {after: ms(10), err: boom}, {after: ms(10), err: boom}},
			-1, []string{"1", "2", "0"}, nil, []time.Duration{0, ms(250), ms(260)}, ms(300)},
		{"time is up", ms(600), []track{{after: never}, {after: never}, {after: never}, {after: never}},
			-1, []string{"0", "1", "2"}, []string{"3"}, []time.Duration{0, ms(250), ms(500), never}, ms(600)},
		{"time is up after a failure", ms(300), []track{{after: ms(100), err: boom}, {after: never}, {after: never}},
			-1, []string{"0", "1"}, []string{"2"}, []time.Duration{0, ms(100), never}, ms(300)},
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
				out := race(ctx, endpoints, r.dial)

				assert.Equal(t, tt.took, time.Since(r.start))
				assert.Equal(t, tt.dialed, r.dialed)
				if tt.winner < 0 {
					assert.Nil(t, out.conn)
				} else {
					require.Equal(t, net.Conn(r.conns[tt.winner]), out.conn)
					assert.Equal(t, fmt.Sprint(tt.winner), out.shown)
					assert.Equal(t, r.start.Add(tt.dialed[tt.winner]), out.start)
					assert.False(t, r.conns[tt.winner].closed)
				}
				var lost, rest []string
				for _, l := range out.lost {
					lost = append(lost, l.shown)
					if tt.timeout == 0 {
						assert.Equal(t, boom, l.err, "a dial that was called off is no failure")
					}
				}
				for _, e := range out.rest {
					rest = append(rest, e.shown)
				}
				if tt.timeout > 0 { // those that time ended come in any order
					assert.ElementsMatch(t, tt.lost, lost)
					assert.ErrorIs(t, out.lost[len(out.lost)-1].err, context.DeadlineExceeded)
				} else {
					assert.Equal(t, tt.lost, lost)
				}
				assert.Equal(t, tt.rest, rest)
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
