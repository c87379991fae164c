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
	"regexp"
	"runtime"
	"slices"
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
	build := exec.Command("go", "build", "-o", bin+string(filepath.Separator), "./...")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the examples: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// example is the command that runs a built example. It is killed when the test
// ends or after a minute, several times what the examples' own deadlines allow.
func example(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return exec.CommandContext(ctx, filepath.Join(bin, name))
}

// printed is what each example prints. "..." stands for anything, ADDRESS for a
// loopback address with a port, TIME for a duration.
var printed = map[string][]string{
	"greeter": {"ccccc"},
	"blocking": {
		"a server: READY",
		"its reply: ccccc",
		"",
		`nothing listens: grpcdial: no connection for "passthrough:///ADDRESS" after TIME, in TRANSIENT_FAILURE for TIME (context deadline exceeded): ` +
			"ADDRESS: dial failed after TIME: connect: ...refused...; nothing listens there, or a firewall rejects it: " +
			"is the server running, is the port right?",
		"  attempt: ADDRESS, phase dial, permanent: false",
		"  the context's deadline: true",
		"  a network error: dial tcp",
		"",
		`a web server: grpcdial: no connection for "passthrough:///ADDRESS" after TIME, in TRANSIENT_FAILURE for TIME: ` +
			`ADDRESS: http2 failed after TIME: the server answered "HTTP/1.1 404 Not Found": ` +
			"it, or a proxy before it, does not speak HTTP/2 here; is this the gRPC port?",
		"  before the context ended: true",
		"  attempt: ADDRESS, phase http2, permanent: true",
		"  the context's deadline: false",
	},
	"tls": {
		"over TLS: ccccc",
		"",
		`without the name: grpcdial: no connection for "passthrough:///ADDRESS" after TIME, in TRANSIENT_FAILURE for TIME: ADDRESS: tls failed after TIME: ...x509: ...; ` +
			`the server's certificate is for "greeter.example", we asked for "127.0.0.1": ...WithAuthority...`,
		"",
		`without the authority: grpcdial: no connection for "passthrough:///ADDRESS" after TIME, in TRANSIENT_FAILURE for TIME: ADDRESS as "greeter.example": tls failed after TIME: ...; ` +
			`add the authority "CN=Example Authority" to RootCAs in the TLS configuration...`,
		"",
		`without TLS: grpcdial: no connection for "passthrough:///ADDRESS" after TIME, in TRANSIENT_FAILURE for TIME (context deadline exceeded): ` +
			"ADDRESS: http2 failed after TIME: ...the server closed the connection without a word: it may require TLS, or be shutting down",
	},
	"mtls": {
		"with a certificate: hello client.example",
		`without one: grpcdial: no connection for "passthrough:///ADDRESS" after TIME, in TRANSIENT_FAILURE for TIME: ADDRESS as "greeter.example": tls failed after TIME: ` +
			"remote error: tls: certificate required; the server requires a client certificate: set Certificates in the TLS configuration",
		"  the cause is a TLS alert: true",
	},
	"bufconn": {
		`the dialer is asked for "a name of my own"`,
		"the reply: ccccc",
	},
	"unixsocket": {
		"the server is called [localhost]",
		"the reply: ccccc",
		`after the server has stopped: grpcdial: no connection for "unix://...greeter.sock" after TIME, in TRANSIENT_FAILURE for TIME (context deadline exceeded): ` +
			"...greeter.sock: dial failed after TIME: ...; there is no such socket: is the server running, is the path right?",
	},
	"roundrobin": {
		"these have answered: [Ada Bea Cleo]",
		"30 calls: map[Ada:10 Bea:10 Cleo:10]",
		"30 calls after Bea has stopped, answered by: [Ada Cleo]",
		"the channel: READY",
	},
	"serviceconfig": {
		"SayHello: time-out 2s, wait for ready true",
		"SayGoodbye: time-out 1s, wait for ready false",
		"no server, not waiting: Unavailable",
		"waiting until it is there: hello",
		"a busy server: hello at attempt 3",
		"a slow server: DeadlineExceeded after 2s",
		"a wrong one: grpcdial: WithDefaultServiceConfig: ...timeout...soon...",
	},
	"keepalive": {
		"a PING after a silence of 10s",
		"the server falls silent: Unavailable: connection to ... lost: keepalive: the peer did not answer a PING in time",
		"  the PING was sent after 10s",
		"  the call ended after 11s",
		"",
		"a server that allows fewer pings: GOAWAY ENHANCE_YOUR_CALM too_many_pings",
		"  on the next connection after a silence of 20s",
	},
	"hedging": {
		"not hedged: DeadlineExceeded",
		"hedged: hello, after 1 other attempt",
		"  the other attempt was cancelled at its server, long before the deadline: true",
	},
	"connectcheck": {
		"a server that is not ready: #1 ADDRESS: check failed after TIME: its health is NOT_SERVING",
		"once it is: ccccc",
		`a server of others: grpcdial: no connection for "passthrough:///ADDRESS" after TIME, in TRANSIENT_FAILURE for TIME: ` +
			`ADDRESS: check failed after TIME: the server's certificate is of []`,
		"  phase check - permanent: true",
	},
	"rotation": {
		"hello monday.example",
		"with the files replaced: hello tuesday.example",
	},
	"interceptors": {
		"a unary RPC:",
		"  single: begin /grpcdial.examples.greeter.Greeter/SayHello",
		"  chain 1: begin /grpcdial.examples.greeter.Greeter/SayHello",
		"  chain 2: begin /grpcdial.examples.greeter.Greeter/SayHello",
		"  the server: request-id [42]",
		"  chain 2: end OK",
		"  chain 1: end OK",
		"  single: end OK",
		"a stream:",
		"  single: open /grpc.health.v1.Health/Watch",
		"  chain 1: open /grpc.health.v1.Health/Watch",
		"  chain 1: opened OK",
		"  single: opened OK",
		"  received message 1",
		"  received message 2",
		"  ended after 2 messages: Canceled",
	},
	"awaitready": {
		`no server: grpcdial: no connection for "passthrough:///ADDRESS" after TIME, in TRANSIENT_FAILURE for TIME (context deadline exceeded): ADDRESS: dial failed after TIME: ...`,
		"a server: READY",
		"a reply: ccccc",
		"the server stopped: IDLE",
		"it runs again: READY",
		"a reply: ccccc",
		"",
		"the transitions, and their causes:",
		"  READY to IDLE: ...",
		"  IDLE to CONNECTING: <nil>",
		"  CONNECTING to READY: <nil>",
		"  READY to SHUTDOWN: ...the client connection is closing",
	},
}

