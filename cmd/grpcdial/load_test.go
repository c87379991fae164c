package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLoad: as many RPCs as were asked for, of each kind of method, and how they ended.
func TestLoad(t *testing.T) {
	s := newShop(t).open(t, stable)
	for method, wants := range map[string]string{"Get": "0-OK", "List": "0-OK", "Put": "0-OK", "Chat": "0-OK"} {
		o := command(t, "load", "--plaintext", "-n", "57", "-c", "3", "--json", s.addr, "shop.Shop/"+method, "-d", `{"id":"o-1"}`)
		assert.Equal(t, exitOK, o.code, o.stderr)
		var got jsonLoad
		require.NoError(t, json.Unmarshal([]byte(o.stdout), &got))
		assert.EqualValues(t, 57, got.RPCs, method)
		assert.Equal(t, 3, got.Callers)
		require.Len(t, got.Statuses, 1)
		assert.Equal(t, wants, "0-"+got.Statuses[0].Name)
		require.NotNil(t, got.Latency)
		assert.LessOrEqual(t, got.Latency.FastestMS, got.Latency.P50MS)
		assert.LessOrEqual(t, got.Latency.P50MS, got.Latency.P99MS)
		assert.LessOrEqual(t, got.Latency.P99MS, got.Latency.SlowestMS)
		sum := int64(0)
		for _, b := range got.Latency.Histogram {
			sum += b.RPCs
		}
		assert.EqualValues(t, 57, sum)
	}

	o := command(t, "load", "--plaintext", "-n", "20", s.addr, "shop.Shop/Get", "-d", `{"id":"gone"}`)
	assert.Equal(t, exitFailed, o.code)
	assert.Regexp(t, `(?m)^  NotFound +20  no order "gone"$`, o.stdout)
	assert.NotContains(t, o.stdout, "latency", "none was OK")

	begun := time.Now()
	o = command(t, "load", "--plaintext", "--duration", "0.2", s.addr, "shop.Shop/Get")
	assert.Equal(t, exitOK, o.code)
	assert.GreaterOrEqual(t, time.Since(begun), 200*time.Millisecond)
	assert.Contains(t, o.stdout, "latency of those that are OK: fastest ")
	assert.Contains(t, o.stdout, "█")

	o = command(t, "load", "--plaintext", "-n", "2", "--timeout", "1", s.addr, "shop.Shop/Get", "-d", `{"id":"slow"}`)
	assert.Equal(t, exitFailed, o.code)
	assert.Regexp(t, `(?m)^  DeadlineExceeded +2  `, o.stdout, "the time of each RPC")
}

// TestLoadInterrupted: what there was until then.
func TestLoadInterrupted(t *testing.T) {
	s := newShop(t).open(t, stable)
	ctx, stop := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, stop)
	var stdout, stderr strings.Builder
	run(ctx, []string{"load", "--plaintext", "--duration", "50", "--timeout", "60", s.addr, "shop.Shop/Get"}, strings.NewReader(""), &stdout, &stderr)
	assert.Regexp(t, `RPCs in \d\S*s|no descriptor|context canceled`, stdout.String()+stderr.String())
}

func TestLoadCommandLines(t *testing.T) {
	for line, says := range map[string]string{
		"load a:1":                    "no method",
		"load a:1 nonsense":           `"nonsense" is no method`,
		"load a:1 a.B/C -c 0":         "want a number from 1 to 10000",
		"load a:1 a.B/C -n -1":        "want a number from 1",
		"load a:1 a.B/C --duration x": "want a positive duration",
		"call a:1 a.B/C -n 3":         "call has no flag --requests",
		"load a:1 a.B/C --trace":      "load has no flag --trace",
		"channelz a:1 -d x":           "channelz has no flag --data",
		"call a:1 -d x":               "--data is for a method",
		"call a:1 a.B/C x":            `what is "x"?`,
	} {
		o := command(t, strings.Fields(line)...)
		assert.Equal(t, exitUsage, o.code, line)
		assert.Contains(t, o.stderr, says, line)
	}
}

// TestLatencies: the drawing of a histogram, and quantiles to 2 %.
func TestLatencies(t *testing.T) {
	var l latencies
	for i := range 1000 {
		l.add(time.Duration(i+1) * 100 * time.Microsecond)
	}
	assert.EqualValues(t, 1000, l.count())
	assert.Equal(t, 100*time.Microsecond, l.fastest())
	assert.Equal(t, 100*time.Millisecond, l.slowest())
	assert.Equal(t, 50050*time.Microsecond, l.mean())
	for q, want := range map[float64]time.Duration{0.5: 50 * time.Millisecond, 0.9: 90 * time.Millisecond, 0.99: 99 * time.Millisecond, 1: 100 * time.Millisecond} {
		assert.InEpsilon(t, want, l.quantile(q), 0.021, "%v", q)
	}
	sum := int64(0)
	for _, r := range l.rows() {
		sum += r.n
		assert.Less(t, r.from, r.to)
	}
	assert.EqualValues(t, 1000, sum)

	var spread latencies
	random := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		spread.add(time.Duration(float64(time.Millisecond) * (1 + random.ExpFloat64()*4)))
	}
	assertGoldenAsIs(t, "latencies", spread.text(false))

	var one latencies
	one.add(0)
	one.add(time.Hour)
	assert.Equal(t, time.Duration(0), one.fastest())
	assert.Equal(t, time.Hour, one.slowest())
	assert.LessOrEqual(t, one.quantile(0.5), 2*time.Microsecond)
	assert.NotEmpty(t, one.text(false))
}
