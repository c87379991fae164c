package e2e

import (
	"context"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial"
)

// settingsOnly is a listener whose connections say what a server's handshake takes, and nothing
// else.
func settingsOnly(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		hello := []byte{0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0} // SETTINGS, and the ACK of ours
		buf := make([]byte, 1024)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			for _, err = nc.Write(hello); err == nil; {
				_, err = nc.Read(buf)
			}
			nc.Close()
		}
	}()
	return l
}

// A blocking dial and the Close after it allocate what they need: grpc-go makes 528 objects
// for it, and ours are 136. The listener's are counted too here, and those of the checks that
// tests switch on.
func TestDialAllocations(t *testing.T) {
	l := settingsOnly(t)
	dial := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cc, err := grpcdial.DialContext(ctx, l.Addr().String(), grpcdial.WithInsecure(), grpcdial.WithBlock())
		if err != nil {
			t.Fatal(err)
		}
		cc.Close()
	}
	for range 20 {
		dial()
	}
	const dials = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range dials {
		dial()
	}
	runtime.ReadMemStats(&after)
	n := float64(after.Mallocs-before.Mallocs) / dials
	t.Logf("%.1f allocations", n)
	assert.LessOrEqual(t, n, 215.0)
}

// A channel from NewClient holds a third of what grpc-go's does, which is 7.1 kB; without
// channelz's data, which these tests' imports have kept, a quarter.
func TestIdleChannelMemory(t *testing.T) {
	const made = 1000
	var all [made]*grpcdial.ClientConn
	open := func(i int) {
		var err error
		all[i], err = grpcdial.NewClient("backend:50051", grpcdial.WithInsecure())
		require.NoError(t, err)
	}
	open(0) // with what all channels share
	held := func() uint64 {
		runtime.GC()
		runtime.GC() // what had a finalizer, or was in a pool
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := held()
	for i := range all[1:] {
		open(i + 1)
	}
	after := held()
	each := float64(after-min(before, after)) / (made - 1)
	t.Logf("%.0f bytes", each)
	assert.Less(t, each, 2_400.0)
	for _, cc := range all {
		cc.Close()
	}
}
