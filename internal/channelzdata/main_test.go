package channelzdata_test

import (
	"testing"

	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestMain(m *testing.M) { h2test.VerifyNoLeaks(m) }
