package main

import "time"

// plan is what a run does.
type plan struct {
	loads     []cell
	processes []processCell
	round     time.Duration // of a load whose share is 1
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
	fixed, shares := time.Duration(0), 0.0
	for _, c := range loads {
		if !s.wants(c.name, c.large, c.tls) {
			continue
		}
		rounds := 0
		for _, side := range s.sides {
			if side.has(c) {
				rounds += s.rounds
				shares += c.shareOf() * float64(s.rounds)
				shares += min(c.shareOf(), 0.5) // warming up
			}
		}
		if rounds > 0 {
			p.loads = append(p.loads, c)
		}
		fixed += time.Duration(rounds) * (aroundRound + time.Duration(c.workers)*50*time.Microsecond)
	}
	for _, c := range processes {
		wanted := false
		for _, head := range c.heads {
			wanted = wanted || s.wants(head.Name, c.large, c.tls)
		}
		if clients := s.channelClients(); wanted && len(clients) > 0 {
			p.processes = append(p.processes, c)
			fixed += time.Duration(min(s.rounds, c.rounds)*len(clients)) * c.takes
		}
	}
	if s.time > 0 {
		p.round = s.time / time.Duration(s.rounds)
		return p
	}
	if shares > 0 {
		p.round = min(max(time.Duration(float64(s.total-fixed)/shares), shortest), longest)
	}
	return p
}

func (c cell) shareOf() float64 {
	if c.share == 0 {
		return 1
	}
	return c.share
}

// roundOf is how long a round of the cell is.
func (p plan) roundOf(c cell) time.Duration {
	return max(time.Duration(float64(p.round)*c.shareOf()), shortest)
}

func (p plan) empty() bool { return len(p.loads)+len(p.processes) == 0 }

// wants says whether the flags choose a cell.
func (s settings) wants(name string, large, tls bool) bool {
	return s.run.MatchString(name) && (!large || !s.quick) && (tls || !s.tls)
}
