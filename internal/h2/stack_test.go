//go:build !race

// The race detector's frames are larger.

package h2_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// The goroutine of a connection at rest keeps the stack that it began with, also when
// the server has said something since, and when a small call was made.
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
	const connections = 400
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
	stacks := func() int {
		runtime.GC() // stacks shrink
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		const ofThread = 48 << 10 // of a thread's own, at most: what it runs the scheduler and signal handlers on
		return int(m.StackInuse) - ofThread*pprof.Lookup("threadcreate").Count()
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
	each := func(state string) {
		after := stacks()
		each := (after - before) / connections
		t.Logf("%s: %d bytes of stack a connection", state, each)
		require.Less(t, each, 3500, state) // 4096, had all grown; some do when the allocator goes deep
	}
	each("at rest")
	for i, c := range clients {
		ended := make(chan error, 1)
		go func() {
			s, err := c.Unary(context.Background(), req("/test/Echo"), h2test.PutMessage(false, []byte("hello")))
			if err == nil {
				if e := s.Err(); e != nil {
					err = e
				}
				s.Release()
			}
			ended <- err
		}()
		answer(t, servers[i])
		require.NoError(t, await(t, ended, "the end of the call"))
	}
	each("after a call")
	for _, c := range clients {
		c.Close(nil, nil)
	}
	for range clients {
		await(t, done, "the end of Serve")
	}
}

// answer answers the first call on a connection, as grpc-go's server does.
func answer(t *testing.T, server net.Conn) {
	fr := http2.NewFramer(server, server)
	require.NoError(t, server.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err := io.ReadFull(server, make([]byte, len(http2.ClientPreface)))
	require.NoError(t, err)
	for {
		f, err := fr.ReadFrame()
		require.NoError(t, err)
		if f.Header().Flags.Has(http2.FlagDataEndStream) && f.Header().Type == http2.FrameData {
			break
		}
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	write := func(end bool, pairs ...string) {
		block.Reset()
		for i := 0; i < len(pairs); i += 2 {
			require.NoError(t, enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
		}
		require.NoError(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end}))
	}
	require.NoError(t, fr.WritePing(false, [8]byte{1}))
	write(false, ":status", "200", "content-type", "application/grpc")
	require.NoError(t, fr.WriteData(1, false, h2test.PutMessage(false, []byte("hello"))))
	write(true, "grpc-status", "0", "grpc-message", "")
}

// serveBelow runs Serve below as much stack as its owner in a channel takes.
//
//go:noinline
func serveBelow(c *h2.Conn) {
	var owner [64]byte
	runtime.KeepAlive(&owner)
	_ = c.Serve(func(error) {})
	runtime.KeepAlive(&owner)
}
