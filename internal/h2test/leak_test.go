package h2test_test

import (
	"bytes"
	"testing"
	"testing/synctest"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// leakHere starts a goroutine that runs until stop is closed.
func leakHere(stop chan struct{}) {
	go func() { <-stop }()
}

// In a bubble the minute of grace pass at once.
func TestCheckLeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		defer close(stop)
		failsWith(t, func(tb testing.TB) {
			h2test.CheckLeaks(tb)
			leakHere(stop)
		}, "1 goroutines leaked", "h2test_test.leakHere", "leak_test.go")

		ignored := record(t, func(tb testing.TB) {
			h2test.CheckLeaks(tb, "h2test_test.leakHere")
			leakHere(stop)
		})
		equal(t, 0, len(ignored.failures))

		before := record(t, func(tb testing.TB) { h2test.CheckLeaks(tb) })
		equal(t, 0, len(before.failures))

		ends := record(t, func(tb testing.TB) {
			h2test.CheckLeaks(tb)
			own := make(chan struct{})
			leakHere(own)
			tb.Cleanup(func() { close(own) })
		})
		equal(t, 0, len(ends.failures))
	})
}

func TestVerifyNoLeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		defer close(stop)
		var out bytes.Buffer
		equal(t, 0, h2test.Verify(func() int { return 0 }, &out, nil))
		equal(t, 3, h2test.Verify(func() int { leakHere(stop); return 3 }, &out, nil))
		equal(t, "", out.String())
		equal(t, 1, h2test.Verify(func() int { leakHere(stop); return 0 }, &out, nil))
		contains(t, out.String(), "after all tests: 1 goroutines leaked")
		contains(t, out.String(), "h2test_test.leakHere")
	})
}
