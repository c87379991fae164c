package main

import "time"

// plan is what a run does.
type plan struct {
	loads     []plannedLoad
	processes []processCell
	total     time.Duration // of the run; 0: the rounds are as long as -time says
	after     time.Duration // of it, for the processes
	round     time.Duration // of a load whose share is 1
}

// plannedLoad is a load and what it is expected to take: fixed, and shares times the round.
type plannedLoad struct {
	cell
	fixed  time.Duration
	shares float64
}

const (
	// aroundRound is what a round of a load takes beyond the load itself: opening streams,
	// collecting garbage, asking the server for its counts.
	aroundRound = 35 * time.Millisecond
	longest     = time.Second // of a round: more shows nothing more
	shortest    = 20 * time.Millisecond
)

// plan chooses the cells, and the length of a round so that the run takes about s.total.
func (s settings) plan(loads []cell, processes []processCell) plan {
	var p plan
	for _, c := range loads {
		if !s.wants(c.name, c.large, c.tls) {
			continue
		}
		load := plannedLoad{cell: c}
		for _, side := range s.sides {
			if side.has(c) {
				load.fixed += time.Duration(s.rounds) * (aroundRound + time.Duration(c.workers)*50*time.Microsecond)
				load.shares += c.shareOf()*float64(s.rounds) + min(c.shareOf(), 0.5) // warming up
			}
		}
		if load.shares > 0 {
			p.loads = append(p.loads, load)
		}
	}
	for _, c := range processes {
		wanted := false
		for _, head := range c.heads {
			wanted = wanted || s.wants(head.Name, c.large, c.tls)
		}
		if clients := s.channelClients(); wanted && len(clients) > 0 {
			p.processes = append(p.processes, c)
			p.after += time.Duration(min(s.rounds, c.rounds)*len(clients)) * c.takes
		}
	}
	if s.time > 0 {
		p.round = s.time / time.Duration(s.rounds)
		return p
	}
	p.total = s.total
	p.round = min(max(p.fits(0, 0), shortest), longest)
	return p
}

// fits is the length of a round with which the loads from the i-th on and the processes
// end in time, if spent is what the run has taken so far.
func (p plan) fits(i int, spent time.Duration) time.Duration {
	left, shares := p.total-p.after-spent, 0.0
	for _, load := range p.loads[i:] {
		left -= load.fixed
		shares += load.shares
	}
	return time.Duration(float64(left) / max(shares, 1))
}

func (c cell) shareOf() float64 {
	if c.share == 0 {
		return 1
	}
	return c.share
}

// roundOf is how long a round of the i-th load is. A run that has fallen behind makes its
// rounds shorter, down to a third.
func (p plan) roundOf(i int, spent time.Duration) time.Duration {
	round := p.round
	if p.total > 0 {
		round = min(round, max(p.fits(i, spent), round/3))
	}
	return max(time.Duration(float64(round)*p.loads[i].shareOf()), shortest)
}

func (p plan) empty() bool { return len(p.loads)+len(p.processes) == 0 }

// wants says whether the flags choose a cell.
func (s settings) wants(name string, large, tls bool) bool {
	return s.run.MatchString(name) && (!large || !s.quick) && (tls || !s.tls)
}
