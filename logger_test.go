package grpcdial

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial/internal/connect"
	"github.com/grpcdial/grpcdial/internal/failure"
)

// logged is what a channel writes to its logger, as records of a JSON handler.
func logged(t *testing.T, level slog.Level, use func(*slog.Logger)) (records []map[string]any) {
	t.Helper()
	var b bytes.Buffer
	use(slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: level})))
	for line := range bytes.Lines(b.Bytes()) {
		var r map[string]any
		require.NoError(t, json.Unmarshal(line, &r))
		records = append(records, r)
	}
	return records
}

func messages(records []map[string]any) (all []string) {
	for _, r := range records {
		all = append(all, r["msg"].(string))
	}
	return all
}

func TestLogger(t *testing.T) {
	addr := backendtest.UnusedAddr(t)
	use := func(l *slog.Logger) {
		_, err := DialContext(backendtest.Bounded(t), addr, WithInsecure(), WithBlock(), FailOnNonTempDialError(true), WithLogger(l))
		require.Error(t, err)
	}
	records := logged(t, slog.LevelWarn, use)
	require.Equal(t, []string{"grpcdial: connection attempt failed"}, messages(records))
	r := records[0]
	assert.Equal(t, "WARN", r["level"])
	assert.Equal(t, "passthrough:///"+addr, r["target"])
	assert.Equal(t, addr, r["addr"])
	assert.Equal(t, "dial", r["phase"])
	assert.EqualValues(t, 1, r["attempt"])
	assert.Contains(t, r["error"], "connection refused")
	assert.Contains(t, r["hint"], "nothing listens there")
	assert.Equal(t, false, r["permanent"])
	assert.Positive(t, r["elapsed"])

	assert.Subset(t, messages(logged(t, slog.LevelInfo, use)), []string{"grpcdial: connection attempt failed", "grpcdial: state changed"})
	all := messages(logged(t, slog.LevelDebug, use))
	for _, m := range []string{"grpcdial: resolve start", "grpcdial: resolve done", "grpcdial: dial start", "grpcdial: dial done"} {
		assert.Contains(t, all, m)
	}
	assert.Empty(t, logged(t, slog.LevelError, use))
}

// Without the option nothing is written anywhere.
func TestNoLogger(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	assert.Empty(t, logged(t, slog.LevelDebug, func(l *slog.Logger) {
		slog.SetDefault(l)
		_, err := DialContext(backendtest.Bounded(t), backendtest.UnusedAddr(t), WithInsecure(), WithBlock(), FailOnNonTempDialError(true))
		require.Error(t, err)
	}))
}

// A backend that stays away is logged once a minute at most, with the number of
// attempts that were left out.
func TestLoggerLeavesRepeatsOut(t *testing.T) {
	records := logged(t, slog.LevelInfo, func(l *slog.Logger) {
		synctest.Test(t, func(t *testing.T) {
			p := ConnectParams{MinConnectTimeout: time.Second}
			p.Backoff.BaseDelay, p.Backoff.MaxDelay, p.Backoff.Multiplier = time.Second, time.Second, 1
			port := 0
			cc, err := NewClient("x:1", WithInsecure(), WithConnectParams(p), WithLogger(l), WithContextDialer(func(context.Context, string) (net.Conn, error) {
				port++ // the text is new each time
				return nil, &net.OpError{Op: "read", Source: &net.TCPAddr{Port: port}, Err: errors.New("reset")}
			}))
			require.NoError(t, err)
			cc.Connect()
			time.Sleep(150*time.Second + time.Millisecond)
			require.NoError(t, cc.Close())
		})
	})
	var omitted []any
	for _, r := range records {
		if r["msg"] == "grpcdial: connection attempt failed" {
			omitted = append(omitted, r["omitted"])
		}
	}
	assert.Equal(t, []any{nil, 59.0, 59.0}, omitted)
}

func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newEventLog(slog.New(slog.DiscardHandler))
		passes := func(e DialEvent) bool { _, again := l.count(&e, string(e.Kind)); return !again }
		lost := DialEvent{Kind: EventLost, Addr: "a:1", Err: errors.New("cut")}
		for range logOthers {
			assert.True(t, passes(lost))
		}
		assert.False(t, passes(lost))
		lost.Addr = "b:1"
		assert.True(t, passes(lost), "another address")

		failed := DialEvent{Kind: EventFailed, Addr: "a:1", Phase: PhaseDial, Hint: "look"}
		assert.True(t, passes(failed))
		failed.Err = errors.New("another text")
		assert.False(t, passes(failed))
		failed.Phase = PhaseTLS
		assert.True(t, passes(failed), "another failure")

		for i := range 10 * keptRepeats {
			passes(DialEvent{Kind: EventLost, Addr: strings.Repeat("x", i)})
			assert.LessOrEqual(t, len(l.repeats), keptRepeats)
		}
		time.Sleep(logPeriod)
		assert.True(t, passes(failed))
	})
}

// Every field of an event that is set is among its attributes.
func TestEventAttributes(t *testing.T) {
	e := DialEvent{
		Kind: EventFailed, Target: "dns:///x", AttemptID: 3, Addr: "a:1", ServerName: "a", Proxy: "http://p", Phase: PhaseTLS,
		Elapsed: time.Second, Err: &DialError{Target: "t", Attempts: []Attempt{refusedAttempt("a:1"), refusedAttempt("b:1")}}, Hint: "do", Permanent: true,
		Settings: []Setting{{ID: uint16(http2.SettingMaxFrameSize), Value: 1 << 14}}, Cause: ErrIdle, Wait: time.Minute, Keepalive: time.Hour,
	}
	keys := map[string]slog.Value{}
	for _, a := range e.LogValue().Group() {
		keys[a.Key] = a.Value
	}
	for _, key := range []string{"target", "attempt", "addr", "server_name", "proxy", "phase", "elapsed", "error", "hint", "permanent", "settings", "wait", "keepalive", "cause"} {
		assert.Contains(t, keys, key)
	}
	assert.NotContains(t, keys["error"].String(), "\n")
	assert.Contains(t, keys["error"].String(), " | b:1: dial failed")
	assert.Equal(t, "MAX_FRAME_SIZE=16384", keys["settings"].String())

	state := DialEvent{Kind: EventState, From: connectivity.Idle, To: connectivity.Connecting}
	assert.Equal(t, []slog.Attr{slog.String("from", "IDLE"), slog.String("to", "CONNECTING")}, state.LogValue().Group())
	assert.Empty(t, DialEvent{Kind: EventDialStart}.LogValue().Group())
}

// What a step of a connection becomes.
func TestEventOfAStep(t *testing.T) {
	for _, phase := range []failure.Phase{failure.Resolve, failure.Dial, failure.Proxy, failure.TLS, failure.HTTP2} {
		start, done := eventOf(connect.Step{Phase: phase}, 7), eventOf(connect.Step{Phase: phase, Done: true}, 7)
		assert.Equal(t, string(phase)+"_start", string(start.Kind))
		assert.Equal(t, string(phase)+"_done", string(done.Kind))
		assert.EqualValues(t, 7, done.AttemptID)
		assert.True(t, strings.HasPrefix(done.String(), "#7 "), done.String())
	}
}
