package h2_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// far plays a server that is 100 ms away. In each of the round trips it sends on
// stream 1 what the client's windows take, at most limit bytes, and then hears what
// the client has said meanwhile. It returns how much it sent in each, and how many
// PINGs of the client's it answered.
func far(server *h2test.Conn, roundTrips, limit int) (sent []int, pings int) {
	const piece = 16384
	message := h2test.PutMessage(false, make([]byte, piece-5))
	var toAnswer [][]byte
	for range roundTrips {
		for _, data := range toAnswer {
			server.PingAck(data)
		}
		pings += len(toAnswer)
		toAnswer = nil
		n := min(server.SendWindow(0), server.SendWindow(1), limit) / piece * piece
		for range n / piece {
			server.Data(1, false, message)
		}
		sent = append(sent, n)
		server.Ping([8]byte{1})
		for heard := false; !heard; {
			switch f := server.ReadFrame(); {
			case f.Type == http2.FramePing && f.Ack():
				heard = true
			case f.Type == http2.FramePing:
				toAnswer = append(toAnswer, f.Data)
			case f.Type == http2.FrameSettings && !f.Ack():
				server.SettingsAck()
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return sent, pings
}

// receiving opens a stream whose messages are taken as they come.
func receiving(t *testing.T, cfg h2.Config) (*client, *h2test.Conn) {
	c, server := peered(t, cfg)
	s, err := c.Open(context.Background(), req("/test/Download"))
	require.NoError(t, err)
	server.Skip(h2test.WindowUpdates)
	server.ExpectHeaders()
	server.ReplyHeaders(1)
	go func() {
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			m.Free()
		}
	}()
	return c, server
}

// A server that is far away and fast is not held back by the windows: they grow.
func TestWindowsGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := receiving(t, h2.Config{})
		sent, _ := far(server, 13, 1<<30)
		assert.Equal(t, 512<<10, sent[0])
		// What is given back after a round's last answer counts in the next one.
		assert.Greater(t, slices.Max(sent[len(sent)-4:]), 14<<20, "%v", sent)

		// A stream that is opened now has the larger window from the start.
		late, err := c.Open(context.Background(), req("/test/Late"))
		require.NoError(t, err)
		for server.ReadFrame().Type != http2.FrameHeaders {
		}
		server.ReplyHeaders(3)
		const message = 16 << 10
		n := min(server.SendWindow(0), server.SendWindow(3)) / (message + 5)
		require.Greater(t, n*message, 1<<20)
		for range n {
			server.ReplyMessage(3, make([]byte, message))
		}
		for range n {
			m, err := late.Recv()
			require.NoError(t, err)
			m.Free()
		}
	})
}

// They grow no further than the way to the server makes use of.
func TestWindowsStayIfTheyDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server := receiving(t, h2.Config{})
		sent, pings := far(server, 60, 300<<10)
		assert.LessOrEqual(t, server.SendWindow(1), 1<<20)
		assert.Less(t, pings, len(sent)/3, "PINGs become rare")
	})
}

// Windows that the program has set stay, and nothing is measured.
func TestWindowsThatAreSetStay(t *testing.T) {
	for _, cfg := range []h2.Config{{StreamWindow: 128 << 10}, {ConnWindow: 128 << 10}} {
		synctest.Test(t, func(t *testing.T) {
			_, server := receiving(t, cfg)
			sent, pings := far(server, 20, 1<<30)
			assert.Zero(t, pings)
			for _, n := range sent {
				assert.LessOrEqual(t, n, 128<<10)
			}
		})
	}
}

// download is a stream whose server sends messages that take one frame of the largest
// size each, and whose messages are received on demand.
type download struct {
	server *h2test.Conn
	id     uint32
	s      *h2.Stream
}

const frameOfMessage = 16384

func downloads(t *testing.T, n int, cfg h2.Config) (server *h2test.Conn, all []download) {
	c, server := peered(t, cfg)
	for range n {
		s, err := c.Open(context.Background(), req("/test/Download"))
		require.NoError(t, err)
		id := server.ExpectHeaders().StreamID
		server.ReplyHeaders(id)
		all = append(all, download{server, id, s})
	}
	return server, all
}

// exhaust sends what the windows take. It returns how many messages that is.
func (d download) exhaust() (n int) {
	for message := make([]byte, frameOfMessage-5); d.server.SendWindow(d.id) >= frameOfMessage; n++ {
		for d.server.SendWindow(0) < frameOfMessage {
			d.server.ReadFrame()
		}
		d.server.ReplyMessage(d.id, message)
	}
	synctest.Wait()
	return n
}

// receive takes n messages, and waits for those that have not come until more have. PINGs
// of the client's are not answered.
func (d download) receive(n int) {
	go func() {
		for range n {
			m, err := d.s.Recv()
			if err != nil {
				return // the end of the test
			}
			m.Free()
		}
	}()
	synctest.Wait()
	d.server.Ping([8]byte{1})
	for f := d.server.ReadFrame(); f.Type != http2.FramePing || !f.Ack(); f = d.server.ReadFrame() {
	}
}

// The window of a stream grows whose program waits though the server may send nothing,
// up to 16 MiB; that of a stream beside it does not.
func TestWindowGrowsWhereTheProgramRunsDry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, all := downloads(t, 2, h2.Config{})
		busy, idle := all[0], all[1]
		for _, window := range []int{1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20, 16 << 20} {
			busy.receive(busy.exhaust() + 1)
			assert.LessOrEqual(t, server.SendWindow(busy.id), window)
			assert.Greater(t, server.SendWindow(busy.id), window-min(window/4, 1<<20)-frameOfMessage)
			server.ReplyMessage(busy.id, nil)
			synctest.Wait()
		}
		assert.Equal(t, 512<<10, server.SendWindow(idle.id))

		// When the windows of all streams grow, it is soon no larger than they are.
		time.Sleep(100 * time.Millisecond)
		server.PingAck([]byte("window\x00\x00"))
		for server.SendWindow(idle.id) < 16<<20 {
			server.ReadFrame()
		}
		server.SettingsAck()
		for range 3 {
			busy.receive(busy.exhaust() + 1)
			server.ReplyMessage(busy.id, nil)
			synctest.Wait()
		}
		assert.Equal(t, 16<<20, server.SendWindow(idle.id))
		assert.LessOrEqual(t, server.SendWindow(busy.id), 16<<20)
		assert.Greater(t, server.SendWindow(busy.id), 14<<20)
	})
}

// It stays if the program has messages to receive all the time, which is what holds the
// server up then.
func TestWindowOfASlowProgramStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, all := downloads(t, 1, h2.Config{})
		slow := all[0]
		for range 20 {
			slow.receive(slow.exhaust())
			assert.LessOrEqual(t, server.SendWindow(slow.id), 512<<10)
			server.ReplyMessage(slow.id, nil) // is there when it is asked for
			synctest.Wait()
			slow.receive(1)
		}
	})
}
