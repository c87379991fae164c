package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
)

// commandReading runs the command with something on its standard input.
func commandReading(t *testing.T, stdin io.Reader, args ...string) output {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, stdin, &stdout, &stderr)
	return output{code, stdout.String(), stderr.String()}
}

// TestCall: RPCs of all kinds, by reflection, as a user sees them.
func TestCall(t *testing.T) {
	s := newShop(t).open(t, stable)
	for name, args := range map[string][]string{
		"unary":           {"shop.Shop/Get", "-d", `{"id":"o-1","price":{"cents":"250"},"placedAt":"2026-11-30T12:00:00Z"}`},
		"empty-request":   {"/shop.Shop/Get"},
		"dot":             {"shop.Shop.Get", "-d", `{"id":"o-1"}`, "--emit-defaults"},
		"trace":           {"shop.Shop/Get", "-H", "X-Echo: hello", "-H", "x-echo:you", "-d", `{"id":"o-1"}`, "--trace"},
		"status":          {"shop.Shop/Get", "-d", `{"id":"gone"}`},
		"status-json":     {"shop.Shop/Get", "-d", `{"id":"gone"}`, "--json", "-H", "x-echo: hello"},
		"status-trace":    {"shop.Shop/Get", "-d", `{"id":"gone"}`, "--trace"},
		"server-stream":   {"shop.Shop/List", "-d", `{"id":"o-"}`},
		"server-json":     {"shop.Shop/List", "-d", `{"id":"o-"}`, "--json"},
		"client-stream":   {"shop.Shop/Put", "-d", `{"id":"a"} {"id":"b"}`},
		"client-none":     {"shop.Shop/Put"},
		"both-streams":    {"shop.Shop/Chat", "-d", `{"id":"a"}{"id":"b"}`},
		"methods":         {},
		"no-such-method":  {"shop.Shop/Fetch"},
		"no-such-service": {"shop.Store/Get"},
		"unknown-field":   {"shop.Shop/Get", "-d", `{"name":"o-1"}`},
		"unknown-allowed": {"shop.Shop/Get", "-d", `{"name":"o-1"}`, "--allow-unknown-fields"},
		"no-json":         {"shop.Shop/Get", "-d", `id: 1`},
		"two-requests":    {"shop.Shop/Get", "-d", `{} {}`},
		"bad-in-stream":   {"shop.Shop/Put", "-d", `{"id":"a"} {"id":`},
	} {
		t.Run(name, func(t *testing.T) {
			assertGolden(t, "call-"+name, command(t, append([]string{"call", "--plaintext", s.addr}, args...)...).golden())
		})
	}
}

// TestCallVerbose: the metadata of the response, and every event before it.
func TestCallVerbose(t *testing.T) {
	s := newShop(t).open(t, stable)
	o := command(t, "call", "--plaintext", "-v", s.addr, "shop.Shop/Get", "-H", "X-Echo: hello", "-H", "x-echo:you", "-d", `{"id":"o-1"}`)
	assert.Equal(t, exitOK, o.code)
	assert.Equal(t, "{\n  \"id\": \"o-1\"\n}\n", o.stdout)
	assert.Contains(t, o.stderr, "dialed in")
	assert.Regexp(t, `(?s)Response headers:\ncontent-type: application/grpc\nx-echo: hello\nx-echo: you\n\nResponse trailers:\nx-echo-bin: aGVsbG8=\nx-echo-bin: eW91\n$`, o.stderr)
}

// TestCallReadsStandardInput: @ stands for it, as with grpcurl; the requests of a stream are
// sent as they come.
func TestCallReadsStandardInput(t *testing.T) {
	s := newShop(t).open(t, stable)
	o := commandReading(t, strings.NewReader(`{"id":"from stdin"}`), "call", "-plaintext", "-d", "@", s.addr, "shop.Shop/Get")
	assert.Equal(t, output{0, "{\n  \"id\": \"from stdin\"\n}\n", ""}, o)

	read, write := io.Pipe()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	answers, out := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"call", "--plaintext", "--timeout", "60", "-d", "@", s.addr, "shop.Shop/Chat"}, read, out, io.Discard)
		_ = out.Close()
	}()
	d := json.NewDecoder(answers)
	for _, id := range []string{"one", "two"} {
		_, err := io.WriteString(write, `{"id":"`+id+`"}`+"\n")
		require.NoError(t, err)
		var answer struct{ ID string }
		require.NoError(t, d.Decode(&answer))
		assert.Equal(t, id, answer.ID, "before the next is written")
	}
	require.NoError(t, write.Close())
	assert.Equal(t, exitOK, <-ended)
}

