package conformance

import (
	"compress/zlib"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
)

// compressorNames are gRPC's names of the suite's compressions.
var compressorNames = map[string]string{
	"COMPRESSION_GZIP":    gzip.Name,
	"COMPRESSION_BR":      "br",
	"COMPRESSION_ZSTD":    "zstd",
	"COMPRESSION_DEFLATE": "deflate",
	"COMPRESSION_SNAPPY":  "snappy",
}

const jsonName = "json"

// registerEncodings registers what grpc-go has not: a JSON codec, for messages of these types, and
// all compressors but gzip.
func registerEncodings(types *dynamicpb.Types) {
	encoding.RegisterCodec(jsonCodec{types})
	for _, c := range []compressor{
		{
			name:       "br",
			compress:   func(w io.Writer) (io.WriteCloser, error) { return brotli.NewWriter(w), nil },
			decompress: func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil },
		},
		{
			name:     "zstd",
			compress: func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)) },
			decompress: func(r io.Reader) (io.Reader, error) {
				return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) // without goroutines to end
			},
		},
		{
			name:       "deflate",
			compress:   func(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriter(w), nil },
			decompress: func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) },
		},
		{
			name:       "snappy",
			compress:   func(w io.Writer) (io.WriteCloser, error) { return snappy.NewBufferedWriter(w), nil },
			decompress: func(r io.Reader) (io.Reader, error) { return snappy.NewReader(r), nil },
		},
	} {
		encoding.RegisterCompressor(c)
	}
}

type compressor struct {
	name       string
	compress   func(io.Writer) (io.WriteCloser, error)
	decompress func(io.Reader) (io.Reader, error)
}

func (c compressor) Name() string                                 { return c.name }
func (c compressor) Compress(w io.Writer) (io.WriteCloser, error) { return c.compress(w) }
func (c compressor) Decompress(r io.Reader) (io.Reader, error)    { return c.decompress(r) }

type jsonCodec struct{ types *dynamicpb.Types }

func (jsonCodec) Name() string { return jsonName }

func (c jsonCodec) Marshal(v any) ([]byte, error) {
	return protojson.MarshalOptions{Resolver: c.types}.Marshal(v.(proto.Message))
}

func (c jsonCodec) Unmarshal(data []byte, v any) error {
	return protojson.UnmarshalOptions{Resolver: c.types}.Unmarshal(data, v.(proto.Message))
}
