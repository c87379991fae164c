package grpcdial

import (
	"testing"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

// TestMain fails the package if a goroutine outlives the tests: every channel
// that a test makes must be gone without a trace when it is closed.
func TestMain(m *testing.M) { h2test.VerifyNoLeaks(m) }
