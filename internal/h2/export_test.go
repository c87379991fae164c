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
