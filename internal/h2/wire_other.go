//go:build !unix

package h2

import (
	"net"
	"syscall"
)

// rawConn returns nil: without the non-blocking attempt every flush is made by
// a goroutine, with the same behaviour otherwise.
func rawConn(net.Conn) syscall.RawConn { return nil }

func (w *Wire) tryWrite(p []byte) (int, error) { return w.Conn.Write(p) }

func (w *Wire) discard([]byte) {}

func (w *Wire) tryRead(r *socketRead) (int, error) {
	r.waited = false
	return w.Conn.Read(r.r.space())
}
