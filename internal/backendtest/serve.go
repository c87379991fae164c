package backendtest

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
)

// Listen listens on loopback.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return lis
}

// Run serves on loopback with srv until the test ends, or until stop is called: both stop
// the server and wait for the end of Serve.
func Run(t testing.TB, srv *grpc.Server) (addr string, stop func()) {
	t.Helper()
	lis := Listen(t)
	return lis.Addr().String(), RunOn(t, srv, lis)
}

// RunOn is Run on listeners of the test's.
func RunOn(t testing.TB, srv *grpc.Server, listeners ...net.Listener) (stop func()) {
	var serving sync.WaitGroup
	for _, lis := range listeners {
		serving.Go(func() { _ = srv.Serve(lis) })
	}
	stop = func() {
		srv.Stop()
		serving.Wait()
	}
	t.Cleanup(stop)
	return stop
}
