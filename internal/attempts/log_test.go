package attempts

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/internal/failure"
)

func TestLog(t *testing.T) {
	var l Log
	add := func(addr string, errs ...string) {
		var list failure.List
		for _, e := range errs {
			list = append(list, &failure.Attempt{Addr: addr, Phase: failure.Dial, Err: errors.New(e)})
		}
		l.Failed(addr, list)
	}
	shown := func() string {
		attempts, omitted := l.Latest()
		var s []string
		for _, a := range attempts {
			s = append(s, a.Addr+" "+a.Err.Error())
		}
		return fmt.Sprint(strings.Join(s, ", "), " ", omitted)
	}
	add("a:1", "one")
	add("b:1", "two", "three")
	assert.Equal(t, "a:1 one, b:1 two, b:1 three 0", shown())
	add("a:1", "four")
	assert.Equal(t, "b:1 two, b:1 three, a:1 four 0", shown(), "the latest per address, the oldest first")
	l.Interrupted("a:1", failure.List{{Addr: "a:1", Err: errors.New("interrupted")}})
	assert.Equal(t, "b:1 two, b:1 three, a:1 four 0", shown(), "an interrupted attempt says less than a failed one")
	l.Connected("b:1")
	assert.Equal(t, "a:1 four 0", shown(), "its place stays")
	for round := range 3 {
		for i := range 300 {
			add(fmt.Sprint("x", i), fmt.Sprint("five ", round))
		}
	}
	attempts, more := l.Latest()
	require.Len(t, attempts, Max)
	assert.Equal(t, "x284", attempts[0].Addr)
	assert.EqualError(t, attempts[0].Err, "five 2")
	assert.Equal(t, 301-Max, more, "each address counts once")
	_, tried := l.ByAddress()
	assert.Len(t, tried, 302, "none is forgotten, nor is the one that is connected")
	l.Resolved([]string{"x7", "b:1", "new"})
	assert.Equal(t, "x7 five 2 0", shown())
	assert.True(t, l.Knows("b:1"))
	l.Unresolved(&failure.Attempt{Addr: "r", Err: errors.New("six")})
	l.Ready()
	assert.Equal(t, "r six 0", shown())
	assert.False(t, l.Knows("x7"))
	add("y", "seven")
	l.Clear()
	assert.False(t, l.Knows("y"))
	assert.Equal(t, " 0", shown())
}
