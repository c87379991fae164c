package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// floorConn is the column "floor": a client that does what no client of this server can
// leave out, so that it shows what the socket, the kernel and the server's pace cost. It is
// no library. It has
//
//   - one connection, with an HTTP/2 preface, windows of 2 GiB and one reading goroutine,
//     which acknowledges SETTINGS and PING and keeps the server's windows;
//   - requests and messages that were encoded before: for each call the stream id is written
//     into them, and they leave together with those of other callers, in a blocking write;
//   - callers that are woken by the reading goroutine, once for a reply or for a batch of
//     messages.
//
// It leaves out: contexts, deadlines that end anything (the header is sent), cancellation,
// metadata, encoding of messages, header blocks of replies (not read: a reply counts by its
// DATA and END_STREAM), the bytes of received messages (counted by their prefixes, and
// thrown away but for the first few of a stream's last message), back-pressure to the
// server, retries, reconnects, name resolution, load balancing, statistics, keepalive, and
// limits on anything the server sends. An unexpected frame ends it with an error. All
// requests of a connection have the same path.
type floorConn struct {
	target   string
	tls      *tls.Config // nil: plaintext
	nc       net.Conn
	in       *bufio.Reader
	consumed int64 // the reader's: since the connection's window was given back

	mu      sync.Mutex
	roomy   sync.Cond // a window or the pending buffer has got room
	pending []byte    // waits to be written
	spare   []byte
	writing bool
	crowded bool // set once: several callers; a writer lets them run first
	nextID  uint32
	window  int64 // what may be sent on the connection
	initial int64 // and on a new stream
	encoder *hpack.Encoder
	encoded bytes.Buffer
	path    string
	block   []byte // the request's header block once the server's table has all of it
	err     error

	streams [1 << 14]atomic.Pointer[floorStream] // by id
}

const (
	floorPending = 256 << 10 // bytes that may wait
	floorFrame   = 16384     // the largest frame that every server takes
	floorWindow  = 1<<31 - 1
	floorUpdate  = 1 << 30 // bytes after which a window is given back
)

func openFloor(c cell, at endpoint) (opened, error) {
	config, err := floorTLS(at)
	if err != nil {
		return opened{}, err
	}
	nc, settings, err := dialFloor(at.Target, config)
	if err != nil {
		return opened{}, err
	}
	f := &floorConn{target: at.Target, tls: config, nc: nc, in: bufio.NewReaderSize(nc, 64<<10), nextID: 1, window: 65535, initial: 65535, crowded: c.workers > 1}
	f.roomy.L = &f.mu
	f.encoder = hpack.NewEncoder(&f.encoded)
	f.apply(settings)
	go f.read()
	return opened{floorName, at, func(c cell) (worker, error) {
		return c.floor(f)
	}, nc.Close}, nil
}

// floorPreface and floorAck are what a connection begins with.
var (
	floorPreface = func() []byte {
		var preface bytes.Buffer
		preface.WriteString(http2.ClientPreface)
		fr := http2.NewFramer(&preface, nil)
		_ = fr.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: floorWindow})
		_ = fr.WriteWindowUpdate(0, floorWindow-65535)
		return preface.Bytes()
	}()
	floorAck = []byte{0, 0, 0, byte(http2.FrameSettings), byte(http2.FlagSettingsAck), 0, 0, 0, 0}
)

// floorTLS is nil for plaintext.
func floorTLS(at endpoint) (*tls.Config, error) {
	if len(at.CA) == 0 {
		return nil, nil
	}
	pool, err := at.pool()
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", NextProtos: []string{"h2"}}, err
}

// dialFloor returns a connection once the server's SETTINGS have come and are acknowledged,
// and what they say.
func dialFloor(target string, config *tls.Config) (net.Conn, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, nil, err
	}
	if config != nil {
		secure := tls.Client(nc, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, nil, err
		}
		nc = secure
	}
	settings, err := shakeFloor(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, settings, nil
}

func shakeFloor(nc net.Conn) (settings []byte, err error) {
	if _, err := nc.Write(floorPreface); err != nil {
		return nil, err
	}
	var head [9]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return nil, err
	}
	if http2.FrameType(head[3]) != http2.FrameSettings {
		return nil, fmt.Errorf("the first frame is %v", http2.FrameType(head[3]))
	}
	settings = make([]byte, int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(nc, settings); err != nil {
		return nil, err
	}
	_, err = nc.Write(floorAck)
	return settings, err
}

