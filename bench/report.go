package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// schemaVersion is the version of the saved file's form. It grows when a field changes
// its meaning or goes; a new field does not change it.
const schemaVersion = 1

// report is a run of the table as it is saved. README.md describes the fields.
type report struct {
	Schema   int               `json:"schema"`
	Taken    time.Time         `json:"taken"`
	Commit   string            `json:"commit,omitempty"` // of the work tree, with "+" if it was changed
	Command  string            `json:"command"`
	Go       string            `json:"go"`
	OS       string            `json:"os"`
	Arch     string            `json:"arch"`
	CPU      string            `json:"cpu,omitempty"`
	Procs    int               `json:"procs"`    // GOMAXPROCS
	Versions map[string]string `json:"versions"` // of the libraries that are compared with
	Rounds   int               `json:"rounds"`
	Seconds  float64           `json:"seconds"` // that the whole run took
	Sides    []string          `json:"sides"`   // the columns, in their order
	Cells    []cellReport      `json:"cells"`   // the last field: see writeReport
}

// cellReport is one cell of the table.
type cellReport struct {
	Name         string         `json:"name"`
	Group        string         `json:"group"`     // the name without "tls/" and without what follows the last slash
	Transport    string         `json:"transport"` // "plaintext" or "TLS"
	Operation    string         `json:"operation"` // what one operation is: "call"
	Axis         string         `json:"axis,omitempty"`
	At           float64        `json:"at,omitempty"` // the cell's place on the axis
	RoundSeconds float64        `json:"roundSeconds,omitempty"`
	Figures      []figureReport `json:"figures,omitempty"`
	Error        string         `json:"error,omitempty"` // why the cell has no figures
}

// figureReport is one figure of a cell.
type figureReport struct {
	Key    string               `json:"key"`  // the same in all cells: "cpu"
	Name   string               `json:"name"` // for people: "CPU µs/call"
	Better string               `json:"better"`
	Rounds map[string][]float64 `json:"rounds"` // by side
	Median map[string]float64   `json:"median"` // by side
	// The ratios of grpcdial to grpc-go: of the medians, and the lowest and the highest
	// within a round. Missing if one of the two has no figure or it is 0.
	Ratio     *float64 `json:"ratio,omitempty"`
	RatioLow  *float64 `json:"ratioLow,omitempty"`
	RatioHigh *float64 `json:"ratioHigh,omitempty"`
}

// figure is the cell's figure of that key, if it has one.
func (c cellReport) figure(key string) (figureReport, bool) {
	for _, f := range c.Figures {
		if f.Key == key {
			return f, true
		}
	}
	return figureReport{}, false
}

// writeReport saves r at path, a cell a line.
func writeReport(path string, r report) error {
	cells := r.Cells
	r.Cells = []cellReport{}
	head, err := json.Marshal(r)
	if err != nil {
		return err
	}
	const end = "]}" // of the cells, which are the last field
	out := bytes.NewBuffer(bytes.TrimSuffix(head, []byte(end)))
	for i, c := range cells {
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		out.Write(line)
	}
	out.WriteString("\n" + end + "\n")
	return os.WriteFile(path, out.Bytes(), 0o666)
}

// readReport reads what writeReport saved.
func readReport(path string) (report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return report{}, err
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		return report{}, fmt.Errorf("%s: %w", path, err)
	}
	if r.Schema != schemaVersion {
		return report{}, fmt.Errorf("%s: %w: it is %d, this program reads %d", path, errSchema, r.Schema, schemaVersion)
	}
	return r, nil
}

var errSchema = errors.New("another version of the form")
