package e2e_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// update writes the golden files anew: go test -run Golden -update.
var update = flag.Bool("update", false, "write testdata/*.golden")

// golden is a file of texts that users read, each under the name of what led to it,
// so that they can be reviewed in one place. What differs from run to run is
// replaced: ports, times, names made for the test.
type golden struct {
	file string
	text strings.Builder
}

// add adds the lines under a name.
func (g *golden) add(name string, lines ...string) {
	g.text.WriteString("== " + name + "\n")
	for _, line := range lines {
		g.text.WriteString(normal(line) + "\n")
	}
	g.text.WriteString("\n")
}

// check compares what was added with the file.
func (g *golden) check(t *testing.T) {
	t.Helper()
	path := filepath.Join("testdata", g.file)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(strings.TrimSpace(g.text.String())+"\n"), 0o644))
	}
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	want, got := sections(string(file)), sections(g.text.String())
	for name := range want {
		assert.Contains(t, got, name, "of the file, did not come")
	}
	for name, text := range got {
		assert.Equal(t, want[name], text, "%q has changed: review it, and run this test with -update", name)
	}
}

// sections takes the texts of a golden file apart.
func sections(file string) map[string]string {
	all := map[string]string{}
	for _, section := range strings.Split(file, "== ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		all[name] = strings.TrimSpace(text)
	}
	return all
}

var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+(\.\d+)?(ns|µs|ms|s)\b`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`\[::1\]:\d+`), "[::1]:PORT"},
	{regexp.MustCompile(`\.example:\d{4,}`), ".example:PORT"},
	{regexp.MustCompile(`h2test CA \d+`), "h2test CA N"},
	{regexp.MustCompile(`\(\d{4}-\d\d-\d\d \d\d:\d\d UTC\)`), "(NOW)"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ is`), "NOW is"},
	{regexp.MustCompile(`unix:(//)?/\S*/([a-z]+)\b`), "unix:${1}/DIR/$2"},
	{regexp.MustCompile(`unix /\S*/([a-z]+):`), "unix /DIR/$1:"},
}

func normal(line string) string {
	for _, v := range volatile {
		line = v.pattern.ReplaceAllString(line, v.with)
	}
	return line
}
