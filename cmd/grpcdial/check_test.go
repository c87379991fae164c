package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

func TestCheck(t *testing.T) {
	ca, other := h2test.NewCA(t), h2test.NewCA(t)
	roots, wrong := file(t, "ca.pem", ca.PEM()), file(t, "other.pem", other.PEM())
	cert, key := pair(t, ca.Client("client"))

	plain := serve(t, "")
	plain.health.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	down := serve(t, "")
	down.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	bare := serveNothing(t)
	secure := serve(t, "", secured(ca.Server("a.test", "127.0.0.1")))
	expired := serve(t, "", secured(ca.Expired("a.test")))
	mutual := serve(t, "", grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ca.Server("127.0.0.1")}, NextProtos: []string{"h2"},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
	})))
	mutual12 := serve(t, "", grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ca.Server("127.0.0.1")}, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
	})))
	refused := h2test.RefusedAddr(t)
	names := dnstest.Listen(t, dnstest.Zone{
		"two.test":     {Addrs: []string{"127.0.0.1", "127.0.0.2"}},
		"swapped.test": {Addrs: []string{"127.0.0.2", "127.0.0.1"}},
	})
	port := portOf(t, plain.addr)
	ssh, web := says(t, "SSH-2.0-OpenSSH_9.6\r\n"), says(t, "HTTP/1.1 404 Not Found\r\nServer: nginx\r\n\r\n")

	tests := []struct {
		name string
		code int
		args []string
	}{
		{"plaintext", 0, []string{"--plaintext", plain.addr}},
		{"plaintext-json", 0, []string{"--json", "--plaintext", plain.addr}},
		{"name", 0, []string{"--plaintext", "dns://" + names.Addr() + "/two.test:" + port}},
		{"no-health", 0, []string{"--plaintext", bare.addr}},
		{"no-health-but-asked", 0, []string{"--plaintext", bare.addr, "--service", "s"}},
		{"whole-server", 0, []string{"--plaintext", plain.addr, "--service", ""}},
		{"not-serving", 0, []string{"--plaintext", down.addr}},
		{"not-serving-but-asked", 1, []string{"--plaintext", down.addr, "--service", ""}},
		{"service-down", 1, []string{"--plaintext", plain.addr, "--service", "down"}},
		{"service-unknown", 1, []string{"--plaintext", plain.addr, "--service", "nosuch"}},
		{"service-unknown-json", 1, []string{"--plaintext", plain.addr, "--service", "nosuch", "--json"}},
		{"tls", 0, []string{secure.addr, "--cacert", roots}},
		{"tls-json", 0, []string{secure.addr, "--cacert", roots, "--json"}},
		{"tls-authority", 0, []string{secure.addr, "--cacert", roots, "--authority", "a.test"}},
		{"tls-servername", 0, []string{secure.addr, "--cacert", roots, "--servername", "a.test"}},
		{"tls-insecure", 0, []string{expired.addr, "--insecure"}},
		{"tls-client-certificate", 0, []string{mutual.addr, "--cacert", roots, "--cert", cert, "--key", key}},
		{"wrong-ca", 1, []string{secure.addr, "--cacert", wrong}},
		{"wrong-ca-json", 1, []string{secure.addr, "--cacert", wrong, "--json"}},
		{"wrong-name", 1, []string{secure.addr, "--cacert", roots, "--authority", "b.test"}},
		{"client-certificate-missing", 1, []string{mutual.addr, "--cacert", roots}},
		{"plaintext-to-tls", 1, []string{secure.addr, "--plaintext"}},
		{"tls-to-plaintext", 1, []string{plain.addr, "--cacert", roots}},
		{"refused", 1, []string{refused, "--plaintext"}},
		{"client-certificate-missing-json", 1, []string{mutual.addr, "--cacert", roots, "--json"}},
		{"client-certificate-missing-tls12", 1, []string{mutual12.addr, "--cacert", roots}},
		{"ssh", 1, []string{ssh, "--plaintext"}},
		{"tls-to-ssh", 1, []string{ssh, "--cacert", roots}},
		{"web", 1, []string{web, "--plaintext"}},
		{"tls-to-web", 1, []string{web, "--cacert", roots}},
		{"one-of-two-refuses", 0, []string{"dns://" + names.Addr() + "/swapped.test:" + port, "--plaintext"}},
		{"two-refuse", 1, []string{"dns://" + names.Addr() + "/two.test:" + portOf(t, refused), "--plaintext"}},
		{"refused-json", 1, []string{refused, "--plaintext", "--json"}},
		{"no-such-host", 1, []string{"dns://" + names.Addr() + "/nosuch.test:1", "--plaintext"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := command(t, append([]string{"check"}, tt.args...)...)
			assert.Equal(t, tt.code, o.code)
			assertGolden(t, tt.name, o.golden())
		})
	}
}

