package h2_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/grpcdial/grpcdial/internal/h2"
	"github.com/grpcdial/grpcdial/internal/h2test"
)

// sealer writes TLS 1.3 records under TLS_AES_128_GCM_SHA256 (RFC 8446
// section 5), because crypto/tls has no way to ask for a new key.
type sealer struct {
	w      io.Writer
	secret []byte // the traffic secret in use
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func (s *sealer) use(secret []byte) error {
	block, err := aes.NewCipher(expand(secret, "key", 16))
	if err != nil {
		return err
	}
	s.secret, s.iv, s.seq = secret, expand(secret, "iv", 12), 0
	s.aead, err = cipher.NewGCM(block)
	return err
}

// expand is HKDF-Expand-Label without a context (RFC 8446 section 7.1).
func expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(info, byte(len(label))), label...)
	out, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
	if err != nil {
		panic(err) // only an impossible length
	}
	return out
}

func (s *sealer) record(typ byte, p []byte) error {
	nonce := bytes.Clone(s.iv)
	seq := binary.BigEndian.AppendUint64(nil, s.seq)
	for i, b := range seq {
		nonce[4+i] ^= b
	}
	s.seq++
	header := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(p)+1+s.aead.Overhead()))
	_, err := s.w.Write(s.aead.Seal(header, nonce, append(bytes.Clone(p), typ), header))
	return err
}

// Write sends p, at most 16 KiB, as application data.
func (s *sealer) Write(p []byte) (int, error) { return len(p), s.record(23, p) }

// update changes the key and asks the other side to do the same (RFC 8446 section 4.6.3).
func (s *sealer) update() error {
	if err := s.record(22, []byte{24, 0, 0, 1, 1}); err != nil {
		return err
	}
	return s.use(expand(s.secret, "traffic upd", 32))
}

// updating shakes hands over TLS on both ends of a connection, and returns the server's
// reading side and what writes its records; false if they would not be understood: on a
// processor without AES another cipher is chosen.
func updating(t *testing.T, nc, raw net.Conn) (ready func() *client, in *tls.Conn, out *sealer, ok bool) {
	t.Helper()
	ca := h2test.NewCA(t)
	var secrets bytes.Buffer
	cfg := ca.ServerConfig("localhost")
	cfg.KeyLogWriter, cfg.SessionTicketsDisabled = &secrets, true // no record but ours
	ready = shake(t, nc, ca.ClientConfig("localhost"), h2.Config{})
	in = tls.Server(raw, cfg)
	require.NoError(t, in.Handshake())
	if in.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		return nil, nil, nil, false
	}
	_, secret, _ := strings.Cut(secrets.String(), "SERVER_TRAFFIC_SECRET_0 ")
	key, err := hex.DecodeString(strings.Fields(secret)[1])
	require.NoError(t, err)
	out = &sealer{w: raw}
	require.NoError(t, out.use(key))
	return ready, in, out, true
}

// A server that asks for a new key makes crypto/tls write one from within the
// reader's Read, with its lock held, while callers write.
func TestKeyUpdate(t *testing.T) {
	for name, wrapped := range map[string]func(net.Conn) net.Conn{"socket": bare, "wrapped": wrap} {
		t.Run(name, func(t *testing.T) {
			h2test.CheckLeaks(t)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			nc, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			raw, err := ln.Accept()
			require.NoError(t, err)
			defer raw.Close()
			ready, in, out, ok := updating(t, wrapped(nc), raw)
			if !ok {
				return
			}
			const callers, calls = 16, 100
			updates := make(chan int, 1)
			go func() { updates <- serveWithUpdates(in, out) }()
			c := ready()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range calls {
						if r := c.unary(context.Background(), req("/test/Echo"), "hello"); r.failure() != nil || r.reply != "hello" {
							t.Errorf("reply %q, error %v", r.reply, r.failure())
							return
						}
					}
				})
			}
			wg.Wait()
			c.Close(nil, nil)
			require.Equal(t, callers*calls/3, await(t, updates, "the server"))
		})
	}
}

// The reader does not wait for the server to read the new key: on a connection that holds
// nothing, the server may have replies to write first.
func TestKeyUpdateThatIsNotRead(t *testing.T) {
	h2test.CheckLeaks(t)
	nc, raw := net.Pipe()
	defer raw.Close()
	ready, in, out, ok := updating(t, nc, raw)
	if !ok {
		return
	}
	preface := make([]byte, len(http2.ClientPreface))
	_, err := io.ReadFull(in, preface)
	require.NoError(t, err)
	fr := http2.NewFramer(out, in)
	skip := func(until func(http2.Frame) bool) {
		for f, err := fr.ReadFrame(); !until(f); f, err = fr.ReadFrame() {
			require.NoError(t, err)
		}
	}
	require.NoError(t, fr.WriteSettings())
	skip(func(f http2.Frame) bool { return f.Header().Flags.Has(http2.FlagSettingsAck) })
	c := ready()
	for range 3 {
		res := c.call(context.Background(), "/test/Call", "x")
		var id uint32
		skip(func(f http2.Frame) bool {
			id = f.Header().StreamID
			return f.Header().Flags.Has(http2.FlagDataEndStream)
		})
		require.NoError(t, raw.SetWriteDeadline(time.Now().Add(time.Minute)))
		require.NoError(t, out.update())
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, f := range []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: "0"}} {
			require.NoError(t, enc.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value, Sensitive: true}))
		}
		require.NoError(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
		require.Nil(t, await(t, res, "the call").failure())
	}
	go io.Copy(io.Discard, raw)
	c.Close(nil, nil)
}

// serveWithUpdates answers each request with its message, changes the key with
// every third, and returns how often it did when the client has gone.
func serveWithUpdates(in io.Reader, out *sealer) (updates int) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(in, preface); err != nil {
		return -1
	}
	fr := http2.NewFramer(out, in)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	fr.WriteSettings()
	fr.WriteSettingsAck()
	fr.WriteWindowUpdate(0, 1<<30)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	headers := func(id uint32, end bool, pairs ...string) {
		block.Reset()
		for i := 0; i < len(pairs); i += 2 {
			enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
		}
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: end, EndHeaders: true})
	}
	for n := 1; ; {
		f, err := fr.ReadFrame()
		if err != nil {
			return updates
		}
		if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
			if n%3 == 0 && out.update() == nil {
				updates++
			}
			headers(d.StreamID, false, ":status", "200", "content-type", "application/grpc")
			fr.WriteData(d.StreamID, false, bytes.Clone(d.Data()))
			headers(d.StreamID, true, "grpc-status", "0")
			n++
		}
	}
}
