package h2

import (
	"sync"

	"golang.org/x/net/http2"
)

const (
	// gatherFrom is from how many bytes on a part of a message is worth a write of its own,
	// made of pieces, instead of a copy into the pending buffer.
	gatherFrom = 16 << 10
	// gatherTurn is the most that one stream writes so before others get their turn. A
	// write of it takes less than 0.1 ms, since it does not wait for the socket.
	gatherTurn = maxKeptBuffer - 4*usualHeaders
)

// gathered is one write made of the pending buffer, in which the frames' headers
// are, and of a message's own bytes in between. These belong to the caller of Send or Unary, and
// nothing refers to them once it has made its attempt: what the socket does not
// take then is copied after all.
type gathered struct {
	b     *buffer
	parts [][]byte
	vector
}

var gatherings = sync.Pool{New: func() any { return new(gathered) }}

// gathers reports whether n bytes of a message can go to the socket without being
// copied. mu is held.
func (c *Conn) gathers(n int64) bool {
	return canGather && n >= gatherFrom && c.onSocket() && !c.flushing && c.state != stateClosed
}

// turn is the most that one stream queues now before others get their turn. The part of a
// write that a full socket does not take is copied, so writes to it are small. mu is held.
func (c *Conn) turn() int64 {
	if c.gathers(gatherFrom) && !c.full {
		return gatherTurn
	}
	return turn
}

// gather appends p, and bulk after it, in DATA frames, but for their bytes, and takes the flush.
// mu is held.
func (c *Conn) gather(id uint32, p, bulk []byte, end bool) *gathered {
	b := c.pending()
	g := gatherings.Get().(*gathered)
	// Where b ends up is known when all headers are in it, so their parts are cut then.
	first := len(b.b) + frameHeaderLen
	size := len(p) + len(bulk)
	for left := size; left > 0; {
		if len(p) == 0 {
			p, bulk = bulk, nil
		}
		n, flags := min(len(p), c.maxSend), http2.Flags(0)
		if left -= n; end && left == 0 {
			flags = http2.FlagDataEndStream
		}
		b.b = appendFrameHeader(b.b, n, http2.FrameData, flags, id)
		g.parts = append(g.parts, nil, p[:n])
		p = p[n:]
	}
	at := 0
	for i, to := 0, first; i < len(g.parts); i, to = i+2, to+frameHeaderLen {
		g.parts[i] = b.b[at:to]
		at = to
	}
	c.flushing = true
	g.b = c.takePending()
	c.handed += uint64(size)
	return g
}

// attemptGathered is attempt for g, which it lets go of.
func (c *Conn) attemptGathered(g *gathered) (b *buffer, left *backlog, err error) {
	b = g.b
	size := 0
	for _, p := range g.parts {
		size += len(p)
	}
	n, err := c.wire.tryWriteVector(g)
	if n < size {
		c.count(n)
		rest := c.buffers.get()
		c.buffers.reserve(rest, size-n)
		for _, p := range g.parts {
			skip := min(n, len(p))
			rest.b = append(rest.b, p[skip:]...)
			n -= skip
		}
		c.buffers.put(b)
		b, left = rest, &backlog{frames: rest, rest: rest.b}
	}
	clear(g.parts)
	g.b, g.parts = nil, g.parts[:0]
	gatherings.Put(g)
	return b, left, err
}
