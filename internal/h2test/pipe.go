package h2test

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Pipe returns the two ends of an in-memory connection: one for the client under
// test, one driven by a script. Each direction buffers, as sockets do; a write
// waits while the buffer is full. Deadlines, half-close and reset are honoured.
//
// It waits only on sync.Cond and timers, which are durable in a testing/synctest
// bubble: create it in the bubble whose time it shall follow. Both ends are
// closed at the end of t. With WithTLS the handshake happens at the first read.
func Pipe(t testing.TB, opts ...Option) (client net.Conn, server *Conn) {
	t.Helper()
	o := newOptions(opts)
	a, b := newPipe(o.pipeBuffer)
	var nc net.Conn = b
	if o.tls != nil {
		nc = tls.Server(b, o.tls)
	}
	server = newConn(t, nc, b, o.bound, false)
	t.Cleanup(func() {
		server.end()
		waitForScripts(t, &server.scripts, o.bound)
		_ = b.Close()
		_ = a.Close()
		if t.Failed() {
			t.Logf("h2test: the pipe, C client, S server:\n%s", server.log.text(true))
		}
	})
	return a, server
}

// SetPipeBuffer sets how many bytes each direction of a Pipe holds before a
// write waits. Bytes already buffered stay. It fails the test on a connection
// that is not a Pipe.
func (c *Conn) SetPipeBuffer(fromClient, toClient int) {
	c.t.Helper()
	end, ok := c.raw.(*pipeEnd)
	if !ok {
		c.fatalf("SetPipeBuffer: %T is not a Pipe", c.raw)
	}
	end.r.setLimit(fromClient)
	end.w.setLimit(toClient)
}

// PipeBuffered returns how many bytes the client has written to a Pipe that the
// script has not yet taken out of it.
func (c *Conn) PipeBuffered() int {
	c.t.Helper()
	end, ok := c.raw.(*pipeEnd)
	if !ok {
		c.fatalf("PipeBuffered: %T is not a Pipe", c.raw)
	}
	end.r.mu.Lock()
	defer end.r.mu.Unlock()
	return len(end.r.buf)
}

func newPipe(limit int) (a, b *pipeEnd) {
	ab, ba := newHalf(limit), newHalf(limit)
	a = &pipeEnd{r: ba, w: ab, local: "pipe:client", remote: "pipe:server"}
	b = &pipeEnd{r: ab, w: ba, local: "pipe:server", remote: "pipe:client"}
	return a, b
}

// half is one direction of a pipe.
type half struct {
	mu    sync.Mutex
	cond  *sync.Cond // signalled on every change below
	buf   []byte
	limit int

	wclosed bool  // the writing end has closed: EOF after buf
	rclosed bool  // the reading end has closed: writes fail
	reset   error // the connection was reset: both ends fail at once

	rdl, wdl deadline // of the reading and of the writing end
}

func newHalf(limit int) *half {
	h := &half{limit: limit}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) setLimit(n int) {
	h.update(func() { h.limit = n })
}

// update changes the half under its lock and wakes the goroutines that wait for a change.
func (h *half) update(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.cond.Broadcast()
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.rclosed:
			return 0, net.ErrClosed
		case h.reset != nil:
			return 0, h.reset
		case h.rdl.expired:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			if len(h.buf) == 0 {
				h.buf = nil
			}
			h.cond.Broadcast()
			return n, nil
		case h.wclosed:
			return 0, io.EOF
		}
		h.cond.Wait()
	}
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.wclosed:
			return n, net.ErrClosed
		case h.reset != nil:
			return n, h.reset
		case h.rclosed:
			return n, syscall.EPIPE
		case h.wdl.expired:
			return n, os.ErrDeadlineExceeded
		case n == len(p):
			return n, nil
		}
		if room := h.limit - len(h.buf); room > 0 {
			k := min(room, len(p)-n)
			h.buf = append(h.buf, p[n:n+k]...)
			n += k
			h.cond.Broadcast()
			continue
		}
		h.cond.Wait()
	}
}

// deadline is a point in time after which waiting ends. It is guarded by the mu
// of its half.
type deadline struct {
	timer   *time.Timer
	epoch   int // changes with every set: identifies a timer that fires late
	expired bool
}

func (h *half) setDeadline(d *deadline, at time.Time) {
	h.update(func() {
		d.epoch++
		epoch := d.epoch
		if d.timer != nil {
			d.timer.Stop()
			d.timer = nil
		}
		d.expired = false
		if at.IsZero() {
			return
		}
		wait := time.Until(at)
		if wait <= 0 {
			d.expired = true
			return
		}
		d.timer = time.AfterFunc(wait, func() {
			h.update(func() {
				if d.epoch == epoch {
					d.expired = true
				}
			})
		})
	})
}

// stop ends the timer of d. The caller holds the half's mu.
func (d *deadline) stop() {
	d.epoch++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// pipeEnd is one end of a pipe.
type pipeEnd struct {
	r, w          *half
	local, remote pipeAddr
}

func (e *pipeEnd) Read(p []byte) (int, error) {
	n, err := e.r.read(p)
	return n, e.opError("read", err)
}

func (e *pipeEnd) Write(p []byte) (int, error) {
	n, err := e.w.write(p)
	return n, e.opError("write", err)
}

func (e *pipeEnd) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "pipe", Source: e.local, Addr: e.remote, Err: err}
}

// Close closes both directions. The peer can still read all that was written.
func (e *pipeEnd) Close() error {
	e.r.update(func() { e.r.rclosed = true; e.r.rdl.stop() })
	e.w.update(func() { e.w.wclosed = true; e.w.wdl.stop() })
	return nil
}

// CloseWrite closes the writing direction only.
func (e *pipeEnd) CloseWrite() error {
	e.w.update(func() { e.w.wclosed = true })
	return nil
}

// reset makes every later read and write of the peer fail as a TCP reset does.
func (e *pipeEnd) reset() {
	for _, h := range []*half{e.r, e.w} {
		h.update(func() { h.reset, h.buf = syscall.ECONNRESET, nil })
	}
}

func (e *pipeEnd) LocalAddr() net.Addr  { return e.local }
func (e *pipeEnd) RemoteAddr() net.Addr { return e.remote }

func (e *pipeEnd) SetDeadline(at time.Time) error {
	_ = e.SetReadDeadline(at)
	return e.SetWriteDeadline(at)
}

func (e *pipeEnd) SetReadDeadline(at time.Time) error {
	e.r.setDeadline(&e.r.rdl, at)
	return nil
}

func (e *pipeEnd) SetWriteDeadline(at time.Time) error {
	e.w.setDeadline(&e.w.wdl, at)
	return nil
}

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }
