package call

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/experimental"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// reverse is a compressor of an unusual name, which turns the bytes round.
type reverse struct{}

func init() {
	encoding.RegisterCompressor(reverse{})
	encoding.RegisterCompressor(padded{})
}

func (reverse) Name() string { return "test-reverse" }

func (reverse) Compress(w io.Writer) (io.WriteCloser, error) { return &reverseWriter{w: w}, nil }

func (reverse) Decompress(r io.Reader) (io.Reader, error) {
	b, err := io.ReadAll(r)
	return bytes.NewReader(reversed(b)), err
}

type reverseWriter struct {
	w   io.Writer
	buf bytes.Buffer
}

func (w *reverseWriter) Write(p []byte) (int, error) { return w.buf.Write(p) }

func (w *reverseWriter) Close() error {
	_, err := w.w.Write(reversed(w.buf.Bytes()))
	return err
}

func reversed(p []byte) []byte {
	out := make([]byte, len(p))
	for i, c := range p {
		out[len(p)-1-i] = c
	}
	return out
}

// padded puts three bytes in front, so that sizes differ by a known amount.
type padded struct{}

func (padded) Name() string { return "test-padded" }

func (padded) Compress(w io.Writer) (io.WriteCloser, error) {
	_, err := io.WriteString(w, "pad")
	return writeCloser{w}, err
}

func (padded) Decompress(r io.Reader) (io.Reader, error) {
	_, err := io.ReadFull(r, make([]byte, 3))
	return r, err
}

type writeCloser struct{ io.Writer }

func (writeCloser) Close() error { return nil }

// reverseLegacy is the same for the deprecated dial options.
type reverseLegacy struct{ name string }

func (c reverseLegacy) Do(w io.Writer, p []byte) error {
	_, err := w.Write(reversed(p))
	return err
}

func (c reverseLegacy) Type() string { return c.name }

type reverseLegacyIn struct{ name string }

func (c reverseLegacyIn) Do(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(r)
	return reversed(b), err
}

func (c reverseLegacyIn) Type() string { return c.name }

// compressingEcho answers compressed as asked, and says how the request came.
func compressingEcho(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if name := md["answer-in"]; len(name) > 0 {
		if err := grpc.SetSendCompressor(ctx, name[0]); err != nil {
			return nil, err
		}
	}
	return &testpb.SimpleResponse{Payload: req.Payload, Username: strings.Join(md["grpc-accept-encoding"], ";")}, nil
}

func TestCompressionBothWays(t *testing.T) {
	body := strings.Repeat("compressible ", 10000)
	tests := []struct {
		name   string
		opts   []grpc.CallOption
		answer string
		accept string
	}{
		{"none", nil, "", "gzip"},
		{"identity", []grpc.CallOption{grpc.UseCompressor("identity")}, "identity", "gzip"},
		{"gzip", []grpc.CallOption{grpc.UseCompressor("gzip")}, "gzip", "gzip"},
		{"gzip answer to an uncompressed request", nil, "gzip", "gzip"},
		{"a compressor that cannot be guessed", []grpc.CallOption{grpc.UseCompressor("test-reverse")}, "test-reverse", "gzip,test-reverse"},
		{"and remembered", nil, "test-reverse", "gzip,test-reverse"},
		{"restricted", []grpc.CallOption{experimental.AcceptCompressors("gzip")}, "gzip", "gzip"},
	}
	ch := serve(t, Config{}, &testService{unary: compressingEcho})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := soon(t)
			if tt.answer != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "answer-in", tt.answer)
			}
			reply := new(testpb.SimpleResponse)
			require.NoError(t, ch.Invoke(ctx, unaryMethod, request(body), reply, tt.opts...))
			assert.Equal(t, body, string(reply.Payload.Body))
			assert.Equal(t, tt.accept, reply.Username)
		})
	}
}

