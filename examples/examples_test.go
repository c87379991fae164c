// Package examples_test builds the examples and runs them as a user would.
package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const serverAddress = "127.0.0.1:50001" // the greeter server's and client's, fixed in both

// bin is where TestMain puts the built examples.
var bin string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "grpcdial-examples-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "./greeter", "./greeter/client", "./greeter/server")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the examples: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// example is the command that runs a built example. It is killed when the test
// ends or after 20 s, twice what the examples' own deadlines allow.
func example(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return exec.CommandContext(ctx, filepath.Join(bin, name))
}

func TestGreeterPrintsTheReply(t *testing.T) {
	cmd := example(t, "greeter")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "stderr: %s", &stderr)
	require.Equal(t, "ccccc\n", stdout.String())
	require.Empty(t, stderr.String())
}

func TestClientWithoutServerSaysWhereItFailed(t *testing.T) {
	cmd := example(t, "client")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()

	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit),
		"the client should have failed; is another program listening on %s? err = %v, stdout: %s", serverAddress, err, &stdout)
	require.Equal(t, 1, exit.ExitCode(), "stderr: %s", &stderr)
	require.Empty(t, stdout.String())
	require.Contains(t, stderr.String(), "greeter client: SayHello")
	require.Contains(t, stderr.String(), serverAddress)
}

func TestServerAndClient(t *testing.T) {
	server := example(t, "server")
	stderr, err := server.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())

	// The server logs once it listens, or why it cannot (the port is taken).
	log := bufio.NewScanner(stderr)
	require.True(t, log.Scan(), "the server ended without a log line: %v", log.Err())
	require.Contains(t, log.Text(), "started, listening on "+serverAddress,
		"the server did not start; is port 50001 taken by another program?")

	for range 2 { // the server serves more than one client
		client := example(t, "client")
		out, err := client.CombinedOutput()
		require.NoError(t, err, "output: %s", out)
		require.Equal(t, "ccccc\n", string(out))
	}

	if runtime.GOOS == "windows" { // no interrupt can be sent to a process there
		require.NoError(t, server.Process.Kill())
		_ = server.Wait()
		return
	}
	require.NoError(t, server.Process.Signal(os.Interrupt))
	var rest []string
	for log.Scan() {
		rest = append(rest, log.Text())
	}
	require.NoError(t, server.Wait(), "after an interrupt; log: %q", rest)
	require.Contains(t, strings.Join(rest, "\n"), "stopping")
}
