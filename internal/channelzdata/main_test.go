package channelzdata_test

import (
	"testing"

	"github.com/grpcdial/grpcdial/internal/channelzdata"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

func TestMain(m *testing.M) {
	channelzdata.Keep()
	h2test.VerifyNoLeaks(m)
}