func TestUseCompressorThatIsNotRegistered(t *testing.T) {
	ch := serve(t, Config{}, &testService{unary: echo})
	err := ch.Invoke(soon(t), unaryMethod, request(""), new(testpb.SimpleResponse), grpc.UseCompressor("nobody-registered-this"))
	assert.Equal(t, codes.Internal, status.Code(err))
	assert.ErrorContains(t, err, `"nobody-registered-this"`)
}

func TestLegacyCompressors(t *testing.T) {
	cfg := Config{Legacy: &Legacy{Compressor: reverseLegacy{"turned"}, Decompressor: reverseLegacyIn{"turned"}}}
	ch := serve(t, cfg, &testService{unary: compressingEcho},
		grpc.RPCCompressor(reverseLegacy{"turned"}), grpc.RPCDecompressor(reverseLegacyIn{"turned"}))
	reply := new(testpb.SimpleResponse)
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request("hello"), reply))
	assert.Equal(t, "hello", string(reply.Payload.Body))
	assert.Equal(t, "gzip,turned", reply.Username)

	// UseCompressor has precedence.
	ch = serve(t, cfg, &testService{unary: compressingEcho})
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request("hello"), reply, grpc.UseCompressor("gzip")))
}

func gzipped(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for n > 0 {
		k, err := z.Write(zeros[:min(n, len(zeros))])
		require.NoError(t, err)
		n -= k
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

func TestDecompressionLimit(t *testing.T) {
	bomb := bytes.Repeat(gzipped(t, 1<<20), 256) // members follow one another in a gzip file
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"registered", Config{}},
		{"grpc-go's legacy decompressor", Config{Legacy: &Legacy{Decompressor: grpc.NewGZIPDecompressor()}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := rpcWith()
			require.NoError(t, err)
			r.ch = New(tt.cfg)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = r.readMessage(bomb, true, "gzip", new(testpb.SimpleResponse))
			runtime.ReadMemStats(&after)
			assert.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
			assert.ErrorContains(t, err, "4194304")
			assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20))
		})
	}
	r, err := rpcWith(grpc.MaxCallRecvMsgSize(1000))
	require.NoError(t, err)
	buf, err := r.decompress(gzipped(t, 1000), "gzip")
	require.NoError(t, err, "the limit itself is allowed")
	assert.Len(t, *buf, 1000)
	_, err = r.decompress(gzipped(t, 1001), "gzip")
	assert.Equal(t, codes.ResourceExhausted, status.Code(err))
}

