package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// growthPanels are the series that drawGrowth draws, and which figure of each.
var growthPanels = []struct{ group, key, title string }{
	{"grow-callers", "cpu", "CPU µs a call, by callers"},
	{"grow-streams", "cpu", "CPU µs a round trip, by streams"},
	{"grow-size", "cpu", "CPU µs a call, by bytes of the message"},
	{"grow-callers", "p99", "p99 µs, by callers"},
	{"grow-streams", "p99", "p99 µs, by streams"},
	{"grow-size", "bytes", "bytes allocated a call, by bytes"},
	{"grow-channels-ready", "memory", "heap and stack B a READY channel"},
	{"grow-addresses", "ready", "first READY ms, by addresses"},
	{"grow-addresses", "peak", "peak heap B an address, by addresses"},
	{"rtt-unary", "rate", "calls a second, by round trip ms"},
	{"rtt-down-64kB", "rate", "64 kB received a s, by round trip ms"},
	{"rtt-upload-64kB", "rate", "64 kB sent a s, by round trip ms"},
	{"scale-limit1", "rate", "calls a second, by 1-stream conns"},
	{"scale-limit10", "rate", "calls a second, by 10-stream conns"},
	{"scale-limit100", "rate", "calls a second, by 100-stream conns"},
}

// series is one figure of a group's cells, in their order.
type series struct {
	title string
	at    []float64 // the places on the axis
	axis  string
	sides []string
	by    map[string][]float64 // by side; NaN: the cell has no such figure
}

// seriesOf collects a series over plaintext. ok is false if it has fewer than two cells.
func seriesOf(r report, group, key, title string) (s series, ok bool) {
	s = series{title: title, by: map[string][]float64{}}
	for _, side := range r.Sides {
		any := false
		for _, c := range r.Cells {
			if c.Group != group || c.Transport == "TLS" {
				continue
			}
			v := math.NaN()
			if f, has := c.figure(key); has {
				if m, has := f.Median[side]; has && m >= 0 {
					v, any = m, true
				}
			}
			s.by[side] = append(s.by[side], v)
			if side == r.Sides[0] {
				s.at, s.axis = append(s.at, c.At), c.Axis
			}
		}
		if any {
			s.sides = append(s.sides, side)
		}
	}
	return s, len(s.at) > 1 && len(s.sides) > 0
}

