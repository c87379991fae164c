package main

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// Numbers that count something repeat from run to run, also on a busy machine, so they are
// held here. The server is a process of its own: all that is counted is the client's.

// count runs ops operations of a cell with one side, after some to warm up.
func count(t *testing.T, s side, at endpoint, c cell, ops int) map[string]float64 {
	t.Helper()
	if underRace {
		ops = max(ops/10, 2*c.workers)
	}
	o, err := s.open(c, at)
	require.NoError(t, err)
	defer o.close()
	_, err = put(c, o, forOps(max(ops/10, c.workers)))
	require.NoError(t, err)
	measured, err := put(c, o, forOps(ops))
	require.NoError(t, err)
	found := map[string]float64{}
	for _, f := range figuresOf(c, map[string][]sample{s.name: {measured}}) {
		found[f.key] = f.rounds[s.name][0]
	}
	return found
}

// What an operation allocates, and sends, and how often it calls the system.
func TestCountsOfAnOperation(t *testing.T) {
	at, stop, err := startServer(serving{})
	require.NoError(t, err)
	defer stop()
	for _, tt := range []struct {
		cell cell
		ops  int
		most map[string]float64
	}{
		// Five objects are those of the context with its deadline, two the stub's, one the reply's.
		{unaryCell(1, 0), 3000, map[string]float64{"allocs": 8.3, "bytes": 600, "up": 60, "down": 80, "syscalls": 5}},
		{unaryCell(64, 0), 30000, map[string]float64{"allocs": 8.3, "bytes": 700, "up": 45, "down": 60, "syscalls": 1}},
		{tokenCell(1), 3000, map[string]float64{"up": 60}}, // 1,031 bytes are in the server's table
		{pingPongCell(1, 0), 3000, map[string]float64{"allocs": 2.3, "bytes": 200, "up": 50, "syscalls": 5}},
		{cell{name: "refused", noun: "call", workers: 1, work: refused(20, "round_robin")}, 20000, map[string]float64{"allocs": 14, "bytes": 1200}},
		{uploadCell(1, 16), 100, map[string]float64{"allocs": 0.2, "syscalls": 0.05}},
		{uploadCell(1, 1<<10), 1000, map[string]float64{"allocs": 0.3, "syscalls": 0.25}},
		{uploadCell(1, 64<<10), 1000, map[string]float64{"allocs": 1, "syscalls": 4}},
		{uploadCell(1, 1<<20), 100, map[string]float64{"syscalls": 30}},
		{downCell(1, 16, downBatch), 1000, map[string]float64{"allocs": 2.1, "bytes": 150, "syscalls": 0.05}},
		{downCell(1, 1<<10, downBatch), 1000, map[string]float64{"allocs": 2.2, "bytes": 1300, "syscalls": 0.2}},
		{downCell(1, 64<<10, 1), 1000, map[string]float64{"allocs": 5, "syscalls": 8}},
		{downCell(1, 1<<20, 1), 100, map[string]float64{"syscalls": 50}},
		{shapeCell("short-client", 1, shortClient), 2000, map[string]float64{"allocs": 31}},
		{shapeCell("short-server", 1, shortServer), 2000, map[string]float64{"allocs": 32}},
		{shapeCell("cancelled", 16, cancelled), 5000, map[string]float64{"allocs": 42}},
		{shapeCell("metadata", 16, withMetadata), 5000, map[string]float64{"allocs": 64}},
		{shapeCell("status", 16, failing), 5000, map[string]float64{"allocs": 28}},
		{shapeCell("wrapped", 64, onChannel(wrapped)), 20000, map[string]float64{"allocs": 9.5}},
		{cell{name: "dial", noun: "dial", workers: 1, work: dial}, 300, map[string]float64{"allocs": 160, "bytes": 17000, "up": 90, "syscalls": 9}},
	} {
		t.Run(tt.cell.name, func(t *testing.T) {
			exceeds := func(got map[string]float64, key string) bool {
				return got[key] > tt.most[key] && (!underRace || key == "up" || key == "down")
			}
			got := count(t, sides[0], at.Plain, tt.cell, tt.ops)
			// A machine with other work gives pooled buffers to the garbage collector now and
			// then. A client that takes too much takes it each time.
			for range 4 {
				if !slices.ContainsFunc(slices.Collect(maps.Keys(tt.most)), func(key string) bool { return exceeds(got, key) }) {
					break
				}
				got = count(t, sides[0], at.Plain, tt.cell, tt.ops)
			}
			t.Logf("allocs %.2f, bytes %.0f, up %.2f, down %.2f, syscalls %.3f", got["allocs"], got["bytes"], got["up"], got["down"], got["syscalls"])
			for key, most := range tt.most {
				assert.False(t, exceeds(got, key), "%s: %.2f, at most %.2f", key, got[key], most)
			}
		})
	}
}

