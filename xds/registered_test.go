package xds_test

import (
	"os"
	"os/exec"
	"testing"

	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/xds"
)

// inChild says that the process is one that TestRegistered has started.
const inChild = "GRPCDIAL_XDS_TEST_CHILD"

// TestRegistered: the import alone makes xds targets work, on grpc-go's channels too. The
// bootstrap configuration is from the environment, which grpc-go reads when the program
// starts.
func TestRegistered(t *testing.T) {
	m := manage(t)
	m.set(t, config{routes: []*routepb.Route{to("/", "all")}, clusters: map[string][]string{"all": {serve(t, "all")}}})
	child := exec.CommandContext(soon(t), os.Args[0], "-test.run=^TestInChild$", "-test.count=1", "-test.v")
	child.Env = append(os.Environ(), inChild+"=1", "GRPC_XDS_BOOTSTRAP_CONFIG="+m.bootstrap, "GRPC_XDS_BOOTSTRAP=")
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "--- PASS: TestInChild/grpc-go")
}

func TestInChild(t *testing.T) {
	if os.Getenv(inChild) == "" {
		return // TestRegistered runs it
	}
	assert.Equal(t, xds.Resolver(), resolver.Get("xds"))
	ours, err := grpcdial.NewClient("xds:///shop", grpcdial.WithInsecure())
	require.NoError(t, err)
	defer ours.Close()
	theirs, err := grpc.NewClient("xds:///shop", grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer theirs.Close()
	for name, cc := range map[string]grpc.ClientConnInterface{"grpcdial": ours, "grpc-go": theirs} {
		t.Run(name, func(t *testing.T) {
			by, err := ask(soon(t), cc, "/shop.Cart/Add")
			require.NoError(t, err)
			assert.Equal(t, "all", by)
		})
	}
}
