package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func figureFor(key, name, better string, a, b []float64) figureReport {
	return figure{key, name, better, map[string][]float64{ours.name: a, grpcGo.name: b}}.report()
}

// The table takes the place of what stood between the markers, and names each figure in
// which grpcdial is behind.
func TestMarkdownReplacesTheTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	require.NoError(t, os.WriteFile(path, []byte("before\n\n"+markBegin+"\nold\n"+markEnd+"\n\nafter\n"), 0o666))
	r := report{
		Taken: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), Commit: "abc", Go: "go1.26", OS: "linux", Arch: "amd64", Procs: 2,
		Versions: map[string]string{grpcGo.name: "v1", connectName: "v2"}, Rounds: 2, Seconds: 700, Sides: []string{ours.name, grpcGo.name},
		Cells: []cellReport{
			{Name: "unary/c=1", Group: "unary", Transport: "plaintext", Operation: "call", Figures: []figureReport{
				figureFor("rate", "calls/s", more, []float64{100, 100}, []float64{200, 90}),
				figureFor("cpu", "CPU µs/call", less, []float64{3, 5}, []float64{2, 4}),
				figureFor("syscalls", "syscalls/call", less, []float64{9, 9}, []float64{1, 1}),
			}},
			{Name: "dial", Group: "dial", Transport: "plaintext", Operation: "dial", Error: "refused"},
		},
	}
	require.NoError(t, writeMarkdown(path, r))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "before\n\n"+markBegin+`

30 November 2026, go1.26 linux/amd64, GOMAXPROCS 2, grpc-go v1, connect-go v2, 2 rounds, 700 s, commit `+"`abc`"+`.

### Loads, plaintext

| cell | CPU µs grpcdial | CPU µs grpc-go | of grpc-go's | in rounds | operations/s | its ratio | syscalls |
|---|---:|---:|---:|---:|---:|---:|---:|
| `+"`unary/c=1`"+` | 4.00 | 3.00 | 1.33 | 1.25-1.50 | 100 / 145 | 0.69 | 9.00 / 1.00 |

### Behind grpc-go

By the medians and 2 % or more; in every round if it is bold.

- `+"`unary/c=1`"+` calls/s: 0.69 of grpc-go's, 0.50-1.11 in rounds
- **`+"`unary/c=1`"+` CPU µs/call: 1.33 of grpc-go's, 1.25-1.50 in rounds**

Failed: `+"`dial`"+`: refused

`+markEnd+"\n\nafter\n", string(got))

	// A file without markers is the table alone.
	require.NoError(t, os.WriteFile(path, []byte("something else"), 0o666))
	require.NoError(t, writeMarkdown(path, r))
	alone, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(alone), "something else")
	require.Contains(t, string(alone), "| `unary/c=1` |")
}
