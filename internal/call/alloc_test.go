package call

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
)

// cannedServer answers every request with the same reply, so many times, and allocates nothing
// while it does, so that what a benchmark counts is the client's.
func cannedServer(t testing.TB, reply proto.Message, times int) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	body, err := proto.Marshal(reply)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		serveCanned(nc, body, times)
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func serveCanned(nc net.Conn, body []byte, times int) {
	var answer bytes.Buffer
	fr := http2.NewFramer(&answer, nil)
	block := func(fields ...string) []byte {
		var b bytes.Buffer
		enc := hpack.NewEncoder(&b)
		enc.SetMaxDynamicTableSize(0)
		for i := 0; i < len(fields); i += 2 {
			_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true})
		}
		return b.Bytes()
	}
	const id = 1
	_ = fr.WritePing(false, [8]byte{1}) // as grpc-go's server does
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: block(":status", "200", "content-type", "application/grpc")})
	for range times {
		_ = fr.WriteData(id, false, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...))
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: block("grpc-status", "0")})
	out := answer.Bytes()
	var ids []int // where the stream id is
	for at := 0; at < len(out); at += 9 + int(out[at])<<16 + int(out[at+1])<<8 + int(out[at+2]) {
		if http2.FrameType(out[at+3]) != http2.FramePing {
			ids = append(ids, at+5)
		}
	}

	var settings bytes.Buffer
	fr = http2.NewFramer(&settings, nil)
	_ = fr.WriteSettings()
	_ = fr.WriteSettingsAck()
	_ = fr.WriteWindowUpdate(0, 1<<31-1-65535) // enough for all that is ever sent
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(nc, preface); err != nil {
		return
	}
	_, _ = nc.Write(settings.Bytes())

	head, payload := make([]byte, 9), make([]byte, 1<<16)
	in := io.Reader(nc)
	for {
		if _, err := io.ReadFull(in, head); err != nil {
			return
		}
		n := int(head[0])<<16 + int(head[1])<<8 + int(head[2])
		if _, err := io.ReadFull(in, payload[:n]); err != nil {
			return
		}
		if http2.FrameType(head[3]) == http2.FrameData && head[4]&byte(http2.FlagDataEndStream) != 0 {
			for _, at := range ids {
				copy(out[at:at+4], head[5:9])
			}
			if _, err := nc.Write(out); err != nil {
				return
			}
		}
	}
}

// allocated returns how many objects and bytes f allocates, the mean of so many runs, once pools
// have what it needs.
func allocated(runs int, f func()) (objects, bytes float64) {
	for range 100 {
		f()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(runs), float64(after.TotalAlloc-before.TotalAlloc) / float64(runs)
}

// A unary call allocates nothing that it can do without: five objects are those of the
// context with its deadline, two the strings that the header decoder makes of a server's literals,
// and one or two are the reply's.
func TestUnaryAllocations(t *testing.T) {
	ch := ready(t, Config{}, insecureBackend(t, cannedServer(t, &testpb.SimpleResponse{Username: "you"}, 1)))
	req := request("hello")
	reply := new(testpb.SimpleResponse)
	call := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := ch.Invoke(ctx, unaryMethod, req, reply); err != nil {
			t.Fatal(err)
		}
	}
	n, size := allocated(3000, call)
	t.Logf("%.2f allocations, %.0f bytes", n, size)
	if underRace {
		return // sync.Pool drops part of what it is given
	}
	assert.LessOrEqual(t, n, 9.5)
	assert.LessOrEqual(t, size, 700.0)
}

// A short stream has one context of its own, which watches the caller's, and one watch of that.
func TestShortStreamAllocations(t *testing.T) {
	ch := ready(t, Config{}, insecureBackend(t, cannedServer(t, &testpb.SimpleResponse{GrpclbRouteType: testpb.GrpclbRouteType_GRPCLB_ROUTE_TYPE_BACKEND}, 1)))
	req, reply := request("hello"), new(testpb.SimpleResponse)
	ctx := soon(t)
	short := func() {
		cs, err := ch.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, unaryMethod)
		require.NoError(t, err)
		require.NoError(t, cs.SendMsg(req))
		require.NoError(t, cs.RecvMsg(reply))
		require.Equal(t, io.EOF, cs.RecvMsg(reply))
	}
	n, size := allocated(3000, short)
	t.Logf("%.2f allocations, %.0f bytes", n, size)
	if underRace {
		return // sync.Pool drops part of what it is given
	}
	assert.LessOrEqual(t, n, 21.5)
}

// TestReceivedMessageAllocations: a message of a server stream costs what its decoding
// costs, which here is nothing.
func TestReceivedMessageAllocations(t *testing.T) {
	const messages = 20000
	ch := ready(t, Config{}, insecureBackend(t, cannedServer(t, &testpb.SimpleResponse{GrpclbRouteType: testpb.GrpclbRouteType_GRPCLB_ROUTE_TYPE_BACKEND}, messages)))
	var before, after runtime.MemStats
	reply := new(testpb.SimpleResponse)
	for range 2 { // the first time for the pools
		cs, err := ch.NewStream(soon(t), &grpc.StreamDesc{ServerStreams: true}, unaryMethod)
		require.NoError(t, err)
		require.NoError(t, cs.SendMsg(request("hello")))
		runtime.ReadMemStats(&before)
		for range messages {
			if err := cs.RecvMsg(reply); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		require.Equal(t, io.EOF, cs.RecvMsg(reply))
	}
	n := float64(after.Mallocs-before.Mallocs) / messages
	t.Logf("%v allocations a message", n)
	assert.Less(t, n, 0.1)
}

func BenchmarkUnary(b *testing.B) {
	ch := ready(b, Config{}, insecureBackend(b, cannedServer(b, &testpb.SimpleResponse{Username: "you"}, 1)))
	req, reply := request("hello"), new(testpb.SimpleResponse)
	b.ReportAllocs()
	for b.Loop() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := ch.Invoke(ctx, unaryMethod, req, reply); err != nil {
			b.Fatal(err)
		}
		cancel()
	}
}

// BenchmarkStream counts the server's allocations too: grpc-go's.
func BenchmarkStream(b *testing.B) {
	ch := serve(b, Config{}, streamService())
	b.Run("message", func(b *testing.B) {
		cs, err := ch.NewStream(context.Background(), bidiDesc, bidiMethod)
		if err != nil {
			b.Fatal(err)
		}
		req, m := chunk(10), new(testpb.StreamingOutputCallResponse)
		b.ReportAllocs()
		for b.Loop() {
			if err := cs.SendMsg(req); err != nil {
				b.Fatal(err)
			}
			if err := cs.RecvMsg(m); err != nil {
				b.Fatal(err)
			}
		}
		_ = cs.CloseSend()
	})
	b.Run("stream", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := pingPong(ch, context.Background(), 10); err != nil {
				b.Fatal(err)
			}
		}
	})
}
