package h2

var (
	AppendTimeout = appendTimeout
	DecodeMessage = decodeMessage
	DecodeBinary  = decodeBinary
)

// SetNextStreamID makes id the next stream's.
func (c *Conn) SetNextStreamID(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextID = id
}

// HeadersReady is closed when response headers have come or the stream has
// ended. It is nil for a unary stream.
func (s *Stream) HeadersReady() <-chan struct{} { return s.headers }
