package h2test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// DefaultBound is how long an Expect method, an Accept or a write waits before
// it fails the test. In a synctest bubble it is the bubble's time.
const DefaultBound = time.Minute

// Kind is a set of frame kinds, for Skip.
type Kind uint16

const (
	WindowUpdates Kind = 1 << iota // any stream
	Pings                          // without ACK; a skipped one is acknowledged
	PingAcks
	SettingsFrames // without ACK; a skipped one is acknowledged
	SettingsAcks
	Priorities
	RSTs
	DataFrames
	HeadersFrames
	GoAways
	otherFrames
)

// Conn is the server's end of one connection, driven by a script.
//
// Methods that read (ReadFrame, Expect..., Handshake, Loop) belong to one
// goroutine at a time; methods that write may be called from any goroutine, and
// frames reach the wire in the order of the calls. All fail the test themselves:
// with t.Fatalf in the test's goroutine, or, on a connection handed to a Script
// function, with t.Errorf and runtime.Goexit.
type Conn struct {
	script bool // this handle is used outside the test's goroutine
	serve  bool // and a client that closes ends the script without failing
	*wire
}

// wire is what all handles of a connection share.
type wire struct {
	t     testing.TB
	nc    net.Conn // carries the frames: TLS when the server speaks it
	raw   net.Conn // the connection beneath TLS, or nc
	log   wireLog
	rules *rules
	bound atomic.Int64 // time.Duration

	// Owned by the reading goroutine.
	br      *bufio.Reader
	fr      *http2.Framer
	dec     *hpack.Decoder
	emitted []hpack.HeaderField
	pending []*Frame // read already, not yet asked for
	skip    Kind

	table       int64 // the size of the client's HPACK table, as it announced it
	tableShrunk bool  // the next block must begin with an update of it
	stopLoop    bool  // EndLoop was called

	// wsem is held by the goroutine that writes; a channel, so that waiting for
	// it is durable in a synctest bubble. It guards the next six fields.
	wsem   chan struct{}
	wbuf   bytes.Buffer
	wfr    *http2.Framer
	hbuf   bytes.Buffer
	enc    *hpack.Encoder
	corked int

	// clientTable is the client's SETTINGS_HEADER_TABLE_SIZE, not yet applied to
	// enc, or -1. Set by the reader, taken by the writer.
	clientTable atomic.Int64
	maxFrame    atomic.Int64 // the client's SETTINGS_MAX_FRAME_SIZE

	mu      sync.Mutex
	looping bool          // Loop is reading: the end of the test may cut it
	closing bool          // the test ended, or the script closed the connection
	ended   chan struct{} // closed when closing is set

	scripts sync.WaitGroup // goroutines that Go or Script started
}

func newConn(t testing.TB, nc, raw net.Conn, bound time.Duration, script bool) *Conn {
	c := &Conn{script: script, wire: &wire{
		t:     t,
		nc:    nc,
		raw:   raw,
		rules: newRules(),
		br:    bufio.NewReader(nc),
		skip:  WindowUpdates,
		table: initialTableSize,
		wsem:  make(chan struct{}, 1),
		ended: make(chan struct{}),
	}}
	c.SetBound(bound)
	c.clientTable.Store(-1)
	c.maxFrame.Store(minMaxFrameSize)
	c.fr = http2.NewFramer(nil, c.br)
	c.dec = hpack.NewDecoder(initialTableSize, func(f hpack.HeaderField) { c.emitted = append(c.emitted, f) })
	c.wfr = http2.NewFramer(&c.wbuf, nil)
	c.wfr.AllowIllegalWrites = true
	c.enc = hpack.NewEncoder(&c.hbuf)
	return c
}

// Initial values of SETTINGS_MAX_FRAME_SIZE and SETTINGS_HEADER_TABLE_SIZE (RFC
// 9113 §6.5.2).
const (
	minMaxFrameSize  = 16384
	initialTableSize = 4096
)

// SetBound sets how long each later wait may last. Tests in a synctest bubble
// that let minutes pass raise it.
func (c *Conn) SetBound(d time.Duration) { c.bound.Store(int64(d)) }

// Skip sets the kinds of frames that Expect methods pass over when they wait for
// something else. It replaces the set; at first it is WindowUpdates. An Expect
// method for a skipped kind still finds it.
func (c *Conn) Skip(kinds ...Kind) {
	c.skip = 0
	for _, k := range kinds {
		c.skip |= k
	}
}

// NetConn returns the connection that carries the frames. Bytes that were read
// ahead by the Conn are not in it.
func (c *Conn) NetConn() net.Conn { return c.nc }

