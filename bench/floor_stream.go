package main

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"golang.org/x/net/http2"
)

// floorStream is one request and what came for it. Its worker uses it again.
type floorStream struct {
	id     atomic.Uint32
	window int64 // guarded by floorConn.mu

	// The reader's. It does not touch the stream after it has set ended, but for wake.
	prefix   [5]byte
	inPrefix int
	left     int      // bytes that the current message lacks
	last     []byte   // the first bytes of the last message
	consumed int64    // since the window was given back
	store    [64]byte // of last

	got   atomic.Int64 // messages
	size  atomic.Int64 // of the last one
	want  atomic.Int64 // got at which the worker is woken
	ended atomic.Bool  // the server has ended the stream
	reset atomic.Bool  // with RST_STREAM
	wake  chan struct{}
}

func newFloorStream() *floorStream { return &floorStream{wake: make(chan struct{}, 1)} }

// take counts the messages in a part of the stream's bytes.
func (st *floorStream) take(p []byte) {
	whole := int64(0)
	for len(p) > 0 {
		if st.inPrefix < 5 {
			n := copy(st.prefix[st.inPrefix:], p)
			st.inPrefix, p = st.inPrefix+n, p[n:]
			if st.inPrefix < 5 {
				break
			}
			st.left = int(binary.BigEndian.Uint32(st.prefix[1:]))
			st.last = st.store[:0]
		}
		n := min(len(p), st.left)
		st.last = append(st.last, p[:min(n, cap(st.last)-len(st.last))]...)
		st.left, p = st.left-n, p[n:]
		if st.left == 0 {
			st.inPrefix = 0
			whole++
		}
	}
	if whole == 0 {
		return
	}
	st.size.Store(int64(binary.BigEndian.Uint32(st.prefix[1:])))
	if st.got.Add(whole) >= st.want.Load() {
		st.notify()
	}
}

func (st *floorStream) notify() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// await returns when n messages have come or the stream has ended.
func (st *floorStream) await(n int64) {
	st.want.Store(n)
	for st.got.Load() < n && !st.ended.Load() {
		<-st.wake
	}
}

// awaitEnd returns when the server has ended the stream.
func (st *floorStream) awaitEnd() error {
	st.want.Store(1<<63 - 1)
	for !st.ended.Load() {
		<-st.wake
	}
	if st.reset.Load() {
		return errFloorReset
	}
	return nil
}

var errFloorReset = errors.New("the server reset the stream, or its connection ended")

// floorFrames makes DATA frames of body, with no stream's id yet.
func floorFrames(body []byte, endStream bool) []byte {
	var out []byte
	for first := true; first || len(body) > 0; first = false {
		n := min(len(body), floorFrame)
		flags := http2.Flags(0)
		if endStream && n == len(body) {
			flags = http2.FlagDataEndStream
		}
		out = append(out, byte(n>>16), byte(n>>8), byte(n), byte(http2.FrameData), byte(flags), 0, 0, 0, 0)
		out, body = append(out, body[:n]...), body[n:]
	}
	return out
}

// setStream writes a stream's id into whole frames.
func setStream(frames []byte, id uint32) {
	for len(frames) > 0 {
		binary.BigEndian.PutUint32(frames[5:], id)
		frames = frames[9+(int(frames[0])<<16|int(frames[1])<<8|int(frames[2])):]
	}
}
