package h2_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// recordsOf sends what is written to it in TLS records that begin and end anywhere in frames.
type recordsOf struct {
	net.Conn
	size  int    // of each record; 0: of what one Write is given
	whole []byte // what does not fill one yet
}

func (r *recordsOf) Write(p []byte) (int, error) {
	if r.size == 0 {
		return r.Conn.Write(p)
	}
	r.whole = append(r.whole, p...)
	for len(r.whole) >= r.size {
		if _, err := r.Conn.Write(r.whole[:r.size]); err != nil {
			return 0, err
		}
		r.whole = r.whole[r.size:]
	}
	return len(p), nil
}

func (r *recordsOf) flush() {
	_, _ = r.Conn.Write(r.whole)
	r.whole = nil
}

// Large messages are read straight into their buffers, in the expectation that frames of
// the same length follow each other. They come as they were sent whatever follows.
func TestLargeMessagesWhateverComesBetween(t *testing.T) {
	t.Run("plaintext", func(t *testing.T) {
		testLargeMessages(t, func(t *testing.T, cfg h2.Config) (*client, *bareServer, func()) {
			c, server := bared(t, cfg)
			return c, server, func() {}
		})
	})
	ca := h2test.NewCA(t)
	for _, size := range []int{16384, 1000, 5000} {
		t.Run(fmt.Sprintf("TLS, records of %d bytes", size), func(t *testing.T) {
			testLargeMessages(t, func(t *testing.T, cfg h2.Config) (*client, *bareServer, func()) {
				serverCfg := &tls.Config{Certificates: []tls.Certificate{ca.Server("localhost")}, NextProtos: []string{"h2"}, DynamicRecordSizingDisabled: true}
				records := new(recordsOf)
				c, server := baredOver(t, ca.ClientConfig("localhost"), func(nc net.Conn) net.Conn {
					records.Conn = tls.Server(nc, serverCfg)
					return records
				}, cfg)
				records.size = size
				return c, server, records.flush
			})
		})
	}
}

func testLargeMessages(t *testing.T, connect func(*testing.T, h2.Config) (c *client, server *bareServer, flush func())) {
	const frame = 16384
	random := rand.New(rand.NewPCG(5, 6))
	sizes := []int{1 << 20, 100 << 10, 64 << 10, frame - 5, 2*frame - 5, 3*frame + 1, 300 << 10, 5, 200 << 10, 40 << 10}
	var whole [][]byte
	var packed []byte
	for _, n := range sizes {
		whole = append(whole, h2test.PutMessage(n%3 == 0, patterned(n)))
		packed = append(packed, whole[len(whole)-1]...)
	}
	for _, tt := range []struct {
		name    string
		pieces  [][]byte
		frame   func() int
		between func(server *bareServer)
	}{
		{"nothing, frames end with messages", whole, func() int { return frame }, nil},
		{"nothing, messages packed", [][]byte{packed}, func() int { return frame }, nil},
		{"nothing, smaller frames", whole, func() int { return 5000 }, nil},
		{"PING", whole, func() int { return frame }, func(server *bareServer) { _ = server.fr.WritePing(true, [8]byte{}) }},
		{"an empty frame", whole, func() int { return frame }, func(server *bareServer) { _ = server.fr.WriteData(1, false, nil) }},
		{"a padded frame", whole, func() int { return frame }, func(server *bareServer) { _ = server.fr.WriteDataPadded(1, false, nil, make([]byte, 100)) }},
		{"another stream", whole, func() int { return frame }, func(server *bareServer) { server.data(3, h2test.PutMessage(false, patterned(frame)), frame) }},
		{"a stream that has ended", whole, func() int { return frame }, func(server *bareServer) { server.data(5, make([]byte, frame), frame) }},
		{"lengths that change", [][]byte{packed}, func() int { return frame - random.IntN(2)*random.IntN(frame) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server, flush := connect(t, h2.Config{StreamWindow: 8 << 20, ConnWindow: 64 << 20})
			var streams []*h2.Stream
			for i := range 3 {
				r := req("/test/Large")
				r.MaxRecv = 4 << 20
				s, err := c.Open(context.Background(), r)
				require.NoError(t, err)
				streams = append(streams, s)
				server.headers(uint32(2*i + 1))
			}
			streams[2].Cancel(status.New(1, ""))
			other := 0
			go func() {
				for _, p := range tt.pieces {
					for len(p) > 0 {
						n := min(len(p), tt.frame())
						server.data(1, p[:n], n)
						if p = p[n:]; tt.between != nil && random.IntN(3) == 0 {
							tt.between(server)
						}
					}
				}
				server.data(3, h2test.PutMessage(false, []byte("the last")), frame)
				flush()
			}()
			for i, n := range sizes {
				m, err := streams[0].Recv()
				require.NoError(t, err)
				require.Equal(t, n%3 == 0, m.Compressed)
				require.True(t, string(m.Data) == string(patterned(n)), "message %d of %d bytes came as %d bytes or others", i, n, len(m.Data))
				m.Free()
			}
			for {
				m, err := streams[1].Recv()
				require.NoError(t, err)
				if string(m.Data) == "the last" {
					break
				}
				other++
				require.True(t, string(m.Data) == string(patterned(frame)))
				m.Free()
			}
			require.Equal(t, tt.name == "another stream", other > 0)
		})
	}
}

// A stream that ends while its message is being read into takes nothing along.
func TestStreamEndsWithinALargeMessage(t *testing.T) {
	c, server := bared(t, h2.Config{ConnWindow: 64 << 20})
	for i := range 50 {
		id := uint32(2*i + 1)
		s, err := c.Open(context.Background(), req("/test/Large"))
		require.NoError(t, err)
		server.headers(id)
		p := h2test.PutMessage(false, patterned(200<<10))
		done := make(chan struct{})
		go func() {
			defer close(done)
			server.data(id, p[:100<<10], 16384)
			server.data(id, p[100<<10:], 16384)
		}()
		if i%2 == 0 {
			_, _ = s.Header(context.Background())
		}
		s.Cancel(status.New(1, ""))
		for err == nil {
			_, err = s.Recv()
		}
		await(t, done, "the server")
	}
	server.taken()
}
