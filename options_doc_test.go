package grpcdial

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOptionsAreInTheTable: docs/options.md has one row for each option, with
// every cell filled, and none for what is no option. It says of those that
// grpc-go does not have that they are ours, and names those of grpc-go that are
// not here. That each option has a comment is TestOptionsAreDocumented's.
func TestOptionsAreInTheTable(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/grpc").Output()
	require.NoError(t, err)
	theirs, ours := optionConstructors(t, strings.TrimSpace(string(dir))), optionConstructors(t, ".")

	text, err := os.ReadFile("docs/options.md")
	require.NoError(t, err)
	const columns, columnsOfMissing = 6, 2
	documented := map[string]bool{}
	missing := map[string]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name, ok := strings.CutPrefix(strings.TrimSpace(cells[0]), "`")
		if !strings.HasPrefix(line, "|") || !ok {
			continue
		}
		name = strings.TrimSuffix(name, "`")
		for i, cell := range cells {
			cells[i] = strings.TrimSpace(cell)
			assert.NotEmpty(t, cells[i], "%s: cell %d", name, i+1)
		}
		if len(cells) == columnsOfMissing {
			missing[name] = cells[1]
			continue
		}
		if !assert.Len(t, cells, columns, name) {
			continue
		}
		assert.False(t, documented[name], "%s has two rows", name)
		documented[name] = true
		_, is := ours[name]
		assert.True(t, is, "%s has a row and is no option", name)
		_, has := theirs[name]
		counterpart, _, _ := strings.Cut(cells[columns-1], ";")
		assert.Equal(t, map[bool]string{true: "same", false: "ours"}[has], counterpart, name)
	}
	for name := range ours {
		assert.True(t, documented[name], "%s has no row in docs/options.md", name)
	}
	assert.Equal(t, notYet, missing, "what is not there yet")
}
