// Bench compares grpcdial's channel with grpc-go's, with connect-go's client and with a bare
// socket: all run the same loads from this process, in turns, against one grpc-go server in
// a process of its own. See README.md for how to run it and what the figures mean.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"
)

// settings are what the flags say.
type settings struct {
	total    time.Duration // that the run takes, about
	time     time.Duration // measured for each cell and side, over all rounds; 0: what total leaves
	rounds   int
	channels int // that a holding process of the cells "channels" holds
	quick    bool
	tls      bool // the cells over TLS only
	relay    time.Duration
	run      *regexp.Regexp
	sides    []side
}

func main() {
	childMain()
	if err := compare(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func compare() (err error) {
	s := settings{channels: 1000}
	flag.DurationVar(&s.total, "total", 12*time.Minute, "time for the whole run; what the cells that are no loads leave of it goes to the loads")
	flag.DurationVar(&s.time, "time", 0, "measured time for each load and side, over all rounds, whatever -total says")
	flag.IntVar(&s.rounds, "rounds", 5, "rounds, in each of which the sides take turns")
	flag.BoolVar(&s.tls, "tls", false, "the cells over TLS only")
	flag.DurationVar(&s.relay, "rtt", 0, "round trip that a relay adds between client and server in the cells over plaintext")
	flag.BoolVar(&s.quick, "quick", false, "one short round and nothing large: shows that everything runs, its figures mean nothing")
	run := flag.String("run", "", "run the cells that match this regular `expression` only")
	which := flag.String("client", "all", "run `sides`: all, both (grpcdial and grpc-go), or some of ours,grpc,connect,floor")
	from := flag.String("from", "", "measure nothing, take the figures from this `file`, which -json has written")
	toJSON := flag.String("json", "", "save the figures to this `file`")
	toMarkdown := flag.String("markdown", "", "write the table to this Markdown `file`, in place of what stands between its markers, if it has them")
	plot := flag.String("plot", "", "draw the figures into this `directory`: ratios.svg and growth.svg")
	cpuProfile := flag.String("cpuprofile", "", "write a CPU profile to this `file`; labels client and cell tell what ran")
	memProfile := flag.String("memprofile", "", "write a profile of all allocations to this `file`")
	flag.Parse()

	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if s.run, err = regexp.Compile(*run); err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if s.sides, err = chooseSides(*which); err != nil {
		return err
	}
	if s.quick {
		s.total, s.time, s.rounds, s.channels = 0, 20*time.Millisecond, 1, 50
	}
	if s.rounds < 1 || s.time < 0 {
		return fmt.Errorf("-rounds %d -time %v: want at least one round and some time", s.rounds, s.time)
	}
	if *from != "" {
		r, err := readReport(*from)
		if err != nil {
			return err
		}
		return save(r, *toJSON, *toMarkdown, *plot)
	}

	if *cpuProfile != "" {
		f, err := os.Create(*cpuProfile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	r, failed := runAll(os.Stdout, s)
	if len(r.Cells) > 0 {
		if err := save(r, *toJSON, *toMarkdown, *plot); err != nil {
			return err
		}
	}
	if failed != nil {
		return failed
	}
	if *memProfile != "" {
		f, err := os.Create(*memProfile)
		if err != nil {
			return err
		}
		defer f.Close()
		runtime.GC() // the profile lags behind by one collection
		return pprof.Lookup("allocs").WriteTo(f, 0)
	}
	return nil
}

// save writes the files that are asked for.
func save(r report, toJSON, toMarkdown, plot string) error {
	if toJSON != "" {
		if err := writeReport(toJSON, r); err != nil {
			return err
		}
	}
	if toMarkdown != "" {
		if err := writeMarkdown(toMarkdown, r); err != nil {
			return err
		}
	}
	if plot != "" {
		return writePlots(plot, r)
	}
	return nil
}

// runAll runs every cell that the settings ask for and prints its figures. A
// cell that fails is reported at once and the others still run.
func runAll(w io.Writer, s settings) (report, error) {
	trips := roundTrips
	if s.relay > 0 {
		trips = append(trips[:len(trips):len(trips)], s.relay)
	}
	at, stop, err := startServer(serving{RoundTrips: trips})
	if err != nil {
		return report{}, err
	}
	defer stop()
	if s.relay > 0 {
		at.Plain = at.Relays[s.relay]
	}

	p := s.plan(cells, processCells(s.channels))
	if p.empty() {
		return report{}, fmt.Errorf("no cell matches -run %q", s.run)
	}
	began := time.Now()
	r := newReport(s)
	printSettings(w, r, s, p.round)
	printHeader(w)
	failed := 0
	add := func(c cellReport) {
		r.Cells = append(r.Cells, c)
		if c.Error != "" {
			failed++
			fmt.Fprintln(w, "FAILED", c.Name, c.Error)
		}
		printCell(w, c)
	}
	for i, load := range p.loads {
		add(s.runLoad(load.cell, at.of(load.cell), p.roundOf(i, time.Since(began))))
	}
	for _, c := range p.processes {
		for _, filled := range s.runProcesses(c, at) {
			add(filled)
		}
	}
	r.Seconds = time.Since(began).Seconds()
	fmt.Fprintf(w, "\n%d cells in %.0f s\n", len(r.Cells), r.Seconds)
	if failed > 0 {
		return r, fmt.Errorf("%d of %d cells failed", failed, len(r.Cells))
	}
	return r, nil
}

// runLoad puts the sides under a load, in turns that begin at the other end in each round.
func (s settings) runLoad(c cell, at endpoint, round time.Duration) cellReport {
	head := headOf(c.name, c.noun, c.axis, c.at, c.tls)
	head.RoundSeconds = round.Seconds()
	samples, err := s.sample(c, at, round)
	if err != nil {
		head.Error = err.Error()
		return head
	}
	for _, f := range figuresOf(c, samples) {
		head.Figures = append(head.Figures, f.report())
	}
	return head
}

func (s settings) sample(c cell, at endpoint, round time.Duration) (map[string][]sample, error) {
	var ready []opened
	for _, side := range s.sides {
		if !side.has(c) {
			continue
		}
		o, err := side.open(c, at)
		if err != nil {
			return nil, fmt.Errorf("dialing with %s: %w", side.name, err)
		}
		defer o.close()
		ready = append(ready, o)
	}
	for _, o := range ready { // pools, windows and the server's goroutines grow now
		if _, err := put(c, o, forDuration(min(round, warmUp))); err != nil {
			return nil, err
		}
	}
	samples := map[string][]sample{}
	for range s.rounds {
		for _, o := range ready {
			measured, err := put(c, o, forDuration(round))
			if err != nil {
				return nil, err
			}
			samples[o.side] = append(samples[o.side], measured)
		}
		ready = reversed(ready)
	}
	return samples, nil
}

// warmUp is how long a side runs unmeasured before the first round, at most.
const warmUp = 300 * time.Millisecond

// runProcesses fills the cells of a processCell.
func (s settings) runProcesses(c processCell, at endpoints) []cellReport {
	way := at.Plain
	if c.tls {
		way = at.TLS
	}
	found, err := c.measure(s.channelClients(), way, min(s.rounds, c.rounds))
	filled := append([]cellReport(nil), c.heads...)
	for i := range filled {
		if err != nil {
			filled[i].Error = err.Error()
			continue
		}
		for _, f := range found[i] {
			filled[i].Figures = append(filled[i].Figures, f.report())
		}
	}
	return filled
}

// channelClients are the chosen sides that have channels.
func (s settings) channelClients() []client {
	var clients []client
	for _, side := range s.sides {
		for _, c := range []client{ours, grpcGo} {
			if c.name == side.name {
				clients = append(clients, c)
			}
		}
	}
	return clients
}

func printSettings(w io.Writer, r report, s settings, round time.Duration) {
	over := ""
	if s.relay > 0 {
		over = fmt.Sprintf(", over a round trip of %v", s.relay)
	}
	fmt.Fprintf(w, "%s%s, rounds: %d of %v (half of it over TLS and for growth)\n\n", r.environment(), over, s.rounds, round.Round(time.Millisecond))
}

// environment says on what the report was taken, in a line.
func (r report) environment() string {
	parts := []string{fmt.Sprintf("%s %s/%s", r.Go, r.OS, r.Arch), fmt.Sprintf("GOMAXPROCS %d", r.Procs)}
	if r.CPU != "" {
		parts = append(parts, r.CPU)
	}
	for _, library := range []string{grpcGo.name, connectName} {
		if v := r.Versions[library]; v != "" {
			parts = append(parts, library+" "+v)
		}
	}
	return strings.Join(parts, ", ")
}
