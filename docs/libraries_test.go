package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLibrariesNamesTests: each row of libraries.md names tests that exist where it says.
func TestLibrariesNamesTests(t *testing.T) {
	text, err := os.ReadFile("libraries.md")
	require.NoError(t, err)
	rows := 0
	place := regexp.MustCompile("`(compat[a-z/]*)`: ((?:`Test[A-Za-z0-9]+` ?)+)")
	for line := range strings.Lines(string(text)) {
		if strings.Count(line, "|") != 6 || strings.HasPrefix(line, "| library |") || strings.HasPrefix(line, "|---") {
			continue
		}
		rows++
		named := place.FindAllStringSubmatch(line, -1)
		assert.NotEmpty(t, named, "no test: %s", line)
		for _, m := range named {
			files, err := filepath.Glob(filepath.Join("..", m[1], "*_test.go"))
			require.NoError(t, err)
			var source strings.Builder
			for _, f := range files {
				content, err := os.ReadFile(f)
				require.NoError(t, err)
				source.Write(content)
			}
			for _, test := range strings.Fields(m[2]) {
				assert.Contains(t, source.String(), "func "+strings.Trim(test, "`")+"(t *testing.T)", "%s", m[1])
			}
		}
	}
	assert.GreaterOrEqual(t, rows, 15)
}
