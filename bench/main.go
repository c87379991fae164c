// Bench compares grpcdial's channel with grpc-go's: both run the same load from
// this process, in turns, against one grpc-go server in a process of its own.
// See README.md for how to run it and what the figures mean.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"
)

// settings are what the flags say.
type settings struct {
	time     time.Duration // measured for each cell and client, over all rounds
	rounds   int
	channels int // that a holding process holds
	run      *regexp.Regexp
	clients  []client
	server   serving
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
	flag.DurationVar(&s.time, "time", 5*time.Second, "measured time for each cell and client, over all rounds")
	flag.IntVar(&s.rounds, "rounds", 5, "rounds, in each of which the clients take turns")
	flag.BoolVar(&s.server.TLS, "tls", false, "use TLS")
	flag.DurationVar(&s.server.RoundTrip, "rtt", 0, "round trip that a relay adds between client and server")
	run := flag.String("run", "", "run the cells that match this regular `expression` only")
	which := flag.String("client", "both", "run `ours, grpc` or both")
	quick := flag.Bool("quick", false, "one short round with few channels: shows that everything runs, its figures mean nothing")
	cpuProfile := flag.String("cpuprofile", "", "write a CPU profile to this `file`; labels client and cell tell what ran")
	memProfile := flag.String("memprofile", "", "write a profile of all allocations to this `file`")
	flag.Parse()

	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if s.run, err = regexp.Compile(*run); err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	switch *which {
	case "ours":
		s.clients = []client{ours}
	case "grpc":
		s.clients = []client{grpcGo}
	case "both":
		s.clients = []client{ours, grpcGo}
	default:
		return fmt.Errorf("-client %q: want ours, grpc or both", *which)
	}
	if *quick {
		s.time, s.rounds, s.channels = 50*time.Millisecond, 1, 50
	}
	if s.rounds < 1 || s.time <= 0 {
		return fmt.Errorf("-rounds %d -time %v: want at least one round and some time", s.rounds, s.time)
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
	if err := runAll(os.Stdout, s); err != nil {
		return err
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

// runAll runs every cell that the settings ask for and prints its figures. A
// cell that fails is reported at once and the others still run.
func runAll(w io.Writer, s settings) error {
	at, stop, err := startServer(s.server)
	if err != nil {
		return err
	}
	defer stop()

	printSettings(w, s)
	printHeader(w)
	ran, failed := 0, 0
	report := func(err error) {
		if ran++; err != nil {
			failed++
			fmt.Fprintln(w, "FAILED", err)
		}
	}
	for _, c := range cells {
		if s.run.MatchString(c.name) {
			report(runCell(w, s, c, at))
		}
	}
	if s.run.MatchString(channelsName) {
		report(runChannels(w, s, at))
	}
	switch {
	case ran == 0:
		return fmt.Errorf("no cell matches -run %q", s.run)
	case failed > 0:
		return fmt.Errorf("%d of %d cells failed", failed, ran)
	}
	return nil
}

func runCell(w io.Writer, s settings, c cell, at endpoint) error {
	targets := make([]target, len(s.clients))
	for i, cl := range s.clients {
		t, err := dialTarget(cl, at)
		if err != nil {
			return fmt.Errorf("%s: dialing with %s: %w", c.name, cl.name, err)
		}
		defer t.conn.Close()
		targets[i] = t
	}

	each := s.time / time.Duration(s.rounds)
	for _, t := range targets { // pools, windows and the server's goroutines grow now
		if _, err := put(c, t, forDuration(min(each, 500*time.Millisecond))); err != nil {
			return err
		}
	}
	samples := map[string][]sample{}
	for range s.rounds {
		for _, t := range targets {
			measured, err := put(c, t, forDuration(each))
			if err != nil {
				return err
			}
			samples[t.client.name] = append(samples[t.client.name], measured)
		}
	}
	printFigures(w, c.name, figuresOf(c, samples))
	return nil
}

// dialTarget makes a READY channel for a load.
func dialTarget(cl client, at endpoint) (target, error) {
	creds, err := at.credentials()
	if err != nil {
		return target{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	var c conn
	// The connection's goroutines carry the client's label in a profile too.
	pprof.Do(ctx, pprof.Labels("client", cl.name), func(ctx context.Context) {
		c, err = cl.dial(ctx, at.Target, creds)
	})
	if err != nil {
		return target{}, err
	}
	return target{client: cl, conn: c, at: at, creds: creds}, nil
}

func runChannels(w io.Writer, s settings, at endpoint) error {
	processes := map[string][]held{}
	for range min(s.rounds, 3) { // the figures hardly differ between rounds
		for _, cl := range s.clients {
			h, err := measureChannels(cl, at, s.channels)
			if err != nil {
				return err
			}
			processes[cl.name] = append(processes[cl.name], h)
		}
	}
	printFigures(w, channelsName+"/ready", figuresOfRest(s.channels, processes, func(h held) rest { return h.Ready }))
	printFigures(w, channelsName+"/used", figuresOfRest(s.channels, processes, func(h held) rest { return h.Used }))
	return nil
}

func printSettings(w io.Writer, s settings) {
	transport := "plaintext"
	if s.server.TLS {
		transport = "TLS"
	}
	if s.server.RoundTrip > 0 {
		transport += fmt.Sprintf(" over a round trip of %v", s.server.RoundTrip)
	}
	fmt.Fprintf(w, "%s %s/%s, GOMAXPROCS %d, grpc-go %s, %s, rounds: %d of %v, channels: %d\n\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), grpcVersion(),
		transport, s.rounds, s.time/time.Duration(s.rounds), s.channels)
}

func grpcVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "google.golang.org/grpc" {
				return module.Version
			}
		}
	}
	return "of unknown version"
}