// A constant long value costs no more on the wire than grpc-go's channel lets it cost.
func TestTokenCostsWhatGRPCsDoes(t *testing.T) {
	at, stop, err := startServer(serving{})
	require.NoError(t, err)
	defer stop()
	const calls = 500
	mine, theirs := count(t, sides[0], at.Plain, tokenCell(1), calls), count(t, sides[1], at.Plain, tokenCell(1), calls)
	t.Logf("%.1f bytes up, grpc-go %.1f", mine["up"], theirs["up"])
	assert.LessOrEqual(t, mine["up"], theirs["up"]+8)
}

// goroutines waits until the number of goroutines beyond before is n.
func goroutines(t *testing.T, before, n int, when string) {
	t.Helper()
	more := 0
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
		if more = runtime.NumGoroutine() - before; more == n {
			return
		}
	}
	t.Errorf("%s: %d goroutines more than at first, want %d", when, more, n)
}

// A channel has no goroutine before it connects and one for its connection afterwards; a
// call or a stream has none but its caller's.
func TestGoroutines(t *testing.T) {
	at, stop, err := startServer(serving{})
	require.NoError(t, err)
	defer stop()
	creds, err := at.Plain.credentials()
	require.NoError(t, err)
	const channels, streams, callers = 20, 100, 50

	before := runtime.NumGoroutine()
	for range channels {
		c, err := ours.idle(at.Plain.Target, creds)
		require.NoError(t, err)
		defer c.Close()
	}
	goroutines(t, before, 0, "idle channels")

	conns, err := openChannels(ours, at.Plain, channels)
	require.NoError(t, err)
	for _, c := range conns {
		defer c.Close()
	}
	goroutines(t, before, channels, "READY channels")
	require.NoError(t, callEach(conns))
	goroutines(t, before, channels, "channels after a call")

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stub := pb.NewBenchClient(conns[0])
	for range streams {
		stream, err := stub.PingPong(ctx)
		require.NoError(t, err)
		require.NoError(t, stream.Send(newRequest(0)))
		_, err = stream.Recv()
		require.NoError(t, err)
	}
	goroutines(t, before, channels, "open streams")

	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			_, err := stub.Unary(ctx, &pb.Request{Name: waitName})
			assert.Error(t, err, "it is cancelled")
		})
	}
	goroutines(t, before, channels+callers, "calls that wait: their callers'")
	cancel()
	calling.Wait()
	goroutines(t, before, channels, "channels after calls and streams")
}

// What a channel holds: in bytes, and beside grpc-go's.
func TestMemoryOfAChannel(t *testing.T) {
	at, stop, err := startServer(serving{})
	require.NoError(t, err)
	defer stop()
	channels := 200
	if underRace {
		channels = 20
	}
	mine, err := measureChannels(ours, at.Plain, channels)
	require.NoError(t, err)
	theirs, err := measureChannels(grpcGo, at.Plain, channels)
	require.NoError(t, err)
	for _, tt := range []struct {
		state      string
		of         func(held) rest
		heap       float64 // at most; how far the stacks have grown differs from run to run
		share      float64 // of what grpc-go's channel holds, stacks included
		goroutines int
	}{
		{"idle", func(h held) rest { return h.Idle }, 2000, 0.2, 0},
		{"ready", func(h held) rest { return h.Ready }, 7200, 0.33, 1},
		{"used", func(h held) rest { return h.Used }, 10700, 0.38, 1},
	} {
		a, b := tt.of(mine), tt.of(theirs)
		each, other := float64(a.Heap+a.Stack)/float64(channels), float64(b.Heap+b.Stack)/float64(channels)
		t.Logf("%s: %.0f bytes (heap %d, stack %d), grpc-go %.0f", tt.state, each, int(a.Heap)/channels, int(a.Stack)/channels, other)
		assert.LessOrEqual(t, a.Goroutines, tt.goroutines*channels, tt.state)
		if !underRace {
			assert.LessOrEqual(t, float64(a.Heap)/float64(channels), tt.heap, tt.state)
			assert.LessOrEqual(t, each/other, tt.share, tt.state)
		}
	}
}
