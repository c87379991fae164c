package h2

import "time"

var (
	AppendTimeout = appendTimeout
	DecodeMessage = decodeMessage
	DecodeBinary  = decodeBinary
)

// Patient returns cfg with a minute for a GOAWAY to be written, where that is not
// what a test is about: on a busy machine a goroutine may wait 100 ms for its turn.
func Patient(cfg Config) Config {
	cfg.goodbye = time.Minute
	return cfg
}

// Flushing reports whether a goroutine is writing, or has written and not noted that yet.
func (c *Conn) Flushing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushing
}

// SetNextStreamID makes id the next stream's.
func (c *Conn) SetNextStreamID(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextID = id
}

// HeadersReady is closed when response headers have come or the stream has ended; nil if that is so.
func (s *Stream) HeadersReady() <-chan struct{} { return s.headersReady() }

// StandStill has the connection's keepalive see what it sees when the process was stopped for d
// just now: time has passed, and the timer runs before anything is read.
func (c *Conn) StandStill(d time.Duration) {
	c.mu.Lock()
	c.ka.sentAt -= int64(d)
	c.ka.lastHeard.Add(-int64(d))
	c.mu.Unlock()
	c.probe()
}
