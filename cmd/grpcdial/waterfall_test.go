package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial"
)

// day is when the dials of these tests are made.
var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// at is the time ms milliseconds after the beginning of the dial.
func at(ms float64) time.Time { return day.Add(time.Duration(ms * float64(time.Millisecond))) }

func issued(name, by string, from, to time.Time) *x509.Certificate {
	return &x509.Certificate{Raw: []byte(name), Subject: pkix.Name{CommonName: name}, Issuer: pkix.Name{CommonName: by}, NotBefore: from, NotAfter: to}
}

// raced is a dial of a name with two addresses, whose first is slow.
func raced() *report {
	leaf := issued("a.test", "Sub", day.AddDate(0, -1, 0), day.AddDate(0, 0, 12))
	leaf.DNSNames = []string{"a.test", "b.test"}
	sub, root := issued("Sub", "Root", day.AddDate(-1, 0, 0), day.AddDate(3, 0, 0)), issued("Root", "Root", day.AddDate(-9, 0, 0), day.AddDate(9, 0, 0))
	return &report{
		target: "dns:///a.test:443", state: connectivity.Ready, begin: at(0), ready: at(400), end: at(420),
		steps: []step{
			{phase: grpcdial.PhaseResolve, addr: "a.test:443", start: at(0), end: at(20), addrs: []string{"[2001:db8::1]:443", "192.0.2.1:443"}},
			{phase: grpcdial.PhaseDial, addr: "[2001:db8::1]:443", start: at(20), end: at(300.5), err: context.Canceled},
			{phase: grpcdial.PhaseDial, addr: "192.0.2.1:443", start: at(270), end: at(300.25)},
			{phase: grpcdial.PhaseTLS, addr: "192.0.2.1:443", serverName: "a.test:443", start: at(300.25), end: at(370), tls: &tls.ConnectionState{
				Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, NegotiatedProtocol: "h2", ServerName: "a.test",
				PeerCertificates: []*x509.Certificate{leaf, sub}, VerifiedChains: [][]*x509.Certificate{{leaf, sub, root}},
			}},
			{phase: grpcdial.PhaseHTTP2, addr: "192.0.2.1:443", start: at(370), end: at(399), settings: []grpcdial.Setting{
				{ID: uint16(http2.SettingMaxConcurrentStreams), Value: 100}, {ID: uint16(http2.SettingInitialWindowSize), Value: 65535}}},
			{phase: grpcdial.PhaseHealth, addr: "192.0.2.1:443", start: at(400), end: at(420), health: "SERVING"},
		},
	}
}

// stuck is a dial that failed in several ways at once.
func stuck() *report {
	expired := issued("c.test", "Root", day.AddDate(-2, 0, 0), day.AddDate(0, 0, -1))
	early := issued("Root", "Root", day.AddDate(0, 0, 3), day.AddDate(9, 0, 0))
	return &report{
		target: "dns:///c.test:443", state: connectivity.TransientFailure, begin: at(0), end: at(10000), err: errors.New("no"),
		steps: []step{
			{phase: grpcdial.PhaseResolve, addr: "c.test:443", start: at(0), end: at(0.002), addrs: []string{"192.0.2.1:443", "192.0.2.2:443"}},
			{phase: grpcdial.PhaseDial, addr: "198.51.100.7:3128", start: at(1), end: at(5)},
			{phase: grpcdial.PhaseProxy, addr: "192.0.2.1:443", proxy: "http://proxy.test:3128", start: at(5), end: at(40)},
			{phase: grpcdial.PhaseTLS, addr: "192.0.2.1:443", proxy: "http://proxy.test:3128", start: at(40), end: at(90),
				err: &tls.CertificateVerificationError{UnverifiedCertificates: []*x509.Certificate{expired, early}, Err: errors.New("x509: certificate has\nexpired")}},
			{phase: grpcdial.PhaseDial, addr: "192.0.2.2:443", start: at(90)},
		},
	}
}

