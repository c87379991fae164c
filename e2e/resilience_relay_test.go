package e2e_test

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grpcdial/grpcdial/internal/backendtest"

	"github.com/stretchr/testify/assert"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// relay stands between a channel and a backend and cuts connections. It notes
// what it read of requests up to the last byte that the client wrote.
type relay struct {
	t       *testing.T
	diary   *diary
	backend string
	tls     *tls.Config // not nil: clients speak TLS with the relay
	pumps   sync.WaitGroup

	mu    sync.Mutex
	conns map[*relayed]struct{}
	reset map[string]bool // connections that were reset: what came last is not known
}

// relayed is one connection through a relay.
type relayed struct {
	relay  *relay
	name   string
	raw    net.Conn
	client net.Conn // raw, or TLS on it
	server net.Conn

	cut     atomic.Bool   // nothing is passed on any more
	half    atomic.Bool   // cut when a part of what comes next from the server is passed on
	stalled chan struct{} // closed: nothing is read any more
	resume  chan struct{} // closed: what the client wrote is read to the end

	names map[uint32]string // by stream; belongs to up
}

// nameOf names a connection by the client's address. Unix sockets have one name, as
// their clients have no address.
func nameOf(a net.Addr) string {
	switch a := a.(type) {
	case nil:
		return "none"
	case *net.UnixAddr:
		return "unix"
	default:
		return a.String()
	}
}

func startRelay(t *testing.T, d *diary, backend string, cfg *tls.Config, listeners ...net.Listener) *relay {
	r := &relay{t: t, diary: d, backend: backend, tls: cfg, conns: make(map[*relayed]struct{}), reset: make(map[string]bool)}
	for _, lis := range listeners {
		t.Cleanup(func() { _ = lis.Close() })
		go func() {
			for {
				raw, err := lis.Accept()
				if err != nil {
					return
				}
				r.accept(raw)
			}
		}()
	}
	return r
}

func (r *relay) accept(raw net.Conn) {
	server, err := net.Dial("tcp", r.backend)
	if err != nil {
		_ = raw.Close()
		return
	}
	c := &relayed{relay: r, name: nameOf(raw.RemoteAddr()), raw: raw, client: raw, server: server,
		stalled: make(chan struct{}), resume: make(chan struct{}), names: make(map[uint32]string)}
	if r.tls != nil {
		c.client = tls.Server(raw, r.tls)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[c] = struct{}{}
	r.pumps.Go(c.up)
	r.pumps.Go(c.down)
}

func (r *relay) remove(c *relayed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// pick returns a connection that has not been cut.
func (r *relay) pick() (c *relayed) {
	r.t.Helper()
	backendtest.Eventually(r.t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for c = range r.conns {
			if !c.cut.Load() && !c.half.Load() {
				return true
			}
		}
		return false
	}, "a connection to cut")
	return c
}

// Read is the client's side for up.
func (c *relayed) Read(p []byte) (int, error) {
	select {
	case <-c.stalled:
		<-c.resume
	default:
	}
	return c.client.Read(p)
}

// up passes frames on to the server and notes requests. It reads to the end also when
// it does not pass on any more.
func (c *relayed) up() {
	defer func() {
		_ = c.raw.Close()
		_ = c.server.Close()
		c.relay.remove(c)
	}()
	in := bufio.NewReader(c)
	pass := func(p []byte) {
		if !c.cut.Load() {
			if _, err := c.server.Write(p); err != nil {
				c.fin() // the backend has gone
			}
		}
	}
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(in, preface); err != nil {
		return
	}
	pass(preface)
	dec := hpack.NewDecoder(4096, nil)
	for {
		frame := make([]byte, 9, 1024)
		if _, err := io.ReadFull(in, frame); err != nil {
			return
		}
		n := int(frame[0])<<16 | int(frame[1])<<8 | int(frame[2])
		frame = slices.Grow(frame, n)[:9+n]
		if _, err := io.ReadFull(in, frame[9:]); err != nil {
			return
		}
		c.noteFrame(frame, dec)
		pass(frame)
	}
}

// noteFrame notes a frame that was read whole. Requests have no CONTINUATION here.
func (c *relayed) noteFrame(frame []byte, dec *hpack.Decoder) {
	kind, flags, id := http2.FrameType(frame[3]), http2.Flags(frame[4]), binary.BigEndian.Uint32(frame[5:])
	headers, stream := kind == http2.FrameHeaders, false
	if headers {
		fields, err := dec.DecodeFull(frame[9:])
		assert.NoError(c.relay.t, err)
		for _, f := range fields {
			switch f.Name {
			case "rpc-name":
				c.names[id] = f.Value
			case ":path":
				stream = f.Value == "/test.Diary/Stream"
			}
		}
	}
	ends := (headers || kind == http2.FrameData) && flags.Has(http2.FlagDataEndStream)
	if headers || ends {
		c.relay.diary.note(c.names[id], func(r *rpcRecord) {
			if headers {
				r.begun++
			}
			if stream || ends && !r.stream {
				r.arrived = append(r.arrived, c.name)
			}
		})
	}
}

// down passes on what the server sends.
func (c *relayed) down() {
	buf := make([]byte, 8192)
	for {
		n, err := c.server.Read(buf)
		half := c.half.Load()
		if half {
			n = rand.IntN(n + 1)
		}
		if !c.cut.Load() {
			if _, err := c.client.Write(buf[:n]); err != nil {
				half = true
			}
		}
		if err != nil || half {
			c.fin()
			return
		}
	}
}

// fin ends the connection towards the client and keeps reading from it.
func (c *relayed) fin() {
	if !c.cut.Swap(true) {
		_ = c.raw.(interface{ CloseWrite() error }).CloseWrite()
		_ = c.server.Close()
	}
}

// rst ends the connection at once. Of a unix socket what was written so far is still
// read; with TCP the client may have written more than the relay ever sees.
func (c *relayed) rst() {
	if c.cut.Swap(true) {
		return
	}
	switch raw := c.raw.(type) {
	case *net.UnixConn:
		_ = raw.CloseRead() // from here on the client's writes fail
		_ = raw.CloseWrite()
	case *net.TCPConn:
		c.relay.mu.Lock()
		c.relay.reset[c.name] = true
		c.relay.mu.Unlock()
		_ = raw.SetLinger(0)
		_ = raw.Close()
	}
	_ = c.server.Close()
}

// cutOne cuts a connection in one of several ways.
func (r *relay) cutOne() {
	r.t.Helper()
	c := r.pick()
	switch rand.IntN(4) {
	case 0:
		c.fin()
	case 1:
		c.rst()
	case 2: // in the middle of a frame from the server
		c.half.Store(true)
	case 3: // in the middle of one from the client, when writes may have begun to pile up
		close(c.stalled)
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		c.rst()
		close(c.resume)
	}
}
