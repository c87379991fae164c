package call

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/grpcdial/grpcdial/internal/bytepool"
)

// codec makes messages bytes and back. One of v1 and v2 is set, or neither:
// no codec.
type codec struct {
	v1   byteCodec
	v2   encoding.CodecV2
	name string // becomes the content-subtype unless the RPC has one; a legacy grpc.Codec gives none
	// native: v2 is grpc-go's own protobuf codec, whose work is done here with
	// fewer copies.
	native bool
}

// byteCodec is what grpc.Codec and encoding.Codec have in common.
type byteCodec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

func (c *codec) isSet() bool { return c.v1 != nil || c.v2 != nil }

const nativePkg = "google.golang.org/grpc/encoding/proto"

// nativeCodec is grpc-go's protobuf codec. It is nil if another
// codec had already taken its name when this package was initialized; then that
// one stays in force.
var nativeCodec = func() encoding.CodecV2 {
	c := encoding.GetCodecV2(grpcproto.Name)
	t := reflect.TypeOf(c)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().PkgPath() != nativePkg {
		return nil
	}
	return c
}()

func codecOf(c encoding.CodecV2) codec {
	if nativeCodec != nil && c == nativeCodec {
		return codec{v2: c, name: grpcproto.Name, native: true}
	}
	return codec{v2: c, name: c.Name()}
}

// registeredCodec looks a content-subtype up. Codecs are registered during
// initialization, but tests exchange them: the registry is asked every time.
func registeredCodec(subtype string) codec {
	if c := encoding.GetCodecV2(subtype); c != nil {
		return codecOf(c)
	}
	if c := encoding.GetCodec(subtype); c != nil {
		return codec{v1: c}
	}
	return codec{}
}

// chooseCodec settles codec and content-subtype once all options are applied.
func (s *settings) chooseCodec() error {
	if s.codec.isSet() {
		if s.subtype == "" {
			s.subtype = strings.ToLower(s.codec.name)
		}
		return nil
	}
	name := s.subtype
	if name == "" {
		name = grpcproto.Name
	}
	if s.codec = registeredCodec(name); !s.codec.isSet() {
		return status.Errorf(codes.Internal, "no codec is registered for content-subtype %q", name)
	}
	return nil
}

// encode makes a frame of m. nil is an empty message. The limit is on the
// bytes that are sent. Errors are status errors.
func (r *rpc) encode(m any) (frame, error) {
	if m == nil {
		b := getBytes(prefixLen)
		*b = append(*b, 0, 0, 0, 0, 0)
		return frame{buf: b}, nil
	}
	if _, ok := m.(*grpc.PreparedMsg); ok {
		return frame{}, status.Error(codes.Internal, "grpc.PreparedMsg is not supported")
	}
	var f frame
	var err error
	switch {
	case r.set.codec.native:
		f, err = encodeProto(m, r.sendLimit(), r.lends && !r.compresses())
	case r.set.codec.v2 != nil:
		f, err = encodeV2(r.set.codec.v2, m)
	default:
		f, err = encodeV1(r.set.codec.v1, m)
	}
	if err != nil {
		return frame{}, err
	}
	f.uncompressed = f.payload()
	if r.compresses() && f.uncompressed > 0 {
		if f, err = r.compress(f); err != nil {
			return frame{}, err
		}
	}
	if n := f.payload(); n > r.set.maxSend {
		f.free()
		return frame{}, tooLargeToSend(n, r.set.maxSend)
	}
	return f, nil
}

// sendLimit bounds a message before compression: only what is not compressed
// has its final size then.
func (r *rpc) sendLimit() int {
	if r.compresses() {
		return math.MaxInt
	}
	return r.set.maxSend
}

// maxMessage is the most that a message's prefix can announce.
const maxMessage = int64(math.MaxUint32)

func tooLargeToSend[L int | int64](n int, limit L) error {
	return status.Errorf(codes.ResourceExhausted, "message to send is larger than max (%d vs. %d)", n, limit)
}

func marshalError(err error) error {
	return withCause(status.Newf(codes.Internal, "marshaling the message: %v", err), err)
}

// encodeProto leaves the bulk of a large message where it is, if the program lends it.
func encodeProto(m any, limit int, lent bool) (frame, error) {
	pm := protoMessage(m)
	if pm == nil {
		return frame{}, marshalError(fmt.Errorf("message is %T, want proto.Message", m))
	}
	// The size is computed right here, so MarshalAppend may use what it cached.
	size := proto.Size(pm)
	if size > limit || int64(size) > maxMessage {
		return frame{}, tooLargeToSend(size, limit)
	}
	// Messages of the first protobuf API may encode themselves.
	if own, is := m.(proto.Message); is && lent && size >= bulkFrom {
		if f, ok, err := encodeBulk(own.ProtoReflect(), size); ok {
			return f, err
		}
	}
	buf := getBytes(prefixLen + size)
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buf)[:prefixLen], pm)
	if err != nil {
		putBytes(buf)
		return frame{}, marshalError(err)
	}
	*buf = b
	seal(b, 0, false)
	return frame{buf: buf}, nil
}

func encodeV2(c encoding.CodecV2, m any) (frame, error) {
	data, err := c.Marshal(m)
	if err != nil {
		return frame{}, marshalError(err)
	}
	defer data.Free()
	n := data.Len()
	if int64(n) > maxMessage {
		return frame{}, tooLargeToSend(n, maxMessage)
	}
	buf := getBytes(prefixLen + n)
	b := (*buf)[:prefixLen+n]
	data.CopyTo(b[prefixLen:])
	*buf = b
	seal(b, 0, false)
	return frame{buf: buf}, nil
}

func encodeV1(c byteCodec, m any) (frame, error) {
	data, err := c.Marshal(m)
	if err != nil {
		return frame{}, marshalError(err)
	}
	if int64(len(data)) > maxMessage {
		return frame{}, tooLargeToSend(len(data), maxMessage)
	}
	buf := getBytes(prefixLen + len(data))
	b := append((*buf)[:prefixLen], data...)
	*buf = b
	seal(b, 0, false)
	return frame{buf: buf}, nil
}

// decode makes a message of its bytes, which are not kept unless the codec's
// contract allows it to keep them.
func (c *codec) decode(data []byte, m any) error {
	var err error
	switch {
	case c.native:
		if pm := protoMessage(m); pm != nil {
			// What proto.Unmarshal does, without the reflection by which that gets to Reset.
			proto.Reset(pm)
			err = proto.UnmarshalOptions{Merge: true}.Unmarshal(data, pm)
		} else {
			err = fmt.Errorf("message is %T, want proto.Message", m)
		}
	case c.v2 != nil:
		// The codec may take a reference and free it later.
		buf := mem.Copy(data, bytepool.Messages)
		err = c.v2.Unmarshal(mem.BufferSlice{buf}, m)
		buf.Free()
	default:
		err = c.v1.Unmarshal(bytes.Clone(data), m)
	}
	if err != nil {
		return withCause(status.Newf(codes.Internal, "unmarshaling the received message: %v", err), err)
	}
	return nil
}

// protoMessage returns m as the protobuf API of today has it; nil if it is no
// protobuf message.
func protoMessage(m any) proto.Message {
	switch m := m.(type) {
	case proto.Message:
		return m
	case protoadapt.MessageV1:
		return protoadapt.MessageV2Of(m)
	}
	return nil
}
