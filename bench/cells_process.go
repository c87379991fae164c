package main

import (
	"fmt"
	"slices"
	"time"
)

// processCell is a cell that is no load: each of its rounds is a process of its own, for
// grpcdial and for grpc-go.
type processCell struct {
	heads   []cellReport // the cells that it fills; without figures
	tls     bool
	rounds  int // at most
	takes   time.Duration
	large   bool                                                                // not with -quick
	measure func(clients []client, at endpoint, rounds int) ([][]figure, error) // for each of heads
}

// processCells hold channels, or reach many addresses.
func processCells(channels int) []processCell {
	cells := []processCell{
		channelsCell("channels", channels, false, 3),
		channelsCell(tlsPrefix+"channels", channels, true, 1),
	}
	for _, n := range []int{10, 100, 1000, 4000} {
		c := channelsCell("grow-channels", n, false, 1)
		c.large = n > 100
		cells = append(cells, c)
	}
	for _, n := range []int{1, 30, 300, 3000} {
		c := addressesCell(n)
		c.large = n > 300
		cells = append(cells, c)
	}
	return cells
}

// channelsCell is n channels: idle, READY, and after a call on each.
func channelsCell(name string, n int, tls bool, rounds int) processCell {
	heads := make([]cellReport, 3)
	for i, state := range []string{"idle", "ready", "used"} {
		heads[i] = headOf(name+"/"+state, "channel", "channels", float64(n), tls)
		if name == "grow-channels" {
			heads[i].Name = fmt.Sprintf("%s-%s/n=%d", name, state, n)
			heads[i].Group = name + "-" + state
		}
	}
	return processCell{
		heads: heads, tls: tls, rounds: rounds, takes: 2*time.Second + time.Duration(n)*2*time.Millisecond,
		measure: func(clients []client, at endpoint, rounds int) ([][]figure, error) {
			found, err := inRounds(clients, rounds, func(c client) (held, error) { return measureChannels(c, at, n) })
			if err != nil {
				return nil, err
			}
			return [][]figure{
				figuresOfRest(n, found, func(h held) rest { return h.Idle }),
				figuresOfRest(n, found, func(h held) rest { return h.Ready }),
				figuresOfRest(n, found, func(h held) rest { return h.Used }),
			}, nil
		},
	}
}

// addressesCell is a channel with n addresses. One address takes a millisecond of a process
// that has made no other channel, so there it is measured more often.
func addressesCell(n int) processCell {
	rounds := 3
	if n == 1 {
		rounds = 15
	}
	return processCell{
		heads:  []cellReport{headOf(fmt.Sprintf("grow-addresses/n=%d", n), "address", "addresses", float64(n), false)},
		rounds: rounds, takes: 300*time.Millisecond + time.Duration(n)*time.Millisecond,
		measure: func(clients []client, at endpoint, rounds int) ([][]figure, error) {
			found, err := inRounds(clients, rounds, func(c client) (r reached, err error) {
				return r, inProcess(&r, holding{Client: c.name, Endpoint: at, Addresses: n})
			})
			if err != nil {
				return nil, err
			}
			return [][]figure{figuresOfReached(n, found)}, nil
		},
	}
}

// inRounds lets the clients take turns, beginning with another one in each round.
func inRounds[T any](clients []client, rounds int, measure func(client) (T, error)) (map[string][]T, error) {
	found := map[string][]T{}
	for range rounds {
		for _, c := range clients {
			one, err := measure(c)
			if err != nil {
				return nil, err
			}
			found[c.name] = append(found[c.name], one)
		}
		clients = reversed(clients)
	}
	return found, nil
}

func reversed[T any](s []T) []T {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}

// headOf is a cell as it is saved, without figures.
func headOf(name, noun, axis string, at float64, tls bool) cellReport {
	transport := "plaintext"
	if tls {
		transport = "TLS"
	}
	return cellReport{Name: name, Group: groupOf(name), Transport: transport, Operation: noun, Axis: axis, At: at}
}
