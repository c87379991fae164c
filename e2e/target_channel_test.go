package e2e_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial"
	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/grpcdial/grpcdial/internal/dnstest"
)

// schemeChild is the environment variable by which TestDefaultSchemeOfTheProgram starts
// itself again: the default scheme that the other process sets.
const schemeChild = "GRPCDIAL_TEST_DEFAULT_SCHEME"

// TestDefaultSchemeOfTheProgram: what targets without a scheme mean once a program has
// called resolver.SetDefaultScheme, in grpc-go and here. There is no way back from that
// call, so each is one of another process.
func TestDefaultSchemeOfTheProgram(t *testing.T) {
	for _, scheme := range []string{"", "passthrough", "dns", "own"} {
		t.Run(scheme, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSchemeInAnotherProcess$")
			cmd.Env = append(os.Environ(), schemeChild+"=set "+scheme)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}

// TestSchemeInAnotherProcess is what TestDefaultSchemeOfTheProgram starts. By itself it
// has nothing to do.
func TestSchemeInAnotherProcess(t *testing.T) {
	scheme, child := strings.CutPrefix(os.Getenv(schemeChild), "set ")
	if !child {
		return
	}
	if scheme != "" {
		resolver.SetDefaultScheme(scheme)
	}
	own := manual.NewBuilderWithScheme("own")
	for _, target := range []string{"backend:1", "backend", "dns:///backend:1", "passthrough:///backend:1", "zk:p"} {
		for _, dialer := range []bool{false, true} {
			ours, theirs := []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithResolvers(own)}, []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(own)}
			if dialer {
				ours, theirs = append(ours, grpcdial.WithContextDialer(backendtest.NoDial)), append(theirs, grpc.WithContextDialer(backendtest.NoDial))
			}
			for name, both := range map[string]struct {
				ours   func(string, ...grpcdial.DialOption) (*grpcdial.ClientConn, error)
				theirs func(string, ...grpc.DialOption) (*grpc.ClientConn, error)
			}{
				"Dial":      {grpcdial.Dial, grpc.Dial}, // what is compared with
				"NewClient": {grpcdial.NewClient, grpc.NewClient},
			} {
				cc, err := both.ours(target, ours...)
				require.NoError(t, err)
				other, err := both.theirs(target, theirs...)
				require.NoError(t, err)
				want := other.CanonicalTarget()
				if name == "NewClient" && dialer && scheme == "" {
					want = strings.Replace(want, "dns:///"+target, "passthrough:///"+target, 1) // a dialer gets it as it is written
				}
				assert.Equal(t, want, cc.CanonicalTarget(), "%s %s, dialer %t", name, target, dialer)
				require.NoError(t, cc.Close())
				require.NoError(t, other.Close())
			}
		}
	}
}

// serveAuthority runs a server on all of these listeners that replies with the
// :authority that it was called by.
func serveAuthority(t *testing.T, listeners ...net.Listener) {
	t.Helper()
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		if err := s.RecvMsg(new(wrapperspb.StringValue)); err != nil {
			return err
		}
		return s.SendMsg(wrapperspb.String(strings.Join(md[":authority"], " and ")))
	}))
	backendtest.RunOn(t, srv, listeners...)
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	lis, err := net.Listen(network, address)
	require.NoError(t, err)
	return lis
}

// dialLog is a dialer that notes what it is asked for and connects to one server.
type dialLog struct {
	addr string

	mu    sync.Mutex
	asked []string // guarded by mu
}

func (d *dialLog) dial(ctx context.Context, addr string) (net.Conn, error) {
	d.mu.Lock()
	d.asked = append(d.asked, addr)
	d.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, "tcp", d.addr)
}

// take returns what was asked for and forgets it.
func (d *dialLog) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := strings.Join(d.asked, " and ")
	d.asked = nil
	return asked
}