// fatalf ends the calling goroutine and fails the test.
func (c *Conn) fatalf(format string, args ...any) {
	c.t.Helper()
	msg := "h2test: " + fmt.Sprintf(format, args...)
	if !c.script {
		c.t.Fatal(msg)
	}
	c.t.Error(msg)
	runtime.Goexit()
}

// failed is fatalf for a read or a write that returned err. A script whose
// connection the test itself has closed just ends.
func (c *Conn) failed(doing string, err error) {
	c.t.Helper()
	if c.script && errors.Is(err, net.ErrClosed) && c.closed() || c.serve && isClosed(err) {
		runtime.Goexit()
	}
	c.fatalf("%s: %s", doing, c.explain(err))
}

func (c *Conn) deadline() time.Time { return time.Now().Add(time.Duration(c.bound.Load())) }

// ReadFrame returns the next frame, whatever it is. It fails the test when none
// comes within the bound or the client has closed the connection.
func (c *Conn) ReadFrame() *Frame {
	c.t.Helper()
	return c.mustRead(c.deadline(), "a frame")
}

func (c *Conn) mustRead(deadline time.Time, what string) *Frame {
	c.t.Helper()
	f, err := c.next(deadline)
	if err != nil {
		c.failed("waiting for "+what, err)
	}
	return f
}

// explain says in words why a read or a write ended.
func (c *Conn) explain(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("nothing happened for %v", time.Duration(c.bound.Load()))
	case errors.Is(err, net.ErrClosed):
		return "the test closed the connection"
	case isReset(err):
		return fmt.Sprintf("the client reset the connection (%v)", err)
	case isClosed(err):
		return fmt.Sprintf("the client closed the connection (%v)", err)
	}
	var connErr http2.ConnectionError
	var streamErr http2.StreamError
	if errors.As(err, &connErr) || errors.As(err, &streamErr) {
		if detail := c.fr.ErrorDetail(); detail != nil {
			return fmt.Sprintf("the client broke the protocol: %v: %v", err, detail)
		}
		return fmt.Sprintf("the client broke the protocol: %v", err)
	}
	return err.Error()
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || strings.Contains(err.Error(), "forcibly closed")
}

func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || isReset(err)
}

// next returns the next frame or the error that ended the reading. A zero
// deadline waits until the connection ends.
func (c *Conn) next(deadline time.Time) (*Frame, error) {
	if len(c.pending) > 0 {
		f := c.pending[0]
		c.pending = c.pending[1:]
		return f, nil
	}
	return c.readWire(deadline)
}

func (c *Conn) readWire(deadline time.Time) (*Frame, error) {
	if err := c.nc.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	hf, err := c.fr.ReadFrame()
	if err != nil {
		if isClosed(err) && !errors.Is(err, net.ErrClosed) {
			c.log.note("client closed: " + err.Error())
		}
		return nil, err
	}
	f, err := c.convert(hf)
	if err != nil {
		return nil, err
	}
	c.log.client(f.String())
	if err := c.observe(f); err != nil {
		return nil, err
	}
	return f, nil
}

// convert copies what the framer read and joins CONTINUATION frames.
func (c *Conn) convert(hf http2.Frame) (*Frame, error) {
	h := hf.Header()
	f := &Frame{Type: h.Type, Flags: h.Flags, StreamID: h.StreamID, Length: int(h.Length)}
	if limit := c.rules.limit(http2.SettingMaxFrameSize); int64(h.Length) > limit {
		return nil, fmt.Errorf("the client broke the protocol: %s stream=%d of %d bytes, SETTINGS_MAX_FRAME_SIZE is %d",
			typeName(h.Type), h.StreamID, h.Length, limit)
	}
	switch hf := hf.(type) {
	case *http2.DataFrame:
		f.Data = bytes.Clone(hf.Data())
		f.Padding = f.Length - len(f.Data)
	case *http2.HeadersFrame:
		f.Block = bytes.Clone(hf.HeaderBlockFragment())
		ended := hf.HeadersEnded()
		for !ended {
			next, err := c.fr.ReadFrame()
			if err != nil {
				return nil, err
			}
			// The framer lets nothing but a CONTINUATION of the stream through.
			cont := next.(*http2.ContinuationFrame)
			f.Block = append(f.Block, cont.HeaderBlockFragment()...)
			f.Length += int(cont.Length)
			f.Continuations++
			ended = cont.HeadersEnded()
		}
		f.Flags |= http2.FlagHeadersEndHeaders
		if err := c.decode(f); err != nil {
			return nil, fmt.Errorf("the client broke the protocol: HEADERS stream=%d: %w", f.StreamID, err)
		}
	case *http2.RSTStreamFrame:
		f.Code = hf.ErrCode
	case *http2.SettingsFrame:
		_ = hf.ForeachSetting(func(s http2.Setting) error {
			f.Settings = append(f.Settings, s)
			return nil
		})
	case *http2.PingFrame:
		f.Data = bytes.Clone(hf.Data[:])
	case *http2.GoAwayFrame:
		f.Code, f.LastStreamID, f.Data = hf.ErrCode, hf.LastStreamID, bytes.Clone(hf.DebugData())
	case *http2.WindowUpdateFrame:
		f.Increment = hf.Increment
	case *http2.UnknownFrame:
		f.Data = bytes.Clone(hf.Payload())
	}
	return f, nil
}

