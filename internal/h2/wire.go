package h2

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Wire is the raw network connection below whatever credentials put on it.
// It is made from what the dialer returned and handed to ClientHandshake; both it and
// the handshake's result are given to [New]. Until the HTTP/2 handshake is done
// it reads and writes like the connection it holds.
//
// It does not expose SyscallConn: writes that bypassed a TLS layer would
// send clear text. It makes non-blocking attempts itself, and only on a
// connection that is exactly a *net.TCPConn or *net.UnixConn, since a type that
// embeds one may have a Write of its own.
type Wire struct {
	net.Conn

	raw   syscall.RawConn // nil: no non-blocking attempts on this connection
	write attempt         // used by the flusher alone

	taken atomic.Int64 // bytes that Write has given to the connection

	heard bool // bytes have been read, or are not of interest; the reading side's own

	mu       sync.Mutex
	said     []byte      // see Said
	layered  bool        // TLS records are collected instead of being written; set once after the handshake
	corked   bool        // a flush is encrypting and takes the records when it is done
	buffers  *bufferPool // for records; set with layered
	records  *buffer     // waiting to be written
	unsought func()      // called after a write that no flush asked for (an alert, a key update)
}

// NewWire holds nc.
func NewWire(nc net.Conn) *Wire {
	return &Wire{Conn: nc, raw: rawConn(nc)}
}

// Read implements net.Conn.
func (w *Wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 && !w.heard {
		w.note(p[:n])
	}
	return n, err
}

// note keeps the first bytes for Said.
func (w *Wire) note(p []byte) {
	w.heard = true
	if isTLSRecord := p[0] >= 20 && p[0] <= 23; isTLSRecord { // RFC 8446 section 5.1
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append([]byte(nil), p[:min(len(p), maxPrefaceBytes)]...)
}

// Said returns the first bytes that were read from a peer that was to answer a TLS
// handshake and sent something else, at most 1 KiB. A tls.Conn reports five of them.
func (w *Wire) Said() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said
}

// layer makes Write collect instead of write, so that no tls.Conn.Write can
// block or be cut short, which would corrupt it for good.
func (w *Wire) layer(buffers *bufferPool, unsought func()) {
	w.mu.Lock()
	w.layered, w.buffers, w.unsought = true, buffers, unsought
	w.mu.Unlock()
}

// Write implements net.Conn.
func (w *Wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	if !w.layered {
		w.mu.Unlock()
		n, err := w.Conn.Write(p)
		w.taken.Add(int64(n))
		return n, err
	}
	if w.records == nil {
		w.records = w.buffers.get()
	}
	w.buffers.reserve(w.records, len(p))
	w.records.b = append(w.records.b, p...)
	corked := w.corked
	w.mu.Unlock()
	if !corked {
		w.unsought()
	}
	return len(p), nil
}

// SetWriteDeadline implements net.Conn. Once records are collected, a
// deadline set by the layer above (crypto/tls sets one around its closing
// alert) has nothing to bound and must not reach the socket.
func (w *Wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	layered := w.layered
	w.mu.Unlock()
	if layered {
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}

// cut closes the connection at once. A tls.Conn that the dialer made would otherwise
// wait up to 5 s for a peer that does not read its closing alert.
func (w *Wire) cut() {
	if t, ok := w.Conn.(*tls.Conn); ok {
		_ = t.NetConn().Close()
	}
	_ = w.Conn.Close()
}

func (w *Wire) cork() {
	w.mu.Lock()
	w.corked = true
	w.mu.Unlock()
}

// uncork takes the collected records; nil if there are none.
func (w *Wire) uncork() *buffer {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.records
	w.records, w.corked = nil, false
	return b
}

func (w *Wire) collected() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records != nil
}

// attempt is one non-blocking write. Its callback is made once, so that an
// attempt allocates nothing.
type attempt struct {
	p      []byte
	vector // what is to be written if p is nil
	n      int
	err    error
	fn     func(fd uintptr) bool
}
