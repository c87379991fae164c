package h2_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/status"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// replay is a server that says what it has to say in pieces, takes whatever it is
// sent, and closes.
type replay struct {
	mu     sync.Mutex
	cond   sync.Cond
	said   []byte
	piece  int
	held   bool // nothing more is said for now
	closed bool
}

func newReplay(preface []byte, piece int) *replay {
	r := &replay{said: preface, piece: piece, held: true}
	r.cond.L = &r.mu
	return r
}

func (r *replay) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case r.closed:
			return 0, net.ErrClosed
		case len(r.said) > 0:
			n := copy(p[:min(len(p), r.piece)], r.said)
			r.said = r.said[n:]
			return n, nil
		case !r.held:
			return 0, io.EOF
		}
		r.cond.Wait()
	}
}

// say is the rest of what is said.
func (r *replay) say(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said, r.held = append(r.said, p...), false
	r.cond.Broadcast()
}

func (r *replay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, os.ErrClosed
	}
	return len(p), nil
}

func (r *replay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.cond.Broadcast()
	return nil
}

func (r *replay) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (r *replay) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (r *replay) SetDeadline(time.Time) error      { return nil }
func (r *replay) SetReadDeadline(time.Time) error  { return nil }
func (r *replay) SetWriteDeadline(time.Time) error { return nil }

// FuzzServer lets a server say anything after its SETTINGS while two calls and a stream are
// open. Nothing panics, each of them ends, and so does Serve.
func FuzzServer(f *testing.F) {
	block := func(pairs ...string) []byte {
		var b bytes.Buffer
		enc := hpack.NewEncoder(&b)
		for i := 0; i < len(pairs); i += 2 {
			enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
		}
		return b.Bytes()
	}
	add := func(write func(fr *http2.Framer)) {
		var b bytes.Buffer
		fr := http2.NewFramer(&b, nil)
		fr.AllowIllegalWrites = true
		write(fr)
		f.Add(b.Bytes(), byte(0))
		f.Add(b.Bytes(), byte(1))
	}
	headers := func(fr *http2.Framer, id uint32, end bool, pairs ...string) {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block(pairs...), EndStream: end, EndHeaders: true})
	}
	add(func(fr *http2.Framer) {
		for id := uint32(1); id < 7; id += 2 {
			headers(fr, id, false, ":status", "200", "content-type", "application/grpc", "k-bin", "YQ")
			fr.WriteData(id, false, h2test.PutMessage(false, []byte("hello")))
			fr.WriteDataPadded(id, false, []byte{0, 0, 0, 0, 2, 'a'}, []byte{0, 0})
			headers(fr, id, true, "grpc-status", "3", "grpc-message", "%41%", "grpc-status-details-bin", "CAM")
		}
	})
	add(func(fr *http2.Framer) {
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}, http2.Setting{ID: http2.SettingHeaderTableSize},
			http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16384})
		fr.WriteWindowUpdate(0, 1<<20)
		fr.WriteWindowUpdate(5, 100)
		fr.WritePing(false, [8]byte{1})
		fr.WriteRSTStream(1, http2.ErrCodeRefusedStream)
		fr.WriteGoAway(3, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings"))
		headers(fr, 3, false, ":status", "404", "content-type", "text/html")
		fr.WriteData(3, true, []byte("<html>"))
	})
	add(func(fr *http2.Framer) {
		b := block(":status", "200", "content-type", "application/grpc")
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: b[:3], PadLength: 3})
		fr.WriteContinuation(5, false, nil)
		fr.WriteContinuation(5, true, b[3:])
		headers(fr, 1, false, ":status", "103")
		headers(fr, 1, true, ":status", "200", "grpc-status", "0")
		fr.WritePushPromise(http2.PushPromiseParam{StreamID: 5, PromiseID: 2, BlockFragment: b, EndHeaders: true})
	})
	f.Fuzz(func(t *testing.T, said []byte, how byte) {
		piece := 1 << 20
		if how&1 != 0 {
			piece = 1 + int(how>>1)%7
		}
		nc := newReplay([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"), piece)
		w := h2.NewWire(nc)
		c := h2.New(w, w, h2.Config{StreamWindow: 70000, ConnWindow: 70000, MaxHeaderListSize: 10000})
		if err := c.Handshake(context.Background()); err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- c.Serve(func(error) {}) }()
		s, err := c.Open(context.Background(), req("/test/Stream")) // stream 1
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, size := range []int{10, 100000} { // streams 3 and 5, one of which waits for credit
			opened := c.Streams()
			wg.Go(func() {
				s, err := c.Unary(context.Background(), req("/test/Call"), h2test.PutMessage(false, make([]byte, size)))
				if err != nil {
					t.Error(err)
					return
				}
				if e := s.Err(); e != nil && e.Status.Code() == 0 {
					t.Error("an error with status OK")
				}
				s.Trailer()
				s.HeaderMD()
				if m, ok := s.Message(); ok && s.Messages() == 0 {
					t.Errorf("message %q is not counted", m.Data)
				}
				s.Release()
			})
			for c.Streams() == opened {
				time.Sleep(10 * time.Microsecond)
			}
		}
		wg.Go(func() {
			for s.Send(h2test.PutMessage(false, make([]byte, 10000)), false) == nil {
			}
		})
		wg.Go(func() {
			for {
				m, err := s.Recv()
				if err != nil {
					if err != io.EOF && status.Code(err) == 0 {
						t.Error("an error with status OK")
					}
					return
				}
				m.Free()
			}
		})
		nc.say(said)
		if err := await(t, served, "the end of Serve"); err == nil {
			t.Error("Serve returned no cause")
		}
		wg.Wait()
		if n := c.Streams(); n != 0 {
			t.Errorf("%d streams are open after the end", n)
		}
	})
}
