package call

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/grpcdial/grpcdial/internal/serviceconfig"
)

// legacyCodec is a grpc.Codec that speaks JSON.
type legacyCodec struct{}

func (legacyCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (legacyCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }
func (legacyCodec) String() string                     { return "json" }

// keepingCodec keeps what it is given, as the contract of CodecV2 lets it.
type keepingCodec struct{ kept *mem.BufferSlice }

func (keepingCodec) Name() string { return "keeping" }

func (keepingCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(string)[:2]), mem.SliceBuffer(v.(string)[2:])}, nil
}

func (c keepingCodec) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	*c.kept = data
	return nil
}

// messageV1 is a message of the old protobuf API only.
type messageV1 struct {
	Name string `protobuf:"bytes,1,opt,name=name"`
}

func (m *messageV1) Reset()         { *m = messageV1{} }
func (m *messageV1) String() string { return m.Name }
func (*messageV1) ProtoMessage()    {}

func rpcWith(opts ...grpc.CallOption) (*rpc, error) {
	r := &rpc{ch: New(Config{}), opts: opts}
	r.options()
	if r.optErr != nil {
		return nil, r.optErr
	}
	r.set.limits(new(serviceconfig.MethodConfig))
	if err := r.set.chooseCodec(); err != nil {
		return nil, err
	}
	return r, r.chooseCompressor()
}

func TestCodecsRoundTrip(t *testing.T) {
	tests := []struct {
		name    string
		opts    []grpc.CallOption
		in, out any
	}{
		{"protobuf", nil, request("hello"), new(testpb.SimpleRequest)},
		{"protobuf's old API", nil, &messageV1{Name: "x"}, new(messageV1)},
		{"an empty message", nil, new(testpb.SimpleRequest), new(testpb.SimpleRequest)},
		{"a large message", nil, request(strings.Repeat("x", 3<<20)), new(testpb.SimpleRequest)},
		{"protobuf through CodecV2", []grpc.CallOption{grpc.ForceCodecV2(struct{ encoding.CodecV2 }{encoding.GetCodecV2("proto")})}, request("hello"), new(testpb.SimpleRequest)},
		{"legacy codec", []grpc.CallOption{grpc.CallCustomCodec(legacyCodec{})}, &messageV1{Name: "y"}, new(messageV1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := rpcWith(tt.opts...)
			require.NoError(t, err)
			f, err := r.encode(tt.in)
			require.NoError(t, err)
			n, err := r.readMessage(f.bytes()[prefixLen:], false, "", tt.out)
			require.NoError(t, err)
			assert.Equal(t, f.payload(), n)
			if in, ok := tt.in.(proto.Message); ok {
				assert.True(t, proto.Equal(in, tt.out.(proto.Message)))
			} else {
				assert.Equal(t, tt.in.(*messageV1).Name, tt.out.(*messageV1).Name)
			}
			f.free()
		})
	}
}

func TestCodecV2MayKeepTheBytes(t *testing.T) {
	var kept mem.BufferSlice
	r, err := rpcWith(grpc.ForceCodecV2(keepingCodec{&kept}))
	require.NoError(t, err)
	f, err := r.encode("hello")
	require.NoError(t, err)
	assert.Equal(t, "\x00\x00\x00\x00\x05hello", string(f.bytes()))
	data := []byte("reply")
	_, err = r.readMessage(data, false, "", nil)
	require.NoError(t, err)
	copy(data, "xxxxx") // the received buffer is used again
	assert.Equal(t, "reply", string(kept.Materialize()))
	kept.Free()
}

func TestNilIsAnEmptyMessage(t *testing.T) {
	for _, opts := range [][]grpc.CallOption{nil, {grpc.CallCustomCodec(legacyCodec{})}, {grpc.UseCompressor("gzip")}} {
		r, err := rpcWith(opts...)
		require.NoError(t, err)
		f, err := r.encode(nil)
		require.NoError(t, err)
		assert.Equal(t, make([]byte, 5), f.bytes())
	}
}

func TestEncodeErrors(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name string
		opts []grpc.CallOption
		msg  any
		code codes.Code
		text string
	}{
		{"no protobuf message", nil, "text", codes.Internal, "message is string"},
		{"invalid UTF-8", nil, &testpb.SimpleResponse{Username: "\xff"}, codes.Internal, "UTF-8"},
		{"the codec fails", []grpc.CallOption{grpc.CallCustomCodec(failingCodec{broken})}, "x", codes.Internal, "broken"},
		{"too large", []grpc.CallOption{grpc.MaxCallSendMsgSize(6)}, request("12345"), codes.ResourceExhausted, "larger than max (9 vs. 6)"},
		{"too large for another codec", []grpc.CallOption{grpc.CallCustomCodec(legacyCodec{}), grpc.MaxCallSendMsgSize(6)}, "1234567", codes.ResourceExhausted, "larger than max (9 vs. 6)"},
		{"PreparedMsg", nil, new(grpc.PreparedMsg), codes.Internal, "PreparedMsg"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := rpcWith(tt.opts...)
			require.NoError(t, err)
			_, err = r.encode(tt.msg)
			assert.Equal(t, tt.code, status.Code(err))
			assert.ErrorContains(t, err, tt.text)
		})
	}
	r, err := rpcWith(grpc.CallCustomCodec(failingCodec{broken}))
	require.NoError(t, err)
	_, err = r.encode("x")
	assert.ErrorIs(t, err, broken)
	_, err = r.readMessage([]byte("{}"), false, "", nil)
	assert.ErrorIs(t, err, broken)
	assert.Equal(t, codes.Internal, status.Code(err))
}

type failingCodec struct{ err error }

func (c failingCodec) Marshal(any) ([]byte, error) { return nil, c.err }
func (c failingCodec) Unmarshal([]byte, any) error { return c.err }
func (failingCodec) String() string                { return "failing" }

func TestExactSizesAreAllowed(t *testing.T) {
	r, err := rpcWith(grpc.MaxCallSendMsgSize(9), grpc.MaxCallRecvMsgSize(9))
	require.NoError(t, err)
	f, err := r.encode(request("12345"))
	require.NoError(t, err)
	_, err = r.readMessage(f.bytes()[prefixLen:], false, "", new(testpb.SimpleRequest))
	require.NoError(t, err)
}

func TestBytePools(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 257, 4097, 1 << 20, 1<<20 + 1} {
		b := getBytes(n)
		assert.GreaterOrEqual(t, cap(*b), n)
		assert.Empty(t, *b)
		*b = append(*b, bytes.Repeat([]byte{1}, n)...)
		b = growBytes(b, 1)
		assert.Equal(t, n, len(*b))
		assert.Greater(t, cap(*b), n)
		putBytes(b)
	}
}
