package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
	"github.com/grpcdial/grpcdial/internal/dnstest"
	"github.com/grpcdial/grpcdial/internal/proxytest"
)

// proxyProcess is an environment, and the channels that are made in it.
type proxyProcess struct {
	Name string
	Vars map[string]string
	Rows []proxyRow
}

// proxyRow is a channel that both libraries make, and what its RPC makes the proxy be
// asked for; "": it is not asked.
type proxyRow struct {
	Name   string
	Dial   bool   // by Dial, else by NewClient
	Target string // NS stands for the name server, PORT for the backend's port
	Local  bool   // WithLocalDNSResolution
	Want   string
	Unlike string // not empty: why ours does not take the proxy where theirs does
}

// proxyChild is the environment variable by which the test starts itself again.
const proxyChild = "GRPCDIAL_TEST_PROXY_PROCESS"

// TestProxiesAsGRPCTakesThem: which connections take the environment's proxy, and
// what it is asked for, in grpc-go and here. net/http, which grpc-go asks, reads
// the environment once in a program: so each environment is one of another process.
func TestProxiesAsGRPCTakesThem(t *testing.T) {
	b := backendtest.Start(t, "one")
	names := dnstest.Listen(t, dnstest.Zone{
		"behind.test":  {Addrs: []string{"192.0.2.1"}},
		"direct.test":  {Addrs: []string{"127.0.0.1"}},
		"a.sub.test":   {Addrs: []string{"127.0.0.1"}},
		"network.test": {Addrs: []string{"198.51.100.1"}},
	})
	port := backendtest.PortOf(t, b.Addr)
	place := strings.NewReplacer("NS", names.Addr(), "PORT", port)
	hosts := map[string]string{}
	for _, host := range []string{"behind.test", "BEHIND.test", "direct.test", "network.test", "192.0.2.1", "198.51.100.1", "[2001:db8::1]"} {
		hosts[host+":"+port], hosts[host+":443"] = b.Addr, b.Addr
	}
	p := proxytest.ListenHTTP(t, hosts, authorization, nil)
	host := userPassword + "@" + p.Addr
	u := "http://" + host
	for _, process := range []proxyProcess{
		{"HTTPS_PROXY", map[string]string{"HTTPS_PROXY": u}, []proxyRow{
			{Name: "a name", Target: "behind.test:PORT", Want: "behind.test:PORT"},
			{Name: "without a port", Target: "behind.test", Want: "behind.test:443"},
			{Name: "in capitals", Target: "BEHIND.test:PORT", Want: "BEHIND.test:PORT"},
			{Name: "with its name server", Target: "dns://NS/behind.test:PORT", Want: "behind.test:PORT"},
			{Name: "looked up here", Target: "dns://NS/behind.test:PORT", Local: true, Want: "192.0.2.1:PORT"},
			{Name: "looked up here, without a port", Target: "dns://NS/behind.test", Local: true, Want: "192.0.2.1:443"},
			{Name: "of this host", Target: "dns://NS/direct.test:PORT", Want: "direct.test:PORT"},
			{Name: "of this host, looked up here", Target: "dns://NS/direct.test:PORT", Local: true},
			{Name: "IPv4", Target: "192.0.2.1:PORT", Want: "192.0.2.1:PORT"},
			{Name: "IPv4, looked up here", Target: "192.0.2.1:PORT", Local: true, Want: "192.0.2.1:PORT"},
			{Name: "IPv4 without a port", Target: "192.0.2.1", Want: "192.0.2.1:443"},
			{Name: "IPv6", Target: "[2001:db8::1]:PORT", Want: "[2001:db8::1]:PORT"},
			{Name: "loopback", Target: "127.0.0.1:PORT"},
			{Name: "localhost", Target: "localhost:PORT"},
			{Name: "passthrough", Target: "passthrough:///behind.test:PORT", Want: "behind.test:PORT"},
			{Name: "passthrough, looked up here", Target: "passthrough:///behind.test:PORT", Local: true, Want: "behind.test:PORT"},
			{Name: "Dial", Dial: true, Target: "behind.test:PORT", Want: "behind.test:PORT"},
			{Name: "Dial, dns", Dial: true, Target: "dns://NS/behind.test:PORT", Want: "192.0.2.1:PORT"},
			{Name: "Dial, IPv4", Dial: true, Target: "192.0.2.1:PORT", Want: "192.0.2.1:PORT"},
		}},
		{"NO_PROXY", map[string]string{"HTTPS_PROXY": u, "NO_PROXY": "direct.test,.sub.test,198.51.100.0/24"}, []proxyRow{
			{Name: "a name", Target: "dns://NS/direct.test:PORT"},
			{Name: "a name in capitals", Target: "dns://NS/Direct.Test:PORT"},
			{Name: "a name, looked up here", Target: "dns://NS/direct.test:PORT", Local: true},
			{Name: "a domain", Target: "dns://NS/a.sub.test:PORT"},
			{Name: "another name", Target: "dns://NS/behind.test:PORT", Want: "behind.test:PORT"},
			{Name: "a name in a network", Target: "dns://NS/network.test:PORT", Want: "network.test:PORT"},
		}},
		{"https_proxy", map[string]string{"https_proxy": u}, []proxyRow{{Name: "a name", Target: "behind.test:PORT", Want: "behind.test:PORT"}}},
		{"no scheme", map[string]string{"HTTPS_PROXY": host}, []proxyRow{{Name: "a name", Target: "behind.test:PORT", Want: "behind.test:PORT"}}},
		{"other variables", map[string]string{"HTTP_PROXY": u, "ALL_PROXY": u}, []proxyRow{{Name: "a name", Target: "dns://NS/direct.test:PORT"}}},
		{"https", map[string]string{"HTTPS_PROXY": "https://" + host}, []proxyRow{
			{Name: "a name", Target: "behind.test:PORT", Want: "behind.test:PORT", Unlike: "an https proxy gets nothing in clear, credentials least of all"}}},
	} {
		t.Run(process.Name, func(t *testing.T) {
			for i := range process.Rows {
				process.Rows[i].Target = place.Replace(process.Rows[i].Target)
			}
			text, err := json.Marshal(process)
			require.NoError(t, err)
			before := len(p.Requests())
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestProxyRowsInAnotherProcess$")
			cmd.Env = append(os.Environ(), proxyChild+"="+string(text))
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)

			asked := map[string]string{}
			for _, r := range p.Requests()[before:] {
				agent := ourVersion.ReplaceAllString(r.UserAgent(), "grpc-go-grpcdial")
				assert.NotContains(t, asked, agent, "asked twice")
				asked[agent] = r.Host
			}
			for i, row := range process.Rows {
				want := place.Replace(row.Want)
				assert.Equal(t, want, asked[proxyAgent(i)+" grpc-go/"+grpc.Version], "%s: theirs", row.Name)
				if row.Unlike != "" {
					want = ""
				}
				assert.Equal(t, want, asked[proxyAgent(i)+" grpc-go-grpcdial"], "%s: ours", row.Name)
			}
		})
	}
}

