package docs_test

import (
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/dnstest"
)

func TestNameThatIsNotKnown(t *testing.T) {
	target := "dns://" + dnstest.Listen(t, nil).Addr() + "/nowhere.example:1"
	theirs, err := grpc.NewClient(target, plaintext())
	require.NoError(t, err)
	defer theirs.Close()
	err = greet(t, theirs)
	assert.ErrorContains(t, err, "produced zero addresses")
	assert.False(t, errors.As(err, new(*net.DNSError)))

	cc, err := grpcdial.NewClient(target, grpcdial.WithInsecure())
	require.NoError(t, err)
	defer cc.Close()
	err = greet(t, cc)
	assert.ErrorContains(t, err, "nowhere.example")
	assert.ErrorAs(t, err, new(*net.DNSError))
}

// TestServiceConfigOfAName: what happens while its look-up is not answered.
func TestServiceConfigOfAName(t *testing.T) {
	held := make(chan struct{})
	host, port, err := net.SplitHostPort(serve(t))
	require.NoError(t, err)
	names := dnstest.Listen(t, dnstest.Zone{
		"greeter.example":              {Addrs: []string{host}},
		"_grpc_config.greeter.example": {Held: held},
	})
	target := "dns://" + names.Addr() + "/greeter.example:" + port

	theirs, err := grpc.NewClient(target, plaintext())
	require.NoError(t, err)
	defer theirs.Close()
	theirs.Connect()
	assert.False(t, theirs.WaitForStateChange(within(t, 200*time.Millisecond), connectivity.Connecting))

	cc, err := grpcdial.NewClient(target, grpcdial.WithInsecure(), grpcdial.WithDNS(grpcdial.DNSOptions{ServiceConfigWait: 100 * time.Millisecond}))
	require.NoError(t, err)
	defer cc.Close()
	defer close(held) // Close waits for the look-up in grpc-go
	begun := time.Now()
	require.NoError(t, cc.AwaitReady(within(t, time.Minute)))
	assert.NoError(t, greet(t, cc), "the look-up has not ended")
	assert.GreaterOrEqual(t, time.Since(begun), 100*time.Millisecond)
}

func TestProxies(t *testing.T) {
	address := serve(t)
	withProxy := func(u string) error {
		cc, err := grpcdial.NewClient(address, grpcdial.WithInsecure(),
			grpcdial.WithProxy(func(string) (*url.URL, error) { return url.Parse(u) }))
		require.NoError(t, err)
		defer cc.Close()
		return greet(t, cc)
	}
	var proxyErr *grpcdial.ProxyError
	require.ErrorAs(t, withProxy("gopher://proxy.example"), &proxyErr)
	assert.Equal(t, grpcdial.ProxyStepURL, proxyErr.Step)
	for scheme, start := range map[string]string{
		"http":    "CONNECT ",
		"https":   "\x16\x03", // a TLS record
		"socks5":  "\x05",
		"socks5h": "\x05",
	} {
		proxy, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		first := make(chan string, 1)
		go func() {
			defer proxy.Close()
			conn, err := proxy.Accept()
			if err != nil {
				first <- err.Error()
				return
			}
			defer conn.Close()
			b := make([]byte, 64)
			n, _ := io.ReadAtLeast(conn, b, 2)
			first <- string(b[:n])
		}()
		require.ErrorAs(t, withProxy(scheme+"://"+proxy.Addr().String()), &proxyErr, scheme)
		assert.True(t, strings.HasPrefix(<-first, start), scheme)
	}
}
