package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is saved is what is read, and a file of another version is refused.
func TestReportIsReadAsItWasSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures.json")
	ratio := 0.5
	saved := report{
		Schema: schemaVersion, Taken: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), Commit: "abc", Command: "bench -save",
		Go: "go1.26", OS: "linux", Arch: "amd64", Procs: 2, Versions: map[string]string{"grpc-go": "v1"}, Rounds: 2, Seconds: 3,
		Sides: []string{"grpcdial", "grpc-go"},
		Cells: []cellReport{
			{Name: "tls/unary/c=64", Group: "unary", Transport: "TLS", Operation: "call", Axis: "callers", At: 64, RoundSeconds: 0.5, Figures: []figureReport{{
				Key: "cpu", Name: "CPU µs/call", Better: "less", Rounds: map[string][]float64{"grpcdial": {1, 3}, "grpc-go": {4, 4}},
				Median: map[string]float64{"grpcdial": 2, "grpc-go": 4}, Ratio: &ratio,
			}}},
			{Name: "dial", Group: "dial", Transport: "plaintext", Operation: "dial", Error: "no"},
		},
	}
	require.NoError(t, writeReport(path, saved))
	read, err := readReport(path)
	require.NoError(t, err)
	require.Equal(t, saved, read)
	cpu, ok := read.Cells[0].figure("cpu")
	require.True(t, ok)
	require.Equal(t, 0.5, *cpu.Ratio)
	_, ok = read.Cells[1].figure("cpu")
	require.False(t, ok)

	require.NoError(t, os.WriteFile(path, []byte(`{"schema": 99}`), 0o666))
	_, err = readReport(path)
	require.ErrorIs(t, err, errSchema)
}