// TestCallWithoutReflection: descriptors from a file, and what is said if there are none.
func TestCallWithoutReflection(t *testing.T) {
	shop := newShop(t)
	s := shop.open(t, noReflection)
	set := shop.protoset(t)
	o := command(t, "call", "--plaintext", s.addr, "shop.Shop/Get", "-d", `{"id":"o-1"}`)
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "--protoset FILE")
	o = command(t, "call", "--plaintext", "--protoset", set, s.addr, "shop.Shop/Get", "-d", `{"id":"o-1"}`)
	assert.Equal(t, output{0, "{\n  \"id\": \"o-1\"\n}\n", ""}, o)
	o = command(t, "call", "--plaintext", "--protoset", set, s.addr, "shop.Shop/Get", "-d", `{"id":"gone"}`)
	assert.Equal(t, exitStatus+int(codes.NotFound), o.code)
	assert.Contains(t, o.stderr, `"reason": "sold"`, "details are decoded by the file")
	o = command(t, "call", "--protoset", set, s.addr)
	assert.Equal(t, exitFailed, o.code, "TLS to plaintext")
	o = command(t, "call", "--plaintext", "--protoset", set, s.addr)
	assert.Equal(t, output{0, "shop.Shop/Get\nshop.Shop/List\nshop.Shop/Put\nshop.Shop/Chat\n", ""}, o)
	o = command(t, "call", "--plaintext", "--protoset", file(t, "x", []byte("no protoset")), s.addr)
	assert.Equal(t, exitUsage, o.code)
	assert.Contains(t, o.stderr, "no file of protoc")
}

// TestCallOfAnOldServer: one that has the reflection of before it was stable.
func TestCallOfAnOldServer(t *testing.T) {
	s := newShop(t).open(t, alphaOnly)
	o := command(t, "call", "--plaintext", s.addr, "shop.Shop/Get", "-d", `{"id":"o-1"}`)
	assert.Equal(t, output{0, "{\n  \"id\": \"o-1\"\n}\n", ""}, o)
}

// TestCallFails: no connection is explained as check explains it, and time that is over is
// the RPC's status.
func TestCallFails(t *testing.T) {
	o := command(t, "call", "--plaintext", "127.0.0.1:1", "shop.Shop/Get")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "nothing listens there")
	o = command(t, "call", "--plaintext", "127.0.0.1:1", "shop.Shop/Get", "--json")
	assert.Equal(t, exitFailed, o.code)
	var got jsonCall
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &got))
	assert.False(t, got.Ready)
	assert.NotEmpty(t, got.Error.Attempts)
	assert.Nil(t, got.Status)

	s := newShop(t).open(t, stable)
	o = command(t, "call", "--plaintext", "--max-time", "2", s.addr, "shop.Shop/Get", "-d", `{"id":"slow"}`)
	assert.Equal(t, exitStatus+int(codes.DeadlineExceeded), o.code)
	assert.Contains(t, o.stderr, "Code: DeadlineExceeded")
}

// TestCallOfAHostileServer: what it answers does nothing to a terminal, and is still what it
// answered.
func TestCallOfAHostileServer(t *testing.T) {
	s := newShop(t).open(t, stable)
	const id = "EVIL\x1b[31m\u009b2J\u202e\u2066\u2028\r\x00\x7f"
	data, err := json.Marshal(map[string]string{"id": id})
	require.NoError(t, err)
	for _, args := range [][]string{{}, {"--json"}, {"-v", "--trace"}} {
		o := command(t, append([]string{"call", "--plaintext", s.addr, "shop.Shop/Get", "-d", string(data)}, args...)...)
		assert.Equal(t, exitOK, o.code)
		assert.Contains(t, o.stdout, "EVIL")
		assert.NotRegexp(t, `[^\n\t\P{Cc}]|[\x{61c}\x{200e}\x{200f}\x{2028}-\x{202e}\x{2066}-\x{2069}]`, o.stdout+o.stderr)
	}
	var answer struct{ ID string }
	require.NoError(t, json.Unmarshal([]byte(command(t, "call", "--plaintext", s.addr, "shop.Shop/Get", "-d", string(data)).stdout), &answer))
	assert.Equal(t, id, answer.ID)
}

// TestHeaders: -H takes what grpcurl's takes.
func TestHeaders(t *testing.T) {
	c := &commandLine{}
	require.NoError(t, c.addHeader("Authorization: Bearer a:b"))
	require.NoError(t, c.addHeader("x-raw-bin: AQI="))
	require.NoError(t, c.addHeader("x-raw-bin:_-8"))
	assert.Equal(t, []string{"Bearer a:b"}, c.headers.Get("authorization"))
	assert.Equal(t, []string{"\x01\x02", "\xff\xef"}, c.headers.Get("x-raw-bin"))
	for _, wrong := range []string{"", "name", ": value", "grpc-timeout: 1S", "x-bin: ***", "x-bell: \a", "naïve: 1"} {
		assert.Error(t, c.addHeader(wrong), wrong)
	}
}

// TestProgress: a line after a second, drawn anew, and gone at the end.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	assert.Nil(t, (&commandLine{}).progress(&out, nil), "no terminal, no line")
	(*progress)(nil).end()

	synctest.Test(t, func(t *testing.T) {
		p := drawProgress(&out, func() string { return "connect\x1b  192.0.2.1:443" })
		time.Sleep(progressAfter + progressEvery)
		synctest.Wait() // the line has been drawn a second time
		p.end()
		p.end()
		assert.Regexp(t, `^\r\x1b\[K1s  connect\x{FFFD} 192\.0\.2\.1:443\r\x1b\[K1s  connect.*\r\x1b\[K$`, out.String())

		out.Reset()
		drawProgress(&out, func() string { return "" }).end()
		assert.Empty(t, out.String(), "what is quick has no line")
	})
}
