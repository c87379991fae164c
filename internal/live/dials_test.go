package live

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDials(t *testing.T) {
	var d Dials
	now := time.Now()
	later := now.Add(time.Second)

	d.Begin(1, "name:1", now)
	d.Step(1, Step{Phase: "dial", Addr: "192.0.2.1:1", Start: now})
	d.Step(1, Step{Phase: "dial", Addr: "192.0.2.2:1", Start: now})
	d.Step(1, Step{Phase: "dial", Addr: "192.0.2.1:1", End: later, Err: "refused"})
	d.Failed(1, Failure{Addr: "192.0.2.1:1", Phase: "dial", Time: later})
	d.Failed(1, Failure{Addr: "192.0.2.2:1", Phase: "tls", Time: later})
	dial, failures := d.Of("name:1")
	require.NotNil(t, dial)
	assert.Equal(t, later, dial.End)
	assert.False(t, dial.Ready)
	require.Len(t, dial.Steps, 2)
	assert.Equal(t, Step{Phase: "dial", Addr: "192.0.2.1:1", Start: now, End: later, Err: "refused"}, dial.Steps[0])
	assert.True(t, dial.Steps[1].End.IsZero())
	assert.Len(t, failures, 2)

	d.Begin(2, "name:1", later)
	d.Ready(2, later)
	dial, failures = d.Of("name:1")
	assert.True(t, dial.Ready)
	assert.Empty(t, dial.Steps, "another dial")
	assert.Len(t, failures, 2, "the latest failure stays")
	d.Step(1, Step{Phase: "http2", Start: now})
	d.Ready(1, now)
	assert.Empty(t, dial.Steps, "what comes late is of no dial that is kept")

	d.Failed(3, Failure{Addr: "name:1"})
	_, failures = d.Of("name:1")
	assert.Len(t, failures, 2, "an attempt that is not known")
	d.Lost(Failure{Addr: "name:1", Phase: PhaseLost})
	d.Lost(Failure{Addr: "other:1", Phase: PhaseLost})
	_, failures = d.Of("name:1")
	assert.Equal(t, []Failure{{Addr: "name:1", Phase: PhaseLost}}, failures)

	d.Failed(0, Failure{Addr: "sick:1", Phase: "health"})
	dial, failures = d.Of("sick:1")
	assert.Nil(t, dial)
	assert.Len(t, failures, 1)
	dial, failures = d.Of("unknown:1")
	assert.Nil(t, dial)
	assert.Nil(t, failures)
}

// TestDialsAreBounded: the endpoints dialed last, and the first steps of each.
func TestDialsAreBounded(t *testing.T) {
	var d Dials
	now := time.Now()
	for i := range 3 * maxDials {
		attempt := uint64(i + 1)
		d.Begin(attempt, fmt.Sprint(i), now)
		for j := range 2 * maxSteps {
			d.Step(attempt, Step{Phase: "dial", Addr: fmt.Sprint(j), Start: now})
		}
		for range 2 * maxFailures {
			d.Failed(attempt, Failure{Addr: fmt.Sprint(i)})
		}
	}
	assert.Len(t, d.all, maxDials)
	none, _ := d.Of("0")
	assert.Nil(t, none)
	last, failures := d.Of(fmt.Sprint(3*maxDials - 1))
	require.NotNil(t, last)
	assert.Len(t, last.Steps, maxSteps)
	assert.Equal(t, maxSteps, last.Omitted)
	assert.Len(t, failures, maxFailures)
}
