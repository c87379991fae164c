package call

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A message whose bulk stays where the program has it is, on the wire, the same message.
func TestBulkOfAMessageIsNotCopied(t *testing.T) {
	large := bytes.Repeat([]byte("large"), bulkFrom/5+1)
	payload := &testpb.Payload{Type: 7, Body: large}
	payload.ProtoReflect().SetUnknown([]byte("\xa2\x06\x04what")) // field 100
	required := &descriptorpb.UninterpretedOption_NamePart{NamePart: proto.String("a"), IsExtension: proto.Bool(true)}
	fromDescriptor := dynamicpb.NewMessage((*anypb.Any)(nil).ProtoReflect().Descriptor())
	fromDescriptor.Set(fromDescriptor.Descriptor().Fields().ByName("value"), (&anypb.Any{Value: large}).ProtoReflect().Get((*anypb.Any)(nil).ProtoReflect().Descriptor().Fields().ByName("value")))

	for _, tt := range []struct {
		name string
		m    proto.Message
		bulk []byte
		fail string
	}{
		{"the only field", wrapperspb.Bytes(large), large, ""},
		{"the last field", &anypb.Any{TypeUrl: "type", Value: large}, large, ""},
		{"unknown fields, which come behind it", payload, nil, ""},
		{"a list of messages before it", &descriptorpb.UninterpretedOption{
			Name: []*descriptorpb.UninterpretedOption_NamePart{required, required}, StringValue: large,
		}, large, ""},
		{"a field behind it", &descriptorpb.UninterpretedOption{StringValue: large, AggregateValue: proto.String("b")}, nil, ""},
		{"a required field that is missing", &descriptorpb.UninterpretedOption{
			Name: []*descriptorpb.UninterpretedOption_NamePart{{}}, StringValue: large,
		}, nil, "required"},
		{"text that is not UTF-8", &anypb.Any{TypeUrl: "\xff", Value: large}, nil, "UTF-8"},
		{"a field that is too small", wrapperspb.Bytes(large[:bulkFrom-10]), nil, ""},
		{"a field that is not most of it", &anypb.Any{TypeUrl: string(large) + "!", Value: large}, nil, ""},
		{"text", wrapperspb.String(string(large)), nil, ""},
		{"a field of a field", &testpb.SimpleRequest{Payload: payload}, nil, ""},
		{"a message without a Go type", fromDescriptor, nil, ""},
		{"nothing", new(wrapperspb.BytesValue), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := rpcWith()
			require.NoError(t, err)
			r.lends = true
			before := proto.Clone(tt.m)
			f, err := r.encode(tt.m)
			if tt.fail != "" {
				require.ErrorContains(t, err, tt.fail)
				_, err = proto.Marshal(tt.m)
				require.ErrorContains(t, err, tt.fail)
				return
			}
			require.NoError(t, err)
			defer f.free()
			assert.True(t, proto.Equal(before, tt.m), "the program's message has changed")
			whole := bytes.Clone(f.bytes())
			require.Equal(t, tt.bulk != nil, f.bulk != nil)
			if f.bulk != nil {
				assert.Same(t, &tt.bulk[0], &(*f.bulk)[0])
				whole = append(whole, *f.bulk...)
			}
			plain, err := proto.Marshal(tt.m)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(plain, whole[prefixLen:]), "not the bytes that proto.Marshal makes")
			assert.Equal(t, len(whole)-prefixLen, f.payload())
			assert.Equal(t, proto.Size(tt.m), f.uncompressed)
			out := tt.m.ProtoReflect().New().Interface()
			n, err := r.readMessage(whole[prefixLen:], false, "", out)
			require.NoError(t, err)
			assert.Equal(t, f.payload(), n)
			assert.True(t, proto.Equal(tt.m, out))
		})
	}
}

// Whether a field is the last one is what the protobuf library's own encoder shows, for each
// choice of fields that a message has.
func TestIsLast(t *testing.T) {
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, oneof int32) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: kind.Enum(),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		if oneof >= 0 {
			f.OneofIndex = &oneof
		}
		return f
	}
	const isBytes = descriptorpb.FieldDescriptorProto_TYPE_BYTES
	optional := field("optional", 4, isBytes, 2)
	optional.Proto3Optional = proto.Bool(true)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("last.proto"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("M"),
			Field: []*descriptorpb.FieldDescriptorProto{field("b", 6, isBytes, -1), optional, field("n", 8, descriptorpb.FieldDescriptorProto_TYPE_INT32, -1),
				field("x1", 1, isBytes, 0), field("x2", 9, isBytes, 0), field("y1", 2, isBytes, 1), field("y2", 5, isBytes, 1)},
			OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: proto.String("x")}, {Name: proto.String("y")}, {Name: proto.String("_optional")}},
		}},
	}, nil)
	require.NoError(t, err)
	desc := file.Messages().Get(0)
	for chosen := range 1 << desc.Fields().Len() {
		m := dynamicpb.NewMessage(desc)
		for i := range desc.Fields().Len() {
			switch f := desc.Fields().Get(i); {
			case chosen>>i&1 == 0:
			case f.Kind() == protoreflect.BytesKind:
				m.Set(f, protoreflect.ValueOfBytes([]byte(f.Name())))
			default:
				m.Set(f, protoreflect.ValueOfInt32(1))
			}
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m) // dynamicpb has no order of its own
		require.NoError(t, err)
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			if f.Kind() == protoreflect.BytesKind {
				assert.Equal(t, bytes.HasSuffix(b, v.Bytes()), isLast(m, f), "field %s of %v", f.Name(), m)
			}
			return true
		})
	}
}

// What is compressed, or may be sent again, is in one piece.
func TestOnlyAMessageThatIsLentHasABulk(t *testing.T) {
	large := wrapperspb.Bytes(make([]byte, 2*bulkFrom))
	r, err := rpcWith()
	require.NoError(t, err)
	f, err := r.encode(large)
	require.NoError(t, err)
	assert.Nil(t, f.bulk)
	f.free()
}
