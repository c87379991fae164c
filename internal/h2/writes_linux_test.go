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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	return packetsOn(t, func(nc net.Conn) net.Conn { return nc })
}

// packetsOn is packets for a client whose connection is what wrap makes of the socket.
func packetsOn(t *testing.T, wrap func(net.Conn) net.Conn) (*client, *packetServer) {
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
	ready := shake(t, wrap(nc), nil, h2.Config{})
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
	idle(c)
	return c, s
}

// idle waits until no goroutine writes, or is on its way that does: what is sent meanwhile is left to it.
func idle(c *client) {
	for c.Flushing() {
		time.Sleep(50 * time.Microsecond)
	}
}

// open opens a stream whose HEADERS have been written when it returns.
func (s *packetServer) open(c *client) *h2.Stream {
	s.t.Helper()
	stream, err := c.Open(context.Background(), req("/test/Stream"))
	require.NoError(s.t, err)
	require.Equal(s.t, http2.FrameHeaders, http2.FrameType(s.next()[3]))
	idle(c)
	return stream
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
		if http2.FrameType(p[3]) == http2.FrameData {
			n += payloadLen(p)
		}
		p = p[9+payloadLen(p):]
	}
	return n
}

// payloadLen is the length of the frame that p begins with.
func payloadLen(p []byte) int { return int(p[0])<<16 | int(p[1])<<8 | int(p[2]) }

// alone lets one goroutine run at a time, so that only a sender that waits is overtaken.
func alone(t *testing.T) {
	was := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(was) })
}

// Small messages that one stream sends as fast as it can share their writes, and frames.
func TestBurstSharesWrites(t *testing.T) {
	for _, size := range []int{16, 1000} {
		c, server := packets(t)
		alone(t)
		s := server.open(c)
		const messages = 20000
		msg := h2test.PutMessage(false, make([]byte, size))
		burst := func() (writes, frames int) {
			go func() {
				for range messages {
					if s.Send(msg, false) != nil {
						return
					}
				}
			}()
			for got := 0; got < messages*len(msg); writes++ {
				p := server.next()
				got += dataBytes(p)
				for ; len(p) > 0; p = p[9+payloadLen(p):] {
					frames++
				}
			}
			return writes, frames
		}
		// A sender that is preempted begins anew. The best of several bursts counts, since that
		// happens any number of times on a busy machine.
		mostWrites := messages/(32<<10/(len(msg)+9)) + messages/10
		mostFrames := messages/(16<<10/len(msg)) + mostWrites
		writes, frames := burst()
		for try := 0; try < 20 && (writes >= mostWrites || frames >= mostFrames); try++ {
			writes, frames = burst()
		}
		t.Logf("%d messages of %d bytes in %d writes, %d frames", messages, size, writes, frames)
		require.Less(t, writes, mostWrites)
		require.Less(t, frames, mostFrames)
	}
}

// A message that is no part of a burst is on its way when Send returns, also if those
// before it were one.
func TestSingleMessageLeavesAtOnce(t *testing.T) {
	c, server := packets(t)
	alone(t)
	s := server.open(c)
	var sent, got uint32
	arrived := func(p []byte) {
		for ; len(p) > 0; p = p[9+payloadLen(p):] {
			got = binary.BigEndian.Uint32(p[9+payloadLen(p)-4:]) // of the frame's last message
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
	s := server.open(c)
	var head, answer bytes.Buffer
	require.NoError(t, http2.NewFramer(&head, nil).WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, EndHeaders: true, BlockFragment: []byte("\x88\x5f\x10application/grpc"), // :status 200, content-type
	}))
	require.NoError(t, http2.NewFramer(&answer, nil).WriteData(1, false, numbered(1)))
	_, err := server.nc.Write(head.Bytes())
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
	s := server.open(c)
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
		idle(c)
	}
}

// HEADERS that one message follows leave in its write.
func TestHeadersLeaveWithTheOnlyMessage(t *testing.T) {
	c, server := packets(t)
	for id := uint32(1); id < 20; id += 2 {
		r := req("/test/ServerStream")
		r.Follows = true
		s, err := c.Open(context.Background(), r)
		require.NoError(t, err)
		require.Nil(t, server.now(), "HEADERS before the message")
		require.NoError(t, s.Send(numbered(1), true))
		require.Equal(t, []string{"HEADERS", "DATA"}, server.nextFrames())
		idle(c)
	}
}

