// Package backendtest holds what the tests of the root and of e2e share: a
// backend that can be stopped and come back, addresses where none is, and the
// check that no goroutine is left.
package backendtest

import (
	"os"
	"strings"
	"testing"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"github.com/grpcdial/grpcdial/internal/serial"
)

// Main runs the tests of a package, and fails it if a goroutine outlives them:
// every channel that a test makes must be gone without a trace when it is closed.
//
// What the machine's environment says to channels does not hold for those of the
// tests. What belongs to a channel's queue may not be used elsewhere.
func Main(m *testing.M) {
	serial.Check()
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "GRPC_ENABLE_TXT_SERVICE_CONFIG"} {
		os.Unsetenv(name)
		os.Unsetenv(strings.ToLower(name))
	}
	h2test.VerifyNoLeaks(m)
}