// says starts a server that reads a little, gives every client the same answer, and waits.
func says(t *testing.T, answer string) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var served sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); served.Wait() })
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, answer)
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			})
		}
	})
	return ln.Addr().String()
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	return port
}

// A certificate that has ended is shown with the day on which it did.
func TestCheckExpired(t *testing.T) {
	ca := h2test.NewCA(t)
	s := serve(t, "", secured(ca.Expired("a.test")))
	o := command(t, "check", s.addr, "--cacert", file(t, "ca.pem", ca.PEM()), "--authority", "a.test")
	assert.Equal(t, exitFailed, o.code)
	assert.Regexp(t, `expired 1995-01-01, \d+ days ago`, o.stdout)
	assert.Contains(t, o.stderr, "renew it")
}

// A server that accepts and says nothing: the time-out ends the check, and the
// drawing says what was not finished.
func TestCheckTimeout(t *testing.T) {
	srv := h2test.Listen(t)
	srv.Script(func(c *h2test.Conn) { c.ExpectClosed() })
	for timeout := 200 * time.Millisecond; ; timeout *= 2 { // a busy machine may need longer to connect
		begun := time.Now()
		o := command(t, "check", "--plaintext", "--timeout", timeout.String(), srv.Addr())
		assert.Equal(t, exitFailed, o.code)
		if !strings.Contains(o.stdout, "SETTINGS") {
			require.Less(t, timeout, 10*time.Second, o.stdout)
			continue
		}
		assert.Less(t, time.Since(begun), timeout+10*time.Second)
		assert.Regexp(t, `(?m)^SETTINGS .*░+\n +not finished\nFAILED `, o.stdout)
		assert.Contains(t, o.stderr, "context deadline exceeded: --timeout is "+timeout.String())
		assert.Contains(t, o.stderr, "http2 not finished after")
		return
	}
}

// A server whose health service fails is READY, and is not what --service asks for.
func TestCheckOfAFailingHealthService(t *testing.T) {
	s := serve(t, "", grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		return nil, status.Error(codes.PermissionDenied, "who are you?")
	}))
	o := command(t, "check", "--plaintext", s.addr)
	assert.Equal(t, exitOK, o.code)
	assert.Contains(t, o.stdout, "who are you?")
	assert.Empty(t, o.stderr)

	o = command(t, "check", "--plaintext", s.addr, "--service", "s")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, `whose health service says nothing of "s": rpc error: code = PermissionDenied desc = who are you?`)
}

// SIGINT ends the context.
func TestCheckInterrupted(t *testing.T) {
	srv := h2test.Listen(t)
	ctx, stop := context.WithCancel(t.Context())
	srv.Script(func(c *h2test.Conn) {
		stop()
		c.ExpectClosed()
	})
	var stdout, stderr bytes.Buffer
	assert.Equal(t, exitFailed, run(ctx, []string{"check", "--plaintext", srv.Addr(), "--json"}, strings.NewReader(""), &stdout, &stderr))
	assert.Empty(t, stderr.String())
	var got jsonReport
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &got))
	assert.False(t, got.Ready)
	assert.Contains(t, got.Error.Message, "context canceled")
}

func TestCheckThroughAProxy(t *testing.T) {
	ca := h2test.NewCA(t)
	s := serve(t, "", secured(ca.Server("a.test")))
	p := proxytest.ListenHTTP(t, map[string]string{"a.test:443": s.addr}, "", nil)
	t.Setenv("HTTPS_PROXY", "http://"+p.Addr)
	o := command(t, "check", "a.test:443", "--cacert", file(t, "ca.pem", ca.PEM()))
	assert.Equal(t, exitOK, o.code)
	assertGolden(t, "proxy", o.golden())

	o = command(t, "check", "b.test:443", "--cacert", file(t, "ca.pem", ca.PEM()))
	assert.Equal(t, exitFailed, o.code)
	assertGolden(t, "proxy-refuses", o.golden())
}

// With --verbose the events are printed as they happen, beside the drawing.
func TestVerbose(t *testing.T) {
	s := serve(t, "")
	for _, args := range [][]string{{"check", "-v"}, {"check", "--json", "--verbose"}, {"watch", "-v", "--timeout", "0.3"}} {
		o := command(t, append(args, "--plaintext", s.addr)...)
		for try := 1; args[0] == "watch" && !strings.Contains(o.stderr, "dialed") && try < 10; try++ { // a busy machine
			o = command(t, append(args, "--plaintext", s.addr)...)
		}
		assert.Equal(t, exitOK, o.code)
		assert.Regexp(t, `(?m)^\d\d:\d\d:\d\d\.\d{3}  #1 `+s.addr+`: dialed in `, o.stderr, args)
		assert.NotContains(t, o.stdout, "dialed in", args)
	}
}