func TestDecompressionErrors(t *testing.T) {
	tests := []struct {
		name string
		opts []grpc.CallOption
		cfg  Config
		data string
		enc  string
		code codes.Code
		text string
	}{
		{"no encoding", nil, Config{}, "x", "", codes.Internal, "compressed flag"},
		{"identity", nil, Config{}, "x", "identity", codes.Internal, "compressed flag"},
		{"unknown encoding", nil, Config{}, "x", "nobody-registered-this", codes.Internal, `"nobody-registered-this"; the client accepts "gzip`},
		{"not the format", nil, Config{}, "x", "gzip", codes.Internal, "decompressing"},
		{"cut off", nil, Config{}, string(gzipped(t, 100000)[:50]), "gzip", codes.Internal, "decompressing"},
		{"not the format, legacy", nil, Config{Legacy: &Legacy{Decompressor: grpc.NewGZIPDecompressor()}}, "x", "gzip", codes.Internal, "decompressing"},
		{"too large, legacy", []grpc.CallOption{grpc.MaxCallRecvMsgSize(2)}, Config{Legacy: &Legacy{Decompressor: reverseLegacyIn{"r"}}}, "xxx", "r", codes.ResourceExhausted, ""},
		{"not accepted", []grpc.CallOption{experimental.AcceptCompressors("gzip")}, Config{}, "x", "test-reverse", codes.Internal, `AcceptCompressors does not allow; the client accepts "gzip"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := rpcWith(tt.opts...)
			require.NoError(t, err)
			r.ch = New(tt.cfg)
			_, err = r.readMessage([]byte(tt.data), true, tt.enc, new(testpb.SimpleResponse))
			assert.Equal(t, tt.code, status.Code(err), "%v", err)
			assert.ErrorContains(t, err, tt.text)
		})
	}
}

func TestSizesOnTheWire(t *testing.T) {
	ch := serve(t, Config{}, &testService{unary: echo})
	body := strings.Repeat("x", 1000)
	err := ch.Invoke(soon(t), unaryMethod, request(body), new(testpb.SimpleResponse), grpc.MaxCallRecvMsgSize(999))
	assert.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
	assert.Regexp(t, `\(100\d vs\. 999\)`, err.Error())
	err = ch.Invoke(soon(t), unaryMethod, request(body), new(testpb.SimpleResponse), grpc.MaxCallSendMsgSize(999))
	assert.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
	assert.Regexp(t, `\(100\d vs\. 999\)`, err.Error())
	// What counts is the compressed size.
	require.NoError(t, ch.Invoke(soon(t), unaryMethod, request(body), new(testpb.SimpleResponse), grpc.MaxCallSendMsgSize(999), grpc.UseCompressor("gzip")))
	requireNoneActive(t, ch)
}

func TestCompressorThatFails(t *testing.T) {
	broken := errors.New("broken")
	for _, at := range []string{"begin", "write", "close"} {
		r, err := rpcWith()
		require.NoError(t, err)
		r.compressor.v1 = failingCompressor{at, broken}
		_, err = r.encode(request("x"))
		assert.Equal(t, codes.Internal, status.Code(err), "%s: %v", at, err)
		assert.ErrorIs(t, err, broken)
	}
}

// failingCompressor fails at one step.
type failingCompressor struct {
	at  string
	err error
}

func (c failingCompressor) fail(at string) error {
	if c.at == at {
		return c.err
	}
	return nil
}

func (failingCompressor) Name() string                                 { return "failing" }
func (c failingCompressor) Compress(io.Writer) (io.WriteCloser, error) { return c, c.fail("begin") }
func (c failingCompressor) Decompress(r io.Reader) (io.Reader, error)  { return r, nil }
func (c failingCompressor) Write(p []byte) (int, error)                { return len(p), c.fail("write") }
func (c failingCompressor) Close() error                               { return c.fail("close") }

func TestStreamCompression(t *testing.T) {
	ch := serve(t, Config{}, streamService())
	cs, err := ch.NewStream(soon(t), bidiDesc, bidiMethod, grpc.UseCompressor("gzip"))
	require.NoError(t, err)
	for _, n := range []int{0, 1, 100000} {
		require.NoError(t, cs.SendMsg(chunk(n)))
		m := new(testpb.StreamingOutputCallResponse)
		require.NoError(t, cs.RecvMsg(m))
		assert.Len(t, m.Payload.GetBody(), n)
	}
	require.NoError(t, cs.CloseSend())
	require.Equal(t, io.EOF, cs.RecvMsg(new(testpb.StreamingOutputCallResponse)))
}

// FuzzReadMessage: whatever comes, the error is a status error and the limit holds.
func FuzzReadMessage(f *testing.F) {
	f.Add([]byte("\x12\x03you"), false, "")
	f.Add([]byte("\xff\xff"), false, "gzip")
	f.Add(gzipped(f, 10), true, "gzip")
	f.Add(gzipped(f, 100000), true, "gzip")
	f.Add([]byte("abc"), true, "test-reverse")
	f.Add([]byte("abc"), true, "unheard-of")
	f.Fuzz(func(t *testing.T, data []byte, compressed bool, enc string) {
		const limit = 1000
		r, err := rpcWith(grpc.MaxCallRecvMsgSize(limit))
		require.NoError(t, err)
		n, err := r.readMessage(data, compressed, enc, new(testpb.SimpleResponse))
		if err != nil {
			c := status.Code(err)
			require.True(t, c == codes.Internal || c == codes.ResourceExhausted, "%v", err)
			return
		}
		require.LessOrEqual(t, n, limit)
	})
}
