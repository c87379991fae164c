package call

import (
	"bytes"
	"compress/gzip"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
)

// knownCompressors are the names looked for when a channel says what it
// accepts: encoding's registry cannot be listed. A compressor registered under
// another name is announced once an RPC of the channel has used it.
var knownCompressors = []string{"gzip", "deflate", "snappy", "zstd", "lz4", "br", "s2", "zlib"}

// acceptEncoding is the grpc-accept-encoding of an RPC.
func (r *rpc) acceptEncoding() string {
	if r.set.accept != nil {
		accept := strings.Join(r.set.accept, ",")
		if r.compressor.legacy != nil && encoding.GetCompressor(r.encoding) == nil {
			accept += "," + r.encoding
		}
		return accept
	}
	return r.ch.acceptEncoding(r.encoding)
}

// acceptEncoding lists what the channel can decompress, used among it.
func (ch *Channel) acceptEncoding(used string) string {
	for {
		old := ch.accepted.Load()
		if old != nil && (used == "" || used == encoding.Identity || containsName(*old, used)) {
			return *old
		}
		var names []string
		if old != nil {
			names = append(names, *old)
		} else {
			for _, name := range knownCompressors {
				if encoding.GetCompressor(name) != nil {
					names = append(names, name)
				}
			}
			if dc := ch.cfg.Legacy.Decompressor; dc != nil && !slices.Contains(names, dc.Type()) {
				names = append(names, dc.Type())
			}
		}
		list := strings.Trim(strings.Join(names, ","), ",")
		if used != "" && used != encoding.Identity && !containsName(list, used) {
			list = strings.TrimPrefix(list+","+used, ",")
		}
		if ch.accepted.CompareAndSwap(old, &list) {
			return list
		}
	}
}

// containsName reports whether a comma-separated list has the name.
func containsName(list, name string) bool {
	for rest := list; rest != ""; {
		var n string
		n, rest, _ = strings.Cut(rest, ",")
		if n == name {
			return true
		}
	}
	return false
}

// compressor is how an RPC's messages are compressed: not at all if both are nil.
type compressor struct {
	v1     encoding.Compressor
	legacy grpc.Compressor
}

// chooseCompressor settles what is sent as grpc-encoding: UseCompressor wins
// over the channel's legacy compressor.
func (r *rpc) chooseCompressor() error {
	switch name := r.set.compressor; {
	case name == encoding.Identity:
		r.encoding = name
	case name != "":
		r.compressor.v1 = encoding.GetCompressor(name)
		if r.compressor.v1 == nil {
			return status.Errorf(codes.Internal, "no compressor is registered for the requested grpc-encoding %q", name)
		}
		r.encoding = name
	case r.ch.cfg.Legacy.Compressor != nil:
		r.compressor.legacy = r.ch.cfg.Legacy.Compressor
		r.encoding = r.compressor.legacy.Type()
	}
	return nil
}

func (r *rpc) compresses() bool { return r.compressor.v1 != nil || r.compressor.legacy != nil }

// compress replaces a frame by a compressed one. The given frame is freed.
func (r *rpc) compress(f frame) (frame, error) {
	defer f.free()
	w := frameWriter{buf: getBytes(prefixLen + f.payload()/2)}
	*w.buf = (*w.buf)[:prefixLen]
	err := compressInto(&w, r.compressor, f.bytes()[prefixLen:])
	if err == nil && uint64(len(*w.buf)-prefixLen) > math.MaxUint32 {
		err = io.ErrShortWrite
	}
	if err != nil {
		putBytes(w.buf)
		return frame{}, withCause(status.Newf(codes.Internal, "compressing the message: %v", err), err)
	}
	seal(*w.buf, 0, true)
	return frame{buf: w.buf, uncompressed: f.uncompressed}, nil
}

func compressInto(w io.Writer, c compressor, p []byte) error {
	if c.v1 == nil {
		return c.legacy.Do(w, p)
	}
	z, err := c.v1.Compress(w)
	if err != nil {
		return err
	}
	if _, err := z.Write(p); err != nil {
		return err
	}
	return z.Close()
}

// frameWriter appends to a pooled buffer.
type frameWriter struct{ buf *[]byte }

func (w *frameWriter) Write(p []byte) (int, error) {
	w.buf = growBytes(w.buf, len(p))
	*w.buf = append(*w.buf, p...)
	return len(p), nil
}