// read reads frames until the connection ends.
func (f *floorConn) read() {
	err := error(nil)
	for err == nil {
		err = f.frame()
	}
	f.mu.Lock()
	f.err = fmt.Errorf("the floor's connection ended: %w", err)
	f.mu.Unlock()
	f.roomy.Broadcast()
	for i := range f.streams {
		if st := f.streams[i].Load(); st != nil {
			st.reset.Store(true)
			st.ended.Store(true)
			st.notify()
		}
	}
}

// frame reads one frame and does what it asks for.
func (f *floorConn) frame() error {
	head, err := f.in.Peek(9)
	if err != nil {
		return err
	}
	length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	kind, flags, id := http2.FrameType(head[3]), http2.Flags(head[4]), binary.BigEndian.Uint32(head[5:])
	_, _ = f.in.Discard(9)
	switch kind {
	case http2.FrameData:
		return f.data(id, length)
	case http2.FrameHeaders:
		if flags.Has(http2.FlagHeadersEndStream) {
			f.end(id, false)
		}
	case http2.FrameRSTStream:
		f.end(id, true)
	case http2.FramePing, http2.FrameSettings, http2.FrameWindowUpdate:
		payload, err := f.in.Peek(length)
		if err != nil {
			return err
		}
		f.control(kind, flags, id, payload)
	case http2.FrameContinuation:
	default:
		return fmt.Errorf("a frame of type %v", kind)
	}
	_, err = f.in.Discard(length)
	return err
}

// control does what a frame of flow control or of the connection asks for.
func (f *floorConn) control(kind http2.FrameType, flags http2.Flags, id uint32, payload []byte) {
	f.mu.Lock()
	switch {
	case kind == http2.FrameWindowUpdate && id == 0:
		f.window += int64(binary.BigEndian.Uint32(payload))
	case kind == http2.FrameWindowUpdate:
		if st := f.stream(id); st != nil {
			st.window += int64(binary.BigEndian.Uint32(payload))
		}
	case flags.Has(http2.FlagPingAck): // of SETTINGS too: the flag is the same
	case kind == http2.FramePing:
		f.pending = append(f.pending, 0, 0, 8, byte(http2.FramePing), byte(http2.FlagPingAck), 0, 0, 0, 0)
		f.pending = append(f.pending, payload...)
	default:
		f.apply(payload)
		f.pending = append(f.pending, floorAck...)
	}
	f.roomy.Broadcast()
	f.flush()
}

// apply does what SETTINGS say. f.mu is held, or nothing else uses f yet.
func (f *floorConn) apply(settings []byte) {
	for ; len(settings) >= 6; settings = settings[6:] {
		if http2.SettingID(binary.BigEndian.Uint16(settings)) != http2.SettingInitialWindowSize {
			continue
		}
		now := int64(binary.BigEndian.Uint32(settings[2:]))
		for i := range f.streams {
			if st := f.streams[i].Load(); st != nil {
				st.window += now - f.initial
			}
		}
		f.initial = now
	}
}

// data counts the messages in a frame's payload, and throws it away.
func (f *floorConn) data(id uint32, length int) error {
	st := f.stream(id)
	for left := length; left > 0; {
		if _, err := f.in.Peek(1); err != nil {
			return err
		}
		part, _ := f.in.Peek(min(left, f.in.Buffered()))
		if st != nil {
			st.take(part)
		}
		left -= len(part)
		_, _ = f.in.Discard(len(part))
	}
	f.giveBack(&f.consumed, 0, length)
	if st != nil {
		f.giveBack(&st.consumed, id, length)
	}
	return nil
}

// giveBack opens a window again once half of it has been used.
func (f *floorConn) giveBack(consumed *int64, id uint32, n int) {
	if *consumed += int64(n); *consumed < floorUpdate {
		return
	}
	f.mu.Lock()
	f.pending = append(f.pending, 0, 0, 4, byte(http2.FrameWindowUpdate), 0)
	f.pending = binary.BigEndian.AppendUint32(f.pending, id)
	f.pending = binary.BigEndian.AppendUint32(f.pending, uint32(*consumed))
	*consumed = 0
	f.flush()
}

// end ends a stream that the server has ended.
func (f *floorConn) end(id uint32, reset bool) {
	if st := f.stream(id); st != nil {
		f.slot(id).Store(nil)
		st.reset.Store(reset)
		st.ended.Store(true)
		st.notify()
	}
}

// cancel resets a stream.
func (f *floorConn) cancel(st *floorStream) {
	id := st.id.Load()
	f.mu.Lock()
	f.slot(id).Store(nil)
	f.pending = append(f.pending, 0, 0, 4, byte(http2.FrameRSTStream), 0)
	f.pending = binary.BigEndian.AppendUint32(f.pending, id)
	f.pending = binary.BigEndian.AppendUint32(f.pending, uint32(http2.ErrCodeCancel))
	f.flush()
}

