package call

import "encoding/binary"

// replayLog keeps what a stream has sent until the RPC is committed, so that
// another attempt can send it again. It is guarded by its stream.
type replayLog struct {
	chunks []*[]byte // whole frames, one after the other
	size   int
	closed bool // half-closed after the last frame

	// messages are what the frames hold, for stats handlers; nil without them.
	messages []sentMessage
}

// sentMessage is a message as the application gave it, and its encoded length.
type sentMessage struct {
	m            any
	uncompressed int
}

// add takes a frame over. Small ones share a chunk.
func (l *replayLog) add(f *frame) {
	b := f.bytes()
	l.size += len(b)
	if n := len(l.chunks); n > 0 {
		if last := l.chunks[n-1]; cap(*last)-len(*last) >= len(b) {
			*last = append(*last, b...)
			f.free()
			return
		}
	}
	l.chunks = append(l.chunks, f.buf)
	f.buf = nil
}

// free gives the buffers back.
func (l *replayLog) free() {
	for _, c := range l.chunks {
		putBytes(c)
	}
	*l = replayLog{}
}

// sender is the sending side of an h2.Stream.
type sender interface {
	Send(msg []byte, last bool) error
	CloseSend() error
}

// replay sends everything again, and calls sent, if it is not nil, for each
// message that was. It reports false if the stream ended meanwhile.
func (l *replayLog) replay(s sender, sent func(n, payload int)) bool {
	replayed := 0
	for i, c := range l.chunks {
		for rest := *c; len(rest) > 0; {
			n := prefixLen + int(binary.BigEndian.Uint32(rest[1:prefixLen]))
			last := l.closed && i == len(l.chunks)-1 && n == len(rest)
			if s.Send(rest[:n], last) != nil {
				return false
			}
			if sent != nil {
				sent(replayed, n-prefixLen)
			}
			replayed++
			rest = rest[n:]
		}
	}
	if l.closed && len(l.chunks) == 0 {
		return s.CloseSend() == nil
	}
	return true
}
