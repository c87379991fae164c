package h2

// early is the reading of a connection that began before its owner called Serve.
type early struct {
	drained chan error    // the argument of onDrain, once
	ended   chan struct{} // closed when the reading has ended
	cause   error         // read after ended: of the end
}

// ServeEarly makes a goroutine of its own read from the connection, so that RPCs run on it
// before its owner calls Serve. Serve has to be called nevertheless: it then waits for
// that goroutine, and calls onDrain for what happened before. It is called at most once,
// after Handshake and before Serve.
func (c *Conn) ServeEarly() {
	// onDrain is called at most once, so the reader does not wait in the send.
	e := &early{drained: make(chan error, 1), ended: make(chan struct{})}
	c.early, c.rd.onDrain = e, e.drain
	go e.serve(c)
}

// serve is the goroutine.
func (e *early) serve(c *Conn) {
	e.cause = c.Serve(nil)
	close(e.ended)
}

func (e *early) drain(cause error) { e.drained <- cause }

// wait is Serve on a connection that is being read from. Inlined, it would make Serve's
// part of the stack larger, which each connection at rest has.
//
//go:noinline
func (e *early) wait(onDrain func(cause error)) error {
	select {
	case cause := <-e.drained:
		onDrain(cause)
		<-e.ended
	case <-e.ended:
		select {
		case cause := <-e.drained:
			onDrain(cause)
		default:
		}
	}
	return e.cause
}
