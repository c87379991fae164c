package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

var update = flag.Bool("update", false, "write the golden files anew")

var proxyVariables = []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"}

// asCommand in the environment makes the test's binary the command itself.
const asCommand = "GRPCDIAL_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	for _, name := range proxyVariables {
		_ = os.Unsetenv(name) // this machine's proxies are none of ours
	}
	h2test.VerifyNoLeaks(m)
}

// server is a grpc-go server; health is nil if it has no such service.
type server struct {
	*grpc.Server
	health *grpchealth.Server
	addr   string
}

// serve starts a server on addr, ":0" on the loopback device if it is empty. It has a
// health service.
func serve(t *testing.T, addr string, opts ...grpc.ServerOption) *server {
	t.Helper()
	s := &server{Server: grpc.NewServer(opts...), health: grpchealth.NewServer()}
	healthpb.RegisterHealthServer(s, s.health)
	s.start(t, addr)
	return s
}

// serveNothing starts a server that has no service.
func serveNothing(t *testing.T) *server {
	t.Helper()
	s := &server{Server: grpc.NewServer()}
	s.start(t, "")
	return s
}

func (s *server) start(t *testing.T, addr string) {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	s.addr = ln.Addr().String()
	backendtest.RunOn(t, s.Server, ln)
}

// secured is TLS with the certificate.
func secured(certificate tls.Certificate) grpc.ServerOption {
	return grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}}))
}

// file writes data to a file of the test's and returns its name.
func file(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

// pair writes a certificate and its key.
func pair(t *testing.T, c tls.Certificate) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(t, err)
	return file(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})),
		file(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// output is what a run left behind.
type output struct {
	code           int
	stdout, stderr string
}

// command runs the command, for at most a minute.
func command(t *testing.T, args ...string) output {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, strings.NewReader(""), &stdout, &stderr)
	return output{code, stdout.String(), stderr.String()}
}

// golden is o as it stands in a golden file.
func (o output) golden() string {
	return fmt.Sprintf("exit code %d\n--- stdout\n%s--- stderr\n%s", o.code, o.stdout, o.stderr)
}

// varies are the parts of an output that differ from run to run.
var varies = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`"(\w+_ms)": ?[\d.]+`), `"$1": 0`},
	{regexp.MustCompile(`"time":"[^"]+"`), `"time":"TIME"`},
	{regexp.MustCompile(`\d\d:\d\d:\d\d\.\d{3}`), "TIME"},
	{regexp.MustCompile(` *\b\d+(\.\d+)?(ns|µs|ms|s)\b`), " T"},
	{regexp.MustCompile(` +(█+|│)`), " BAR"},
	{regexp.MustCompile(` +░+`), " FAILEDBAR"},
	{regexp.MustCompile(`h2test CA \d+`), "h2test CA"},
	{regexp.MustCompile(`\d+ days`), "N days"},
	{regexp.MustCompile(`127\.0\.0\.(\d):\d+`), "127.0.0.$1:PORT"},
	{regexp.MustCompile(`(two|swapped)\.test:\d+`), "$1.test:PORT"},
}

// assertGolden compares text with the golden file, times and ports aside.
func assertGolden(t *testing.T, name, text string) {
	t.Helper()
	for _, v := range varies {
		text = v.pattern.ReplaceAllString(text, v.by)
	}
	assertGoldenAsIs(t, name, text)
}

// assertGoldenAsIs compares text with the golden file.
func assertGoldenAsIs(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), text)
}

func TestWrongCommandLines(t *testing.T) {
	tests := []struct{ args, says string }{
		{"", "no command"},
		{"check", "no target"},
		{"watch --json", "no target"},
		{"fetch localhost:1", `no command is called "fetch"`},
		{"check a:1 b:2", `what is "b:2"?`},
		{"check --nonsense a:1", "-nonsense"},
		{"check a:1 --nonsense", "-nonsense"},
		{"check a:1 --timeout", "needs an argument"},
		{"check a:1 --timeout soon", "want a positive duration"},
		{"check a:1 --timeout -1s", "want a positive duration"},
		{"check a:1 --timeout 0", "want a positive duration"},
		{"check a:1 --timeout NaN", "want a positive duration"},
		{"check a:1 --cert c.pem", "--cert and --key go together"},
		{"check a:1 --key k.pem", "--cert and --key go together"},
		{"check a:1 --plaintext --cacert ca.pem", "--plaintext and --cacert contradict each other"},
		{"check a:1 --plaintext --insecure", "--plaintext and --insecure contradict each other"},
		{"check a:1 --insecure --cacert ca.pem", "--insecure and --cacert contradict each other"},
		{"check a:1 --authority a --servername b", `--authority "a" and --servername "b" contradict each other`},
		{"check -- a:1 --json", `what is "--json"?`},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			o := command(t, strings.Fields(tt.args)...)
			assert.Equal(t, exitUsage, o.code)
			assert.Empty(t, o.stdout)
			assert.Contains(t, o.stderr, tt.says)
			assert.Contains(t, o.stderr, "usage: grpcdial ")
			assert.LessOrEqual(t, strings.Count(o.stderr, "\n"), 4, "short")
		})
	}
}

func TestFilesAndTargetsOfNoUse(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.pem")
	empty := file(t, "empty.pem", nil)
	tests := []struct {
		name string
		args []string
		says string
	}{
		{"no file", []string{"check", "a:1", "--cacert", none}, "--cacert: open " + none},
		{"no certificate", []string{"check", "a:1", "--cacert", empty}, "no certificate in PEM"},
		{"no key", []string{"watch", "a:1", "--cert", empty, "--key", none}, none},
		{"target of check", []string{"check", "http://a:1"}, "http://"},
		{"target of watch", []string{"watch", "http://a:1"}, "http://"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := command(t, tt.args...)
			assert.Equal(t, exitUsage, o.code)
			assert.Empty(t, o.stdout)
			assert.Contains(t, o.stderr, tt.says)
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"-h"}, {"help"}, {"check", "--help"}, {"check", "a:1", "-h"}} {
		o := command(t, args...)
		assert.Equal(t, output{exitOK, helpText(), ""}, o, args)
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"-version"}, {"check", "--version"}} {
		o := command(t, args...)
		assert.Equal(t, exitOK, o.code, args)
		assert.Regexp(t, `^grpcdial \S+.*\n$`, o.stdout)
		assert.Empty(t, o.stderr)
	}
}

// Flags mean the same before and after the target, with one dash and with two.
func TestFlagsMayStandAnywhere(t *testing.T) {
	want, err := parse(strings.Fields("check a:1 --json --plaintext --authority b --timeout 1.5 --service s"))
	require.NoError(t, err)
	assert.Equal(t, &commandLine{command: "check", target: "a:1", json: true, plaintext: true, authority: "b",
		timeout: 1500 * time.Millisecond, service: "s", hasService: true}, want)
	for _, line := range []string{
		"--json --plaintext --authority b --timeout 1500ms --service s check a:1",
		"check -json -plaintext -authority=b -timeout=1.5 -service=s a:1",
		"check --json a:1 --plaintext --authority=b --timeout 1.5s --service s",
		"--json check --plaintext --authority b --timeout 1.5 --service s -- a:1",
	} {
		got, err := parse(strings.Fields(line))
		require.NoError(t, err, line)
		assert.Equal(t, want, got, line)
	}
	got, err := parse([]string{"check", "a:1", "--service", ""})
	require.NoError(t, err)
	assert.True(t, got.hasService, "an empty name is the whole server's")
}
