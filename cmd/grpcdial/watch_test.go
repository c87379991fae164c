package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// watching is a watch that runs.
type watching struct {
	t      *testing.T
	stop   context.CancelFunc
	code   chan int
	stderr bytes.Buffer // of the command until code is delivered

	mu      sync.Mutex
	stdout  bytes.Buffer  // guarded by mu
	written chan struct{} // has an element after each Write
}

func startWatch(t *testing.T, args ...string) *watching {
	t.Helper()
	w := &watching{t: t, code: make(chan int, 1), written: make(chan struct{}, 1)}
	var ctx context.Context
	ctx, w.stop = context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(w.stop)
	go func() { w.code <- run(ctx, append([]string{"watch"}, args...), strings.NewReader(""), w, &w.stderr) }()
	return w
}

func (w *watching) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.written <- struct{}{}:
	default:
	}
	return w.stdout.Write(b)
}

func (w *watching) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stdout.String()
}

// await waits until the n-th line with text is printed.
func (w *watching) await(text string, n int) {
	w.t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for strings.Count(w.text(), text) < n {
		select {
		case <-w.written:
		case <-limit.C:
			require.FailNow(w.t, "not printed: "+text, w.text())
		}
	}
}

// end stops the watch and returns what it printed.
func (w *watching) end() output {
	w.t.Helper()
	w.stop()
	code := <-w.code
	return output{code, w.text(), w.stderr.String()}
}

// restarted is a watch of a server that ends and comes back. ready is what a watch
// prints for the transition.
func restarted(t *testing.T, ready, failed string, args ...string) output {
	t.Helper()
	s := serve(t, "")
	w := startWatch(t, append(args, "--plaintext", s.addr)...)
	w.await(ready, 1)
	s.GracefulStop()
	w.await(failed, 1)
	serve(t, s.addr)
	w.await(ready, 2)
	return w.end()
}

func TestWatchThroughARestart(t *testing.T) {
	t.Parallel()
	o := restarted(t, "-> READY", "-> TRANSIENT_FAILURE")
	assert.Equal(t, exitOK, o.code)
	assertGolden(t, "watch", o.golden())
}

func TestWatchJSON(t *testing.T) {
	t.Parallel()
	o := restarted(t, `"to":"READY"`, `"to":"TRANSIENT_FAILURE"`, "--json")
	assert.Equal(t, exitOK, o.code)
	assertGolden(t, "watch-json", o.golden())
	for i, line := range strings.Split(strings.TrimSpace(o.stdout), "\n") {
		var c jsonChange
		require.NoError(t, json.Unmarshal([]byte(line), &c))
		assert.EqualValues(t, i, c.Seq)
		assert.WithinDuration(t, time.Now(), c.Time, time.Minute)
	}
}

// With --service a channel is READY while the service is SERVING.
func TestWatchService(t *testing.T) {
	s := serve(t, "")
	s.health.SetServingStatus("s", healthpb.HealthCheckResponse_SERVING)
	w := startWatch(t, "--plaintext", s.addr, "--service", "s")
	w.await("-> READY", 1)
	s.health.SetServingStatus("s", healthpb.HealthCheckResponse_NOT_SERVING)
	w.await("-> TRANSIENT_FAILURE", 1)
	s.health.SetServingStatus("s", healthpb.HealthCheckResponse_SERVING)
	w.await("-> READY", 2)
	o := w.end()
	assert.Equal(t, exitOK, o.code)
	assertGolden(t, "watch-service", o.golden())
}

// Ctrl-C is how one stops a watch: that is no failure.
func TestWatchUntilSIGINT(t *testing.T) {
	s := serve(t, "")
	executable, err := os.Executable()
	require.NoError(t, err)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	c := exec.CommandContext(ctx, executable, "watch", "--plaintext", s.addr)
	c.Env = append(os.Environ(), asCommand+"=1")
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "-> READY") {
	}
	require.NoError(t, c.Process.Signal(os.Interrupt))
	assert.False(t, lines.Scan(), "nothing more: %q", lines.Text())
	assert.NoError(t, c.Wait(), "the exit code is 0")
}

func TestWatchEndsAfterTheTimeout(t *testing.T) {
	s := serve(t, "")
	o := command(t, "watch", "--plaintext", s.addr, "--timeout", "2s")
	assert.Equal(t, exitOK, o.code)
	assert.Contains(t, o.stdout, "IDLE -> CONNECTING")
}
