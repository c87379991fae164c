package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The drawings. Each is a function of the report alone.
const (
	ratiosFile = "ratios.svg" // grpcdial's figures as parts of grpc-go's, a bar each
	growthFile = "growth.svg" // figures of cells that grow, a line for each side
)

// writePlots draws the report into the directory: the drawings that it has cells for.
func writePlots(dir string, r report) error {
	for name, drawing := range map[string]string{ratiosFile: drawRatios(r), growthFile: drawGrowth(r)} {
		if drawing == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(drawing), 0o666); err != nil {
			return err
		}
	}
	return nil
}

// svg is a drawing that is being made. Its colours follow the reader's light or dark.
type svg struct {
	body          strings.Builder
	width, height float64
}

const svgStyle = `
text { font: 12px system-ui, sans-serif; fill: #1b2129 }
.dim { fill: #5d6874; font-size: 11px }
.title { font-weight: 600 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.paper { fill: #fff }
.rule { stroke: #dfe3e8; stroke-width: 1 }
.one { stroke: #5d6874; stroke-width: 1; stroke-dasharray: 3 2 }
.range { stroke: #1b2129; stroke-width: 1; opacity: .6 }
.a { fill: #2b6cb0 } .b { fill: #7fb1de }
.worse { fill: #c52a2a }
.line { fill: none; stroke-width: 2 }
.s0 { stroke: #2b6cb0 } .s1 { stroke: #c05621 } .s2 { stroke: #2f855a } .s3 { stroke: #805ad5; stroke-dasharray: 4 3 }
.f0 { fill: #2b6cb0 } .f1 { fill: #c05621 } .f2 { fill: #2f855a } .f3 { fill: #805ad5 }
@media (prefers-color-scheme: dark) {
text { fill: #e4e9ee }
.dim { fill: #95a1ae }
.paper { fill: #0d1117 }
.rule { stroke: #2c343d }
.one { stroke: #95a1ae }
.range { stroke: #e4e9ee }
.a { fill: #63a7ea } .b { fill: #35618f }
.worse { fill: #f07171 }
.s0 { stroke: #63a7ea } .s1 { stroke: #ed8936 } .s2 { stroke: #68d391 } .s3 { stroke: #b794f4 }
.f0 { fill: #63a7ea } .f1 { fill: #ed8936 } .f2 { fill: #68d391 } .f3 { fill: #b794f4 }
}
`

func (d *svg) text(x, y float64, class, s string) {
	fmt.Fprintf(&d.body, "<text x=\"%s\" y=\"%s\" class=\"%s\">%s</text>\n", number(x), number(y), class, html.EscapeString(s))
}

// rect draws a rectangle; with a title it is shown where the pointer rests on it.
func (d *svg) rect(x, y, width, height float64, class, title string) {
	fmt.Fprintf(&d.body, "<rect x=\"%s\" y=\"%s\" width=\"%s\" height=\"%s\" class=\"%s\">", number(x), number(y), number(width), number(height), class)
	if title != "" {
		fmt.Fprintf(&d.body, "<title>%s</title>", html.EscapeString(title))
	}
	d.body.WriteString("</rect>\n")
}

func (d *svg) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&d.body, "<line x1=\"%s\" y1=\"%s\" x2=\"%s\" y2=\"%s\" class=\"%s\"/>\n", number(x1), number(y1), number(x2), number(y2), class)
}

func (d *svg) circle(x, y, r float64, class, title string) {
	fmt.Fprintf(&d.body, "<circle cx=\"%s\" cy=\"%s\" r=\"%s\" class=\"%s\"><title>%s</title></circle>\n", number(x), number(y), number(r), class, html.EscapeString(title))
}

func (d *svg) String() string {
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %s %s\" width=\"%s\" height=\"%s\" role=\"img\">\n<style>%s</style>\n<rect width=\"100%%\" height=\"100%%\" class=\"paper\"/>\n%s</svg>\n",
		number(d.width), number(d.height), number(d.width), number(d.height), svgStyle, d.body.String())
}

// number is a coordinate to a tenth.
func number(f float64) string { return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) }

// origin says of what the figures are.
func (r report) origin() string {
	s := fmt.Sprintf("%s, %d rounds", r.environment(), r.Rounds)
	if !r.Taken.IsZero() {
		s = r.Taken.Format("2 January 2006") + ", " + s
	}
	if r.Commit != "" {
		s += ", commit " + r.Commit
	}
	return s
}

// ratioPanels are the figures that drawRatios has a column for.
var ratioPanels = []struct{ key, title string }{
	{"cpu", "CPU an operation"},
	{"allocs", "allocations an operation"},
	{"p99", "p99"},
}

// ratioRow is one line of drawRatios: a cell over plaintext and the same over TLS.
type ratioRow struct {
	name  string
	cells [2]*cellReport // plaintext, TLS
}

