package h2_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/h2"
)

// serverPreface is what a server may send before it has read anything.
const serverPreface = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// A server that sends its SETTINGS and does not read ours is none to send requests to.
func TestServerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe() // holds nothing
		defer server.Close()
		go func() { _, _ = server.Write([]byte(serverPreface)) }()
		w := h2.NewWire(client)
		c := h2.New(w, w, h2.Config{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		began := time.Now()
		err := c.Handshake(ctx)
		require.ErrorAs(t, err, new(*h2.UnreadError))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
	})
}

// One that does not read and goes on sending is given up before it fills the memory.
func TestServerThatSendsAndDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer server.Close()
		var sent atomic.Int64
		go func() {
			p := []byte(serverPreface)
			for {
				n, err := server.Write(p)
				if sent.Add(int64(n)); err != nil {
					return
				}
				p = make([]byte, 100)
			}
		}()
		w := h2.NewWire(client)
		c := h2.New(w, w, h2.Config{})
		require.ErrorAs(t, c.Handshake(context.Background()), new(*h2.UnreadError))
		synctest.Wait()
		require.Less(t, sent.Load(), int64(200_000))
	})
}

// One that reads late, and writes more before it does, is waited for, whether or not the
// connection has deadlines.
func TestServerThatReadsLate(t *testing.T) {
	for _, deadlines := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			var nc net.Conn = client
			if !deadlines {
				nc = noDeadlines{client}
			}
			go func() {
				frames := []byte(serverPreface)
				for range 3000 {
					frames = append(frames, "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01"...) // WINDOW_UPDATE
				}
				for ; len(frames) > 0; frames = frames[min(len(frames), 700):] {
					_, _ = server.Write(frames[:min(len(frames), 700)])
				}
				time.Sleep(time.Minute)
				framer := http2.NewFramer(server, server)
				_, _ = server.Read(make([]byte, len(http2.ClientPreface)))
				for {
					f, err := framer.ReadFrame()
					if err != nil {
						return
					}
					if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
						_ = framer.WriteSettingsAck()
					}
				}
			}()
			w := h2.NewWire(nc)
			c := h2.New(w, w, h2.Config{})
			began := time.Now()
			require.NoError(t, c.Handshake(context.Background()))
			require.Equal(t, time.Minute, time.Since(began))
			served := make(chan error, 1)
			go func() { served <- c.Serve(func(error) {}) }()
			synctest.Wait()
			require.Equal(t, int64(65535+3000), c.Counts().SendWindow, "what came meanwhile counts")
			require.Empty(t, served)
			c.Close(nil, nil)
			<-served
			server.Close()
		})
	}
}

// noDeadlines is a connection that takes deadlines and ignores them.
type noDeadlines struct{ net.Conn }

func (noDeadlines) SetDeadline(time.Time) error      { return nil }
func (noDeadlines) SetReadDeadline(time.Time) error  { return nil }
func (noDeadlines) SetWriteDeadline(time.Time) error { return nil }
