package call

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
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
		{"unknown fields", payload, large, ""},
		{"the first field, with a list of messages", &descriptorpb.UninterpretedOption{
			Name: []*descriptorpb.UninterpretedOption_NamePart{required, required}, StringValue: large, AggregateValue: proto.String("b"),
		}, large, ""},
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
