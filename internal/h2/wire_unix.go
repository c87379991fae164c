//go:build unix

package h2

import (
	"net"
	"syscall"
)

// rawConn returns the raw connection for non-blocking attempts, or nil if nc
// is anything but exactly a TCP or unix socket of package net.
func rawConn(nc net.Conn) syscall.RawConn {
	var sc syscall.Conn
	switch nc := nc.(type) {
	case *net.TCPConn:
		sc = nc
	case *net.UnixConn:
		sc = nc
	default:
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// tryWrite writes what the socket takes now. n < len(p) with a nil error means
// that the rest has to wait. It is called by the flusher alone, and never
// while another write is blocked, for which RawConn.Write would wait.
func (w *Wire) tryWrite(p []byte) (n int, err error) {
	a := &w.write
	if a.fn == nil {
		a.fn = a.run
	}
	a.p, a.n, a.err = p, 0, nil
	err = w.raw.Write(a.fn)
	a.p = nil
	if a.err != nil {
		err = a.err
	}
	return a.n, err
}

func (a *attempt) run(fd uintptr) bool {
	if a.p == nil {
		a.runVector(fd)
		return true
	}
	for a.n < len(a.p) {
		n, err := syscall.Write(int(fd), a.p[a.n:])
		if n > 0 {
			a.n += n
		}
		switch err {
		case nil:
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return true
		default:
			a.err = &net.OpError{Op: "write", Net: "socket", Err: err}
			return true
		}
	}
	return true
}

// discard reads what the socket holds into p, so that it can be closed without a
// reset: a megabyte at most.
func (w *Wire) discard(p []byte) {
	_ = w.raw.Control(func(fd uintptr) { // Read would wait for the reader's
		for left := 1 << 20; left > 0; {
			n, err := syscall.Read(int(fd), p)
			if n <= 0 && err != syscall.EINTR {
				return
			}
			left -= max(n, 0)
		}
	})
}

// tryRead reads into the buffer that the reader provides. When nothing is there the reader
// gives it back, and this waits without a buffer.
//
// The buffer is taken here, also after a wait, and not where it is read into: that is so
// deep in calls that the goroutine of each connection at rest would need a stack of twice the size.
func (w *Wire) tryRead(r *socketRead) (int, error) {
	if r.fn == nil {
		r.fn = r.run
	}
	for {
		if len(r.into) <= 1 {
			r.r.space()
		}
		r.n, r.err, r.waited = 0, nil, false
		err := w.raw.Read(r.fn)
		if r.err != nil {
			err = r.err
		}
		if r.n > 0 || err != nil {
			return r.n, err
		}
	}
}

func (r *socketRead) run(fd uintptr) bool {
	if r.waited && len(r.into) <= 1 {
		return true // something is there
	}
	for {
		var n int
		var err error
		if len(r.into) > 1 {
			n, err = readv(int(fd), r.into)
		} else {
			n, err = syscall.Read(int(fd), r.r.space())
		}
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			// The poller was reset before this attempt, so data that arrives
			// from here on wakes it.
			r.r.quiet()
			r.waited = true
			return false
		case err != nil:
			r.err = &net.OpError{Op: "read", Net: "socket", Err: err}
		case n == 0:
			r.err = errEOF
		default:
			r.n = n
		}
		return true
	}
}