func (f *floorConn) slot(id uint32) *atomic.Pointer[floorStream] {
	return &f.streams[id>>1%uint32(len(f.streams))]
}

// stream is the stream of that id, nil if it has ended.
func (f *floorConn) stream(id uint32) *floorStream {
	if st := f.slot(id).Load(); st != nil && st.id.Load() == id {
		return st
	}
	return nil
}

// begin appends a request's HEADERS to the pending buffer, and as much of body as the
// windows allow; it returns the rest. body consists of whole frames, in which the stream's
// id is not written yet. f.mu is held.
func (f *floorConn) begin(st *floorStream, path string, body []byte) (rest []byte, err error) {
	if f.err != nil {
		return nil, f.err
	}
	if f.path != "" && f.path != path {
		return nil, errors.New("the floor's connection has another path")
	}
	id := f.nextID
	f.nextID += 2
	if f.slot(id).Load() != nil {
		return nil, errors.New("too many of the floor's streams are open")
	}
	st.got.Store(0)
	st.want.Store(0)
	st.ended.Store(false)
	st.reset.Store(false)
	st.inPrefix, st.consumed = 0, 0
	st.window = f.initial
	st.id.Store(id)
	f.slot(id).Store(st)

	block := f.block
	if block == nil {
		block = f.encode(path)
		if f.path == path { // the second of them is short, and so are all that follow
			f.block = bytes.Clone(block)
		}
		f.path = path
	}
	f.pending = append(f.pending, byte(len(block)>>16), byte(len(block)>>8), byte(len(block)), byte(http2.FrameHeaders), byte(http2.FlagHeadersEndHeaders))
	f.pending = binary.BigEndian.AppendUint32(f.pending, id)
	f.pending = append(f.pending, block...)
	setStream(body, id)
	n := f.allowed(st, body)
	f.pending = append(f.pending, body[:n]...)
	return body[n:], nil
}

// encode is a request's header block, with the deadline that the cells have.
func (f *floorConn) encode(path string) []byte {
	f.encoded.Reset()
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "127.0.0.1"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "grpcdial-bench-floor"}, {"grpc-timeout", "10S"},
	} {
		_ = f.encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	return f.encoded.Bytes()
}

// allowed is how much of frames, in whole frames, may be sent now; it is taken from the
// windows. f.mu is held.
func (f *floorConn) allowed(st *floorStream, frames []byte) (n int) {
	for n < len(frames) {
		length := int64(frames[n])<<16 | int64(frames[n+1])<<8 | int64(frames[n+2])
		if length > f.window || length > st.window {
			return n
		}
		f.window -= length
		st.window -= length
		n += 9 + int(length)
	}
	return n
}

// send sends whole frames of a stream, in which its id is written, as the windows allow.
// The bytes are written when it returns, or copied.
func (f *floorConn) send(st *floorStream, frames []byte) error {
	f.mu.Lock()
	for len(frames) > 0 {
		var n int
		for n == 0 {
			if f.err != nil || st.ended.Load() {
				err := errors.Join(f.err, errFloorReset)
				f.mu.Unlock()
				return err
			}
			if len(f.pending) < floorPending {
				n = f.allowed(st, frames)
			}
			if n == 0 {
				f.roomy.Wait()
			}
		}
		if n >= floorFrame && !f.writing && len(f.pending) == 0 { // without the copy
			f.writing = true
			f.mu.Unlock()
			_, err := f.nc.Write(frames[:n])
			f.mu.Lock()
			f.writing = false
			if err != nil {
				f.err = err
			}
		} else {
			f.pending = append(f.pending, frames[:n]...)
		}
		frames = frames[n:]
		f.flush()
		f.mu.Lock()
	}
	f.mu.Unlock()
	return nil
}

// flush writes what is pending, unless a caller is at it already. f.mu is held, and is not
// when it returns.
func (f *floorConn) flush() {
	if f.writing || len(f.pending) == 0 {
		f.mu.Unlock()
		return
	}
	f.writing = true
	if f.crowded {
		f.mu.Unlock()
		runtime.Gosched()
		f.mu.Lock()
	}
	for len(f.pending) > 0 && f.err == nil {
		out := f.pending
		f.pending = f.spare[:0]
		f.mu.Unlock()
		_, err := f.nc.Write(out)
		f.mu.Lock()
		f.spare = out
		if err != nil {
			f.err = err
		}
		f.roomy.Broadcast()
	}
	f.writing = false
	f.mu.Unlock()
}