// readMessage decodes one received message into m and returns its length
// after decompression. enc is the response's grpc-encoding. Errors are status errors.
func (r *rpc) readMessage(data []byte, compressed bool, enc string, m any) (int, error) {
	if len(data) > r.set.maxRecv {
		return 0, status.Errorf(codes.ResourceExhausted, "received message is larger than max (%d vs. %d)", len(data), r.set.maxRecv)
	}
	if enc != "" && enc != encoding.Identity && r.set.accept != nil && !slices.Contains(r.set.accept, enc) {
		return 0, status.Errorf(codes.Internal, "the server compressed the response with %q, which AcceptCompressors does not allow; the client accepts %q", enc, r.acceptEncoding())
	}
	if !compressed {
		return len(data), r.set.codec.decode(data, m)
	}
	buf, err := r.decompress(data, enc)
	if err != nil {
		return 0, err
	}
	defer putBytes(buf)
	return len(*buf), r.set.codec.decode(*buf, m)
}

// decompress returns the message in a pooled buffer. Of a message that grows
// beyond the limit no more than twice the limit is ever held.
func (r *rpc) decompress(data []byte, enc string) (*[]byte, error) {
	if enc == "" || enc == encoding.Identity {
		return nil, status.Errorf(codes.Internal, "a message has the compressed flag set, but grpc-encoding is %q", enc)
	}
	limit := r.set.maxRecv
	if dc := r.ch.cfg.Legacy.Decompressor; dc != nil && dc.Type() == enc {
		if !isBuiltinGzip(dc) {
			return decompressLegacy(dc, data, limit)
		}
		// grpc-go's own Do has no limit; this is the same format with one.
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, decompressError(err)
		}
		return readLimited(z, len(data), limit)
	}
	c := encoding.GetCompressor(enc)
	if c == nil {
		return nil, status.Errorf(codes.Internal, "no decompressor is registered for the response's grpc-encoding %q; the client accepts %q", enc, r.acceptEncoding())
	}
	z, err := c.Decompress(bytes.NewReader(data))
	if err != nil {
		return nil, decompressError(err)
	}
	if closer, ok := z.(io.Closer); ok {
		defer closer.Close() // all was read, or reading has failed
	}
	return readLimited(z, len(data), limit)
}

func decompressError(err error) error {
	return withCause(status.Newf(codes.Internal, "decompressing the received message: %v", err), err)
}

func decompressedTooLarge(limit int) error {
	return status.Errorf(codes.ResourceExhausted, "received message is larger than max after decompression (more than %d)", limit)
}

func decompressLegacy(dc grpc.Decompressor, data []byte, limit int) (*[]byte, error) {
	out, err := dc.Do(bytes.NewReader(data))
	if err != nil {
		return nil, decompressError(err)
	}
	if len(out) > limit {
		return nil, decompressedTooLarge(limit)
	}
	buf := getBytes(len(out)) // a copy: out is the decompressor's
	*buf = append(*buf, out...)
	return buf, nil
}

// maxEmptyReads is how often in a row a decompressor may return neither bytes nor an error.
const maxEmptyReads = 100

// readLimited reads z to its end into a pooled buffer that starts at four
// times the compressed size.
func readLimited(z io.Reader, compressed, limit int) (*[]byte, error) {
	buf := getBytes(max(0, min(4*compressed, limit)))
	for idle := 0; ; {
		if len(*buf) == cap(*buf) {
			buf = growBytes(buf, 1)
		}
		n, err := z.Read((*buf)[len(*buf):cap(*buf)])
		*buf = (*buf)[:len(*buf)+n]
		if idle++; n > 0 {
			idle = 0
		} else if err == nil && idle == maxEmptyReads {
			err = io.ErrNoProgress
		}
		switch {
		case len(*buf) > limit:
			putBytes(buf)
			return nil, decompressedTooLarge(limit)
		case err == io.EOF:
			return buf, nil
		case err != nil:
			putBytes(buf)
			return nil, decompressError(err)
		}
	}
}

var builtinGzip = reflect.TypeOf(grpc.NewGZIPDecompressor())

// isBuiltinGzip reports whether dc is grpc-go's own gzip decompressor.
func isBuiltinGzip(dc grpc.Decompressor) bool { return reflect.TypeOf(dc) == builtinGzip }
