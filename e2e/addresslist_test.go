package e2e_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"
)

// TestAddressLists: targets of the schemes ipv4 and ipv6, which gRPC's naming document
// has, reach each of their addresses, over TLS too.
func TestAddressLists(t *testing.T) {
	a, b := backendtest.StartEcho(t), backendtest.StartEcho(t)
	dead := strings.Replace(a.Addr, "127.0.0.1", "127.0.0.77", 1)
	for _, tt := range []struct {
		target, authority string
		config            string
	}{
		{"ipv4:" + a.Addr, a.Addr, ""},
		{"ipv4:" + dead + "," + a.Addr, a.Addr, ""},
		{"ipv4:///" + a.Addr + "," + b.Addr, a.Addr, ""},
	} {
		cc := newClient(t, tt.target, grpcdial.WithInsecure())
		_, err := backendtest.CallEcho(t, cc, "Echo")
		require.NoError(t, err, tt.target)
		_, md, _ := a.Last()
		assert.Equal(t, []string{tt.authority}, md.Get(":authority"), tt.target)
	}
	// Each by round_robin, once it is connected to both.
	before := [2]int64{a.Calls.Load(), b.Calls.Load()}
	cc := newClient(t, "ipv4:"+a.Addr+","+b.Addr, grpcdial.WithInsecure(), grpcdial.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	require.Eventually(t, func() bool {
		_, err := backendtest.CallEcho(t, cc, "Echo")
		require.NoError(t, err)
		return a.Calls.Load() > before[0] && b.Calls.Load() > before[1]
	}, time.Minute, time.Millisecond)
}

func TestAddressListsRefused(t *testing.T) {
	for target, want := range map[string]string{
		"ipv4:localhost:80":       "names are for the scheme dns",
		"ipv4:10.0.0.1,[::1]":     `"[::1]": it is no IPv4 address`,
		"ipv6:10.0.0.1":           "it is no IPv6 address",
		"ipv4:":                   "there is no address",
		"vsock:2:1234":            `WithContextDialer a dialer that makes vsock connections, and dial "passthrough:///2:1234"`,
		"ipv4://8.8.8.8/10.0.0.1": "has no authority",
	} {
		_, err := grpcdial.NewClient(target, grpcdial.WithInsecure())
		assert.ErrorContains(t, err, want, target)
		_, err = grpcdial.Dial(target, grpcdial.WithInsecure())
		assert.ErrorContains(t, err, want, target)
	}
}
