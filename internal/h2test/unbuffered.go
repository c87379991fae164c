package h2test

import (
	"context"
	"net"
	"sync"
)

// Unbuffered is a listener whose connections hold nothing: each is a net.Pipe, on
// which a write waits until the other side reads.
type Unbuffered struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

// ListenUnbuffered returns a listener, to be closed by the caller or the server that it is
// given to.
func ListenUnbuffered() *Unbuffered {
	return &Unbuffered{accepted: make(chan net.Conn), closed: make(chan struct{})}
}

// DialContext connects, whatever the address. It waits for Accept.
func (l *Unbuffered) DialContext(ctx context.Context, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.accepted <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *Unbuffered) Accept() (net.Conn, error) {
	select {
	case nc := <-l.accepted:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections stay open.
func (l *Unbuffered) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Unbuffered) Addr() net.Addr { return pipeAddr("pipe:unbuffered") }