// ourVersion is what differs between releases of the user agent.
var ourVersion = regexp.MustCompile(`grpc-go-grpcdial/\S+`)

func proxyAgent(row int) string { return fmt.Sprintf("row-%d", row) }

// TestProxyRowsInAnotherProcess is what TestProxiesAsGRPCTakesThem starts. By itself it
// has no rows.
func TestProxyRowsInAnotherProcess(t *testing.T) {
	text := os.Getenv(proxyChild)
	if text == "" {
		return
	}
	var p proxyProcess
	require.NoError(t, json.Unmarshal([]byte(text), &p))
	for name, value := range p.Vars {
		t.Setenv(name, value)
	}
	for i, row := range p.Rows {
		ours := []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithUserAgent(proxyAgent(i))}
		theirs := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(proxyAgent(i))}
		if row.Local {
			ours, theirs = append(ours, grpcdial.WithLocalDNSResolution()), append(theirs, grpc.WithLocalDNSResolution())
		}
		makeOurs, makeTheirs := grpcdial.NewClient, grpc.NewClient
		if row.Dial {
			makeOurs, makeTheirs = grpcdial.Dial, grpc.Dial // what is compared with
		}
		cc, err := makeOurs(row.Target, ours...)
		require.NoError(t, err)
		_, err = backendtest.AskName(backendtest.Bounded(t), cc)
		want := codes.OK
		if row.Unlike != "" {
			want = codes.Unavailable
		}
		assert.Equal(t, want, status.Code(err), "%s: ours: %v", row.Name, err)
		require.NoError(t, cc.Close())

		other, err := makeTheirs(row.Target, theirs...)
		require.NoError(t, err)
		_, err = backendtest.AskName(backendtest.Bounded(t), other)
		assert.Equal(t, codes.OK, status.Code(err), "%s: theirs: %v", row.Name, err)
		require.NoError(t, other.Close())
	}
}
