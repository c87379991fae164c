package h2test_test

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/grpcdial/grpcdial/internal/h2test"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framerClient is the plainest HTTP/2 client: a Framer and nothing else.
type framerClient struct {
	t  testing.TB
	nc net.Conn
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	dec   *hpack.Decoder
}

func newFramerClient(t testing.TB, nc net.Conn) *framerClient {
	c := &framerClient{t: t, nc: nc, Framer: http2.NewFramer(nc, nc), dec: hpack.NewDecoder(4096, nil)}
	c.Framer.AllowIllegalWrites = true
	c.Framer.ReadMetaHeaders = c.dec
	c.enc = hpack.NewEncoder(&c.block)
	return c
}

// open sends the preface, SETTINGS and, before it could have read the server's,
// the acknowledgement of them: a script can then run in the same goroutine.
func (c *framerClient) open(settings ...http2.Setting) {
	c.t.Helper()
	_, err := io.WriteString(c.nc, http2.ClientPreface)
	c.must(err)
	c.must(c.WriteSettings(settings...))
	c.must(c.WriteSettingsAck())
}

func (c *framerClient) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *framerClient) encode(pairs ...string) []byte {
	c.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		c.must(c.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}))
	}
	return bytes.Clone(c.block.Bytes())
}

func (c *framerClient) request(id uint32, endStream bool) {
	c.t.Helper()
	c.must(c.WriteHeaders(http2.HeadersFrameParam{
		StreamID:      id,
		BlockFragment: c.encode(":method", "POST", ":scheme", "http", ":path", "/s/m", ":authority", "a"),
		EndStream:     endStream,
		EndHeaders:    true,
	}))
}

// read returns the next frame, header blocks decoded.
func (c *framerClient) read() http2.Frame {
	c.t.Helper()
	f, err := c.ReadFrame()
	c.must(err)
	return f
}

// opened returns a pipe after the handshake, from which the client has read the
// server's SETTINGS and acknowledgement.
func opened(t testing.TB, settings ...http2.Setting) (*framerClient, *h2test.Conn) {
	t.Helper()
	nc, conn := h2test.Pipe(t)
	client := newFramerClient(t, nc)
	client.open()
	conn.Handshake(settings...)
	client.read()
	client.read()
	return client, conn
}
