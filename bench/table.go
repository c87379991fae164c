package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

const rowFormat = "%-26s %-21s %12s %12s %7s %13s %12s %12s"

func printHeader(w io.Writer) {
	printRow(w, "cell", "figure", ours.name, grpcGo.name, "ratio", "in rounds", connectName, floorName)
}

// printCell writes a line for each figure: the medians of each side's
// rounds, the ratio of the first two, and the lowest and highest ratio of two rounds that
// followed each other.
func printCell(w io.Writer, c cellReport) {
	for _, f := range c.Figures {
		ratio := ""
		if len(f.Rounds[ours.name]) > 0 && len(f.Rounds[grpcGo.name]) > 0 {
			ratio = formatRatio(f.Ratio)
		}
		printRow(w, c.Name, f.Name, formatMedian(f, ours.name), formatMedian(f, grpcGo.name), ratio, formatRange(f),
			formatMedian(f, connectName), formatMedian(f, floorName))
	}
}

func printRow(w io.Writer, columns ...any) {
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf(rowFormat, columns...), " "))
}

// formatMedian shows three significant digits or whole numbers, and nothing of a side that
// does not have the figure.
func formatMedian(f figureReport, side string) string {
	v, ok := f.Median[side]
	switch {
	case !ok || math.IsNaN(v):
		return ""
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
}

// formatRange is the lowest and the highest ratio within a round.
func formatRange(f figureReport) string {
	if f.RatioLow == nil {
		return ""
	}
	return formatRatio(f.RatioLow) + "-" + formatRatio(f.RatioHigh)
}

func formatRatio(r *float64) string {
	if r == nil { // a figure of 0
		return "-"
	}
	return strconv.FormatFloat(*r, 'f', 2, 64)
}