// needOthers are the examples that do not run alone. They have tests of their
// own.
var needOthers = []string{"client", "server"}

func TestExamplesPrint(t *testing.T) {
	built, err := os.ReadDir(bin)
	require.NoError(t, err)
	for _, file := range built {
		name := strings.TrimSuffix(file.Name(), ".exe")
		if slices.Contains(needOthers, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait more than they compute
			want, ok := printed[name]
			require.True(t, ok, "nothing is said here about what this example prints")

			cmd := example(t, name)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			require.NoError(t, cmd.Run(), "stdout: %s\nstderr: %s", &stdout, &stderr)
			require.Empty(t, stderr.String())
			require.Regexp(t, pattern(want), stdout.String())
		})
	}
	for name := range printed {
		_, err := os.Stat(example(t, name).Path)
		require.NoError(t, err, "there is no example %q", name)
	}
}

// pattern returns the regular expression for lines as they are in printed.
func pattern(lines []string) *regexp.Regexp {
	expr := regexp.QuoteMeta(strings.Join(lines, "\n") + "\n")
	for word, meaning := range map[string]string{
		`\.\.\.`:  `.*`,
		`ADDRESS`: `127\.0\.0\.1:\d+`,
		`TIME`:    `[0-9.]+(ns|µs|ms|s)`,
	} {
		expr = strings.ReplaceAll(expr, word, meaning)
	}
	return regexp.MustCompile(`^` + expr + `$`)
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
