package h2

import (
	"net"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h, which package syscall lacks.
const tcpUserTimeout = 18

// setUserTimeout bounds how long sent bytes may stay unacknowledged, so that a
// vanished peer is noticed also while bytes are in flight (gRFC A18). It reports
// whether it has an effect: it has on plain TCP sockets only.
func (w *Wire) setUserTimeout(d time.Duration) (set bool) {
	if _, ok := w.Conn.(*net.TCPConn); !ok || w.raw == nil {
		return false
	}
	_ = w.raw.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds())) == nil
	})
	return set
}
