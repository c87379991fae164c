package h2test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// leakBound is how long goroutines may take to end after a test.
const leakBound = time.Minute

// CheckLeaks fails the test if goroutines that were started after this call still
// run at its end, and lists them. They are given a minute to end. Call it first, so
// that it looks after all other clean-ups, and not in parallel tests: a goroutine does
// not show which test started it.
//
// Goroutines of the testing package and of os/signal do not count, nor those
// that have a function whose name contains one of the ignored texts.
func CheckLeaks(t testing.TB, ignore ...string) {
	t.Helper()
	before := make(map[string]bool)
	for _, g := range goroutines() {
		before[g.id] = true
	}
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() {
			return // a test cut short has not closed what it opened
		}
		if leaked := leaks(before, ignore); len(leaked) > 0 {
			t.Errorf("h2test: %s", describe(leaked))
		}
	})
}

// VerifyNoLeaks runs the tests and exits as os.Exit(m.Run()) does, but with
// status 1 when all have passed and goroutines still run a minute later:
//
//	func TestMain(m *testing.M) { h2test.VerifyNoLeaks(m) }
//
// It ignores what CheckLeaks ignores.
func VerifyNoLeaks(m *testing.M, ignore ...string) {
	os.Exit(verify(m.Run, os.Stderr, ignore))
}

func verify(run func() int, out io.Writer, ignore []string) int {
	before := make(map[string]bool)
	for _, g := range goroutines() {
		before[g.id] = true
	}
	if code := run(); code != 0 {
		return code
	}
	if leaked := leaks(before, ignore); len(leaked) > 0 {
		fmt.Fprintf(out, "h2test: after all tests: %s\n", describe(leaked))
		return 1
	}
	return 0
}

// leaks waits until no goroutine that counts runs besides those in before, and
// returns those that outlast the bound.
func leaks(before map[string]bool, ignore []string) []goroutine {
	pause := time.Millisecond
	for deadline := time.Now().Add(leakBound); ; {
		leaked := slices.DeleteFunc(goroutines(), func(g goroutine) bool {
			return before[g.id] || g.ignored(ignore)
		})
		if len(leaked) == 0 || time.Now().After(deadline) {
			return leaked
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

func describe(leaked []goroutine) string {
	const shown = 20
	var b strings.Builder
	fmt.Fprintf(&b, "%d goroutines leaked:\n", len(leaked))
	for i, g := range leaked {
		if i == shown {
			fmt.Fprintf(&b, "\nand %d more", len(leaked)-shown)
			break
		}
		fmt.Fprintf(&b, "\n%s\n", g.stack)
	}
	return b.String()
}

// goroutine is one record of runtime.Stack.
type goroutine struct {
	id    string
	funcs []string // innermost first; the last is the one the go statement named
	maker string   // the function that started it, empty for the main goroutine
	stack string
}

func (g *goroutine) ignored(texts []string) bool {
	if len(g.funcs) == 0 || g.maker == "" {
		return true // the main goroutine
	}
	// What a test starts has its own root; the testing package's is a test itself.
	root := g.funcs[len(g.funcs)-1]
	for _, prefix := range []string{"testing.", "os/signal.", "runtime.", "runtime/"} {
		if strings.HasPrefix(root, prefix) {
			return true
		}
	}
	for _, text := range texts {
		if strings.Contains(g.maker, text) || slices.ContainsFunc(g.funcs, func(f string) bool { return strings.Contains(f, text) }) {
			return true
		}
	}
	return false
}

// goroutines returns all goroutines but the calling one.
func goroutines() []goroutine {
	buf := make([]byte, 1<<16)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	records := bytes.Split(buf, []byte("\n\n"))
	gs := make([]goroutine, 0, len(records)-1)
	for _, r := range records[1:] { // the first is the caller
		gs = append(gs, parseGoroutine(string(r)))
	}
	return gs
}

// parseGoroutine reads a record: a line with number and state, then two lines
// for each function, name with arguments and place.
func parseGoroutine(record string) goroutine {
	g := goroutine{stack: record}
	lines := strings.Split(record, "\n")
	if fields := strings.Fields(lines[0]); len(fields) > 1 {
		g.id = fields[1]
	}
	for _, line := range lines[1:] {
		if strings.HasPrefix(line, "\t") || line == "" || strings.HasPrefix(line, "...") {
			continue
		}
		if maker, ok := strings.CutPrefix(line, "created by "); ok {
			g.maker, _, _ = strings.Cut(maker, " in goroutine")
			continue
		}
		if i := strings.LastIndexByte(line, '('); i > 0 {
			line = line[:i]
		}
		g.funcs = append(g.funcs, line)
	}
	return g
}
