package h2test

import (
	"io"
	"net"

	"golang.org/x/net/http2"
)

// Greet plays a server's part of the HTTP/2 handshake on nc, for peers that end, stall or
// misbehave right after it: it reads the client's preface, sends SETTINGS, and returns
// a framer for what follows. Errors are those of a client that has gone; the framer meets
// them again.
func Greet(nc net.Conn, settings ...http2.Setting) *http2.Framer {
	framer := http2.NewFramer(nc, nc)
	_, _ = io.CopyN(io.Discard, nc, int64(len(http2.ClientPreface)))
	_ = framer.WriteSettings(settings...)
	return framer
}
