package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestParityTableIsHeld: each row of parity.md says one of four things about a
// feature, and names tests that there are, or gives a reason.
func TestParityTableIsHeld(t *testing.T) {
	there := testNames(t)
	text, err := os.ReadFile("parity.md")
	require.NoError(t, err)
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| what |") {
			continue
		}
		if !assert.Len(t, cells, 4, line) {
			continue
		}
		rows++
		what, verdict, held := cells[0], strings.TrimSpace(cells[1]), strings.TrimSpace(cells[3])
		assert.Contains(t, []string{"same", "differs", "more", "no"}, verdict, what)
		if verdict != "same" {
			assert.NotEmpty(t, strings.TrimSpace(cells[2]), "%s: what is here?", what)
		}
		if reason, ok := strings.CutPrefix(held, "reason: "); ok {
			assert.NotEmpty(t, reason, what)
			assert.Equal(t, "no", verdict, "%s: what is here has a test", what)
			continue
		}
		names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(held, -1)
		assert.NotEmpty(t, names, "%s: no test, no reason", what)
		for _, name := range names {
			assert.True(t, there[name[1]], "%s: there is no test %s", what, name[1])
		}
	}
	assert.Greater(t, rows, 50)
}

// testNames returns the tests and fuzz targets of all modules of the repository.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(\w+ \*testing\.[TF]\)`)
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(source), -1) {
			names[m[1]] = true
		}
		return err
	}))
	return names
}