func TestWaterfall(t *testing.T) {
	var drawn bytes.Buffer
	for _, r := range []*report{raced(), stuck()} {
		require.NoError(t, drawReport(&drawn, false, r))
		drawn.WriteString("\n")
	}
	path := filepath.Join("testdata", "waterfall.golden") // the real times, and the bars
	if *update {
		require.NoError(t, os.WriteFile(path, drawn.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), drawn.String())
}

// Colours change nothing but colours.
func TestColours(t *testing.T) {
	for _, r := range []*report{raced(), stuck()} {
		var plain, coloured bytes.Buffer
		require.NoError(t, drawReport(&plain, false, r))
		require.NoError(t, drawReport(&coloured, true, r))
		assert.NotEqual(t, plain.String(), coloured.String())
		text := coloured.String()
		for _, code := range []string{"0", "1", "2", "31", "32", "33", "34"} {
			text = strings.ReplaceAll(text, "\x1b["+code+"m", "")
		}
		assert.Equal(t, plain.String(), text)
		assert.NotContains(t, plain.String(), "\x1b")
	}
}

// A peer's texts do not reach the terminal's ear.
func TestControlCharactersOfPeersAreNotPrinted(t *testing.T) {
	evil := issued("a\x1b[2J\u009b1mb", "c\rd\ne", day.AddDate(-1, 0, 0), day.AddDate(1, 0, 0))
	for i := range 20 {
		evil.DNSNames = append(evil.DNSNames, fmt.Sprintf("\a%d.test", i))
	}
	r := &report{target: "t", begin: at(0), end: at(1), err: errors.New("no"), steps: []step{{phase: grpcdial.PhaseTLS, addr: "a:1", start: at(0), end: at(1),
		err: &tls.CertificateVerificationError{UnverifiedCertificates: []*x509.Certificate{evil}, Err: errors.New("\x1b]0;x\a")}}}}
	var drawn bytes.Buffer
	require.NoError(t, drawReport(&drawn, false, r))
	explain(&drawn, false, &commandLine{}, errors.New("\x1b[31mred"))
	assert.NotRegexp(t, `[^\n\P{Cc}]`, drawn.String())
	assert.Contains(t, drawn.String(), "7.test, and 12 more\n")

	change := grpcdial.StateChange{From: connectivity.Ready, To: connectivity.Idle, Cause: errors.New("a\x1bb\nc")}
	assert.Equal(t, "00:00:00.000  READY -> IDLE after 1s: a\uFFFDb c\n", changeText(false, change, time.Second))
}

// Each of several attempts has a line of its own.
func TestChangeWithSeveralAttempts(t *testing.T) {
	refused := errors.New("connection refused")
	change := grpcdial.StateChange{From: connectivity.Connecting, To: connectivity.TransientFailure, Cause: &grpcdial.DialError{
		Target: "t", State: connectivity.TransientFailure, Attempts: []grpcdial.Attempt{
			{Addr: "a:1", Phase: grpcdial.PhaseDial, Elapsed: time.Millisecond, Err: refused},
			{Addr: "b:1", Phase: grpcdial.PhaseDial, Elapsed: time.Millisecond, Err: refused, Hint: "start it"},
		}}}
	assert.Equal(t, "00:00:00.000  CONNECTING -> TRANSIENT_FAILURE after 2ms\n"+
		"              a:1: dial failed after 1ms: connection refused\n"+
		"              b:1: dial failed after 1ms: connection refused; start it\n", changeText(false, change, 2*time.Millisecond))
}

// A dial that took no time at all, and one without a step.
func TestWaterfallOfNothing(t *testing.T) {
	var drawn bytes.Buffer
	require.NoError(t, drawReport(&drawn, false, &report{target: "t", begin: at(0), end: at(0),
		steps: []step{{phase: grpcdial.PhaseResolve, start: at(0), end: at(0)}}}))
	require.NoError(t, drawReport(&drawn, false, &report{target: "t", begin: at(0), end: at(0)}))
	assert.Equal(t, "t\n\nresolve          0s  █\nFAILED           0s  │\nt\n\nFAILED           0s  │\n", drawn.String())
}

func TestColoursAreForTerminals(t *testing.T) {
	assert.False(t, bool(painter(&bytes.Buffer{})))
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	assert.False(t, bool(painter(f)), "a file")

	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return // this system has none
	}
	defer func() { _ = terminal.Close() }()
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	assert.True(t, bool(painter(terminal)))
	t.Setenv("NO_COLOR", "1")
	assert.False(t, bool(painter(terminal)))
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "dumb")
	assert.False(t, bool(painter(terminal)))
}