// HEADERS that wait for a message leave without it where the program waits for the server,
// or ends the stream, and with what others send.
func TestHeldHeadersLeave(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(c *client, s *h2.Stream)
		want []string
	}{
		{"Recv", func(_ *client, s *h2.Stream) { s.Recv() }, []string{"HEADERS"}},
		{"Header", func(_ *client, s *h2.Stream) { s.Header(context.Background()) }, []string{"HEADERS"}},
		{"CloseSend", func(_ *client, s *h2.Stream) { s.CloseSend() }, []string{"HEADERS", "DATA"}},
		{"Cancel", func(_ *client, s *h2.Stream) { s.Cancel(status.New(codes.Canceled, "")) }, []string{"HEADERS", "RST_STREAM"}},
		{"another stream", func(c *client, _ *h2.Stream) { c.Open(context.Background(), req("/test/Stream")) }, []string{"HEADERS", "HEADERS"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, server := packets(t)
			r := req("/test/ServerStream")
			r.Follows = true
			s, err := c.Open(context.Background(), r)
			require.NoError(t, err)
			require.Nil(t, server.now())
			done := make(chan struct{})
			go func() {
				tt.do(c, s)
				close(done)
			}()
			require.Equal(t, tt.want, server.nextFrames())
			c.Close(nil, nil)
			await(t, done, tt.name)
		})
	}
}

// HEADERS that wait for messages do not fill the pending buffer: the room in it is for those
// who write.
func TestHeldHeadersAreFew(t *testing.T) {
	c, server := packets(t)
	r := req("/test/ServerStream")
	r.Follows = true
	for held := 0; ; held++ {
		require.Less(t, held, 10_000)
		_, err := c.Open(context.Background(), r)
		require.NoError(t, err)
		if p := server.now(); p != nil {
			require.Less(t, len(p), 33<<10)
			return
		}
	}
}

// HEADERS, the messages that the program sends before it waits, and END_STREAM share writes.
func TestShortStreamSharesAWrite(t *testing.T) {
	var frames []string
	for try := 0; try < 20 && len(frames) < 3; try++ { // a sender that is preempted is overtaken by the write
		c, server := packets(t)
		alone(t)
		s, err := c.Open(context.Background(), req("/test/ClientStream"))
		require.NoError(t, err)
		require.NoError(t, s.Send(numbered(1), false))
		require.NoError(t, s.CloseSend())
		frames = server.nextFrames()
	}
	require.Equal(t, []string{"HEADERS", "DATA", "DATA"}, frames)
}

// callTogether makes calls at the same time, which end when they are cancelled.
func callTogether(c *client, calls int) (cancel func(), calling *sync.WaitGroup) {
	ctx, cancel := context.WithCancel(context.Background())
	calling = new(sync.WaitGroup)
	for range calls {
		calling.Go(func() {
			if s, err := c.Unary(ctx, req("/test/Call"), numbered(1)); err == nil {
				s.Release()
			}
		})
	}
	return cancel, calling
}

// Calls that are cancelled together share the writes of their RST_STREAMs.
func TestCancelledTogetherShareAWrite(t *testing.T) {
	c, server := packets(t)
	alone(t)
	sharesWrites(t, func(calls int) (writes int) {
		cancel, calling := callTogether(c, calls)
		for n := 0; n < 2*calls; { // HEADERS and DATA
			n += len(server.nextFrames())
		}
		cancel()
		for n := 0; n < calls; writes++ {
			n += len(server.nextFrames())
		}
		calling.Wait()
		idle(c)
		return writes
	})
}

// Calls that begin together share writes on a connection that is no socket to this package.
func TestCallsShareWritesApart(t *testing.T) {
	c, server := packetsOn(t, func(nc net.Conn) net.Conn { return struct{ net.Conn }{nc} })
	alone(t)
	sharesWrites(t, func(calls int) (writes int) {
		cancel, calling := callTogether(c, calls)
		for n := 0; n < 2*calls; writes++ {
			n += len(server.nextFrames())
		}
		cancel()
		for n := 0; n < calls; { // RST_STREAM
			n += len(server.nextFrames())
		}
		calling.Wait()
		idle(c)
		return writes
	})
}

// sharesWrites fails unless the calls that f makes at a time share their writes: a quarter of
// them at most is made. The best of several tries counts, since one goroutine that is preempted
// makes a write of its own.
func sharesWrites(t *testing.T, f func(calls int) (writes int)) {
	t.Helper()
	const calls = 32
	writes := f(calls)
	for try := 0; try < 20 && writes > calls/4; try++ {
		writes = f(calls)
	}
	t.Logf("%d calls, %d writes", calls, writes)
	require.LessOrEqual(t, writes, calls/4)
}

// nextFrames are the kinds of frames in the next write.
func (s *packetServer) nextFrames() (kinds []string) {
	s.t.Helper()
	for p := s.next(); len(p) > 0; p = p[9+payloadLen(p):] {
		kinds = append(kinds, http2.FrameType(p[3]).String())
	}
	return kinds
}