// TestTargetsAreDialed takes gRPC's naming document row by row: grpc-go and we dial
// the same target, and either both get through, and the server is called by the same
// :authority, or what differs is given with the reason.
func TestTargetsAreDialed(t *testing.T) {
	dir, err := os.MkdirTemp("", "t") // short: a socket's path has a limit
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Chdir(dir)
	tcp, unix := listen(t, "tcp", "127.0.0.1:0"), listen(t, "unix", filepath.Join(dir, "s.sock"))
	spaced := listen(t, "unix", filepath.Join(dir, "a b"))
	listeners := []net.Listener{tcp, unix, spaced}
	abstract := ""
	if runtime.GOOS == "linux" {
		abstract = fmt.Sprintf("grpcdial-test-%d", os.Getpid())
		listeners = append(listeners, listen(t, "unix", "@"+abstract))
	}
	port6 := ""
	if lis, err := net.Listen("tcp", "[::1]:0"); err == nil { // a machine may have no IPv6
		port6 = backendtest.PortOf(t, lis.Addr().String())
		listeners = append(listeners, lis)
	}
	serveAuthority(t, listeners...)
	names := dnstest.Listen(t, dnstest.Zone{"name.test": {Addrs: []string{"127.0.0.1"}}})
	own := manual.NewBuilderWithScheme("own")
	own.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: tcp.Addr().String()}}})
	log := &dialLog{addr: tcp.Addr().String()}

	const aDialersTarget = "there it is looked up in DNS; here a dialer gets it as it is written"
	port := backendtest.PortOf(t, tcp.Addr().String())
	place := strings.NewReplacer("PORT6", port6, "PORT", port, "NS", names.Addr(), "DIR", dir, "ENCODED", strings.ReplaceAll(dir, "/", "%2F"), "ABSTRACT", abstract)
	for _, row := range []struct {
		target    string
		dial      bool   // by Dial, else by NewClient
		dialer    bool   // with a dialer of the program's own
		authority string // the server is called by
		asked     string // what the dialer is asked for
		unlike    string // not empty: how grpc-go differs, which is mended here
	}{
		// No scheme: dns for NewClient, passthrough for Dial.
		{target: "127.0.0.1:PORT", authority: "127.0.0.1:PORT"},
		{target: "127.0.0.1:PORT", dial: true, authority: "127.0.0.1:PORT"},
		{target: "localhost:PORT", authority: "localhost:PORT"},
		{target: "localhost:PORT", dial: true, authority: "localhost:PORT"},
		{target: ":PORT", authority: "localhost:PORT"},
		{target: ":PORT", dial: true, authority: "localhost:PORT"},

		// dns:[//authority/]host[:port]
		{target: "dns:127.0.0.1:PORT", authority: "127.0.0.1:PORT"},
		{target: "dns:///127.0.0.1:PORT", authority: "127.0.0.1:PORT"},
		{target: "dns:///127.0.0.1:PORT", dial: true, authority: "127.0.0.1:PORT"},
		{target: "dns:///:PORT", authority: "localhost:PORT"},
		{target: "dns://NS/name.test:PORT", authority: "name.test:PORT"},
		{target: "dns://NS/name.test:PORT", dial: true, authority: "name.test:PORT"},
		{target: "dns://NS/name.test.:PORT", authority: "name.test.:PORT"},
		{target: "dns://NS/NAME.test:PORT", authority: "NAME.test:PORT"},
		{target: "dns://NS/name.test", dialer: true, authority: "name.test", asked: "127.0.0.1:443"},
		{target: "dns://NS/name.test:PORT", dialer: true, authority: "name.test:PORT", asked: "127.0.0.1:PORT"},
		{target: "dns:///[::1]:PORT6", authority: "[::1]:PORT6"},
		{target: "dns:[::1]:PORT6", authority: "[::1]:PORT6"},
		{target: "[::1]:PORT6", authority: "[::1]:PORT6"},
		{target: "[::1]:PORT6", dial: true, authority: "[::1]:PORT6"},
		{target: "dns:///::1", dialer: true, authority: "::1", asked: "[::1]:443", unlike: "there its first colon makes it a port of localhost"},
		{target: "dns:///[::1]", dialer: true, authority: "[::1]", asked: "[::1]:443"},
		{target: "dns:///192.0.2.1", dialer: true, authority: "192.0.2.1", asked: "192.0.2.1:443"},

		// unix:path, unix:///absolute, unix-abstract:name
		{target: "unix:s.sock", authority: "localhost"},
		{target: "unix:./s.sock", authority: "localhost"},
		{target: "unix:DIR/s.sock", authority: "localhost"},
		{target: "unix://DIR/s.sock", authority: "localhost"},
		{target: "unix://DIR/s.sock", dial: true, authority: "localhost"},
		{target: "unix://DIR/a%20b", authority: "localhost"},
		{target: "unix:a b", authority: "localhost"},
		{target: "UNIX:s.sock", authority: "localhost"},
		{target: "unix-abstract:ABSTRACT", authority: "localhost"},
		{target: "passthrough:///unix:s.sock", authority: "unix:s.sock"},
		{target: "passthrough:///unix://DIR/s.sock", authority: "unix:%2F%2FENCODED%2Fs.sock"},
		{target: "unix:///run/s.sock", dialer: true, authority: "localhost", asked: "unix:///run/s.sock"},
		{target: "unix:run/s.sock", dialer: true, authority: "localhost", asked: "unix:run/s.sock"},
		{target: "unix-abstract:name", dialer: true, authority: "localhost", asked: "unix:@name"},

		// passthrough and schemes of the program's own
		{target: "passthrough:///127.0.0.1:PORT", authority: "127.0.0.1:PORT"},
		{target: "passthrough:127.0.0.1:PORT", authority: "127.0.0.1:PORT"},
		{target: "passthrough://x/127.0.0.1:PORT", authority: "127.0.0.1:PORT"},
		{target: "Passthrough:///127.0.0.1:PORT", authority: "127.0.0.1:PORT"},
		{target: "passthrough:///name:1", dialer: true, authority: "name:1", asked: "name:1"},
		{target: "passthrough:///a/b:1", dialer: true, authority: "a%2Fb:1", asked: "a/b:1"},
		{target: "own:///x", authority: "x"},
		{target: "own://ignored/x:1", authority: "x:1"},
		{target: "OWN:x", authority: "x"},
		{target: "own:///a/b c%25", authority: "a%2Fb%20c%25"},
		{target: "own:///:1", authority: "localhost:1"},

		// Escapes
		{target: "dns:///127%2E0.0.1:PORT", authority: "127.0.0.1:PORT"},
		{target: "dns:///%5B::1%5D:PORT6", authority: "[::1]:PORT6"},
		{target: "127%2E0.0.1:PORT", authority: "127.0.0.1:PORT"},

		// A dialer of the program's own and no known scheme
		{target: "name:1", dial: true, dialer: true, authority: "name:1", asked: "name:1"},
		{target: "a b", dial: true, dialer: true, authority: "a%20b", asked: "a b"},
		{target: "zk://h/p", dial: true, dialer: true, authority: "zk:%2F%2Fh%2Fp", asked: "zk://h/p"},
		{target: "name:1", dialer: true, authority: "name:1", asked: "name:1", unlike: aDialersTarget},
		{target: "name", dialer: true, authority: "name", asked: "name", unlike: aDialersTarget},
		{target: "", dialer: true, asked: "", unlike: aDialersTarget},
		{target: "zk://h/p", dialer: true, authority: "zk:%2F%2Fh%2Fp", asked: "zk://h/p", unlike: aDialersTarget},
		{target: "http://h/p?q", dialer: true, authority: "http:%2F%2Fh%2Fp%3Fq", asked: "http://h/p?q", unlike: aDialersTarget},
		{target: "http://h/p?q", dial: true, dialer: true, authority: "http:%2F%2Fh%2Fp%3Fq", asked: "http://h/p?q", unlike: "there what follows the ? is dropped"},
		{target: "100%", dial: true, dialer: true, authority: "100%25", asked: "100%", unlike: "there it is no URL and refused"},
		{target: "a%20b", dial: true, dialer: true, authority: "a%2520b", asked: "a%20b", unlike: "there the escape is decoded"},

		// Zones (#8952). "%" in front of one and, as URLs want it, "%25".
		{target: "[::1%lo]:PORT6", authority: "[::1]:PORT6", unlike: "there it is no URL and refused"},
		{target: "[::1%lo]:PORT6", dial: true, authority: "[::1]:PORT6", unlike: "there it is no URL and refused"},
		{target: "dns:///[::1%lo]:PORT6", authority: "[::1]:PORT6", unlike: "there it is no URL and refused"},
		{target: "[::1%25lo]:PORT6", authority: "[::1]:PORT6", unlike: "there the zone is in the authority"},
		{target: "dns:///[::1%25lo]:PORT6", authority: "[::1]:PORT6", unlike: "there the zone is in the authority"},
		{target: "passthrough:///[::1%25lo]:PORT6", authority: "[::1]:PORT6", unlike: "there the zone is in the authority"},
	} {
		if strings.Contains(row.target, "%lo]") && runtime.GOOS != "linux" || strings.Contains(row.target, "%25lo]") && runtime.GOOS != "linux" {
			continue // another name of the interface
		}
		if strings.Contains(row.target, "PORT6") && port6 == "" || strings.Contains(row.target, "ABSTRACT") && abstract == "" {
			continue
		}
		by := "NewClient"
		makeOurs, makeTheirs := grpcdial.NewClient, grpc.NewClient
		if row.dial {
			by, makeOurs, makeTheirs = "Dial", grpcdial.Dial, grpc.Dial // what is compared with
		}
		t.Run(fmt.Sprintf("%s %s, dialer %t", by, row.target, row.dialer), func(t *testing.T) {
			target := place.Replace(row.target)
			ours, theirs := []grpcdial.DialOption{grpcdial.WithInsecure(), grpcdial.WithResolvers(own)}, []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(own)}
			if row.dialer {
				ours, theirs = append(ours, grpcdial.WithContextDialer(log.dial)), append(theirs, grpc.WithContextDialer(log.dial))
			}
			cc, err := makeOurs(target, ours...)
			var authority string
			if err == nil {
				authority, err = backendtest.AskName(backendtest.Bounded(t), cc)
				require.NoError(t, cc.Close())
			}
			asked := log.take()
			other, theirErr := makeTheirs(target, theirs...)
			var theirAuthority string
			if theirErr == nil {
				theirAuthority, theirErr = backendtest.AskName(backendtest.Bounded(t), other)
				require.NoError(t, other.Close())
			}
			theirAsked := log.take()
			if row.unlike == "" {
				assert.NoError(t, theirErr)
				assert.Equal(t, theirAuthority, authority)
				assert.Equal(t, theirAsked, asked)
			} else {
				assert.False(t, theirErr == nil && theirAuthority == authority && theirAsked == asked, "grpc-go does the same")
			}
			require.NoError(t, err)
			assert.Equal(t, place.Replace(row.authority), authority)
			assert.Equal(t, place.Replace(row.asked), asked)
		})
	}
}