// drawGrowth draws a panel for each series that the report has. Empty: it has none.
func drawGrowth(r report) string {
	const (
		width, height = 290.0, 190.0
		left, top     = 20.0, 62.0
		columns       = 3
	)
	var all []series
	for _, p := range growthPanels {
		if s, ok := seriesOf(r, p.group, p.key, p.title); ok {
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return ""
	}
	rows := (len(all) + columns - 1) / columns
	d := &svg{width: left + columns*width, height: top + float64(rows)*(height+30) + 4}
	d.text(left, 22, "title", "Growth")
	d.text(left, 40, "dim", r.origin())
	x := d.width - 20
	for _, i := range slices.Backward(indices(r.Sides)) {
		x -= 7*float64(len(r.Sides[i])) + 26
		d.line(x, 18, x+16, 18, fmt.Sprintf("line s%d", i))
		d.text(x+20, 22, "dim", r.Sides[i])
	}
	for i, s := range all {
		s.draw(d, r.Sides, left+float64(i%columns)*width, top+float64(i/columns)*(height+30), width-24, height)
	}
	return d.String()
}

func indices[T any](all []T) []int {
	n := make([]int, len(all))
	for i := range n {
		n[i] = i
	}
	return n
}

// draw draws the series' panel. The places on the horizontal axis are as far apart as each
// other; the vertical one is logarithmic if the figures are of several magnitudes.
func (s series) draw(d *svg, sides []string, x, y, width, height float64) {
	const left, bottom, top = 46.0, 22.0, 22.0
	d.text(x, y+10, "title", s.title)
	scale := scaleOf(s.values())
	px := func(i int) float64 {
		return x + left + 8 + float64(i)*(width-left-16)/float64(len(s.at)-1)
	}
	py := func(v float64) float64 { return y + height - bottom - scale.part(v)*(height-bottom-top) }
	for _, tick := range scale.ticks {
		d.line(x+left, py(tick), x+width, py(tick), "rule")
		d.text(x+left-5, py(tick)+4, "dim end", short(tick))
	}
	for i, at := range s.at {
		d.text(px(i), y+height-bottom+15, "dim middle", place(at, s.axis))
	}
	for _, side := range s.sides {
		n := slices.Index(sides, side)
		var points []string
		for i, v := range s.by[side] {
			if !math.IsNaN(v) && scale.shows(v) {
				points = append(points, number(px(i))+","+number(py(v)))
			}
		}
		fmt.Fprintf(&d.body, "<polyline points=\"%s\" class=\"line s%d\"/>\n", strings.Join(points, " "), n)
		for i, v := range s.by[side] {
			if !math.IsNaN(v) && scale.shows(v) {
				d.circle(px(i), py(v), 2.6, fmt.Sprintf("f%d", n), fmt.Sprintf("%s, %s %s: %s", side, place(s.at[i], s.axis), s.axis, short(v)))
			}
		}
	}
}

func (s series) values() (all []float64) {
	for _, side := range s.sides {
		for _, v := range s.by[side] {
			if !math.IsNaN(v) {
				all = append(all, v)
			}
		}
	}
	return all
}

// scale is a vertical axis.
type scale struct {
	low, high float64
	log       bool
	ticks     []float64
}

// scaleOf is a scale for figures: from 0 in even steps, or in powers of ten if the largest
// is more than twenty times the smallest.
func scaleOf(values []float64) scale {
	high := slices.Max(values)
	low := math.Inf(1)
	for _, v := range values {
		if v > 0 {
			low = min(low, v)
		}
	}
	if high <= 0 {
		return scale{high: 1, ticks: []float64{0, 1}}
	}
	if high/low > 20 {
		s := scale{low: math.Floor(math.Log10(low)), high: math.Ceil(math.Log10(high)), log: true}
		for e := s.low; e <= s.high; e++ {
			s.ticks = append(s.ticks, math.Pow(10, e))
		}
		return s
	}
	const most = 7 // steps
	step := math.Pow(10, math.Floor(math.Log10(high))-1)
	for _, coarser := range []float64{2, 2.5, 2, 2} { // 2, 5, 10 and 20 times that
		if high/step <= most {
			break
		}
		step *= coarser
	}
	s := scale{high: math.Ceil(high/step) * step}
	for i := 0.0; i*step <= s.high*1.0001; i++ {
		s.ticks = append(s.ticks, i*step)
	}
	return s
}

// shows reports whether v has a place on the scale.
func (s scale) shows(v float64) bool { return !s.log || v > 0 }

// part is where v stands, from 0 to 1.
func (s scale) part(v float64) float64 {
	if s.log {
		v = math.Log10(v)
	}
	return (v - s.low) / (s.high - s.low)
}

// short is a figure in few characters.
func short(v float64) string {
	for _, unit := range []struct {
		of   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= unit.of {
			return strconv.FormatFloat(math.Round(v/unit.of*100)/100, 'f', -1, 64) + unit.name
		}
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// place is a place on the axis: bytes in powers of 1,024.
func place(at float64, axis string) string {
	if axis != "bytes" {
		if at < 10_000 {
			return strconv.FormatFloat(at, 'f', -1, 64)
		}
		return short(at)
	}
	switch {
	case at >= 1<<20:
		return strconv.FormatFloat(at/(1<<20), 'f', -1, 64) + "M"
	case at >= 1<<10:
		return strconv.FormatFloat(at/(1<<10), 'f', -1, 64) + "k"
	}
	return strconv.FormatFloat(at, 'f', -1, 64)
}
