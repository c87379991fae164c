package docs_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// TestVersion: what the user agent says is the newest version in the changelog.
func TestVersion(t *testing.T) {
	constant := regexp.MustCompile(`(?m)^const version = "(.+)"$`).FindStringSubmatch(read(t, "../options.go"))
	require.NotNil(t, constant)
	newest := regexp.MustCompile(`(?m)^## (\d+\.\d+\.\d+)`).FindStringSubmatch(read(t, "../CHANGELOG.md"))
	require.NotNil(t, newest, "CHANGELOG.md has no version")
	assert.Equal(t, newest[1], constant[1])
}

// TestREADME: it can be read in a terminal, and its links lead somewhere.
func TestREADME(t *testing.T) {
	text := read(t, "../README.md")
	for line := range strings.Lines(text) {
		assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimRight(line, "\n")), 120, line)
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#]+)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(link[1], "://") {
			_, err := os.Stat("../" + link[1])
			assert.NoError(t, err)
		}
	}
}
