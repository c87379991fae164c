package subchannel

import (
	"testing"

	"github.com/grpcdial/grpcdial/internal/backendtest"
)

func TestMain(m *testing.M) { backendtest.Main(m) }
