package h2

import (
	"net"
	"syscall"
	"unsafe"
)

// canGather: one system call writes many pieces.
const canGather = true

// vector is what writev takes.
type vector struct {
	iov []syscall.Iovec
}

// tryWriteVector is tryWrite for the parts of g.
func (w *Wire) tryWriteVector(g *gathered) (n int, err error) {
	a := &w.write
	if a.fn == nil {
		a.fn = a.run
	}
	for _, p := range g.parts {
		if len(p) > 0 {
			v := syscall.Iovec{Base: &p[0]}
			v.SetLen(len(p))
			g.iov = append(g.iov, v)
		}
	}
	a.iov, a.n, a.err = g.iov, 0, nil
	err = w.raw.Write(a.fn)
	a.iov = nil
	clear(g.iov)
	g.iov = g.iov[:0]
	if a.err != nil {
		err = a.err
	}
	return a.n, err
}

// runVector is run for a.iov, which it uses up.
func (a *attempt) runVector(fd uintptr) {
	for len(a.iov) > 0 {
		n, _, errno := syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&a.iov[0])), uintptr(len(a.iov)))
		switch errno {
		case 0:
			a.n += int(n)
			a.iov = after(a.iov, n)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return
		default:
			a.err = &net.OpError{Op: "write", Net: "socket", Err: errno}
			return
		}
	}
}

// after is what is left of v after its first n bytes.
func after(v []syscall.Iovec, n uintptr) []syscall.Iovec {
	for len(v) > 0 && n >= uintptr(v[0].Len) {
		n -= uintptr(v[0].Len)
		v = v[1:]
	}
	if n > 0 {
		v[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(v[0].Base), n))
		v[0].SetLen(int(uintptr(v[0].Len) - n))
	}
	return v
}
