package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
)

// What stands between these lines of a Markdown file is the table.
const (
	markBegin = "<!-- figures: written by the program, see Running it -->"
	markEnd   = "<!-- end of figures -->"
)

// writeMarkdown writes the table to path. If the file there has the markers, what is
// between them is replaced and the rest stays.
func writeMarkdown(path string, r report) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	table := "\n\n" + markdown(r) + "\n"
	before, rest, ok := bytes.Cut(text, []byte(markBegin))
	_, after, closed := bytes.Cut(rest, []byte(markEnd))
	if !ok || !closed {
		before, after = nil, []byte("\n")
	}
	var out bytes.Buffer
	out.Write(before)
	out.WriteString(markBegin + table + markEnd)
	out.Write(after)
	return os.WriteFile(path, out.Bytes(), 0o666)
}

// section is a table of the report: the cells that it takes, and its columns.
type section struct {
	title   string
	takes   func(c cellReport) bool
	columns []column
}

// column shows one figure of the cells.
type column struct {
	key, title string
	show       func(f figureReport) string
}

// bySide is a column for each side of the report, and two for the ratio.
func bySide(r report, key, title string) []column {
	var columns []column
	for _, side := range r.Sides {
		columns = append(columns, column{key, title + " " + side, func(f figureReport) string { return formatMedian(f, side) }})
	}
	return append(columns,
		column{key, "of grpc-go's", func(f figureReport) string { return formatRatio(f.Ratio) }},
		column{key, "in rounds", formatRange})
}

// pair is a column with grpcdial's figure and grpc-go's.
func pair(key, title string) column {
	return column{key, title, func(f figureReport) string {
		a, b := formatMedian(f, ours.name), formatMedian(f, grpcGo.name)
		if a == "" || b == "" {
			return a + b
		}
		return a + " / " + b
	}}
}

// ratioOf is a column with the ratio alone.
func ratioOf(key, title string) column {
	return column{key, title, func(f figureReport) string { return formatRatio(f.Ratio) }}
}

func sections(r report) []section {
	isLoad := func(c cellReport) bool { _, ok := c.figure("rate"); return ok }
	grows := func(c cellReport) bool {
		return strings.HasPrefix(c.Group, "grow-") || strings.HasPrefix(c.Group, "rtt-")
	}
	load := append(bySide(r, "cpu", "CPU µs"),
		pair("rate", "operations/s"), ratioOf("rate", "its ratio"), ratioOf("p50", "ratio of p50"), ratioOf("p99", "of p99"),
		pair("allocs", "allocs"), pair("bytes", "B"), pair("up", "B up"), pair("syscalls", "syscalls"))
	return []section{
		{"Loads, plaintext", func(c cellReport) bool { return isLoad(c) && !grows(c) && c.Transport == "plaintext" }, load},
		{"Loads, TLS", func(c cellReport) bool { return isLoad(c) && !grows(c) && c.Transport == "TLS" }, load},
		{"Growth", func(c cellReport) bool { return isLoad(c) && grows(c) }, load},
		{"Channels", func(c cellReport) bool { return c.Operation == "channel" }, append(bySide(r, "memory", "heap+stack B"),
			pair("heap", "heap B"), pair("stack", "stack B"), pair("goroutines", "goroutines"))},
		{"Addresses of round_robin", func(c cellReport) bool { return c.Operation == "address" }, []column{
			pair("ready", "first READY ms"), ratioOf("ready", "of grpc-go's"), {"ready", "in rounds", formatRange},
			pair("all", "all connected ms"), pair("cpu", "CPU µs/address"), ratioOf("cpu", "of grpc-go's"),
			pair("peak", "peak heap B/address"), pair("memory", "heap+stack B/address"), pair("goroutines", "goroutines/address")}},
	}
}

// markdown is the report as tables.
func markdown(r report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s, %d rounds, %.0f s", r.Taken.Format("2 January 2006"), r.environment(), r.Rounds, r.Seconds)
	if r.Commit != "" {
		fmt.Fprintf(&b, ", commit `%s`", r.Commit)
	}
	b.WriteString(".\n")
	for _, s := range sections(r) {
		s.write(&b, r)
	}
	writeWorse(&b, r)
	for _, c := range r.Cells {
		if c.Error != "" {
			fmt.Fprintf(&b, "\nFailed: `%s`: %s\n", c.Name, c.Error)
		}
	}
	return b.String()
}

// write writes the section's table: the columns that have something to show for a cell.
func (s section) write(b *strings.Builder, r report) {
	var cells []cellReport
	for _, c := range r.Cells {
		if c.Error == "" && s.takes(c) {
			cells = append(cells, c)
		}
	}
	if len(cells) == 0 {
		return
	}
	titles, lines := []string{"cell"}, make([][]string, len(cells))
	for i, c := range cells {
		lines[i] = []string{"`" + c.Name + "`"}
	}
	for _, column := range s.columns {
		shown, any := make([]string, len(cells)), false
		for i, c := range cells {
			if f, ok := c.figure(column.key); ok {
				shown[i] = column.show(f)
			}
			any = any || shown[i] != ""
		}
		if !any {
			continue
		}
		titles = append(titles, column.title)
		for i := range lines {
			lines[i] = append(lines[i], shown[i])
		}
	}
	fmt.Fprintf(b, "\n### %s\n\n| %s |\n|---|%s\n", s.title, strings.Join(titles, " | "), strings.Repeat("---:|", len(titles)-1))
	for _, line := range lines {
		fmt.Fprintf(b, "| %s |\n", strings.Join(line, " | "))
	}
}

// writeWorse lists the figures in which grpcdial is behind grpc-go by the medians, and
// says of which that is so in each round.
func writeWorse(b *strings.Builder, r report) {
	var lines []string
	for _, c := range r.Cells {
		for _, f := range c.Figures {
			worse, always := f.worse()
			if !worse || !judged[f.Key] {
				continue
			}
			line := fmt.Sprintf("`%s` %s: %s of grpc-go's", c.Name, f.Name, formatRatio(f.Ratio))
			if span := formatRange(f); span != "" {
				line += ", " + span + " in rounds"
			}
			if always {
				line = "**" + line + "**"
			}
			lines = append(lines, "- "+line)
		}
	}
	b.WriteString("\n### Behind grpc-go\n\n")
	if len(lines) == 0 {
		b.WriteString("No figure.\n")
		return
	}
	fmt.Fprintf(b, "By the medians and 2 %% or more; in every round if it is bold.\n\n%s\n", strings.Join(lines, "\n"))
}

// judged are the figures that a program notices. Of heap and stack that is the sum, and
// system calls show in CPU.
var judged = map[string]bool{
	"rate": true, "p50": true, "p99": true, "cpu": true, "allocs": true, "bytes": true, "up": true, "down": true,
	"memory": true, "goroutines": true, "ready": true, "all": true, "peak": true,
}

// worse says whether grpcdial is behind grpc-go by the medians, by 2 % or more, and
// whether it is behind in each of several rounds.
func (f figureReport) worse() (worse, always bool) {
	if f.Ratio == nil {
		return false, false
	}
	if f.Better == more {
		return *f.Ratio <= 0.98, f.RatioHigh != nil && *f.RatioHigh < 1
	}
	return *f.Ratio >= 1.02, f.RatioLow != nil && *f.RatioLow > 1
}
