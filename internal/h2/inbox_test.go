package h2_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// bareServer is a server without rules and without a log, so that what it holds
// is next to nothing. One connection is made to it.
type bareServer struct {
	t     *testing.T
	nc    net.Conn
	fr    *http2.Framer
	pongs chan struct{}
}

// bared connects a client to a bareServer.
func bared(t *testing.T, cfg h2.Config) (*client, *bareServer) {
	return baredOver(t, nil, func(nc net.Conn) net.Conn { return nc }, cfg)
}

// baredOver is bared with a layer on the server's connection, which belongs to the client's tlsCfg.
func baredOver(t *testing.T, tlsCfg *tls.Config, layer func(net.Conn) net.Conn, cfg h2.Config) (*client, *bareServer) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	ready := shake(t, nc, tlsCfg, cfg)
	s := &bareServer{t: t, pongs: make(chan struct{}, 1)}
	nc, err = l.Accept()
	require.NoError(t, err)
	s.nc = layer(nc)
	s.fr = http2.NewFramer(s.nc, s.nc)
	require.NoError(t, s.fr.WriteSettings())
	done := make(chan struct{})
	go s.listen(done)
	t.Cleanup(func() { s.nc.Close(); <-done })
	return ready(), s
}

// listen answers SETTINGS and notes answers to PING.
func (s *bareServer) listen(done chan struct{}) {
	defer close(done)
	if _, err := io.ReadFull(s.nc, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	for {
		f, err := s.fr.ReadFrame()
		if err != nil {
			return
		}
		if f, ok := f.(*http2.PingFrame); ok && f.IsAck() {
			s.pongs <- struct{}{}
		}
	}
}

// taken returns when the client has looked at all that was sent.
func (s *bareServer) taken() {
	require.NoError(s.t, s.fr.WritePing(false, [8]byte{1}))
	await(s.t, s.pongs, "the answer to PING")
}

// headers sends the headers of a response.
func (s *bareServer) headers(id uint32) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSize(0)
	for _, f := range [][2]string{{":status", "200"}, {"content-type", "application/grpc"}} {
		require.NoError(s.t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}))
	}
	require.NoError(s.t, s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}))
}

// data sends p in frames of the given size.
func (s *bareServer) data(id uint32, p []byte, frame int) {
	var b []byte
	for len(p) > 0 {
		n := min(frame, len(p))
		b = append(b, byte(n>>16), byte(n>>8), byte(n), byte(http2.FrameData), 0)
		b = binary.BigEndian.AppendUint32(b, id)
		b = append(b, p[:n]...)
		p = p[n:]
	}
	_, err := s.nc.Write(b)
	require.NoError(s.t, err)
}

// heap is what is in use after a collection of garbage; pools are empty then.
func heap() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The windows bound the memory of messages that are not received: it is at most twice
// what came, whatever the messages and however they are divided into frames.
func TestUnreadMessagesTakeWhatTheyTookOfTheWindow(t *testing.T) {
	const frame = 16384
	sized := func(size int) func() []byte {
		return func() []byte { return h2test.PutMessage(false, make([]byte, size)) }
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, tt := range []struct {
		name    string
		streams int
		window  int
		frame   int
		message func() []byte
	}{
		{"empty", 4, 512 << 10, frame, sized(0)},
		{"empty, one a frame", 2, 512 << 10, 5, sized(0)},
		{"empty, one byte a frame", 1, 512 << 10, 1, sized(0)},
		{"empty, a large window", 1, 4 << 20, frame, sized(0)},
		{"1 B", 4, 512 << 10, frame, sized(1)},
		{"1 B, one a frame", 2, 512 << 10, 6, sized(1)},
		{"16 B, a large window", 1, 4 << 20, frame, sized(16)},
		{"250 B", 4, 512 << 10, frame, sized(250)},
		{"half a slab", 8, 512 << 10, frame, sized(1500)},
		{"the largest in a slab", 8, 512 << 10, frame, sized(2<<10 - 5)},
		{"the smallest that is alone", 8, 512 << 10, frame, sized(2<<10 - 4)},
		{"a little more than a class", 8, 512 << 10, frame, sized(4<<10 + 1)},
		{"a little more than a larger class", 8, 512 << 10, frame, sized(64<<10 + 1)},
		{"64 kB in small frames", 8, 512 << 10, 700, sized(64 << 10)},
		{"larger than the window", 8, 512 << 10, frame, sized(3 << 20)},
		{"larger than the window, another before", 8, 512 << 10, frame, func() []byte {
			return append(sized(200<<10)(), sized(3<<20)()...)
		}},
		{"of all sizes", 8, 512 << 10, frame, func() []byte { return sized(random.IntN(1 << random.IntN(18)))() }},
		{"small and large in turn", 8, 512 << 10, frame, func() []byte { return append(sized(1)(), sized(2<<10)()...) }},
		{"a small window", 100, 20 << 10, frame, sized(0)},
		{"a small window, 1 kB", 100, 20 << 10, frame, sized(1 << 10)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := bared(t, h2.Config{StreamWindow: int32(tt.window), ConnWindow: 64 << 20})
			var streams []*h2.Stream
			var payloads [][]byte
			var ids []uint32
			for i := range tt.streams {
				r := req("/test/Unread")
				r.MaxRecv = 4 << 20
				s, err := c.Open(context.Background(), r)
				require.NoError(t, err)
				streams, ids = append(streams, s), append(ids, uint32(2*i+1))
				server.headers(ids[i])
				var p []byte
				for len(p) < tt.window {
					p = append(p, tt.message()...)
				}
				payloads = append(payloads, p)
			}
			server.taken()
			before := heap()
			for i, p := range payloads {
				server.data(ids[i], p[:tt.window], tt.frame)
				server.taken()
			}
			wire := int64(tt.window * tt.streams)
			got := heap() - before
			t.Logf("%.2f times %d", float64(got)/float64(wire), wire)
			assert.LessOrEqual(t, got, 2*wire)

			// All of it is there.
			for i, s := range streams {
				whole := 0
				for p := payloads[i][:tt.window]; len(p) >= 5; {
					n := 5 + int(binary.BigEndian.Uint32(p[1:]))
					if n > len(p) {
						break
					}
					m, err := s.Recv()
					if err != nil || len(m.Data) != n-5 {
						t.Fatalf("message %d: %v, %d bytes, want %d", whole, err, len(m.Data), n-5)
					}
					m.Free()
					p = p[n:]
					whole++
				}
				require.Equal(t, whole, s.Messages())
				s.Cancel(status.New(1, ""))
				_, err := s.Recv()
				require.Error(t, err, "no more")
			}
			runtime.KeepAlive(streams)
			runtime.KeepAlive(payloads)
		})
	}
}

