package h2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// packetServer is a server on a socket that keeps the boundaries of writes: each of its
// reads returns what one write of the client's was.
type packetServer struct {
	t  *testing.T
	nc *net.UnixConn
	p  []byte
}

// packets connects a client to a packetServer, which opens all windows wide.
func packets(t *testing.T) (*client, *packetServer) {
	t.Helper()
	dir, err := os.MkdirTemp("", "h2")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	addr := &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixpacket"}
	ln, err := net.ListenUnix("unixpacket", addr)
	require.NoError(t, err)
	defer ln.Close()
	nc, err := net.DialUnix("unixpacket", nil, addr)
	require.NoError(t, err)
	ready := shake(t, nc, nil, h2.Config{})
	far, err := ln.AcceptUnix()
	require.NoError(t, err)
	t.Cleanup(func() { far.Close() })
	s := &packetServer{t: t, nc: far, p: make([]byte, 1<<20)}
	require.NoError(t, far.SetDeadline(time.Now().Add(time.Minute)))
	s.next() // the preface
	fr := http2.NewFramer(far, nil)
	require.NoError(t, fr.WriteSettings(h2test.InitialWindowSize(1<<30)))
	require.NoError(t, fr.WriteSettingsAck())
	c := ready()
	s.next() // the acknowledgement
	require.NoError(t, fr.WriteWindowUpdate(0, 1<<30))
	require.NoError(t, fr.WritePing(false, [8]byte{}))
	answer := s.next() // what was said before the PING holds
	require.Equal(t, http2.FramePing, http2.FrameType(answer[3]))
	for c.Flushing() { // what is sent while the reader has not ended its write is left to it
		time.Sleep(50 * time.Microsecond)
	}
	return c, s
}

// next is the next write.
func (s *packetServer) next() []byte {
	s.t.Helper()
	n, err := s.nc.Read(s.p)
	require.NoError(s.t, err)
	return s.p[:n]
}

// now is the next write if it has been made already. It lets no other goroutine run.
func (s *packetServer) now() []byte {
	s.t.Helper()
	rc, err := s.nc.SyscallConn()
	require.NoError(s.t, err)
	n := 0
	require.NoError(s.t, rc.Control(func(fd uintptr) { n, err = syscall.Read(int(fd), s.p) }))
	if errors.Is(err, syscall.EAGAIN) {
		return nil
	}
	require.NoError(s.t, err)
	return s.p[:n]
}

// dataBytes is how many bytes of DATA the whole frames in p carry.
func dataBytes(p []byte) (n int) {
	for len(p) > 0 {
		length := int(p[0])<<16 | int(p[1])<<8 | int(p[2])
		if http2.FrameType(p[3]) == http2.FrameData {
			n += length
		}
		p = p[9+length:]
	}
	return n
}

// alone lets one goroutine run at a time, so that only a sender that waits is overtaken.
func alone(t *testing.T) {
	was := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(was) })
}

// Small messages that one stream sends as fast as it can share their writes.
func TestBurstSharesWrites(t *testing.T) {
	for _, size := range []int{16, 1000} {
		c, server := packets(t)
		alone(t)
		s, err := c.Open(context.Background(), req("/test/Stream"))
		require.NoError(t, err)
		server.next()
		const messages = 20000
		msg := h2test.PutMessage(false, make([]byte, size))
		go func() {
			for range messages {
				if s.Send(msg, false) != nil {
					return
				}
			}
		}()
		writes := 0
		for got := 0; got < messages*len(msg); writes++ {
			got += dataBytes(server.next())
		}
		t.Logf("%d messages of %d bytes in %d writes", messages, size, writes)
		perWrite := 32 << 10 / (len(msg) + 9)
		require.Less(t, writes, messages/perWrite+messages/10, "a sender that is preempted begins anew")
	}
}

// A message that is no part of a burst is on its way when Send returns, also if those
// before it were one.
func TestSingleMessageLeavesAtOnce(t *testing.T) {
	c, server := packets(t)
	alone(t)
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	require.NotNil(t, server.now(), "the headers")
	var sent, got uint32
	arrived := func(p []byte) {
		for ; len(p) > 0; p = p[9+9:] {
			got = binary.BigEndian.Uint32(p[14:])
		}
	}
	for range 100 {
		for range 20 {
			sent++
			require.NoError(t, s.Send(numbered(int(sent)), false))
			arrived(server.now())
		}
		for got < sent { // the rest of the burst
			arrived(server.next())
		}
		time.Sleep(100 * time.Microsecond)
		sent++
		require.NoError(t, s.Send(numbered(int(sent)), false))
		arrived(server.now())
		require.Equal(t, sent, got, "a message after a pause")
	}
}

// A message that follows an answer is on its way when Send returns, however fast they
// alternate.
func TestMessageAfterAnAnswerLeavesAtOnce(t *testing.T) {
	c, server := packets(t)
	alone(t)
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	require.NotNil(t, server.now(), "the headers")
	var head, answer bytes.Buffer
	require.NoError(t, http2.NewFramer(&head, nil).WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, EndHeaders: true, BlockFragment: []byte("\x88\x5f\x10application/grpc"), // :status 200, content-type
	}))
	require.NoError(t, http2.NewFramer(&answer, nil).WriteData(1, false, numbered(1)))
	_, err = server.nc.Write(head.Bytes())
	require.NoError(t, err)
	for n := range 1000 {
		require.NoError(t, s.Send(numbered(n), false))
		require.NotNil(t, server.now(), "message %d", n)
		began := time.Now()
		_, err = server.nc.Write(answer.Bytes())
		require.NoError(t, err)
		m, err := s.Recv()
		require.NoError(t, err)
		m.Free()
		for time.Since(began) < 20*time.Microsecond { // no network is faster
		}
	}
}

// A large message leaves in one write where windows and socket allow.
func TestLargeMessageIsOneWrite(t *testing.T) {
	c, server := packets(t)
	s, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(t, err)
	server.next()
	for _, size := range []int{16 << 10, 64 << 10, 100 << 10} {
		msg := h2test.PutMessage(false, make([]byte, size))
		sent := make(chan error, 1)
		go func() { sent <- s.Send(msg, false) }()
		require.Equal(t, len(msg), dataBytes(server.next()))
		require.NoError(t, await(t, sent, "the sender"))

		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			s, err := c.Unary(ctx, req("/test/Call"), msg)
			if err == nil {
				s.Release()
			}
			done <- err
		}()
		require.Equal(t, len(msg), dataBytes(server.next()), "with the headers")
		cancel()
		require.NoError(t, await(t, done, "the call"))
		server.next() // RST_STREAM
	}
}