// decode decodes the header block of f. Every block must pass here, in order.
func (c *Conn) decode(f *Frame) error {
	if size, ok := tableUpdate(f.Block); ok {
		c.table = size
	} else if c.tableShrunk {
		return fmt.Errorf("the block after the acknowledgement of a smaller SETTINGS_HEADER_TABLE_SIZE does not begin with a table size update (RFC 7541 §4.2)")
	}
	c.tableShrunk = false
	c.dec.SetAllowedMaxDynamicTableSize(uint32(c.rules.limit(http2.SettingHeaderTableSize)))
	c.emitted = nil
	if _, err := c.dec.Write(f.Block); err != nil {
		return fmt.Errorf("HPACK: %w", err)
	}
	if err := c.dec.Close(); err != nil {
		return fmt.Errorf("HPACK: %w", err)
	}
	f.Fields = c.emitted
	return nil
}

// tableUpdate returns the last of the table size updates that a header block
// begins with (RFC 7541 §6.3).
func tableUpdate(block []byte) (size int64, ok bool) {
	for len(block) > 0 && block[0]&0xe0 == 0x20 {
		size, ok = int64(block[0]&0x1f), true
		more := size == 0x1f
		block = block[1:]
		for shift := 0; more && len(block) > 0 && shift < 35; shift += 7 {
			size += int64(block[0]&0x7f) << shift
			more = block[0]&0x80 != 0
			block = block[1:]
		}
	}
	return size, ok
}

// observe checks the client's frame and keeps what later frames depend on.
func (c *Conn) observe(f *Frame) error {
	if err := c.rules.client(f); err != nil {
		return err
	}
	if f.Type != http2.FrameSettings {
		return nil
	}
	if f.Ack() {
		c.tableShrunk = c.tableShrunk || c.rules.limit(http2.SettingHeaderTableSize) < c.table
		return nil
	}
	if v, ok := f.Setting(http2.SettingHeaderTableSize); ok {
		c.clientTable.Store(int64(v))
	}
	if v, ok := f.Setting(http2.SettingMaxFrameSize); ok {
		c.maxFrame.Store(int64(v))
	}
	return nil
}

// Close closes the connection (TLS with its close_notify).
func (c *Conn) Close() {
	c.markClosing()
	c.log.note("server closed")
	_ = c.nc.Close()
}

// CloseHard closes the connection so that the client sees a reset: TCP with
// SO_LINGER 0, without a TLS alert. A unix socket is closed as it is.
func (c *Conn) CloseHard() {
	c.markClosing()
	c.log.note("server reset the connection")
	switch raw := c.raw.(type) {
	case *net.TCPConn:
		_ = raw.SetLinger(0)
	case *pipeEnd:
		raw.reset()
	}
	_ = c.raw.Close()
}

// CloseWrite ends the server's half: the client reads EOF and may still write.
func (c *Conn) CloseWrite() {
	c.t.Helper()
	cw, ok := c.nc.(interface{ CloseWrite() error })
	if !ok {
		c.fatalf("CloseWrite: %T cannot half-close", c.nc)
	}
	c.log.note("server closed its half")
	if err := cw.CloseWrite(); err != nil {
		c.fatalf("CloseWrite: %v", err)
	}
}

func (c *Conn) markClosing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setClosing()
}

// setClosing is markClosing for a caller that holds mu.
func (c *Conn) setClosing() {
	if !c.closing {
		c.closing = true
		close(c.ended)
	}
}

// StopReading returns when the test ends or the connection is closed on this
// side, and reads nothing meanwhile. It is for Script and Go functions; a test
// that goes by steps stops reading by not reading. See SocketBuffers and
// SetPipeBuffer for how soon the client notices.
func (c *Conn) StopReading() { <-c.ended }

// closed says whether the script or the end of the test closes the connection.
func (c *Conn) closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// end prepares for the end of the test: a Loop is cut, at once or when it is
// entered; a script that waits for something else keeps its connection until it
// has got it or its bound has passed.
func (c *Conn) end() {
	c.mu.Lock()
	cut := c.looping
	c.setClosing()
	c.mu.Unlock()
	if cut {
		_ = c.raw.Close()
	}
}
