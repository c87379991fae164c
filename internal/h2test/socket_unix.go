//go:build unix

package h2test

import "syscall"

// listenBuffers sets the buffer sizes on the listening socket: accepted sockets
// inherit them, and the receive buffer must be known before the TCP handshake.
func listenBuffers(receive, send int) func(network, address string, rc syscall.RawConn) error {
	return func(_, _ string, rc syscall.RawConn) error {
		var err error
		ctlErr := rc.Control(func(fd uintptr) {
			if receive > 0 {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receive)
			}
			if send > 0 && err == nil {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, send)
			}
		})
		if ctlErr != nil {
			return ctlErr
		}
		return err
	}
}
