package backendtest

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/stats"
)

// Ours returns the stacks of goroutines that run code of this library, other than
// what the tests start.
func Ours() []string {
	buf := make([]byte, 1<<22)
	buf = buf[:runtime.Stack(buf, true)]
	_, self, _, _ := runtime.Caller(0)
	root := filepath.ToSlash(filepath.Join(filepath.Dir(self), "../.."))
	var found []string
	for _, g := range strings.Split(string(buf), "\n\n")[1:] { // the first is the caller
		for line := range strings.Lines(g) {
			file, isFile := strings.CutPrefix(line, "\t"+root)
			file, _, _ = strings.Cut(file, ":")
			if isFile && !strings.HasSuffix(path.Base(file), "_test.go") && !strings.HasSuffix(path.Dir(file), "test") {
				found = append(found, g)
				break
			}
		}
	}
	return found
}

// AwaitOurs waits until n goroutines run code of this library, which takes no
// longer than the last steps of those that have said that they are done.
func AwaitOurs(t *testing.T, n int) []string {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(time.Millisecond) {
		left := Ours()
		if len(left) == n {
			return left
		}
		if time.Now().After(deadline) {
			require.FailNow(t, "goroutines of ours", "want %d, got %d:\n%s", n, len(left), strings.Join(left, "\n\n"))
		}
	}
}

// AssertNothingRuns fails the test if code of this library is still running.
func AssertNothingRuns(t *testing.T) {
	t.Helper()
	AwaitOurs(t, 0)
}

// Within fails the test if f takes longer than limit however often it is tried.
func Within(t *testing.T, limit time.Duration, f func(t *testing.T) time.Duration) {
	t.Helper()
	Undisturbed(t, func(t *testing.T) (bool, string) {
		took := f(t)
		return took < limit, took.String()
	})
}

// Undisturbed fails the test if what f measures is never as it should be: now and then the
// machine has something else to do. f is called up to five times, and then for as long as
// Patience lasts; measured is for the failure.
func Undisturbed(t *testing.T, f func(t *testing.T) (ok bool, measured string)) {
	t.Helper()
	var all []string
	for begun := time.Now(); len(all) < 5 || time.Since(begun) < Patience; {
		ok, measured := f(t)
		if ok || t.Failed() {
			return
		}
		all = append(all, measured)
	}
	assert.Fail(t, "not once as it should be", "%v", all)
}

// Repeat calls f again and again on n goroutines, on each until f returns false or stop is
// called. stop waits for the end of them all.
func Repeat(n int, f func() (goOn bool)) (stop func()) {
	var stopped atomic.Bool
	var running sync.WaitGroup
	for range n {
		running.Go(func() {
			for !stopped.Load() && f() {
			}
		})
	}
	return func() {
		stopped.Store(true)
		running.Wait()
	}
}

// EndHandler is a stats handler that is called at the end of each RPC.
type EndHandler func()

func (EndHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (EndHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (EndHandler) HandleConn(context.Context, stats.ConnStats) {}

func (h EndHandler) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); ok {
		h()
	}
}

// OpenFiles returns how many files and sockets the process has open; 0 where that
// is not known.
func OpenFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// CheckFiles returns a function that waits until no more files are open than now.
func CheckFiles(t *testing.T) func() {
	before := OpenFiles()
	return func() {
		t.Helper()
		Eventually(t, func() bool { return OpenFiles() <= before }, "sockets are closed")
	}
}

// Patience is how long these tests wait for what must happen, on machines that have
// much else to do.
const Patience = time.Minute