// A message that is as large as one before it has its whole buffer at once; but what is
// only announced never takes more than the window.
func TestAnnouncedMessagesTakeAWindowAtMost(t *testing.T) {
	const window, streams = 256 << 10, 8
	for _, tt := range []struct {
		before, announced int
		most              int64
	}{
		{200 << 10, 200 << 10, window},
		{200 << 10, 250 << 10, 32 << 10},
		{200 << 10, 3 << 20, 32 << 10},
	} {
		t.Run(fmt.Sprintf("%d after %d", tt.announced, tt.before), func(t *testing.T) {
			c, server := bared(t, h2.Config{StreamWindow: window, ConnWindow: 64 << 20})
			var all []*h2.Stream
			for i := range streams {
				r := req("/test/Unread")
				r.MaxRecv = 4 << 20
				s, err := c.Open(context.Background(), r)
				require.NoError(t, err)
				all = append(all, s)
				id := uint32(2*i + 1)
				server.headers(id)
				server.data(id, h2test.PutMessage(false, make([]byte, tt.before)), 16384)
				m, err := s.Recv()
				require.NoError(t, err)
				m.Free()
			}
			server.taken()
			before := heap()
			for i := range all {
				server.data(uint32(2*i+1), h2test.PutMessage(false, make([]byte, tt.announced))[:6], 16384)
			}
			server.taken()
			got := heap() - before
			t.Logf("%d bytes a stream", got/streams)
			assert.LessOrEqual(t, got, streams*tt.most)
			runtime.KeepAlive(all)
		})
	}
}

// Messages of all sizes, in frames of all sizes, padded and not, of streams that alternate, come as
// they were sent; also if the program takes them late, or one by one.
func TestMessagesInFramesOfAllSizes(t *testing.T) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			c, server := p.connect(t, h2.Config{})
			const streams, messages = 3, 60
			var got [streams]chan error
			var wire [streams][]byte
			random := rand.New(rand.NewPCG(3, 4))
			for i := range streams {
				r := req("/test/Messages")
				r.MaxRecv = 4 << 20
				s, err := c.Open(context.Background(), r)
				require.NoError(t, err)
				server.ExpectHeaders()
				server.ReplyHeaders(uint32(2*i + 1))
				var sizes []int
				for range messages {
					n := random.IntN(1 << random.IntN(18))
					if random.IntN(messages) == 0 {
						n = 600 << 10 // more than the window
					}
					sizes = append(sizes, n)
					wire[i] = append(wire[i], h2test.PutMessage(n%3 == 0, patterned(n))...)
				}
				seed := random.Uint64()
				got[i] = make(chan error, 1)
				go func() { got[i] <- receiveAll(s, sizes, rand.New(rand.NewPCG(seed, 0))) }()
			}
			server.Lenient()
			server.Skip(h2test.WindowUpdates, h2test.SettingsAcks)
			for left := streams; left > 0; {
				i := random.IntN(streams)
				id := uint32(2*i + 1)
				if wire[i] == nil {
					continue
				}
				room := min(server.SendWindow(id), server.SendWindow(0))
				if room < 300 {
					server.ReadFrame() // a window that never opens fails the test
					continue
				}
				n := min(1+random.IntN(1<<(1+random.IntN(14))), room-260, len(wire[i]))
				if random.IntN(4) == 0 {
					server.DataPadded(id, false, wire[i][:n], random.IntN(256))
				} else {
					server.Data(id, false, wire[i][:n])
				}
				if wire[i] = wire[i][n:]; len(wire[i]) == 0 {
					wire[i] = nil
					left--
					server.ReplyTrailers(id, 0, "")
				}
			}
			for i := range streams {
				require.NoError(t, await(t, got[i], "a stream's end"))
			}
		})
	}
}

// patterned is a message of n bytes that no other has.
func patterned(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i) ^ byte(n)
	}
	return b
}

// receiveAll receives messages of these sizes and then io.EOF, with pauses.
func receiveAll(s *h2.Stream, sizes []int, random *rand.Rand) error {
	for i, n := range sizes {
		if random.IntN(8) == 0 {
			time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond)
		}
		m, err := s.Recv()
		if err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if !bytes.Equal(m.Data, patterned(n)) || m.Compressed != (n%3 == 0) {
			return fmt.Errorf("message %d of %d bytes came as %d bytes, compressed %t, or others", i, n, len(m.Data), m.Compressed)
		}
		m.Free()
	}
	if _, err := s.Recv(); err != io.EOF {
		return fmt.Errorf("at the end: %w", err)
	}
	return nil
}
