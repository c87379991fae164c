package main

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/grpcdial/grpcdial/bench/pb"
)

// prefixed is a message as it lies in DATA frames.
func prefixed(m proto.Message) []byte {
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err) // of messages that are made here
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
}

// replySize is the encoded size of the reply to a call or to a message of a round trip.
func replySize(size int) int64 {
	return int64(proto.Size(&pb.Reply{Message: "ccccc", Body: make([]byte, size)}))
}

// floorUnary is unary for the bare socket.
func floorUnary(size int) func(*floorConn) (worker, error) {
	return func(f *floorConn) (worker, error) {
		st, want := newFloorStream(), replySize(size)
		frames := floorFrames(prefixed(newRequest(size)), true)
		return worker{op: func() error {
			f.mu.Lock()
			rest, err := f.begin(st, pb.Bench_Unary_FullMethodName, frames)
			if err != nil {
				f.mu.Unlock()
				return err
			}
			f.flush()
			if err := f.send(st, rest); err != nil {
				return err
			}
			if err := st.awaitEnd(); err != nil {
				return err
			}
			return st.check(1, want)
		}}, nil
	}
}

// check says whether n messages have come, of which the last one has the size.
func (st *floorStream) check(n, size int64) error {
	if got, last := st.got.Load(), st.size.Load(); got != n || last != size {
		return fmt.Errorf("%d messages have come, the last of %d bytes, want %d and %d", got, last, n, size)
	}
	return nil
}

// open begins a stream.
func (f *floorConn) open(path string, frames []byte) (*floorStream, error) {
	st := newFloorStream()
	f.mu.Lock()
	rest, err := f.begin(st, path, frames)
	if err != nil {
		f.mu.Unlock()
		return nil, err
	}
	f.flush()
	return st, f.send(st, rest)
}

// closeSend ends the client's side of a stream, and returns when the server has ended the
// other.
func (f *floorConn) closeSend(st *floorStream) error {
	end := floorFrames(nil, true)
	setStream(end, st.id.Load())
	if err := f.send(st, end); err != nil {
		return err
	}
	return st.awaitEnd()
}

// floorPingPong is pingPong for the bare socket.
func floorPingPong(size int) func(*floorConn) (worker, error) {
	return func(f *floorConn) (worker, error) {
		st, err := f.open(pb.Bench_PingPong_FullMethodName, nil)
		if err != nil {
			return worker{}, err
		}
		frames, want, n := floorFrames(prefixed(newRequest(size)), false), replySize(size), int64(0)
		setStream(frames, st.id.Load())
		return worker{
			op: func() error {
				if err := f.send(st, frames); err != nil {
					return err
				}
				n++
				st.await(n)
				return st.check(n, want)
			},
			done: func() error { return f.closeSend(st) },
		}, nil
	}
}

// floorUpload is upload for the bare socket. Small messages share a frame.
func floorUpload(size int) func(*floorConn) (worker, error) {
	return func(f *floorConn) (worker, error) {
		st, err := f.open(pb.Bench_Upload_FullMethodName, nil)
		if err != nil {
			return worker{}, err
		}
		batch, sent := uploadBatch(size), int64(0)
		var messages []byte
		for range batch {
			messages = append(messages, prefixed(&pb.Request{Body: newBody(size)})...)
		}
		frames := floorFrames(messages, false)
		setStream(frames, st.id.Load())
		return worker{
			batch: batch,
			op: func() error {
				sent += int64(batch * size)
				return f.send(st, frames)
			},
			flush: func() error {
				if err := f.closeSend(st); err != nil {
					return err
				}
				var reply pb.Reply
				if err := proto.Unmarshal(st.last, &reply); err != nil {
					return err
				}
				if got := reply.GetReceived(); got != sent {
					return fmt.Errorf("the server got %d bytes of %d", got, sent)
				}
				return nil
			},
		}, nil
	}
}

// floorDownload is download for the bare socket.
func floorDownload(size, batch int) func(*floorConn) (worker, error) {
	return func(f *floorConn) (worker, error) {
		st, err := f.open("/"+downService+"/"+downMethod, floorFrames(prefixed(&pb.Request{Name: fmt.Sprint(size)}), true))
		if err != nil {
			return worker{}, err
		}
		n := int64(0)
		return worker{
			batch: batch,
			op: func() error {
				n += int64(batch)
				if st.await(n); st.got.Load() < n {
					return errFloorReset
				}
				if got := st.size.Load(); got != int64(size) {
					return fmt.Errorf("a message of %d bytes, want %d", got, size)
				}
				return nil
			},
			done: func() error {
				f.cancel(st) // the server would go on for ever
				return nil
			},
		}, nil
	}
}

// floorDial is dial for the bare socket.
func floorDial(f *floorConn) (worker, error) {
	return worker{op: func() error {
		nc, _, err := dialFloor(f.target, f.tls)
		if err != nil {
			return err
		}
		return nc.Close()
	}}, nil
}
