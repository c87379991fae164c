package main

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files")

// drawn is a report with a cell of each kind: loads over plaintext and TLS, ahead and
// behind, beyond the scale, failed, without a range; channels; and three series.
func drawn() report {
	r := report{Schema: schemaVersion, Taken: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), Commit: "abc", Go: "go1.26", OS: "linux", Arch: "amd64",
		Procs: 2, Versions: map[string]string{"grpc-go": "v1", "connect-go": "v2"}, Rounds: 3, Sides: []string{"grpcdial", "grpc-go", "connect-go", "floor"}}
	add := func(name, operation, axis string, at float64, figures ...figureReport) {
		transport := "plaintext"
		if strings.HasPrefix(name, tlsPrefix) {
			transport = "TLS"
		}
		r.Cells = append(r.Cells, cellReport{Name: name, Group: groupOf(name), Transport: transport, Operation: operation, Axis: axis, At: at, Figures: figures})
	}
	fig := func(key string, values ...float64) figureReport {
		f := figureReport{Key: key, Name: key + " a call", Better: "less", Median: map[string]float64{}}
		for i, v := range values {
			f.Median[r.Sides[i]] = v
		}
		ratio, low, high := values[0]/values[1], values[0]/values[1]*0.9, values[0]/values[1]*1.1
		f.Ratio, f.RatioLow, f.RatioHigh = &ratio, &low, &high
		return f
	}
	add("unary/c=1", "call", "callers", 1, fig("cpu", 60, 90), fig("allocs", 8, 91), fig("p99", 245, 290))
	add("unary/c=64", "call", "callers", 64, fig("cpu", 7, 20), fig("allocs", 8, 91), fig("p99", 2600, 3800))
	add("down-<1MB>/s=1", "message", "streams", 1, fig("cpu", 103, 100), fig("allocs", 300, 100))
	add("tls/unary/c=64", "call", "callers", 64, fig("cpu", 9, 21), fig("allocs", 8, 92), fig("p99", 2700, 3900))
	without := fig("cpu", 5, 10)
	without.RatioLow, without.RatioHigh = nil, nil
	add("dial", "dial", "", 0, without)
	add("no-ratio", "call", "", 0, figureReport{Key: "cpu", Median: map[string]float64{"grpcdial": 1}})
	r.Cells = append(r.Cells, cellReport{Name: "failed", Group: "failed", Transport: "plaintext", Operation: "call", Error: "no"})
	add("channels/ready", "channel", "", 0, fig("memory", 12e3, 34e3))
	add("tls/channels/ready", "channel", "", 0, fig("memory", 22e3, 75e3))
	for i, n := range []float64{1, 64, 4096} {
		add(fmt.Sprintf("grow-callers/c=%v", n), "call", "callers", n, fig("cpu", 60/(float64(i)+1), 90/(float64(i)+1), 100, 50), fig("p99", 200*n, 300*n, 500*n))
	}
	for _, n := range []float64{64, 16 << 10, 15 << 20} {
		add(fmt.Sprintf("grow-size/B=%v", n), "call", "bytes", n, fig("cpu", 50+n/1000, 80+n/900), fig("bytes", 0, 5000+n))
	}
	for _, n := range []float64{1, 2, 4, 8} {
		add(fmt.Sprintf("scale-limit1/conns=%v", n), "call", "connections", n, fig("cpu", 300/n, 430), fig("rate", 48*n, 48))
	}
	add("grow-streams/s=1", "round trip", "streams", 1, fig("cpu", 50, 80)) // one alone is no series
	return r
}

// TestPlots: the drawings are those that were looked at. To draw them anew after a change:
// go test -run TestPlots -update, and look at them.
func TestPlots(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, writePlots(dir, drawn()))
	for _, name := range []string{ratiosFile, growthFile} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		golden := filepath.Join("testdata", name)
		if *update {
			require.NoError(t, os.WriteFile(golden, got, 0o666))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		assert.Equal(t, string(want), string(got), name)
	}
}

// TestPlotsAreWhole: well-formed XML in which nothing stands beyond the edges, of which
// nothing is missing that can be drawn; and no drawing where there is nothing to draw.
func TestPlotsAreWhole(t *testing.T) {
	ratios, growth := drawRatios(drawn()), drawGrowth(drawn())
	for _, drawing := range []string{ratios, growth} {
		var width, height float64
		for d := xml.NewDecoder(strings.NewReader(drawing)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			start, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			for _, a := range start.Attr {
				v, err := strconv.ParseFloat(a.Value, 64)
				switch {
				case start.Name.Local == "svg" && a.Name.Local == "width":
					width = v
				case start.Name.Local == "svg" && a.Name.Local == "height":
					height = v
				case err != nil:
				case strings.HasPrefix(a.Name.Local, "x") || a.Name.Local == "cx":
					assert.True(t, v >= 0 && v <= width, "%v", start)
				case strings.HasPrefix(a.Name.Local, "y") || a.Name.Local == "cy":
					assert.True(t, v >= 0 && v <= height, "%v", start)
				}
			}
		}
		assert.NotContains(t, drawing, "NaN")
		assert.NotContains(t, drawing, "Inf")
	}
	for _, part := range []string{"unary/c=1<", "unary/c=64<", "down-&lt;1MB&gt;/s=1<", "dial<", "channels/ready<", "worse", "3.00<"} {
		assert.Contains(t, ratios, part)
	}
	assert.NotContains(t, ratios, "no-ratio")
	assert.Equal(t, 5, strings.Count(growth, `<text`)-strings.Count(growth, `class="dim`)-1, "titles of five series, and one of all")
	assert.Empty(t, drawRatios(report{}))
	assert.Empty(t, drawGrowth(report{}))
	require.NoError(t, writePlots(t.TempDir(), report{}))
}

// TestScale: the ticks that a reader expects, around all figures.
func TestScale(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		ticks  []float64
	}{
		{[]float64{0}, []float64{0, 1}},
		{[]float64{60, 90}, []float64{0, 20, 40, 60, 80, 100}},
		{[]float64{12e3, 34e3}, []float64{0, 5e3, 10e3, 15e3, 20e3, 25e3, 30e3, 35e3}},
		{[]float64{1, 1.2}, []float64{0, 0.2, 0.4, 0.6, 0.8, 1, 1.2}},
		{[]float64{3, 300}, []float64{1, 10, 100, 1000}},
		{[]float64{0, 3, 300}, []float64{1, 10, 100, 1000}},
	} {
		s := scaleOf(tt.values)
		assert.InDeltaSlice(t, tt.ticks, s.ticks, 1e-9, "%v", tt.values)
		for _, v := range tt.values {
			if s.shows(v) {
				assert.True(t, s.part(v) >= 0 && s.part(v) <= 1.0001, "%v of %v", v, tt.values)
			}
		}
	}
}
