package main

import (
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The rounds are as long as the whole run's time allows, and a cell is there once.
func TestPlanFitsTheTime(t *testing.T) {
	names := map[string]bool{}
	for _, c := range cells {
		require.False(t, names[c.name], c.name)
		names[c.name] = true
		require.NotNil(t, c.work, c.name)
	}
	for _, total := range []time.Duration{8 * time.Minute, 12 * time.Minute} {
		s := settings{total: total, rounds: 5, run: regexp.MustCompile(""), sides: sides}
		p := s.plan(cells, processCells(1000))
		require.Len(t, p.loads, len(cells))
		var loads time.Duration
		for i := range p.loads {
			loads += time.Duration(p.loads[i].shares * float64(p.roundOf(i, 0)) / p.loads[i].shareOf())
		}
		t.Logf("of %v the loads take %v, in rounds of %v", total, loads.Round(time.Second), p.round)
		require.Less(t, loads, total*9/10)
		require.Greater(t, loads, total/3)
	}
}

// A run that has fallen behind makes its rounds shorter, and not less than a third.
func TestPlanCatchesUp(t *testing.T) {
	s := settings{total: 10 * time.Minute, rounds: 5, run: regexp.MustCompile(`^(unary|down|upload)`), sides: sides}
	p := s.plan(cells, nil)
	half := len(p.loads) / 2
	inTime, late, veryLate := p.roundOf(half, 0), p.roundOf(half, 8*time.Minute), p.roundOf(half, time.Hour)
	require.Equal(t, p.round, inTime)
	require.Less(t, late, inTime)
	require.Equal(t, p.round/3, veryLate)
}

// A few cells get rounds of a second and not all of the time; -quick leaves out what is large.
func TestPlanOfFewCells(t *testing.T) {
	s := settings{total: time.Hour, rounds: 3, run: regexp.MustCompile(`^unary/c=1$|^grow-callers/c=4096|^channels/ready`), sides: sides[:1]}
	p := s.plan(cells, processCells(10))
	require.Len(t, p.loads, 2)
	require.Len(t, p.processes, 1)
	require.Equal(t, longest, p.round)
	s.quick = true
	require.Len(t, s.plan(cells, nil).loads, 1)
	s.tls = true
	require.True(t, s.plan(cells, nil).empty())
}

func TestSidesAreChosen(t *testing.T) {
	for list, want := range map[string][]string{
		"all": {"grpcdial", "grpc-go", "connect-go", "floor"}, "both": {"grpcdial", "grpc-go"}, "floor,ours": {"grpcdial", "floor"},
	} {
		chosen, err := chooseSides(list)
		require.NoError(t, err)
		var names []string
		for _, s := range chosen {
			names = append(names, s.name)
		}
		require.Equal(t, want, names, list)
	}
	_, err := chooseSides("ours,theirs")
	require.ErrorContains(t, err, `"theirs"`)
}
