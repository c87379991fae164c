package repotest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestIntervalsAreMonotonic: what the library measures does not change with the system's
// clock, which jumps when it is set or a machine is resumed. A time.Time has Go's monotonic
// reading as well; a number made of it does not, and is for points in time that are shown.
func TestIntervalsAreMonotonic(t *testing.T) {
	wall := regexp.MustCompile(`\.(Unix(Nano|Micro|Milli)?\(\)|Round\(0\))`)
	shown := []string{"channelzdata/channel.go", "channelzdata/subchannel.go", "h2/counts.go"} // of channelz
	for _, pattern := range []string{"../../*.go", "../*/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") || slices.Contains(shown, strings.TrimPrefix(filepath.ToSlash(file), "../")) {
				continue
			}
			source, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Empty(t, wall.FindAllString(string(source), -1), file)
		}
	}
}