// drawRatios draws grpcdial's figures divided by grpc-go's, of the loads that do not grow,
// with the range in rounds; below them the memory of channels. Empty: there is no ratio.
func drawRatios(r report) string {
	loads := ratioRows(r, "cpu", func(c cellReport) bool { return !c.grows() && c.Operation != "channel" && c.Operation != "address" })
	channels := ratioRows(r, "memory", func(c cellReport) bool { return !c.grows() && c.Operation == "channel" })
	if len(loads)+len(channels) == 0 {
		return ""
	}
	const (
		names, panel, gap = 184.0, 210.0, 26.0
		top, row, bar     = 92.0, 19.0, 6.5
	)
	d := &svg{width: names + 3*(panel+gap), height: top + row*float64(len(loads)) + 30}
	d.text(12, 22, "title", "grpcdial as a part of grpc-go: shorter is better")
	d.text(12, 40, "dim", r.origin())
	d.rect(d.width-196, 14, 10, 8, "a", "")
	d.text(d.width-182, 22, "dim", "plaintext")
	d.rect(d.width-116, 14, 10, 8, "b", "")
	d.text(d.width-102, 22, "dim", "TLS")
	d.rect(d.width-66, 14, 10, 8, "worse", "")
	d.text(d.width-52, 22, "dim", "behind")
	y := top
	for _, l := range loads {
		d.text(names-8, y+11, "end", l.name)
		y += row
	}
	for i, p := range ratioPanels {
		x := names + float64(i)*(panel+gap)
		d.text(x, top-22, "title", p.title)
		ratioScale(d, x, panel, top, y)
		for j, l := range loads {
			l.draw(d, p.key, x, panel, top+float64(j)*row+2, bar)
		}
	}
	if len(channels) > 0 {
		y += 44
		d.text(names, y-22, "title", "heap and stack of a channel")
		ratioScale(d, names, panel, y, y+row*float64(len(channels)))
		for _, c := range channels {
			d.text(names-8, y+11, "end", c.name)
			c.draw(d, "memory", names, panel, y+2, bar)
			y += row
		}
		d.height = y + 16
	}
	return d.String()
}

// ratioRows are the cells with a ratio of the key, those over TLS beside those without.
func ratioRows(r report, key string, takes func(cellReport) bool) (rows []ratioRow) {
	for i := range r.Cells {
		c := &r.Cells[i]
		if f, ok := c.figure(key); !ok || f.Ratio == nil || !takes(*c) {
			continue
		}
		name, side := strings.TrimPrefix(c.Name, tlsPrefix), 0
		if c.Transport == "TLS" {
			side = 1
		}
		at := slices.IndexFunc(rows, func(r ratioRow) bool { return r.name == name })
		if at < 0 {
			rows, at = append(rows, ratioRow{name: name}), len(rows)
		}
		rows[at].cells[side] = c
	}
	return rows
}

// grows reports whether the cell is one of a series.
func (c cellReport) grows() bool {
	return strings.HasPrefix(c.Group, "grow-") || strings.HasPrefix(c.Group, "rtt-")
}

// mostRatio is where the scale of ratios ends.
const mostRatio = 1.4

func ratioScale(d *svg, x, width, top, bottom float64) {
	for _, at := range []float64{0, 0.25, 0.5, 0.75, 1, 1.25} {
		class, px := "rule", x+at/mostRatio*width
		if at == 1 {
			class = "one"
		}
		d.line(px, top-2, px, bottom, class)
		d.text(px, top-6, "dim middle", strconv.FormatFloat(at, 'g', -1, 64))
	}
}

// draw draws the bars of one figure.
func (l ratioRow) draw(d *svg, key string, x, width, y, height float64) {
	for side, c := range l.cells {
		if c == nil {
			continue
		}
		f, ok := c.figure(key)
		if !ok || f.Ratio == nil {
			continue
		}
		at := func(ratio float64) float64 { return x + min(max(ratio, 0), mostRatio)/mostRatio*width }
		class := [2]string{"a", "b"}[side]
		if worse, _ := f.worse(); worse {
			class = "worse"
		}
		top := y + float64(side)*(height+0.5)
		title := fmt.Sprintf("%s, %s: %s", c.Name, f.Name, formatRatio(f.Ratio))
		if f.RatioLow != nil && f.RatioHigh != nil {
			title += ", " + formatRange(f) + " in rounds"
		}
		d.rect(x, top, max(at(*f.Ratio)-x, 0.5), height, class, title)
		if f.RatioLow != nil && f.RatioHigh != nil {
			d.line(at(*f.RatioLow), top+height/2, at(*f.RatioHigh), top+height/2, "range")
		}
		if *f.Ratio > mostRatio {
			d.text(x+width+2, top+height, "dim", formatRatio(f.Ratio))
		}
	}
}
