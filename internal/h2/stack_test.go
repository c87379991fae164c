//go:build !race

// The race detector's frames are larger.

package h2_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// The goroutine of a connection at rest keeps the stack that it began with, also when
// the server has said something since.
func TestConnectionAtRestHasASmallStack(t *testing.T) {
	// Go begins new stacks with the average size of those in use, unless GODEBUG says
	// otherwise.
	if fixed := "adaptivestackstart=0"; os.Getenv("GODEBUG") != fixed {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG="+fixed)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		t.Logf("%s", out)
		return
	}
	const connections = 200
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	clients := make([]*h2.Conn, connections)
	servers := make([]net.Conn, connections) // without goroutines, which would have stacks too
	for i := range clients {
		nc, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		servers[i], err = ln.Accept()
		require.NoError(t, err)
		defer servers[i].Close()
		require.NoError(t, http2.NewFramer(servers[i], nil).WriteSettings())
		w := h2.NewWire(nc)
		clients[i] = h2.New(w, w, h2.Config{})
		require.NoError(t, clients[i].Handshake(context.Background()))
	}
	stacks := func() uint64 {
		runtime.GC() // stacks shrink
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.StackInuse
	}
	before := stacks()
	done := make(chan struct{}, connections)
	for _, c := range clients {
		go func() {
			serveBelow(c)
			done <- struct{}{}
		}()
	}
	for i, c := range clients {
		before := c.Counts().SendWindow
		fr := http2.NewFramer(servers[i], nil)
		require.NoError(t, fr.WriteSettingsAck())
		require.NoError(t, fr.WriteWindowUpdate(0, 1000))
		require.Eventually(t, func() bool { return c.Counts().SendWindow == before+1000 }, time.Minute, time.Millisecond)
	}
	after := stacks()
	each := (after - min(before, after)) / connections
	t.Logf("%d bytes of stack a connection", each)
	require.Less(t, each, uint64(3000))
	for _, c := range clients {
		c.Close(nil, nil)
	}
	for range clients {
		await(t, done, "the end of Serve")
	}
}

// serveBelow runs Serve below as much stack as its owner in a channel takes.
//
//go:noinline
func serveBelow(c *h2.Conn) {
	var owner [112]byte
	runtime.KeepAlive(&owner)
	_ = c.Serve(func(error) {})
	runtime.KeepAlive(&owner)
}
